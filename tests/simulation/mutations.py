"""The exhibits of the museum of bugs: known mistakes of Raft implementations, each planted in the real code.

A mutation patches one method of one class and keeps as much of the rest as it can. Its docstring says what goes wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

import msgspec
import pytest

from rayraft.machine.objects import ObjectMachine
from rayraft.machine.replicated import ReplicatedMachine
from rayraft.machine.requests import RequestHeader, request_header
from rayraft.machine.sessions import SessionTable
from rayraft.raft import quorum
from rayraft.raft.elections import Elections
from rayraft.raft.leader import Leader
from rayraft.raft.log import RaftLog
from rayraft.raft.progress import Progress
from rayraft.raft.quorum import committed_index
from rayraft.raft.raft import Raft
from rayraft.raft.ready import Ready
from rayraft.raft.types import (
    NO_NODE,
    AnyMessage,
    AppendResponse,
    Entry,
    HardState,
    Heartbeat,
    HeartbeatResponse,
    InstallSnapshot,
    RequestVote,
    SnapshotMeta,
    VoteResponse,
)
from rayraft.replica.admission import Admission, Answer
from rayraft.replica.compaction import Compaction
from rayraft.replica.replica import Replica
from rayraft.simulation import disk, node

Patch = pytest.MonkeyPatch
MUTATIONS: dict[str, Callable[[Patch], None]] = {}


def mutation(bug: Callable[[Patch], None]) -> Callable[[Patch], None]:
    MUTATIONS[bug.__name__] = bug
    return bug


# --- durability -------------------------------------------------------------------------------------------------------


@mutation
def answer_before_the_sync(patch: Patch) -> None:
    """Votes and acknowledgements leave before the write of what they admit."""
    process = Replica._process

    def mutant(self: Replica, ready: Ready) -> None:
        ready.messages, ready.messages_after = ready.messages + ready.messages_after, []
        process(self, ready)

    patch.setattr(Replica, "_process", mutant)


@mutation
def entries_without_a_sync(patch: Patch) -> None:
    """Only votes are synced; entries are acknowledged from the write cache."""
    ready = Raft.ready

    def mutant(self: Raft) -> Ready | None:
        work = ready(self)
        if work is not None and work.entries:
            work.must_sync = False
        return work

    patch.setattr(Raft, "ready", mutant)


@mutation
def vote_not_written(patch: Patch) -> None:
    """The term is stored, the vote is forgotten at a restart."""
    ready = Raft.ready

    def mutant(self: Raft) -> Ready | None:
        work = ready(self)
        if work is not None and work.hard_state is not None:
            work.hard_state = HardState(work.hard_state.term, NO_NODE, work.hard_state.commit)
        return work

    patch.setattr(Raft, "ready", mutant)


@mutation
def log_cut_before_the_snapshot_is_saved(patch: Patch) -> None:
    """The log is compacted when a snapshot begins, not when it is durable."""
    take = Compaction.take

    def mutant(self: Compaction) -> None:
        index = self._raft.log.applied
        term = self._raft.log.term(index)
        take(self)
        if term is not None and index > self._store.snapshot().index:
            meta = SnapshotMeta(index, term, self._raft.configuration)
            self._store.compact(meta, max(self._store.first_index(), index + 1 - self._config.snapshot_trailing))

    patch.setattr(Compaction, "take", mutant)


@mutation
def old_snapshot_discarded_first(patch: Patch) -> None:
    """The old snapshot is deleted before the log store has recorded the new one."""
    tend = Compaction.tend

    def mutant(self: Compaction) -> bool:
        poll = self._snapshotter.poll

        def discarding() -> SnapshotMeta | None:
            done = poll()
            if done is not None:
                self._snapshots.discard_except(done)
            return done

        self._snapshotter.poll = discarding  # type: ignore[method-assign]
        try:
            return tend(self)
        finally:
            self._snapshotter.poll = poll  # type: ignore[method-assign]

    patch.setattr(Compaction, "tend", mutant)


@mutation
def a_wiped_disk_votes_again(patch: Patch) -> None:
    """A node starts on the empty disk that it finds, under its old id."""
    open_disk = node.Node._open_disk

    def mutant(self: node.Node) -> None:
        if self.identity is not None:
            open_disk(self)

    patch.setattr(node.Node, "_open_disk", mutant)


@mutation
def any_disk_will_do(patch: Patch) -> None:
    """Nobody compares the identity on the disk with the node's."""
    patch.setattr(node, "check_identity", lambda identity, **expected: None)


@mutation
def damage_goes_unnoticed(patch: Patch) -> None:
    """What the log holds is read without a look at its checksum."""
    patch.setattr(disk, "unpack", lambda key, value: memoryview(value)[4:])


