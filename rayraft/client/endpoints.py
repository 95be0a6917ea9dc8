"""How a client reaches the nodes: the one seam between it and Ray."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

from rayraft.raft.types import NodeId

Done: TypeAlias = Callable[[bytes | BaseException], None]


class Pending(Protocol):
    """A call under way whose answer is not taken before one of these was called."""

    def wait(self, timeout_s: float) -> None:
        """Take it in this thread if it comes within ``timeout_s`` seconds, and soon; else as `leave`."""
        ...

    def leave(self) -> None:
        """Have it taken in some other thread when it comes."""
        ...


class Endpoints(Protocol):
    """Calls that return at once; ``done`` gets the reply, or the error if the outcome is not known, in any thread."""

    @property
    def nodes(self) -> Sequence[NodeId]:
        """Those known now, ascending; never none."""
        ...

    def refresh(self, delay_s: float = 0.0) -> None:
        """Members or their processes may have changed: look them up again, in the background, ``delay_s`` later."""
        ...

    def submit(self, node: NodeId, request: bytes, done: Done) -> Pending | None:
        """None where ``done`` will be called without more ado."""
        ...

    def query(self, node: NodeId, queries: bytes, done: Done) -> Pending | None: ...

    def watch(self, node: NodeId, term: int, leader: NodeId, done: Done) -> None:
        """Answers with an encoded `View` once the node knows another leader, term or members, or after a while."""
        ...
