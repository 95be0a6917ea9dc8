"""What a replicated state machine is to the rest of rayraft: a thing that runs encoded commands, one after another."""

from __future__ import annotations

from typing import BinaryIO, Protocol


class StateMachine(Protocol):
    """Deterministic: the same commands in the same order give the same state and results on every replica.

    A command that fails never raises here: its error is a result, sent to the caller. Only a malformed packet raises.
    """

    def apply(self, packet: bytes) -> bytes:
        """Run a packet of commands in order; the encoded results of all of them. Raises msgspec.DecodeError."""
        ...

    def take_places(self) -> bytes:
        """Where commands of the last packet have raised: goes to their callers behind the results, and is not kept.

        It may differ between replicas. Only the first call after `apply` gets it.
        """
        ...

    def query(self, packet: bytes) -> bytes:
        """Run a packet of queries, which change nothing; the encoded results of all. Raises msgspec.DecodeError."""
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