# --- elections --------------------------------------------------------------------------------------------------------


@mutation
def vote_without_the_log_check(patch: Patch) -> None:
    """Any candidate gets the vote, however short its log (§5.4.1)."""
    patch.setattr(RaftLog, "is_up_to_date", lambda self, last_index, last_term: True)
    patch.setattr(Elections, "_is_eligible", lambda self, grant: grant.term == self._raft.term + 1)  # it looks again


@mutation
def two_votes_in_a_term(patch: Patch) -> None:
    """A vote that was given does not keep the next candidate from getting one."""
    on_request = Elections.on_request_vote

    def mutant(self: Elections, message: RequestVote) -> None:
        if not message.pre_vote and not self._raft.is_leader:
            self._raft.vote = self._raft.leader = NO_NODE
        on_request(self, message)

    patch.setattr(Elections, "on_request_vote", mutant)


@mutation
def late_votes_count(patch: Patch) -> None:
    """A candidate counts a vote that was given to it in an earlier term."""
    on_response = Elections.on_vote_response

    def mutant(self: Elections, message: VoteResponse) -> None:
        if not message.pre_vote and message.granted and message.term < self._raft.term:
            message = VoteResponse(self._raft.term, message.src, message.dst, True)
        on_response(self, message)

    patch.setattr(Elections, "on_vote_response", mutant)


@mutation
def vote_forgotten_on_stepping_down(patch: Patch) -> None:
    """A candidate that meets the leader of its own term forgets whom it has voted for."""
    become = Raft.become_follower

    def mutant(self: Raft, term: int, leader: int) -> None:
        become(self, term, leader)
        self.vote = NO_NODE

    patch.setattr(Raft, "become_follower", mutant)


