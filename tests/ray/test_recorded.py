"""The recording that the tests on real clusters go by, on objects in this process: it convicts, and it acquits."""

from __future__ import annotations

import itertools
from typing import Any, cast

import pytest

import rayraft
from tests.ray.recorded import Recorded
from tests.ray.support import Ledger, Marker


def as_handle(machine: object) -> rayraft.Handle:
    return cast("rayraft.Handle", machine)


class Forgetful(Ledger):
    """A group that has lost a command which it acknowledged."""

    def mark(self, token: str) -> int:
        count = super().mark(token)
        if count == 7:
            del self.tokens[token]
        return count


class Doubling(Ledger):
    """A group that applies a retry twice."""

    def deposit(self, who: str, amount: int) -> int:
        first = super().deposit(who, amount)
        return super().deposit(who, amount) if first == 5 else first


class Slow(Ledger):
    """A group with a follower that answers reads from a state which is one command old."""

    def __init__(self) -> None:
        super().__init__()
        self.old = 0

    def deposit(self, who: str, amount: int) -> int:
        self.old = self.balance_of(who)
        return super().deposit(who, amount)

    def balance_of(self, who: str) -> int:
        return self.old if super().balance_of(who) == 3 else super().balance_of(who)


class Interrupted(Ledger):
    """A group that does not always say what came of it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = itertools.count()

    def deposit(self, who: str, amount: int) -> int:
        call = next(self.calls)
        if call % 5 == 1:
            raise rayraft.CommandTimeout("lost before it was applied")
        balance = super().deposit(who, amount)
        if call % 5 == 3:
            raise rayraft.CommandTimeout("lost after it was applied")
        return balance


def use(ledger: Recorded, times: int = 10) -> None:
    for _ in range(times):
        try:
            ledger.deposit("ann", 1)
        except rayraft.CommandTimeout:
            continue
        ledger.balance_of("ann")


@pytest.mark.parametrize("machine", [Doubling, Slow])
def test_a_wrong_answer_is_found(machine: type[Ledger]) -> None:
    ledger = Recorded(as_handle(machine()))
    use(ledger)
    with pytest.raises(AssertionError, match="can not be placed"):
        ledger.assert_linearizable()


@pytest.mark.parametrize("machine", [Ledger, Interrupted])
def test_right_answers_and_unknown_outcomes_are_fine(machine: type[Ledger]) -> None:
    ledger = Recorded(as_handle(machine()))
    use(ledger, 40)
    ledger.assert_linearizable(at_least=40)


def test_a_history_that_was_never_written_is_not_fine() -> None:
    with pytest.raises(AssertionError, match="hardly anything"):
        Recorded(as_handle(Ledger())).assert_linearizable()


def test_a_history_goes_on_through_another_handle() -> None:
    """A state that was lost in between is found."""
    before = Recorded(as_handle(Ledger()))
    use(before)
    after = before.through(as_handle(Ledger()))
    assert after.balance_of("ann") == 0
    with pytest.raises(AssertionError, match="can not be placed"):
        after.assert_linearizable()


def test_stale_reads_are_not_recorded_by_mistake() -> None:
    with pytest.raises(ValueError, match="stale"):
        Recorded(as_handle(Ledger())).options(max_staleness_s=1.0)


@pytest.mark.parametrize("markers", [1, 2])
def test_a_marker_checks_its_history_when_it_ends(markers: int) -> None:
    """Every test that has one is a test of linearizability, without a line of its own."""

    def run(machine: Any) -> None:
        with Marker(as_handle(machine), "a") as one:
            one.wait_for_more(20)
            if markers == 2:
                with Marker(as_handle(machine), "b", one.recording) as two:
                    two.wait_for_more(20)

    run(Ledger())
    with pytest.raises(AssertionError, match="can not be placed"):
        run(Forgetful())
