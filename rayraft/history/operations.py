"""What clients asked a store and were answered: operations, each with the interval in which it took effect.

1. ``invoked`` is no later than the moment the request left, ``returned`` no earlier than the moment the answer came:
   the operation took effect at one moment in between.
2. ``returned`` is None when no answer came: the operation takes effect at any moment after ``invoked``, or never.
3. What certainly did not happen is not in a history.
4. Times only have an order: seconds, line numbers and counts of events serve equally. Equal times tell no order.
"""

from __future__ import annotations

import enum
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, Final, TypeAlias

import msgspec


class Kind(enum.Enum):
    """What an operation does to the value of its key; the models say how exactly."""

    READ = "read"  # output: the value
    WRITE = "write"  # input: the new value
    CAS = "cas"  # input: (expected, new); output: whether it was exchanged
    APPEND = "append"  # input: what is added to a string or list
    INCREMENT = "increment"  # input: by how much; output: the new number


Client: TypeAlias = int | str
SHOWN: Final = 60  # characters of a value


class Operation(msgspec.Struct, frozen=True, omit_defaults=True):
    """One operation on one key. Values are hashable."""

    client: Client
    kind: Kind
    key: str
    input: Any = None
    output: Any = None
    invoked: float = 0
    returned: float | None = None

    @property
    def is_open(self) -> bool:
        """Its outcome is unknown."""
        return self.returned is None

    @property
    def only_reads(self) -> bool:
        """Wherever it may have taken effect, with the output that it had, it has changed nothing."""
        return self.kind is Kind.READ or (self.kind is Kind.CAS and self.output is False and not self.is_open)

    def check(self) -> None:
        """Raises ValueError."""
        if self.returned is not None and not self.invoked <= self.returned:
            raise ValueError(f"it returned at {self.returned:g}, before it was invoked at {self.invoked:g}")
        if self.kind is Kind.CAS and not (isinstance(self.input, tuple) and len(self.input) == 2):
            raise ValueError(f"the input of a cas is the expected and the new value, not {self.input!r}")
        if self.kind is Kind.INCREMENT and not isinstance(self.input, int):
            raise ValueError(f"the input of an increment is a number, not {self.input!r}")

    def __str__(self) -> str:
        match self.kind:
            case Kind.READ:
                asked = "read"
            case Kind.CAS:
                asked = f"cas {show(self.input[0])} -> {show(self.input[1])}"
            case _:
                asked = f"{self.kind.value} {show(self.input)}"
        if self.returned is None:
            return f"client {self.client}: {asked} => no answer  [{self.invoked:.10g} ..]"
        answered = "" if self.output is None and self.kind is not Kind.READ else f" => {show(self.output)}"
        return f"client {self.client}: {asked}{answered}  [{self.invoked:.10g} .. {self.returned:.10g}]"


def show(value: Any) -> str:
    """A value for a reader: of a long one both ends, for strings and lists grow at theirs."""
    text = repr(value)
    half = SHOWN // 2
    return text if len(text) <= SHOWN else f"{text[:half]} … {text[-half:]}"


class History:
    """The operations of all clients, in any order."""

    def __init__(self, operations: Iterable[Operation] = ()) -> None:
        self.operations = list(operations)

    def __len__(self) -> int:
        return len(self.operations)

    def by_key(self) -> dict[str, list[Operation]]:
        """One history for each key: all of them are linearizable exactly when the whole is (Herlihy and Wing)."""
        found: dict[str, list[Operation]] = defaultdict(list)
        for operation in self.operations:
            found[operation.key].append(operation)
        return found
