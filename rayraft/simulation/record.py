"""What the simulated clients asked and were answered, as one history that is checked at the end of a run.

Keys rotate: after `OPERATIONS_PER_KEY` operations a name goes on with a fresh key, so that each search stays small.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from rayraft.history import Kind, Recording, Report, check
from rayraft.history.models import KeyValueEntry
from rayraft.machine.calls import encode_call, unwrap
from rayraft.raft.types import NodeId

OPERATIONS_PER_KEY: Final = 100

_METHODS: Final = {
    Kind.READ: "get",
    Kind.WRITE: "put",
    Kind.CAS: "compare_and_swap",
    Kind.APPEND: "append",
    Kind.INCREMENT: "increment",
}


@dataclass(frozen=True, slots=True)
class Call:
    """One command or query on one key."""

    kind: Kind
    key: str
    input: Any = None

    def encode(self) -> bytes:
        arguments: tuple[Any, ...] = (self.input,)
        if self.kind in (Kind.READ, Kind.CAS):
            arguments = self.input or ()
        return encode_call(_METHODS[self.kind], (self.key, *arguments), {})


class Record:
    """The history of all clients. Its clock counts events, for the simulator does one thing at a time."""

    def __init__(self) -> None:
        self._recording = Recording()
        self._uses: Counter[str] = Counter()

    def draw(self, kind: Kind, name: str, given: Any = None) -> Call:
        """A call on the present key of a name."""
        self._uses[name] += 1
        return Call(kind, f"{name} {self._uses[name] // OPERATIONS_PER_KEY}", given)

    def begin(self, client: NodeId, calls: Sequence[Call]) -> list[int]:
        return [self._recording.begin(client, call.kind, call.key, call.input) for call in calls]

    def end(self, tickets: Sequence[int], results: Sequence[Any]) -> None:
        for ticket, result in zip(tickets, results, strict=True):
            value = unwrap(result)
            self._recording.end(ticket, tuple(value) if isinstance(value, list) else value)

    def drop(self, tickets: Sequence[int]) -> None:
        for ticket in tickets:
            self._recording.drop(ticket)

    def check(self) -> Report:
        return check(self._recording.history(), KeyValueEntry())
