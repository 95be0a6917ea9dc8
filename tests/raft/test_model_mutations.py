"""Mistakes planted in the log and in the progress tracker: each fails the machine that compares it with a plain model.

`test_mutations` has bugs for the stories; these show that the random walks over log, window and follower can fail.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import pytest
from hypothesis.stateful import RuleBasedStateMachine

from rayraft.raft.log import RaftLog
from rayraft.raft.progress import Inflights, Progress, ProgressState
from rayraft.raft.types import Entry, SnapshotMeta
from tests.raft.test_log import LogAgainstList
from tests.raft.test_progress import FollowerOnALine, WindowAgainstList
from tests.stateful import run_machine

Plant = Callable[[pytest.MonkeyPatch], None]


run = partial(run_machine, examples=1000, steps=40)


# --- the log ----------------------------------------------------------------------------------------------------------


def a_repeated_append_erases_what_follows(patch: pytest.MonkeyPatch) -> None:
    """Entries that are there already cut off the newer ones behind them."""

    def mutant(self: RaftLog, prev_index: int, prev_term: int, entries: Sequence[Entry]) -> int | None:
        if not self.matches(prev_index, prev_term):
            return None
        fresh = [entry for entry in entries if entry.index > self.commit]
        if fresh:
            self._replace_from(fresh)
        return prev_index + len(entries)

    patch.setattr(RaftLog, "accept", mutant)


def replaced_entries_stay_stable(patch: pytest.MonkeyPatch) -> None:
    """The watermark of what is durable does not go back with a conflict."""
    replace = RaftLog._replace_from

    def mutant(self: RaftLog, entries: Sequence[Entry]) -> None:
        before = self.stable
        replace(self, entries)
        self.stable = min(before, self.offered)
        self.stable = max(self.stable, min(before, self.last_index()))

    patch.setattr(RaftLog, "_replace_from", mutant)


def memory_is_given_back_too_early(patch: pytest.MonkeyPatch) -> None:
    """The tail drops what was applied, durable or not."""
    trim = RaftLog._trim

    def mutant(self: RaftLog) -> None:
        stable, self.stable = self.stable, self.applied
        trim(self)
        self.stable = stable

    patch.setattr(RaftLog, "_trim", mutant)


def a_snapshot_keeps_the_old_term(patch: pytest.MonkeyPatch) -> None:
    """After a snapshot the log still ends with the term it had before."""
    restore = RaftLog.restore

    def mutant(self: RaftLog, snapshot: SnapshotMeta) -> None:
        term = self.last_term()
        restore(self, snapshot)
        self._base_term = term

    patch.setattr(RaftLog, "restore", mutant)


def the_first_of_a_term_is_taken_for_the_last(patch: pytest.MonkeyPatch) -> None:
    """The leader's search for a conflicting term goes one too far back."""
    last_index_of_term = RaftLog.last_index_of_term

    def mutant(self: RaftLog, term: int, upto: int) -> int | None:
        found = last_index_of_term(self, term, upto)
        return found - 1 if found is not None and self.matches(found - 1, term) else found

    patch.setattr(RaftLog, "last_index_of_term", mutant)


# --- window and follower ----------------------------------------------------------------------------------------------


def bytes_are_not_freed(patch: pytest.MonkeyPatch) -> None:
    """An answer frees the messages, not their bytes."""

    def mutant(self: Inflights, index: int) -> None:
        while self._open and self._open[0][0] <= index:
            self._open.popleft()

    patch.setattr(Inflights, "free_to", mutant)


def one_answer_frees_one_message(patch: pytest.MonkeyPatch) -> None:
    """A lost answer leaks its place in the window."""

    def mutant(self: Inflights, index: int) -> None:
        if self._open and self._open[0][0] == index:
            self._bytes -= self._open.popleft()[1]

    patch.setattr(Inflights, "free_to", mutant)


def match_regresses(patch: pytest.MonkeyPatch) -> None:
    """A late answer takes back what is known."""

    def mutant(self: Progress, index: int) -> bool:
        news, self.match = index > self.match, index
        self.next = max(self.next, index + 1)
        return news

    patch.setattr(Progress, "acknowledge", mutant)


def sent_is_taken_for_received(patch: pytest.MonkeyPatch) -> None:
    """The leader counts what is only on its way."""
    sent = Progress.sent

    def mutant(self: Progress, last_index: int, count: int, size: int) -> None:
        sent(self, last_index, count, size)
        if self.state is ProgressState.REPLICATE:
            self.match = max(self.match, last_index)

    patch.setattr(Progress, "sent", mutant)


def a_lost_probe_is_waited_for(patch: pytest.MonkeyPatch) -> None:
    """A heartbeat's answer does not let a new probe out."""
    patch.setattr(Progress, "heartbeat_answered", lambda self, now, patience: None)


FINDS: list[tuple[Plant, type[RuleBasedStateMachine]]] = [
    (a_repeated_append_erases_what_follows, LogAgainstList),
    (replaced_entries_stay_stable, LogAgainstList),
    (memory_is_given_back_too_early, LogAgainstList),
    (a_snapshot_keeps_the_old_term, LogAgainstList),
    (the_first_of_a_term_is_taken_for_the_last, LogAgainstList),
    (bytes_are_not_freed, WindowAgainstList),
    (one_answer_frees_one_message, WindowAgainstList),
    (match_regresses, FollowerOnALine),
    (sent_is_taken_for_received, FollowerOnALine),
    (a_lost_probe_is_waited_for, FollowerOnALine),
]


@pytest.mark.parametrize(
    ("plant", "machine"), FINDS, ids=[f"{plant.__name__}-{machine.__name__}" for plant, machine in FINDS]
)
def test_the_model_finds(plant: Plant, machine: type[RuleBasedStateMachine], monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    with pytest.raises((AssertionError, pytest.fail.Exception, KeyError, ValueError)):
        run(machine)
