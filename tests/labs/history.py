"""Whether a history of the labs' key-value service is linearizable: one function, `linearizable`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class Operation:
    """One call of one client. Without an answer ``returned`` is NEVER, and it may or may not have taken place."""

    method: str  # put, append or get
    key: str
    argument: str
    result: str | None
    called: float
    returned: float = NEVER

    def step(self, value: str) -> str | None:
        """The value after this, or None when the result can not come from ``value``."""
        if self.method == "put":
            return self.argument
        if self.method == "append":
            return value + self.argument
        return value if self.returned == NEVER or self.result == value else None


def linearizable(history: Iterable[Operation]) -> bool:
    """Keys are independent of each other, so each is searched on its own."""
    by_key: defaultdict[str, list[Operation]] = defaultdict(list)
    for operation in history:
        by_key[operation.key].append(operation)
    return all(_linearizable(operations) for operations in by_key.values())


def _linearizable(operations: list[Operation]) -> bool:
    """Depth first: of the operations not yet in order, any may be next that no other one has wholly preceded.

    ``seen`` holds the sets of operations (as bits) that were put in order before, with the value they gave.
    """
    operations = sorted(operations, key=lambda operation: operation.called)
    due = sum(1 << place for place, operation in enumerate(operations) if operation.returned != NEVER)
    seen: set[tuple[int, str]] = {(0, "")}
    open_ends = [(0, "", 0)]  # ordered so far, the value, and the first place that may not be ordered yet
    while open_ends:
        ordered, value, first = open_ends.pop()
        if ordered & due == due:
            return True
        while ordered >> first & 1:
            first += 1
        candidates, end = [], NEVER
        for place in range(first, len(operations)):
            operation = operations[place]
            if operation.called > end:
                break
            if not ordered >> place & 1:
                end = min(end, operation.returned)
                candidates.append(place)
        # The one that ended first is tried first: histories mostly are in that order.
        for place in sorted(candidates, key=lambda place: -operations[place].returned):
            after = operations[place].step(value)
            state = (ordered | 1 << place, after or "")
            if after is not None and state not in seen:
                seen.add(state)
                open_ends.append((*state, first))
    return False