@mutation
def a_half_is_a_majority(patch: Patch) -> None:
    """Quorums of n // 2 nodes need not overlap."""
    patch.setattr(quorum, "majority", lambda n: max(1, n // 2))


@mutation
def pre_vote_bumps_the_term(patch: Patch) -> None:
    """Being asked whether one would vote is taken for a new term."""
    on_request = Elections.on_request_vote

    def mutant(self: Elections, message: RequestVote) -> None:
        if message.pre_vote and message.term > self._raft.term and not self._hears_from_leader():
            self._raft.become_follower(message.term, NO_NODE)
        on_request(self, message)

    patch.setattr(Elections, "on_request_vote", mutant)


@mutation
def pre_votes_count_as_votes(patch: Patch) -> None:
    """A candidate takes the answers to its pre-vote, which bind nobody, for votes."""
    on_response = Elections.on_vote_response

    def mutant(self: Elections, message: VoteResponse) -> None:
        if message.pre_vote and message.granted and message.term == self._raft.term:
            message = VoteResponse(message.term, message.src, message.dst, True)
        on_response(self, message)

    patch.setattr(Elections, "on_vote_response", mutant)


# --- replication ------------------------------------------------------------------------------------------------------


@mutation
def commit_by_counting_older_terms(patch: Patch) -> None:
    """An entry of an earlier term is committed as soon as a quorum holds it (§5.4.2, figure 8)."""

    def mutant(self: Leader) -> None:
        log = self._raft.log
        match = {node: progress.match for node, progress in self.progress.items()}
        match[self._raft.id] = log.stable
        index = committed_index(self._raft.configuration, match)
        if index > log.commit:
            log.commit_to(index)
            self.uncommitted.free_to(index)

    patch.setattr(Leader, "maybe_commit", mutant)


@mutation
def late_short_append_truncates(patch: Patch) -> None:
    """A follower cuts its log behind every AppendEntries, also where nothing conflicts."""

    def mutant(self: RaftLog, prev_index: int, prev_term: int, entries: Sequence[Entry]) -> int | None:
        if not self.matches(prev_index, prev_term):
            return None
        fresh = [entry for entry in entries if entry.index > self.commit]
        if fresh:
            self._replace_from(fresh)
        return prev_index + len(entries)

    patch.setattr(RaftLog, "accept", mutant)


@mutation
def commit_past_what_is_verified(patch: Patch) -> None:
    """A heartbeat's commit index is taken for whatever the log holds, a divergent tail included."""

    def mutant(self: Leader, progress: Progress, age: float) -> None:
        raft, pending = self._raft, self.reads.pending_id
        raft.send(Heartbeat(raft.term, raft.id, progress.node, raft.log.commit, pending))
        progress.commit_sent = max(progress.commit_sent, min(raft.log.commit, progress.match))

    on_heartbeat = Raft._on_heartbeat

    def trusting(self: Raft, message: Heartbeat) -> None:
        commit = min(message.commit, self.log.last_index())
        on_heartbeat(self, Heartbeat(message.term, message.src, message.dst, commit, message.read_id))

    patch.setattr(Leader, "_send_heartbeat", mutant)
    patch.setattr(Raft, "_on_heartbeat", trusting)


@mutation
def a_notice_without_end(patch: Patch) -> None:
    """Nobody notes that the news of a commit has left: it is sent again and again."""
    send = Leader._send_heartbeat

    def mutant(self: Leader, progress: Progress, age: float) -> None:
        before = progress.commit_sent
        send(self, progress, age)
        progress.commit_sent = before

    patch.setattr(Leader, "_send_heartbeat", mutant)


@mutation
def a_deposed_leader_is_obeyed(patch: Patch) -> None:
    """A follower takes entries from a leader of an older term."""
    step = Raft.step

    def mutant(self: Raft, message: AnyMessage) -> None:
        if message.term < self.term and type(message).__name__ == "AppendEntries" and not self.is_leader:
            self._step_current(message)
        else:
            step(self, message)

    patch.setattr(Raft, "step", mutant)


@mutation
def answers_of_an_older_term_count(patch: Patch) -> None:
    """A leader believes what a follower acknowledged to it in an earlier term, and has lost since."""
    step = Raft.step

    def mutant(self: Raft, message: AnyMessage) -> None:
        if isinstance(message, AppendResponse) and message.success and message.term < self.term:
            message = AppendResponse(self.term, message.src, message.dst, True, message.index)
        step(self, message)

    patch.setattr(Raft, "step", mutant)


@mutation
def append_without_the_consistency_check(patch: Patch) -> None:
    """Entries are taken in wherever they fit, whatever comes before them (§5.3)."""
    accept = RaftLog.accept

    def mutant(self: RaftLog, prev_index: int, prev_term: int, entries: Sequence[Entry]) -> int | None:
        held = self.term(prev_index)
        return accept(self, prev_index, prev_term if held is None else held, entries)

    patch.setattr(RaftLog, "accept", mutant)


@mutation
def commit_index_goes_back(patch: Patch) -> None:
    """A late message with an older commit index is believed."""

    def mutant(self: RaftLog, index: int) -> bool:
        moved = index != self.commit and self.applied <= index <= self.last_index()
        if moved:
            self.commit = index
        return moved

    patch.setattr(RaftLog, "commit_to", mutant)


@mutation
def match_index_regresses_on_a_late_reply(patch: Patch) -> None:
    """The answer that came last is believed, not the highest."""
    acknowledge = Progress.acknowledge

    def mutant(self: Progress, index: int) -> bool:
        news = acknowledge(self, index)
        self.match = index
        return news

    patch.setattr(Progress, "acknowledge", mutant)


@mutation
def next_index_at_or_below_match(patch: Patch) -> None:
    """A refusal sets the next index back to what the follower asks for, also below what it has acknowledged."""

    def mutant(self: Progress, rejected: int, next_index: int) -> bool:
        self.next = max(1, min(rejected, next_index))
        self.probe_sent = False
        return True

    patch.setattr(Progress, "refuse", mutant)


@mutation
def apply_what_is_not_committed(patch: Patch) -> None:
    """A follower applies entries as soon as they are durable."""
    ready = Raft.ready

    def mutant(self: Raft) -> Ready | None:
        if not self.is_leader and self.log.stable > self.log.commit:
            self.log.commit = self.log.stable
        return ready(self)

    patch.setattr(Raft, "ready", mutant)


# --- the machine ------------------------------------------------------------------------------------------------------


@mutation
def snapshot_without_sessions(patch: Patch) -> None:
    """A node that starts from a snapshot has forgotten which requests were applied."""
    save = ReplicatedMachine.save

    def mutant(self: ReplicatedMachine, stream: BinaryIO) -> None:
        sessions, self.sessions = self.sessions, SessionTable()
        try:
            save(self, stream)
        finally:
            self.sessions = sessions

    patch.setattr(ReplicatedMachine, "save", mutant)


@mutation
def snapshot_without_configuration(patch: Patch) -> None:
    """A snapshot does not say who the members are."""
    take = Compaction.take

    def mutant(self: Compaction) -> None:
        begin = self._snapshotter.begin
        self._snapshotter.begin = lambda meta, save: begin(SnapshotMeta(meta.index, meta.term), save)  # type: ignore
        try:
            take(self)
        finally:
            self._snapshotter.begin = begin  # type: ignore[method-assign]

    patch.setattr(Compaction, "take", mutant)


@mutation
def sessions_expire_by_a_local_clock(patch: Patch) -> None:
    """Which session goes is decided by how long this process has run, not by the log."""
    record = SessionTable.record
    calls: dict[SessionTable, int] = {}

    def mutant(self: SessionTable, header: RequestHeader, answer: bytes) -> None:
        record(self, header, answer)
        calls[self] = calls.get(self, 0) + 1
        if calls[self] % 50 == 0 and len(self._sessions) > 1:
            del self._sessions[next(iter(self._sessions))]

    patch.setattr(SessionTable, "record", mutant)


@mutation
def retry_applied_twice(patch: Patch) -> None:
    """Nobody looks at the numbers of requests."""

    def admit(self: Admission, request: bytes, answer: Answer) -> list[bytes]:
        self._waiting.setdefault(request_header(request).key, []).append(answer)
        return [request]

    patch.setattr(Admission, "admit", admit)
    patch.setattr(SessionTable, "answer", lambda self, header: None if header.session in self._sessions else b"\x01")


@mutation
def retry_gets_a_new_answer(patch: Patch) -> None:
    """The first reply is not kept, so a retry is told that its session has expired."""
    record = SessionTable.record

    def mutant(self: SessionTable, header: RequestHeader, answer: bytes) -> None:
        record(self, header, answer)
        self._sessions[header.session].replies.pop(header.number - 1, None)
        self._keep(header.session, self._sessions[header.session])

    patch.setattr(SessionTable, "record", mutant)
    patch.setattr(SessionTable, "check", lambda self: None)


@mutation
def apply_skips_an_entry_after_the_snapshot(patch: Patch) -> None:
    """A node that starts from a snapshot goes on one entry too late."""
    init = Raft.__init__

    def mutant(self: Raft, *args: Any) -> None:
        init(self, *args)
        if self.log.applied and self.log.commit > self.log.applied:
            self._applying += 1

    patch.setattr(Raft, "__init__", mutant)


@mutation
def snapshot_rolls_back(patch: Patch) -> None:
    """A late InstallSnapshot is installed although the log is past it."""

    def mutant(self: Raft, message: InstallSnapshot) -> None:
        snapshot = message.snapshot
        if snapshot.index >= self.store.snapshot().index and snapshot.index > 0:
            self.log.restore(snapshot)
            self._snapshot, self._applying = snapshot, snapshot.index
            self.log.applied = min(self.log.applied, snapshot.index)
        self._acknowledge(message.src, self.log.commit)

    def take_any_chunk(self: Replica, message: InstallSnapshot) -> None:
        if message.term >= self.raft.term:
            held, whole = self._receiver.on_chunk(message)
            self.raft.snapshot_chunk_received(message, held)
            if whole is not None:
                self.raft.step(message)

    patch.setattr(Raft, "_on_snapshot", mutant)
    patch.setattr(Replica, "_on_snapshot_chunk", take_any_chunk)


@mutation
def replicas_disagree(patch: Patch) -> None:
    """A result depends on how many commands this process has run: on its history, not on the log."""
    run = ObjectMachine._run
    calls: dict[ObjectMachine, int] = {}

    def mutant(self: ObjectMachine, methods: dict[str, Callable[..., Any]], data: Sequence[bytes]) -> list[Any]:
        results = run(self, methods, data)
        for place, result in enumerate(results):
            calls[self] = calls.get(self, 0) + 1
            if type(result) is int and calls[self] == 30:
                results[place] = result + 1
        return results

    patch.setattr(ObjectMachine, "_run", mutant)


# --- reads ------------------------------------------------------------------------------------------------------------


@mutation
def read_without_a_quorum(patch: Patch) -> None:
    """A leader answers reads from its state without asking whether it still leads."""

    def mutant(self: Leader) -> None:
        for state in self.reads.confirm(self.reads.pending_id):
            self._answer_reads(state)

    patch.setattr(Leader, "_confirm_reads", mutant)


@mutation
def a_new_leader_serves_at_once(patch: Patch) -> None:
    """Reads and requests are taken before the no-op has committed (§8)."""
    become = Raft.become_leader

    def mutant(self: Raft, tails: Any) -> None:
        become(self, tails)
        assert self.leading is not None
        self.leading.noop_index = 0

    patch.setattr(Raft, "become_leader", mutant)


@mutation
def late_heartbeat_answers_confirm_reads(patch: Patch) -> None:
    """An answer to an earlier heartbeat confirms the reads that came after it."""
    on_response = Leader.on_heartbeat_response

    def mutant(self: Leader, message: HeartbeatResponse) -> None:
        late = msgspec.structs.replace(message, read_id=self.reads.pending_id)
        on_response(self, late)

    patch.setattr(Leader, "on_heartbeat_response", mutant)


from tests.simulation import feature_mutations  # noqa: E402, F401  (fills `MUTATIONS` too)
