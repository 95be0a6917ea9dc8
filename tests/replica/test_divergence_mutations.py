"""Bugs planted in the comparison of states on purpose: each must be caught by a test of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rayraft.machine.replicated import ReplicatedMachine
from rayraft.raft.types import Entry
from rayraft.replica.compaction import Compaction
from rayraft.replica.digester import InlineDigester
from rayraft.replica.divergence import StateCheck, Verdict
from rayraft.replica.reading import Reading
from rayraft.replica.rebuild import Rebuild
from rayraft.replica.replica import Replica
from tests.replica import test_digest_turns as turns
from tests.replica import test_divergence as stories
from tests.replica.test_prepared import check_the_leader_logs_no_mark

Plant = Callable[[pytest.MonkeyPatch], None]


def nothing_is_compared(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(StateCheck, "_judge", lambda self, index, verdict: 0)


def any_two_that_agree_are_no_majority(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Verdict, "agreed", lambda self: b"")


def it_goes_on_answering(patch: pytest.MonkeyPatch) -> None:
    """A node that knows its state to be wrong still answers reads from it."""
    patch.setattr(Reading, "refuse_all", lambda self, data: None)


def it_goes_on_answering_what_takes_no_turn(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Replica, "answer_at_once", lambda self, queries: self._reading.at_once(queries, self._now))


def it_goes_on_leading(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Replica, "_make_way", lambda self: None)


def it_is_never_rebuilt(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Rebuild, "request", lambda self: None)


def it_is_rebuilt_without_the_log_behind_the_snapshot(patch: pytest.MonkeyPatch) -> None:
    go_on = Rebuild.go_on

    def mutant(self: Rebuild, machine: ReplicatedMachine, trailing: int, max_bytes: int) -> bool:
        go_on(self, machine, trailing, max_bytes)
        return self.catching_up

    patch.setattr(Rebuild, "go_on", mutant)


def it_applies_to_its_wrong_state_what_the_snapshot_has(patch: pytest.MonkeyPatch) -> None:
    """The snapshot is recorded and never loaded."""
    go_on = Rebuild.go_on

    def mutant(self: Rebuild, machine: ReplicatedMachine, trailing: int, max_bytes: int) -> bool:
        restore, ReplicatedMachine.restore = ReplicatedMachine.restore, lambda self, stream: None  # type: ignore[method-assign, assignment]
        try:
            return go_on(self, machine, trailing, max_bytes)
        finally:
            ReplicatedMachine.restore = restore  # type: ignore[method-assign]

    patch.setattr(Rebuild, "go_on", mutant)


def a_snapshot_is_recorded_unchecked(patch: pytest.MonkeyPatch) -> None:
    cut_log = Compaction._cut_log

    def mutant(self: Compaction) -> bool:
        return cut_log(self) or self._record()

    patch.setattr(Compaction, "_cut_log", mutant)


def any_snapshot_will_do_for_a_rebuilding(patch: pytest.MonkeyPatch) -> None:
    """Also one that is older than the verdict: this node's own entries behind it may be what went wrong."""
    init = Rebuild.__init__

    def mutant(self: Rebuild, raft: Any, store: Any, snapshots: Any, verdict: int) -> None:
        init(self, raft, store, snapshots, 0)
        self.source = store.snapshot()

    patch.setattr(Rebuild, "__init__", mutant)


def the_digest_is_of_a_later_state(patch: pytest.MonkeyPatch) -> None:
    """It is computed when somebody asks for it."""

    def begin(self: InlineDigester, index: int, digest: Callable[[], bytes]) -> None:
        self._done = (index, digest)  # type: ignore[assignment]

    def poll(self: InlineDigester) -> tuple[int, bytes] | None:
        done, self._done = self._done, None
        return None if done is None else (done[0], done[1]())  # type: ignore[operator]

    patch.setattr(InlineDigester, "begin", begin)
    patch.setattr(InlineDigester, "poll", poll)


def digests_are_told_once(patch: pytest.MonkeyPatch) -> None:
    report = StateCheck.report

    def mutant(self: StateCheck) -> Any:
        return None if self._reported[0] == self.marked else report(self)

    patch.setattr(StateCheck, "report", mutant)


def the_log_is_never_cut_without_a_verdict(patch: pytest.MonkeyPatch) -> None:
    record = Compaction._record

    def mutant(self: Compaction) -> bool:
        return self.unchecked <= self._state_check.checked and record(self)

    patch.setattr(Compaction, "_record", mutant)


