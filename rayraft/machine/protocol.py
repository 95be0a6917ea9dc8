"""What a replicated state machine is to the rest of rayraft: a thing that runs encoded commands, one after another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import BinaryIO, Protocol


class StateMachine(Protocol):
    """Deterministic: the same commands in the same order give the same state and results on every replica.

    No method raises on account of a command: an error is a result, sent to the caller.
    """

    def apply(self, commands: Sequence[bytes]) -> bytes:
        """Run commands in order; the encoded results of all of them."""
        ...

    def query(self, queries: Sequence[bytes]) -> bytes:
        """Run queries, which change nothing; the encoded results of all of them."""
        ...

    def save(self, stream: BinaryIO) -> None:
        """Write the whole state. May run in a forked copy of the process."""
        ...

    def restore(self, stream: BinaryIO) -> None:
        """Replace the state by one that `save` wrote."""
        ...

    def digest(self) -> bytes:
        """A hash that is equal on two replicas exactly when their states are."""
        ...
