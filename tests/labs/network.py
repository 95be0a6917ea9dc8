"""The labs' network: nodes are plugged in or out, messages are late or lost when it is unreliable, all are counted."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from rayraft.raft.types import AnyMessage, AppendEntries, Heartbeat, InstallSnapshot, NodeId, RequestVote
from tests.labs.clock import Action, Clock

# One of the labs' RPCs is a request and its answer; here each is a message, and these are the requests.
REQUESTS = (RequestVote, AppendEntries, Heartbeat, InstallSnapshot)
LATENCY = (0.001, 0.001)  # seconds, from and to
UNRELIABLE_LATENCY = (0.0, 0.027)
LOSS = 0.1
REORDERED = 2 / 3  # of the answers, when long reordering is on
REORDERED_LATENCY = (0.2, 2.2)

_encode = msgspec.msgpack.Encoder().encode


@dataclass(slots=True)
class Traffic:
    """What was sent since the start. ``requests`` is what the labs count as RPCs; ``bytes`` is of all messages."""

    requests: int = 0
    bytes: int = 0
    by_type: Counter[type] = field(default_factory=Counter)
    refusals: int = 0  # of AppendEntries: each is a step back in search of where two logs agree

    def count(self, message: AnyMessage) -> None:
        self.requests += isinstance(message, REQUESTS)
        self.bytes += len(_encode(message))
        self.by_type[type(message)] += 1
        self.refusals += getattr(message, "success", True) is False


class Network:
    """Carries messages between nodes, and requests and answers between clients and nodes.

    ``groups`` are the sides of a partition; nodes in none of them are cut off.
    """

    def __init__(self, clock: Clock, rng: random.Random, nodes: range) -> None:
        self.clock = clock
        self.traffic = Traffic()
        self.latency = LATENCY
        self.unreliable = False
        self.long_reordering = False
        self.connected = set(nodes)
        self.groups: tuple[frozenset[NodeId], ...] = (frozenset(nodes),)
        self._nodes = frozenset(nodes)
        self._rng = rng

    def partition(self, *groups: set[NodeId]) -> None:
        self.groups = tuple(map(frozenset, groups))

    def heal(self) -> None:
        self.groups = (self._nodes,)

    def reaches(self, source: NodeId, target: NodeId) -> bool:
        both = {source, target}
        return both <= self.connected and any(both <= group for group in self.groups)

    def send(self, message: AnyMessage, deliver: Callable[[AnyMessage], None]) -> None:
        self.traffic.count(message)
        source, target = message.src, message.dst

        def arrive() -> None:
            if self.reaches(source, target):
                deliver(message)

        if self.reaches(source, target):
            self.carry(arrive, answer=not isinstance(message, REQUESTS))

    def carry(self, arrive: Action, *, answer: bool) -> None:
        """Have ``arrive`` called a little later, or, when the network is unreliable, perhaps never."""
        rng, latency = self._rng, UNRELIABLE_LATENCY if self.unreliable else self.latency
        if self.unreliable and rng.random() < LOSS:
            return
        delay = rng.uniform(*latency)
        if answer and self.long_reordering and rng.random() < REORDERED:
            delay = rng.uniform(*REORDERED_LATENCY)
        self.clock.after(delay, arrive)
