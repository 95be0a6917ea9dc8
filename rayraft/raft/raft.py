"""The algorithm: one node's role, term, vote and log, driven only by its caller.

Time, randomness and stored entries are handed in; messages, entries and commands come out through `ready`. Sections
named § are of the Raft paper (extended version), "thesis" is Ongaro's dissertation.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rayraft.raft.log import LogReader, RaftLog
from rayraft.raft.progress import Inflights, Progress, ProgressState
from rayraft.raft.quorum import VoteResult, committed_index, vote_result
from rayraft.raft.reads import ReadRounds, ReadState
from rayraft.raft.ready import NotLeader, RaftConfig, Ready, Role, TooMuchUncommitted
from rayraft.raft.types import (
    NO_NODE,
    AnyMessage,
    AppendEntries,
    AppendResponse,
    Entry,
    EntryKind,
    HardState,
    Heartbeat,
    HeartbeatResponse,
    InstallSnapshot,
    InstallSnapshotResponse,
    NodeId,
    RequestVote,
    SnapshotMeta,
    VoteResponse,
)

NEVER = float("-inf")
FOREVER = float("inf")


@dataclass(slots=True)
class Leadership:
    """What a node keeps only while it leads."""

    progress: dict[NodeId, Progress]
    reads: ReadRounds
    heartbeat_due: float
    quorum_checked: float
    noop_index: int
    uncommitted: Inflights
    notice_due: float = FOREVER  # when the news of a commit can no longer wait for an AppendEntries to ride on


class Raft:
    """One node of the group.

    Invariants (`check` verifies those that one node can see; the simulator verifies the rest across nodes):

    1. ``term`` never goes back, and ``vote`` changes only together with ``term`` or from none (§5.2).
    2. A leader appends only, with its own term, and commits by counting only entries of its own term (§5.4.2).
    3. `Leadership` exists exactly while the role is LEADER.
    4. Whatever admits a term, vote or entry leaves only in ``Ready.messages_after``, behind the write of it.
    """

    def __init__(self, config: RaftConfig, store: LogReader, rng: random.Random, now: float) -> None:
        self.config = config
        self.configuration = store.snapshot().configuration
        self.log = RaftLog(store, cache_bytes=config.cache_bytes)
        hard_state = store.hard_state()
        self.term = hard_state.term
        self.vote = hard_state.vote
        self.role = Role.FOLLOWER
        self.leader: NodeId = NO_NODE
        self._store = store
        self._rng = rng
        self._now = now
        self._votes: dict[NodeId, bool] = {}
        self._leadership: Leadership | None = None
        self._leader_heard = NEVER  # when a leader of this term last showed itself
        self._hunting_until = NEVER  # the leader's process is known to be gone: campaign in quick succession
        self._unanswered: RequestVote | None = None  # the last pre-vote left alone because the leader seemed alive
        self._written = hard_state
        self._messages: list[AnyMessage] = []
        self._messages_after: list[AnyMessage] = []
        self._reads: list[ReadState] = []
        self._refused_reads: list[Any] = []
        self._snapshot: SnapshotMeta | None = None
        self._applying = self.log.applied  # committed entries up to here were handed out
        self._election_due = now
        self._reset_election_timer()

    # --- what the surroundings may ask and say ------------------------------------------------------------------------

    @property
    def id(self) -> NodeId:
        return self.config.node_id

    @property
    def is_leader(self) -> bool:
        return self.role is Role.LEADER

    @property
    def serves(self) -> bool:
        """A leader whose no-op is applied: it knows all that was committed before its term (§8)."""
        return self._leadership is not None and self.log.applied >= self._leadership.noop_index

    @property
    def uncommitted_full(self) -> bool:
        """Whether `propose` would raise TooMuchUncommitted."""
        return self._leadership is not None and self._leadership.uncommitted.full

    @property
    def progress(self) -> dict[NodeId, Progress]:
        """What the leader knows of the others; empty on every other node."""
        return self._leadership.progress if self._leadership else {}

    @property
    def next_deadline(self) -> float:
        """When `tick` has something to do, unless a message comes first."""
        if self._leadership is None:
            return self._election_due
        return min(self._leadership.heartbeat_due, self._leadership.notice_due)

    def tick(self, now: float) -> None:
        """Let time pass: heartbeats and the quorum check of a leader, the election timer of everyone else."""
        self._now = max(self._now, now)
        if self._leadership is not None:
            self._tick_leader(self._leadership)
        elif self._now >= self._election_due:
            self.campaign()

    def campaign(self) -> None:
        """Stand for election, with a pre-vote first where that is on (§5.2, thesis §9.6)."""
        if self.is_leader or self.id not in self.configuration.all_voters():
            self._reset_election_timer()
            return
        if self.config.pre_vote:
            self._become_pre_candidate()
        else:
            self._become_candidate()

    def propose(self, payloads: Sequence[bytes]) -> int:
        """Append one COMMAND entry per payload; returns the index of the first.

        Raises NotLeader, or TooMuchUncommitted when the quorum lags behind by `RaftConfig.max_uncommitted_bytes`.
        """
        leadership = self._leadership
        if leadership is None:
            raise NotLeader(self.leader)
        if leadership.uncommitted.full:
            raise TooMuchUncommitted(f"{self.config.max_uncommitted_bytes} bytes wait for a quorum")
        first = self.log.last_index() + 1
        self._append([Entry(first + i, self.term, EntryKind.COMMAND, data) for i, data in enumerate(payloads)])
        return first

    def read_index(self, token: Any) -> None:
        """Ask for a linearizable read; ``token`` comes back in ``Ready.reads``. Raises NotLeader."""
        if self._leadership is None:
            raise NotLeader(self.leader)
        self._leadership.reads.add(token)

    def report_down(self, node: NodeId) -> None:
        """The process of ``node`` seems to be gone; a false alarm is harmless, for the others refuse the pre-vote."""
        if self._leadership is not None:
            self.report_unreachable(node)
        elif node == self.leader and self.config.pre_vote:
            self.leader = NO_NODE
            self._leader_heard = NEVER
            self._hunting_until = self._now + self.config.election_timeout
            rank = sum(voter < self.id and voter != node for voter in self.configuration.all_voters())
            self._election_due = self._now + rank * self.config.crash_stagger
            if self._unanswered is not None:  # somebody noticed it first
                self._on_request_vote(self._unanswered)

    def report_unreachable(self, node: NodeId) -> None:
        """A message to ``node`` was lost: stop pipelining to it until it answers."""
        progress = self.progress.get(node)
        if progress is not None and progress.state is ProgressState.REPLICATE:
            progress.become_probe()

    def snapshot_chunk_received(self, message: InstallSnapshot, held: int) -> None:
        """A part of a snapshot came from the leader and ``held`` bytes are there now: the leader is alive, tell it."""
        if message.term < self.term:
            self._on_stale(message)
            return
        if message.term > self.term:
            self._become_follower(message.term, message.src)
        self._on_leader_heard(message.src)
        self._messages_after.append(
            InstallSnapshotResponse(self.term, self.id, message.src, message.snapshot.index, held)
        )

    def report_snapshot(self, node: NodeId, *, delivered: bool) -> None:
        """The sending of a snapshot has ended; without success the follower is probed again after a heartbeat."""
        progress = self.progress.get(node)
        if progress is not None and progress.state is ProgressState.SNAPSHOT:
            if not delivered:
                progress.snapshot_index = 0
            progress.become_probe()
            progress.probe_sent = True  # wait for its answer (or a heartbeat's) before sending entries

    # --- the contract -------------------------------------------------------------------------------------------------

    def ready(self) -> Ready | None:
        """What there is to do now, or None. See `Ready` for the order; `advance` must follow before the next call."""
        if self._leadership is not None:
            self._replicate(self._leadership)
        ready = Ready(
            entries=self.log.offer(),
            snapshot=self._snapshot,
            committed=self._next_committed(),
            reads=self._reads,
            refused_reads=self._refused_reads,
        )
        hard_state = HardState(self.term, self.vote, self.log.commit)
        new_vote = (hard_state.term, hard_state.vote) != (self._written.term, self._written.vote)
        ready.must_sync = new_vote or bool(ready.entries)
        if ready.must_sync or self._snapshot is not None:
            ready.hard_state = self._written = hard_state
        ready.messages, ready.messages_after = self._messages, self._messages_after
        if new_vote or self._snapshot is not None:  # nothing may admit a term that is not written yet
            ready.messages, ready.messages_after = [], ready.messages + ready.messages_after
        self._messages, self._messages_after, self._reads, self._refused_reads, self._snapshot = [], [], [], [], None
        work = ready.must_sync or ready.messages or ready.messages_after or ready.committed or ready.snapshot
        return ready if work or ready.reads or ready.refused_reads else None

    def advance(self, ready: Ready) -> None:
        """Everything in ``ready`` was done."""
        if ready.snapshot is not None:
            self.log.applied_to(ready.snapshot.index)
        if ready.entries:
            last = ready.entries[-1]
            self.log.stable_to(last.index, last.term)
            if self._leadership is not None:
                self._maybe_commit(self._leadership)  # the leader counts itself once its write is durable
        if ready.committed:
            self.log.applied_to(ready.committed[-1].index)

    def _next_committed(self) -> list[Entry]:
        if self._snapshot is not None or self._applying >= self.log.commit:
            return []
        entries = self.log.entries(self._applying + 1, self.config.max_apply_bytes, self.log.commit + 1)
        self._applying = entries[-1].index
        return entries

    # --- roles --------------------------------------------------------------------------------------------------------

    def _become_follower(self, term: int, leader: NodeId) -> None:
        stepped_down = self._leadership
        if term > self.term:
            self.term, self.vote = term, NO_NODE
            # A new leader may replace, before it is written, what an answer that has not left yet acknowledges.
            self._messages_after = [m for m in self._messages_after if not isinstance(m, AppendResponse)]
        self.role, self.leader, self._leadership = Role.FOLLOWER, leader, None
        self._votes = {}
        if leader:
            self._hunting_until = NEVER
        if stepped_down is not None:
            self._reset_election_timer()
            self._refused_reads.extend(stepped_down.reads.drop_all())

    def _become_pre_candidate(self) -> None:
        self.role, self.leader = Role.PRE_CANDIDATE, NO_NODE
        self._ask_for_votes(self.term + 1, pre_vote=True)

    def _become_candidate(self) -> None:
        self.role, self.leader = Role.CANDIDATE, NO_NODE
        self.term, self.vote = self.term + 1, self.id
        self._ask_for_votes(self.term, pre_vote=False)

    def _ask_for_votes(self, term: int, *, pre_vote: bool) -> None:
        self._reset_election_timer()
        self._votes = {self.id: True}
        last_index, last_term = self.log.last_index(), self.log.last_term()
        for node in self.configuration.all_voters() - {self.id}:
            self._messages_after.append(RequestVote(term, self.id, node, last_index, last_term, pre_vote))
        self._count_votes()

    def _become_leader(self) -> None:
        self.role, self.leader, self._hunting_until = Role.LEADER, self.id, NEVER
        self._votes = {}
        next_index = self.log.last_index() + 1
        config = self.config
        progress = {
            node: Progress(
                node, next_index, Inflights(config.max_inflight_messages, config.max_inflight_bytes), self._now
            )
            for node in self.configuration.members()
            if node != self.id
        }
        self._leadership = Leadership(
            progress,
            ReadRounds(),
            heartbeat_due=self._now + config.heartbeat_interval,
            quorum_checked=self._now,
            noop_index=next_index,
            uncommitted=Inflights(1 << 62, config.max_uncommitted_bytes),
        )
        # An entry of its own term is what lets a leader commit those of earlier ones (§5.4.2, §8).
        self._append([Entry(next_index, self.term, EntryKind.NOOP)])

    @property
    def _hunting(self) -> bool:
        return self._now < self._hunting_until

    def _reset_election_timer(self) -> None:
        """A fresh random timeout (§5.2); short while the leader is known to be dead and the others are learning it."""
        timeout = self.config.election_timeout
        if self._hunting:
            # A pre-vote can be repeated soon at no cost; a new term would spoil an election that is only slow.
            patience = 10 if self.role is Role.CANDIDATE else 1
            self._election_due = self._now + patience * self.config.crash_stagger * self._rng.uniform(1, 3)
        else:
            self._election_due = self._now + self._rng.uniform(timeout, 2 * timeout)

    # --- elections (§5.2, §5.4.1) -------------------------------------------------------------------------------------

    def step(self, message: AnyMessage) -> None:
        """Take in one message; it may be late, repeated or out of order, and of any term."""
        if isinstance(message, RequestVote):
            self._on_request_vote(message)
        elif isinstance(message, VoteResponse):
            self._on_vote_response(message)
        elif message.term < self.term:
            self._on_stale(message)
        else:
            self._step_current(message)

    def _step_current(self, message: AnyMessage) -> None:
        from_leader = isinstance(message, (AppendEntries, Heartbeat, InstallSnapshot))
        if message.term > self.term:
            self._become_follower(message.term, message.src if from_leader else NO_NODE)
        if from_leader:
            self._on_leader_heard(message.src)
        if isinstance(message, AppendEntries):
            self._on_append(message)
        elif isinstance(message, Heartbeat):
            self._on_heartbeat(message)
        elif isinstance(message, InstallSnapshot):
            self._on_snapshot(message)
        elif self._leadership is not None and message.src in self._leadership.progress:
            if isinstance(message, AppendResponse):
                self._on_append_response(self._leadership, message)
            elif isinstance(message, HeartbeatResponse):
                self._on_heartbeat_response(self._leadership, message)

    def _on_stale(self, message: AnyMessage) -> None:
        """A leader of an older term does not know of this one; tell it, so that it steps down (§5.1).

        With pre-vote this answer is what brings back a node whose term ran ahead while it was cut off.
        """
        if isinstance(message, (AppendEntries, Heartbeat, InstallSnapshot)):
            self._messages_after.append(AppendResponse(self.term, self.id, message.src, False, 0))

    def _on_leader_heard(self, leader: NodeId) -> None:
        if self.is_leader:
            raise AssertionError(f"two leaders in term {self.term}: {self.id} and {leader}")
        if self.role is not Role.FOLLOWER or self.leader != leader:
            self._become_follower(self.term, leader)
        self._leader_heard = self._now
        self._unanswered = None
        self._reset_election_timer()

    def _hears_from_leader(self) -> bool:
        """Whether a leader showed itself within the minimum election timeout, so no other is needed (thesis §4.2.3)."""
        if not self.config.check_quorum:
            return False
        return self.is_leader or (
            self.leader != NO_NODE and self._now - self._leader_heard < self.config.election_timeout
        )

    def _on_request_vote(self, message: RequestVote) -> None:
        ahead = message.term > self.term
        if ahead and self._hears_from_leader():
            self._unanswered = message if message.pre_vote else None
            return  # no term change either: this is what keeps a removed or isolated node from disturbing
        if ahead and not message.pre_vote:
            self._become_follower(message.term, NO_NODE)
        free = self.vote == message.src or (self.vote == NO_NODE and self.leader == NO_NODE)
        may_vote = message.term == self.term and free if not message.pre_vote else ahead
        granted = may_vote and self.log.is_up_to_date(message.last_index, message.last_term)
        if granted and not message.pre_vote:
            self.vote = message.src
            self._reset_election_timer()  # only for a vote that is given: a refused candidate must not delay a good one
        elif granted and self._hunting:
            granted = self._give_way(message)
        term = message.term if granted else self.term
        self._messages_after.append(VoteResponse(term, self.id, message.src, granted, message.pre_vote))

    def _give_way(self, message: RequestVote) -> bool:
        """After a crash every survivor campaigns at once; of equal logs the one with the lowest id goes first."""
        equal = (message.last_term, message.last_index) == (self.log.last_term(), self.log.last_index())
        if self.role is Role.PRE_CANDIDATE and equal and self.id < message.src:
            return False
        if self.role is not Role.CANDIDATE:
            self.role = Role.FOLLOWER
            self._reset_election_timer()
        return True

    def _on_vote_response(self, message: VoteResponse) -> None:
        pre_granted = message.pre_vote and message.granted
        if message.term > self.term and not pre_granted:
            self._become_follower(message.term, NO_NODE)
            return
        if message.pre_vote:
            expected = self.role is Role.PRE_CANDIDATE and (not message.granted or message.term == self.term + 1)
        else:
            expected = self.role is Role.CANDIDATE and message.term == self.term
        if expected:
            self._votes.setdefault(message.src, message.granted)
            self._count_votes()

    def _count_votes(self) -> None:
        result = vote_result(self.configuration, self._votes)
        if result is VoteResult.WON and self.role is Role.PRE_CANDIDATE:
            self._become_candidate()
        elif result is VoteResult.WON:
            self._become_leader()
        elif result is VoteResult.LOST:
            self.role = Role.FOLLOWER  # of nobody yet: the timer runs on

    # --- a follower's log (§5.3) --------------------------------------------------------------------------------------

    def _on_append(self, message: AppendEntries) -> None:
        if message.prev_index < self.log.commit:
            # Late, or from before a snapshot: all that was committed matches (§5.4.3), so that is the answer.
            skipped = self.log.commit - message.prev_index
            entries = message.entries[skipped:]
            matched = (
                self.log.accept(self.log.commit, self.log.term(self.log.commit) or 0, entries) if entries else None
            )
            self._acknowledge(message.src, self.log.commit if matched is None else matched)
            self._learn_commit(message.commit, matched or 0)
            return
        matched = self.log.accept(message.prev_index, message.prev_term, message.entries)
        if matched is None:
            term, first = self.log.conflict(message.prev_index)
            self._messages_after.append(
                AppendResponse(self.term, self.id, message.src, False, message.prev_index, term, first)
            )
            return
        self._acknowledge(message.src, matched)
        self._learn_commit(message.commit, matched)

    def _acknowledge(self, leader: NodeId, index: int) -> None:
        self._messages_after.append(AppendResponse(self.term, self.id, leader, True, index))

    def _learn_commit(self, leader_commit: int, verified: int) -> None:
        """Follow the leader's commit index, only as far as this log is verified against the leader's (figure 2)."""
        self.log.commit_to(min(leader_commit, verified))

    def _on_heartbeat(self, message: Heartbeat) -> None:
        self.log.commit_to(message.commit)  # the leader never claims more than what it knows to match here
        self._messages_after.append(HeartbeatResponse(self.term, self.id, message.src, message.read_id))

    def _on_snapshot(self, message: InstallSnapshot) -> None:
        snapshot = message.snapshot
        if snapshot.index > self.log.commit and not self.log.matches(snapshot.index, snapshot.term):
            self.log.restore(snapshot)
            self.configuration = snapshot.configuration
            self._snapshot = snapshot
            self._applying = snapshot.index
            self._acknowledge(message.src, snapshot.index)
            return
        # The log holds all of it already: only the commit index is news (§7).
        self.log.commit_to(snapshot.index)
        self._acknowledge(message.src, self.log.commit)

    # --- a leader's replication (§5.3, §5.4) --------------------------------------------------------------------------

    def _append(self, entries: list[Entry]) -> None:
        assert self._leadership is not None
        self.log.append(entries)
        self._leadership.uncommitted.add(entries[-1].index, sum(entry.size for entry in entries))

    def _replicate(self, leadership: Leadership) -> None:
        """Send each follower what it lacks and may get now; once per round, so what arrived meanwhile goes along."""
        round_id = leadership.reads.begin(self.log.commit) if self.log.commit >= leadership.noop_index else None
        if round_id is not None:
            self._broadcast_heartbeat(leadership)
            self._confirm_reads(leadership)
        lagging = False
        for progress in leadership.progress.values():
            while not progress.paused and self._send_append(progress):
                pass
            lagging = lagging or progress.commit_sent < min(self.log.commit, progress.match)
        if not lagging:
            leadership.notice_due = FOREVER
        elif leadership.notice_due == FOREVER:
            leadership.notice_due = self._now + self.config.commit_notice_delay

    def _send_append(self, progress: Progress) -> bool:
        """One AppendEntries (or the news that a snapshot is needed) to ``progress``; False when there is nothing."""
        last = self.log.last_index()
        probing = progress.state is ProgressState.PROBE
        if progress.next > last and not (probing and progress.match < last):
            return False
        prev_index = progress.next - 1
        prev_term = self.log.term(prev_index)
        if prev_term is None or progress.next < self.log.first_index():
            self._send_snapshot(progress)
            return False
        entries = self.log.entries(progress.next, self.config.max_append_bytes)
        size = sum(entry.size for entry in entries)
        commit = self.log.commit
        self._messages.append(
            AppendEntries(self.term, self.id, progress.node, prev_index, prev_term, commit, tuple(entries))
        )
        progress.sent(prev_index + len(entries), len(entries), size)
        progress.commit_sent = max(progress.commit_sent, min(commit, prev_index + len(entries)))
        return bool(entries)

    def _notify_commit(self, leadership: Leadership) -> None:
        """No AppendEntries took the news of a commit along in time: a heartbeat does."""
        leadership.notice_due = FOREVER
        for progress in leadership.progress.values():
            if progress.commit_sent < min(self.log.commit, progress.match):
                self._send_heartbeat(leadership, progress)

    def _send_snapshot(self, progress: Progress) -> None:
        snapshot = self._store.snapshot()
        progress.become_snapshot(snapshot.index)
        self._messages.append(InstallSnapshot(self.term, self.id, progress.node, snapshot))

    def _on_append_response(self, leadership: Leadership, message: AppendResponse) -> None:
        progress = leadership.progress[message.src]
        progress.last_response = self._now
        if not message.success:
            current = progress.refuse(message.index, self._next_after_conflict(message))
            if current and progress.state is ProgressState.REPLICATE:
                progress.become_probe()
            return
        news = progress.acknowledge(message.index)
        progress.inflights.free_to(message.index)
        caught_up = progress.state is ProgressState.SNAPSHOT and progress.match >= progress.snapshot_index
        # Any success answers a probe: from here on what the follower holds up to `match` is known.
        if progress.state is ProgressState.PROBE or caught_up:
            progress.become_replicate()
        if news:
            self._maybe_commit(leadership)

    def _next_after_conflict(self, message: AppendResponse) -> int:
        """Skip the follower's whole conflicting term in one step (§5.3, last paragraph)."""
        if message.conflict_term == 0:
            return message.conflict_index
        shared = self.log.last_index_of_term(message.conflict_term, message.index)
        return message.conflict_index if shared is None else shared + 1

    def _maybe_commit(self, leadership: Leadership) -> None:
        """Commit what a quorum holds durably, but only through an entry of this term (§5.4.2)."""
        match = {node: progress.match for node, progress in leadership.progress.items()}
        match[self.id] = self.log.stable
        index = committed_index(self.configuration, match)
        if index <= self.log.commit or self.log.term(index) != self.term:
            return
        self.log.commit_to(index)
        leadership.uncommitted.free_to(index)

    # --- a leader's authority (§5.2, §8, thesis §6.2, §6.4) -----------------------------------------------------------

    def _tick_leader(self, leadership: Leadership) -> None:
        if self.config.check_quorum and self._now - leadership.quorum_checked >= self.config.election_timeout:
            leadership.quorum_checked = self._now
            if not self._quorum_active(leadership):
                self._become_follower(self.term, NO_NODE)
                return
        if self._now >= leadership.heartbeat_due:
            self._broadcast_heartbeat(leadership)
        elif self._now >= leadership.notice_due:
            self._notify_commit(leadership)

    def _quorum_active(self, leadership: Leadership) -> bool:
        horizon = self._now - self.config.election_timeout
        active = {node: progress.last_response >= horizon for node, progress in leadership.progress.items()}
        active[self.id] = True
        return vote_result(self.configuration, active) is VoteResult.WON

    def _broadcast_heartbeat(self, leadership: Leadership) -> None:
        leadership.heartbeat_due = self._now + self.config.heartbeat_interval
        for progress in leadership.progress.values():
            self._send_heartbeat(leadership, progress)

    def _send_heartbeat(self, leadership: Leadership, progress: Progress) -> None:
        commit = min(self.log.commit, progress.match)
        self._messages.append(Heartbeat(self.term, self.id, progress.node, commit, leadership.reads.pending_id))
        progress.commit_sent = max(progress.commit_sent, commit)

    def _on_heartbeat_response(self, leadership: Leadership, message: HeartbeatResponse) -> None:
        progress = leadership.progress[message.src]
        progress.last_response = self._now
        progress.heartbeat_answered(self._now, self.config.heartbeat_interval)
        if message.read_id > progress.acked_read:
            progress.acked_read = message.read_id
            self._confirm_reads(leadership)

    def _confirm_reads(self, leadership: Leadership) -> None:
        acked = {node: progress.acked_read for node, progress in leadership.progress.items()}
        acked[self.id] = leadership.reads.pending_id
        self._reads.extend(leadership.reads.confirm(committed_index(self.configuration, acked)))

    def check(self) -> None:
        """Verify the invariants stated at the top that one node can see."""
        assert self.term >= self._written.term, "1: term never goes back"
        if self.term == self._written.term:
            assert self._written.vote in (NO_NODE, self.vote), "1: vote changes only with the term"
        assert (self._leadership is not None) == self.is_leader, "3: leadership exactly while leading"
        self.log.check()
        if self._leadership is not None:
            self._leadership.reads.check()
            for progress in self._leadership.progress.values():
                progress.check()
                assert progress.match <= self.log.last_index(), "2: nobody matches more than the leader has"
