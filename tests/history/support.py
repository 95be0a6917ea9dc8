"""Small histories: written by hand, drawn at random, and judged by trying every order."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations, product
from typing import Any

import msgspec
from hypothesis import strategies as st

from rayraft.history import History, Kind, Operation

OPEN = None


def op(kind: Kind, given: Any, output: Any, invoked: float, returned: float | None, key: str = "x") -> Operation:
    operation = Operation(f"{invoked:g}", kind, key, given, output, invoked, returned)
    operation.check()
    return operation


def read(output: Any, invoked: float, returned: float | None, key: str = "x") -> Operation:
    return op(Kind.READ, None, output, invoked, returned, key)


def write(value: Any, invoked: float, returned: float | None, key: str = "x") -> Operation:
    return op(Kind.WRITE, value, None, invoked, returned, key)


def cas(expected: Any, new: Any, done: bool | None, invoked: float, returned: float | None) -> Operation:
    return op(Kind.CAS, (expected, new), done, invoked, returned)


def append(item: Any, output: Any, invoked: float, returned: float | None) -> Operation:
    return op(Kind.APPEND, item, output, invoked, returned)


def increment(by: int, output: Any, invoked: float, returned: float | None) -> Operation:
    return op(Kind.INCREMENT, by, output, invoked, returned)


# --- every order ------------------------------------------------------------------------------------------------------


def runs(operation: Operation, cells: dict[str, Any]) -> Any:
    """The key-value store once more, without code of the models."""
    value, given = cells.get(operation.key), operation.input
    if operation.kind is Kind.READ:
        return value
    if operation.kind is Kind.CAS and value != given[0]:
        return False
    if operation.kind is Kind.WRITE:
        cells[operation.key] = given
        return None
    cells[operation.key] = given[1] if operation.kind is Kind.CAS else (value or 0) + given
    return True if operation.kind is Kind.CAS else cells[operation.key]


def brute_force(history: History) -> bool:
    """Whether some order of all that was answered and some of the rest explains the history, with all keys together."""
    closed = [one for one in history.operations if not one.is_open]
    unknown = [one for one in history.operations if one.is_open]
    for chosen in product((False, True), repeat=len(unknown)):
        taken = closed + [one for one, take in zip(unknown, chosen, strict=True) if take]
        if any(explains(order) for order in permutations(taken)):
            return True
    return False


def explains(order: tuple[Operation, ...]) -> bool:
    cells: dict[str, Any] = {}
    latest = float("-inf")  # invocation so far: nothing that returned before it may still come
    for operation in order:
        if operation.returned is not None and operation.returned < latest:
            return False
        latest = max(latest, operation.invoked)
        output = runs(operation, cells)
        if not operation.is_open and output != operation.output:
            return False
    return True


# --- at random --------------------------------------------------------------------------------------------------------

CALLS = st.one_of(
    st.tuples(st.just(Kind.READ), st.none()),
    st.tuples(st.just(Kind.WRITE), st.integers(1, 3)),
    st.tuples(st.just(Kind.CAS), st.tuples(st.integers(1, 3), st.integers(1, 3))),
    st.tuples(st.just(Kind.INCREMENT), st.integers(1, 2)),
)


@st.composite
def histories(draw: st.DrawFn, most: int = 6) -> History:
    """What a store answers at moments within the intervals; then, often, one answer or one time is changed."""
    drawn = []
    for client in range(draw(st.integers(1, most))):
        kind, given = draw(CALLS)
        invoked = draw(st.integers(0, 8))
        moment, returned = invoked + draw(st.integers(0, 3)), draw(st.integers(0, 3))
        key = draw(st.sampled_from("xxxy"))
        fate = draw(st.sampled_from(["answered"] * 4 + ["no answer", "never"]))
        operation = Operation(client, kind, key, given, None, invoked, moment + returned)
        drawn.append((moment, client, operation, fate))
    return History(_spoilt(draw, list(_executed(sorted(drawn, key=lambda one: one[:2])))))


def _executed(drawn: list[tuple[int, int, Operation, str]]) -> Iterator[Operation]:
    cells: dict[str, Any] = {}
    for _, client, one, fate in drawn:
        output = runs(one, cells) if fate != "never" else None
        answered = fate == "answered"
        yield Operation(
            client, one.kind, one.key, one.input, output if answered else None, one.invoked,
            one.returned if answered else None,
        )  # fmt: skip


def _spoilt(draw: st.DrawFn, operations: list[Operation]) -> list[Operation]:
    answered = [place for place, one in enumerate(operations) if not one.is_open and one.kind is not Kind.WRITE]
    if answered and draw(st.booleans()):
        place = draw(st.sampled_from(answered))
        one = operations[place]
        outputs = [True, False] if one.kind is Kind.CAS else [None, 1, 2, 3, 4]
        operations[place] = msgspec.structs.replace(one, output=draw(st.sampled_from(outputs)))
    place = draw(st.integers(0, len(operations) - 1))
    one, later = operations[place], draw(st.integers(0, 4))
    returned = None if one.returned is None else one.returned + later
    operations[place] = msgspec.structs.replace(one, invoked=one.invoked + later, returned=returned)
    return operations
