"""The checker of histories, by small ones whose verdict is plain."""

from __future__ import annotations

import random

import pytest

from tests.labs.history import NEVER, Operation, linearizable


def put(value: str, called: float, returned: float = NEVER) -> Operation:
    return Operation("put", "k", value, None, called, returned)


def append(value: str, called: float, returned: float = NEVER) -> Operation:
    return Operation("append", "k", value, None, called, returned)


def get(value: str, called: float, returned: float = NEVER) -> Operation:
    return Operation("get", "k", "", value, called, returned)


@pytest.mark.parametrize(
    ("verdict", "history"),
    [
        (True, []),
        (True, [put("a", 0, 1), get("a", 2, 3)]),
        (False, [put("a", 0, 1), get("", 2, 3)]),
        (True, [put("a", 0, 3), get("", 1, 2)]),
        (True, [put("a", 0, 3), get("a", 1, 2)]),
        (False, [put("a", 0, 9), get("a", 1, 2), get("", 3, 4)]),
        (True, [put("a", 0), get("", 1, 2), get("a", 3, 4)]),
        (True, [put("a", 0), get("", 5, 6)]),
        (False, [put("a", 5), get("a", 1, 2)]),
        (True, [append("a", 0, 5), append("b", 1, 4), get("ba", 6, 7)]),
        (False, [append("a", 0, 1), append("b", 2, 3), get("ba", 4, 5)]),
        (False, [append("a", 0, 1), get("aa", 2, 3)]),
        (False, [append("a", 0, 1), get("", 2, 3), get("a", 4, 5)]),
        (True, [put("a", 0, 10), put("b", 0, 10), get("a", 1, 2), get("b", 3, 4)]),
        (False, [put("a", 0, 10), put("b", 0, 10), get("a", 1, 2), get("b", 3, 4), get("a", 5, 6)]),
        (True, [get("never answered", 0), put("a", 1, 2), get("a", 3, 4)]),
    ],
)
def test_verdicts(verdict: bool, history: list[Operation]) -> None:
    assert linearizable(history) is verdict


def test_keys_are_judged_one_by_one() -> None:
    good, bad = put("a", 0, 1), Operation("get", "other", "", "a", 2, 3)
    assert linearizable([good])
    assert not linearizable([good, bad])


def real_history(seed: int, clients: int, count: int) -> list[Operation]:
    """Operations that took effect one by one, each at a moment between its call and its return."""
    rng, value, found = random.Random(seed), "", []
    for moment in range(count):
        called, returned = moment - rng.uniform(0, clients), moment + rng.uniform(0, clients)
        method = rng.choice(("put", "append", "get", "get"))
        argument = f"{moment} "
        found.append(Operation(method, "k", argument, value if method == "get" else None, called, returned))
        value = {"put": argument, "append": value + argument, "get": value}[method]
    return found


@pytest.mark.parametrize("seed", range(5))
def test_real_histories_pass_and_spoiled_ones_do_not(seed: int) -> None:
    history = real_history(seed, clients=4, count=120)
    assert linearizable(history)
    stale = next(place for place, it in enumerate(history) if it.method == "get" and place > 60)
    old = Operation("get", "k", "", "", history[stale].called, history[stale].returned)
    assert not linearizable([*history[:stale], old, *history[stale + 1 :]])
