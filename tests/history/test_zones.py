"""Registers of unique writes, decided by their zones: the same verdicts as the search, and as trying every order."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from rayraft.history import History, Operation, Verdict, check, zones
from rayraft.history.checker import Limits, _Search
from rayraft.history.models import Register
from rayraft.history.zones import _Cluster, _fit, decide
from tests.history.support import OPEN, brute_force, cas, read, write

TIMES = st.integers(0, 12)


@st.composite
def registers(draw: st.DrawFn, most: int = 7) -> list[Operation]:
    """Writes of 1, 2, 3, … and reads of any of them, at any times; few are linearizable, so some are by design."""
    honest, value, found = draw(st.booleans()), None, list[Operation]()
    for moment in sorted(draw(st.lists(TIMES, min_size=1, max_size=most))):
        begin, end = moment - draw(st.integers(0, 4)), moment + draw(st.integers(0, 4))
        returned = OPEN if draw(st.integers(0, 5)) == 0 else end
        if draw(st.booleans()):
            number = len(found) + 1
            found.append(write(number, begin, returned))
            value = number if returned is not OPEN or draw(st.booleans()) else value
        else:
            seen = value if honest else draw(st.sampled_from([None, *range(1, most + 1)]))
            found.append(read(seen, begin, returned))
    return found


def by_search(operations: list[Operation]) -> bool:
    return _Search(operations, Register(), Limits()).run() is Verdict.LINEARIZABLE


def agrees_with_the_search(examples: int = 400) -> None:
    @settings(max_examples=examples, derandomize=True, deadline=None, database=None, phases=[Phase.generate])
    @given(registers())
    def check_one(operations: list[Operation]) -> None:
        assert decide(operations, None) == by_search(operations)

    check_one()


def test_it_agrees_with_the_search() -> None:
    agrees_with_the_search(2_000)


@settings(max_examples=150, deadline=None)
@given(registers(most=5))
def test_it_agrees_with_trying_every_order(operations: list[Operation]) -> None:
    assert decide(operations, None) == brute_force(History(operations))


@pytest.mark.parametrize(
    "operations",
    [
        [write(1, 0, 1), write(1, 2, 3)],
        [write(None, 0, 1)],
        [write(1, 0, 1), cas(1, 2, True, 2, 3)],
        [Operation(1, write(1, 0, 1).kind, "x", 1, "a write has no output", 0, 1)],
    ],
)
def test_what_it_can_not_tell_is_left_to_the_search(operations: list[Operation]) -> None:
    assert decide(operations, None) is None


def test_a_hot_key_is_decided_where_the_search_gives_up() -> None:
    """Hundreds of writers that all wait for one answer, as at the loss of a leader, and reads among them."""
    rng, found = random.Random(1), list[Operation]()
    for stall in range(3):
        order = [rng.random() for _ in range(300)]
        for client, at in enumerate(order):
            found.append(write(stall * 1000 + client, stall * 10, stall * 10 + 9 + at / 2))
        last = stall * 1000 + rng.randrange(300)
        found += [read(last, stall * 10 + 9.6, stall * 10 + 9.9) for _ in range(20)]
        found += [read(stall * 1000 + rng.randrange(300), stall * 10, stall * 10 + 9) for _ in range(8)]
    history = History(found)
    limits = Limits(steps=20_000)
    assert _Search(found, Register(), limits).run() is Verdict.UNDECIDED
    report = check(history, Register(), limits)
    assert report.verdict is Verdict.LINEARIZABLE
    stale = History([*found, read(5, 40, 41)])
    report = check(stale, Register(), limits)
    assert report.verdict is Verdict.VIOLATED
    assert "can not be placed" in report.explain()


# --- bugs planted on purpose ------------------------------------------------------------------------------------------


def forward_zones_may_overlap(patch: pytest.MonkeyPatch) -> None:
    def fit(clusters: list[_Cluster]) -> bool:
        backward = [each for each in clusters if each.returned >= each.invoked]
        forward = [each for each in clusters if each.returned < each.invoked]
        return all(_fit([one, *backward]) for one in forward) if forward else True

    patch.setattr(zones, "_fit", fit)


def backward_zones_may_lie_anywhere(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(zones, "_fit", lambda clusters: _fit([each for each in clusters if each.returned < each.invoked]))


def a_read_may_precede_its_write(patch: pytest.MonkeyPatch) -> None:
    class Timeless(_Cluster):
        def __init__(self, written: float, returned: float, invoked: float) -> None:
            super().__init__(-float("inf"), returned, invoked)

    patch.setattr(zones, "_Cluster", Timeless)


def writes_without_an_answer_have_ended(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(zones, "_end", lambda one: one.invoked if one.returned is None else one.returned)


@pytest.mark.parametrize(
    "plant",
    [
        forward_zones_may_overlap,
        backward_zones_may_lie_anywhere,
        a_read_may_precede_its_write,
        writes_without_an_answer_have_ended,
    ],
)
def test_the_comparison_with_the_search_catches(
    plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        agrees_with_the_search(2_000)