def an_old_judgement_outlives_the_state(patch: pytest.MonkeyPatch) -> None:
    """Digests of the state that was replaced are kept, and judged by."""

    def forget(self: StateCheck, index: int) -> None:
        self.trusted = True
        self.checked = max(self.checked, index)
        self._waiting = (index, Verdict(index, (1, 2, 3), {1: b"x", 2: b"x", 3: b"x"}))
        self._own[index] = b"y"

    patch.setattr(StateCheck, "forget", forget)
    poll = StateCheck.poll

    def mutant(self: StateCheck) -> int:
        if self._waiting is not None:
            (index, verdict), self._waiting = self._waiting, None
            return self._judge(index, verdict)
        return poll(self)

    patch.setattr(StateCheck, "poll", mutant)


def all_at_once(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(StateCheck, "_place", lambda self: 0)


def all_followers_at_once(patch: pytest.MonkeyPatch) -> None:
    place = StateCheck._place
    patch.setattr(StateCheck, "_place", lambda self: min(place(self), 1))


def the_state_changes_meanwhile(patch: pytest.MonkeyPatch) -> None:
    def wait(self: StateCheck, seconds: float) -> None:
        self._digest_at = self._raft.now + seconds

    patch.setattr(StateCheck, "_wait", wait)


def what_is_behind_a_mark_comes_with_it(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Entry, "is_mark", False)


def a_leader_waits_too(patch: pytest.MonkeyPatch) -> None:
    take_turn = StateCheck.take_turn

    def mutant(self: StateCheck) -> None:
        if self._digest_at is None or self._raft.now >= self._digest_at:
            take_turn(self)

    patch.setattr(StateCheck, "take_turn", mutant)


def a_turn_outlives_the_state(patch: pytest.MonkeyPatch) -> None:
    forget = StateCheck.forget

    def mutant(self: StateCheck, index: int) -> None:
        digest_at, limit = self._digest_at, self._raft.apply_limit
        forget(self, index)
        self._digest_at, self._raft.apply_limit = digest_at, limit

    patch.setattr(StateCheck, "forget", mutant)


def old_marks_are_waited_at(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("rayraft.replica.divergence.FAR_BEHIND", 1 << 60)


def a_mark_does_not_wait_until_the_leader_is_prepared(patch: pytest.MonkeyPatch) -> None:
    due = StateCheck._mark_due

    def mutant(self: StateCheck, unchecked: int) -> bool:
        if due(self, unchecked):
            self._log(b"")
        return False

    patch.setattr(StateCheck, "_mark_due", mutant)


CAUGHT_BY: list[tuple[Plant, Callable[[], Any]]] = [
    (nothing_is_compared, stories.check_a_follower_is_found_and_rebuilt),
    (any_two_that_agree_are_no_majority, stories.check_a_follower_is_found_and_rebuilt),
    (it_goes_on_answering, stories.check_a_follower_is_found_and_rebuilt),
    (it_goes_on_answering_what_takes_no_turn, stories.check_a_follower_is_found_and_rebuilt),
    (it_goes_on_leading, stories.check_a_leader_is_found),
    (it_is_never_rebuilt, stories.check_a_follower_is_found_and_rebuilt),
    (it_is_rebuilt_without_the_log_behind_the_snapshot, stories.check_it_is_caught_up_in_steps),
    (it_applies_to_its_wrong_state_what_the_snapshot_has, stories.check_a_follower_is_found_and_rebuilt),
    (a_snapshot_is_recorded_unchecked, stories.check_a_wrong_snapshot_does_not_spread),
    (
        any_snapshot_will_do_for_a_rebuilding,
        stories.test_a_node_that_replays_into_a_wrong_state_is_found_again,
    ),
    (digests_are_told_once, stories.test_digests_that_are_lost_are_told_again),
    (
        the_log_is_never_cut_without_a_verdict,
        stories.test_without_a_verdict_the_log_is_cut_with_the_next_snapshot,
    ),
    (an_old_judgement_outlives_the_state, stories.check_a_follower_is_found_and_rebuilt),
    (all_at_once, turns.check_turns),
    (all_followers_at_once, turns.check_turns),
    (the_state_changes_meanwhile, turns.check_commits_go_on),
    (a_leader_waits_too, turns.check_a_new_leader_does_not_wait),
    (a_turn_outlives_the_state, turns.check_a_snapshot_ends_the_turn),
    (old_marks_are_waited_at, turns.check_nobody_waits_at_old_marks),
    (a_mark_does_not_wait_until_the_leader_is_prepared, check_the_leader_logs_no_mark),
]


@pytest.mark.parametrize(("plant", "story"), CAUGHT_BY, ids=[plant.__name__ for plant, _ in CAUGHT_BY])
def test_is_caught(plant: Plant, story: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        story()


def any_seed() -> None:
    for seed in range(300, 340):
        stories.check_simulated(seed)


@pytest.mark.parametrize(
    "plant", [the_digest_is_of_a_later_state, the_state_changes_meanwhile, what_is_behind_a_mark_comes_with_it]
)
def test_a_digest_of_a_later_state_is_caught_by_the_simulator(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError, match="differ"):
        any_seed()
