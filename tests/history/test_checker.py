"""The checker against every order tried out, against planted anomalies, and at its limits."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings

from rayraft.errors import BadHistory
from rayraft.history import History, Limits, Verdict, check
from rayraft.history.models import KeyValueEntry, Register, Text
from tests.history.anomalies import PAIRS
from tests.history.support import OPEN, append, brute_force, histories, increment, read, write


@settings(max_examples=300, deadline=None)
@given(histories(5))
def test_agrees_with_every_order_tried_out(history: History) -> None:
    assert (check(history, KeyValueEntry()).verdict is Verdict.LINEARIZABLE) == brute_force(history)


def test_the_random_histories_are_worth_something() -> None:
    """Of both verdicts there are many, and of both with operations of unknown outcome."""
    found: list[tuple[bool, bool]] = []

    @settings(max_examples=300, deadline=None, derandomize=True, database=None)
    @given(histories(4))
    def judge(history: History) -> None:
        found.append((brute_force(history), any(one.is_open for one in history.operations)))

    judge()
    counted = Counter(found)
    assert len(counted) == 4
    assert min(counted.values()) >= 15


@pytest.mark.parametrize("name", PAIRS)
def test_an_anomaly_is_told_from_its_harmless_neighbour(name: str) -> None:
    pair = PAIRS[name]
    assert check(History(pair.bad), pair.model).verdict is Verdict.VIOLATED
    assert check(History(pair.good), pair.model).verdict is Verdict.LINEARIZABLE


def test_a_violation_is_explained() -> None:
    history = History([write(1, 0, 1), write(2, 2, 3), read(2, 4, 5), read(1, 6, 7), read(2, 6, 9), read(5, 0, 2, "y")])
    report = check(history, Register())
    assert str(report) == "no (6 operations, 2 keys)"
    one, two = report.violations
    assert (one.key, one.prefix, one.state, one.unplaced) == (
        "x",
        (*history.operations[:3], history.operations[4]),
        2,
        1,
    )
    assert [str(stuck) for stuck in one.stuck] == ["client 6: read => 1  [6 .. 7]"]
    assert one.possible == (2,)
    assert two.key == "y"
    assert two.possible == (None,)
    text = report.explain()
    assert "key 'x': client 6: read => 1  [6 .. 7]\n  can not be placed; expected was 2\n" in text
    assert "longest order found, 4 operations (1 remain)" in text
    assert "after which the value is 2" in text


def test_an_explanation_names_every_value_that_was_possible() -> None:
    history = History([write(1, 0, 5), write(2, 0, 6), read(3, 7, 8)])
    (violation,) = check(history, Register()).violations
    assert sorted(violation.possible) == [1, 2]


def test_only_so_many_violations_are_told() -> None:
    history = History([read(1, 0, 1, f"key {number}") for number in range(10)])
    assert check(history, Register()).explain().endswith("and 7 more keys whose operations have no order")


def test_an_empty_history_is_linearizable() -> None:
    report = check(History(), Register())
    assert str(report) == "yes (0 operations, 0 keys)"
    assert report.explain() == ""


def crowd(clients: int, wrong: bool) -> History:
    """All writes at once, two of them equal, then a read of what nobody wrote: every order has to be tried."""
    writes = [write(client, 0, 1) for client in (0, *range(clients))]
    return History([*writes, read(-1 if wrong else clients - 1, 2, 3)])


@pytest.mark.parametrize("limits", [Limits(steps=1000), Limits(configurations=100)])
def test_a_search_that_is_too_long_is_undecided(limits: Limits) -> None:
    report = check(crowd(20, wrong=True), Register(), limits)
    assert report.verdict is Verdict.UNDECIDED
    assert report.undecided == ["x"]
    assert "key 'x': the search was given up" in report.explain()
    assert check(crowd(8, wrong=True), Register()).verdict is Verdict.VIOLATED
    assert check(crowd(20, wrong=False), Register(), Limits(steps=1000)).verdict is Verdict.LINEARIZABLE


def test_a_violation_counts_more_than_what_is_undecided() -> None:
    history = History([*crowd(20, wrong=True).operations, read(1, 0, 1, "y")])
    assert check(history, Register(), Limits(steps=1000)).verdict is Verdict.VIOLATED


def long_history(operations: int, clients: int, unknown: float) -> History:
    """A correct store under so many clients, each of them always with an operation under way."""
    rng, value, found = random.Random(7), None, []
    for number in range(operations):
        invoked, returned = number - rng.random() * clients, number + rng.random() * clients
        if rng.random() < 0.5:
            found.append(read(value, invoked, returned))
        elif rng.random() < unknown:
            found.append(write(rng.randrange(5), number, OPEN))
        else:
            value = rng.randrange(5)
            found.append(write(value, invoked, returned))
    return History(found)


def test_the_work_grows_with_the_length_of_a_history_no_faster() -> None:
    """Steps, not seconds: ten times as long a history of ten clients takes about ten times as many."""
    short, long = (check(long_history(length, 10, 0.0), Register()) for length in (2_000, 20_000))
    assert short.verdict is long.verdict is Verdict.LINEARIZABLE
    assert long.steps < 30 * short.steps


def test_many_unknown_writes_do_not_make_it_slow() -> None:
    """Two hundred of them stay open for ever; only those that may explain something are tried."""
    history = long_history(1_000, 5, 0.4)
    assert sum(one.is_open for one in history.operations) > 150
    report = check(history, Register(), Limits(steps=20_000))
    assert report.verdict is Verdict.LINEARIZABLE
    spoilt = History([*history.operations, read(77, 2_000, 2_001)])
    assert check(spoilt, Register(), Limits(steps=20_000)).verdict is not Verdict.LINEARIZABLE


def test_an_operation_that_the_model_does_not_know_is_an_error() -> None:
    with pytest.raises(BadHistory, match="a register has no operation append"):
        check(History([append("a", None, 0, 1)]), Register())
    with pytest.raises(BadHistory, match="a text has no operation increment"):
        check(History([increment(1, 1, 0, 1)]), Text())
    with pytest.raises(BadHistory, match="only strings"):
        check(History([append(1, None, 0, 1)]), Text())


def test_a_history_can_not_return_before_it_begins() -> None:
    with pytest.raises(ValueError, match="before it was invoked"):
        read(1, 2, 1)
