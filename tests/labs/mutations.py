"""Known mistakes, planted in the real code, for the labs to find. Each changes one method; its docstring says what.

They sit on spots that seldom move: the replica, the log, the progress tracker, the sessions, the quorums.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, BinaryIO

import pytest

from rayraft.machine.replicated import ReplicatedMachine
from rayraft.machine.requests import RequestHeader
from rayraft.machine.sessions import SessionTable
from rayraft.raft import quorum
from rayraft.raft.elections import Elections
from rayraft.raft.log import RaftLog
from rayraft.raft.progress import Progress, ProgressState
from rayraft.raft.quorum import committed_index
from rayraft.raft.raft import Raft
from rayraft.raft.ready import RaftConfig, Ready
from rayraft.raft.types import NO_NODE, Entry, RequestVote, SnapshotMeta
from rayraft.replica.reading import Reading
from rayraft.replica.replica import Replica
from rayraft.storage.memory import MemoryLogStore

Plant = Callable[[pytest.MonkeyPatch], None]


def two_votes_in_a_term(patch: pytest.MonkeyPatch) -> None:
    """The vote is forgotten as soon as it is given."""
    on_request_vote = Elections.on_request_vote

    def mutant(self: Elections, message: RequestVote) -> None:
        self._raft.vote = self._raft.leader = NO_NODE
        on_request_vote(self, message)

    patch.setattr(Elections, "on_request_vote", mutant)


def votes_without_the_log_check(patch: pytest.MonkeyPatch) -> None:
    """A candidate with any log gets the vote (§5.4.1)."""
    patch.setattr(RaftLog, "is_up_to_date", lambda self, last_index, last_term: True)
    patch.setattr(Elections, "_is_eligible", lambda self, grant: grant.term == self._raft.term + 1)  # it looks again


def half_is_a_quorum(patch: pytest.MonkeyPatch) -> None:
    """Two of five may commit; elections need a true majority."""
    true_majority = quorum.majority

    def held(voters: Any, match: Any) -> int:
        ascending = sorted(match.get(node, 0) for node in voters)
        return ascending[len(voters) - max(1, true_majority(len(voters)) - 1)]

    patch.setattr(quorum, "_held_by_majority", held)


def nothing_is_synced(patch: pytest.MonkeyPatch) -> None:
    """Terms, votes and entries are admitted from the write cache."""
    patch.setattr(MemoryLogStore, "sync", lambda self: None)


def terms_and_votes_are_not_written(patch: pytest.MonkeyPatch) -> None:
    """Entries survive a restart, term and vote do not."""
    write = MemoryLogStore.write
    patch.setattr(MemoryLogStore, "write", lambda self, hard_state, entries: write(self, None, entries))


def old_terms_commit_by_counting(patch: pytest.MonkeyPatch) -> None:
    """A leader commits whatever a quorum holds, of any term: the mistake of figure 8."""
    ready = Raft.ready

    def mutant(self: Raft) -> Ready | None:
        if self.is_leader:
            match = {node: progress.match for node, progress in self.progress.items()} | {self.id: self.log.stable}
            self.log.commit_to(committed_index(self.configuration, match))
        return ready(self)

    patch.setattr(Raft, "ready", mutant)


def one_step_back_at_a_time(patch: pytest.MonkeyPatch) -> None:
    """A refusal tells nothing of the conflicting term, so the leader tries every index."""
    patch.setattr(RaftLog, "conflict", lambda self, index: (0, index))


def late_entries_erase_newer_ones(patch: pytest.MonkeyPatch) -> None:
    """Every AppendEntries cuts the log behind itself, conflict or not (§5.3)."""
    accept = RaftLog.accept

    def mutant(self: RaftLog, prev_index: int, prev_term: int, entries: tuple[Entry, ...]) -> int | None:
        first = prev_index + 1
        if self.matches(prev_index, prev_term) and entries and self.commit < first <= self.last_index():
            self._replace_from(entries)
            return prev_index + len(entries)
        return accept(self, prev_index, prev_term, entries)

    patch.setattr(RaftLog, "accept", mutant)


def everything_is_sent_again(patch: pytest.MonkeyPatch) -> None:
    """The pipeline does not remember what it has sent already."""
    sent = Progress.sent

    def mutant(self: Progress, last_index: int, count: int, size: int) -> None:
        before = self.next
        sent(self, last_index, count, size)
        if self.state is ProgressState.REPLICATE:
            self.next = before

    patch.setattr(Progress, "sent", mutant)


def five_times_the_heartbeats(patch: pytest.MonkeyPatch) -> None:
    """An idle leader shows itself every 20 ms."""
    defaults = RaftConfig.__init__.__defaults__
    assert defaults is not None
    patch.setattr(RaftConfig.__init__, "__defaults__", tuple(0.02 if value == 0.1 else value for value in defaults))


def entries_are_applied_twice(patch: pytest.MonkeyPatch) -> None:
    """A batch of committed entries goes to the machine two times."""
    apply = Replica._apply
    patch.setattr(Replica, "_apply", lambda self, entries: apply(self, [*entries, *entries]))


def an_installed_snapshot_is_not_loaded(patch: pytest.MonkeyPatch) -> None:
    """A follower records the leader's snapshot, but its machine stays where it was."""
    install = Replica._install

    def mutant(self: Replica, ready: Ready) -> None:
        self.machine.restore = lambda stream: None  # type: ignore[method-assign]
        install(self, ready)
        del self.machine.restore

    patch.setattr(Replica, "_install", mutant)


def the_log_is_never_cut(patch: pytest.MonkeyPatch) -> None:
    """Snapshots are taken and recorded, but everything behind them is kept."""
    compact = MemoryLogStore.compact

    def mutant(self: MemoryLogStore, snapshot: SnapshotMeta, first_index: int) -> None:
        compact(self, snapshot, self.first_index())

    patch.setattr(MemoryLogStore, "compact", mutant)


def snapshots_without_sessions(patch: pytest.MonkeyPatch) -> None:
    """A state that comes back from a snapshot knows no client."""
    restore = ReplicatedMachine.restore

    def mutant(self: ReplicatedMachine, stream: BinaryIO) -> None:
        restore(self, stream)
        self.sessions._sessions.clear()

    patch.setattr(ReplicatedMachine, "restore", mutant)


def retries_are_applied_again(patch: pytest.MonkeyPatch) -> None:
    """A number that was applied already is not recognised."""
    answer = SessionTable.answer

    def mutant(self: SessionTable, header: RequestHeader) -> bytes | None:
        applied = self.applied(header.session)
        return None if applied is not None and header.number == applied else answer(self, header)

    patch.setattr(SessionTable, "answer", mutant)


def reads_are_not_confirmed(patch: pytest.MonkeyPatch) -> None:
    """Whoever thinks it leads answers reads from its own state (§8)."""

    def mutant(self: Reading) -> None:
        reads, self._arrived = self._arrived, []
        for pending in reads:
            if self._raft.is_leader:
                self._answer(pending, self._run(pending.queries))
            else:
                self._arrived.append(pending)
        begin(self)

    begin = Reading.begin
    patch.setattr(Reading, "begin", mutant)
