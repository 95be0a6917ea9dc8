"""Sequential models: what one key holds, and what each operation makes of it when nothing else goes on.

A model is deterministic: state and operation give the next state and the output. That is all the checker asks.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, ClassVar, Final, Protocol, TypeAlias

from rayraft.errors import BadHistory
from rayraft.history.operations import Kind, Operation

State: TypeAlias = Hashable


class Model(Protocol):
    """``apply`` gives the state after an operation and the output it must have had. Raises BadHistory."""

    name: ClassVar[str]
    initial: ClassVar[State]

    def apply(self, state: Any, operation: Operation) -> tuple[State, Any]: ...


class Register:
    """Read, write, and compare-and-swap of one value, which is None at first."""

    name: ClassVar[str] = "register"
    initial: ClassVar[State] = None

    def apply(self, state: Any, operation: Operation) -> tuple[State, Any]:
        kind = operation.kind
        if kind is Kind.READ:
            return state, state
        if kind is Kind.WRITE:
            return operation.input, None
        if kind is Kind.CAS:
            expected, new = operation.input
            return (new, True) if state == expected else (state, False)
        raise BadHistory(f"a {self.name} has no operation {kind.value}: {operation}")


class Text(Register):
    """A string, empty at first, that can be read, written and appended to."""

    name: ClassVar[str] = "text"
    initial: ClassVar[State] = ""

    def apply(self, state: Any, operation: Operation) -> tuple[State, Any]:
        if operation.kind is Kind.APPEND:
            if not isinstance(operation.input, str):
                raise BadHistory(f"only strings can be appended to a string: {operation}")
            return state + operation.input, None
        return super().apply(state, operation)


class KeyValueEntry(Register):
    """One key of `rayraft.KeyValue` and of the simulator's machine: a value, a number or a list; None when absent.

    To increment or to append to something else is refused: it changes nothing, and its output is an error.
    """

    name: ClassVar[str] = "key-value"

    def apply(self, state: Any, operation: Operation) -> tuple[State, Any]:
        if operation.kind is Kind.INCREMENT:
            if not isinstance(state, int | None):
                return state, TypeError
            number = (state or 0) + operation.input
            return number, number
        if operation.kind is Kind.APPEND:
            if not isinstance(state, tuple | None):
                return state, TypeError
            items = (*(state or ()), operation.input)
            return items, len(items)
        return super().apply(state, operation)


MODELS: Final[dict[str, Model]] = {model.name: model for model in (Register(), Text(), KeyValueEntry())}
