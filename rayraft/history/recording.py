"""Recording a history while it happens."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

from rayraft.history.operations import Client, History, Kind, Operation


class Recording:
    """Takes in operations as they begin and end; what has not ended is of unknown outcome.

    Threads may share one: each method does a single step on each container.
    """

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        """``clock`` never goes back; without one, events are counted, which needs a single thread."""
        self._clock = clock or count(1).__next__
        self._tickets = count()
        self._open: dict[int, Operation] = {}
        self._done: list[Operation] = []

    def begin(self, client: Client, kind: Kind, key: str, input: Any = None) -> int:
        """Before the request leaves; the ticket names the operation to `end` and `drop`."""
        ticket = next(self._tickets)
        self._open[ticket] = Operation(client, kind, key, input, None, self._clock())
        return ticket

    def end(self, ticket: int, output: Any = None) -> None:
        """After the answer came."""
        begun = self._open.pop(ticket)
        now = self._clock()
        self._done.append(Operation(begun.client, begun.kind, begun.key, begun.input, output, begun.invoked, now))

    def drop(self, ticket: int) -> None:
        """It certainly did not happen."""
        del self._open[ticket]

    def history(self) -> History:
        return History([*self._done, *self._open.values()])
