"""What waits and what is on its way, of calls of one kind."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from rayraft.client.config import ClientConfig
from rayraft.client.gathering import FOREVER, Gathering
from rayraft.client.reads import Reads
from rayraft.client.results import Packet
from rayraft.raft.types import NO_NODE, NodeId

LEARNS_FROM = 4  # answers, more or less, how large the next ones are going to be


class Clocks(NamedTuple):
    """The one stands still while a computer sleeps, the other may be set: of two spans the longer one is believed."""

    monotonic: float
    wall: float

    def since(self, earlier: Clocks) -> float:
        return max(self.monotonic - earlier.monotonic, self.wall - earlier.wall)


def read_clocks() -> Clocks:
    return Clocks(time.monotonic(), time.time())


UNTIMED = Clocks(0.0, 0.0)


@dataclass(slots=True)
class Sent:
    """A request that has left: how, and what has become of it."""

    packets: list[Packet]  # their calls one behind the other
    data: bytes
    born: Clocks  # when it left first, of commands: the group has applied it after that
    node: NodeId = NO_NODE
    left_at: float = 0.0  # for the first time
    attempt: int = 0
    due: float = 0.0  # when to send it (again)
    backoff: float = 0.0
    too_stale: frozenset[NodeId] = frozenset()  # nodes that could not vouch for a state as fresh as asked for

    def is_given_up(self, now: float) -> bool:
        """Whether every call in it has run out of its time, and nobody waits for it all the same."""
        longest = max((packet.patience for packet in self.packets), default=FOREVER)
        return now > self.left_at + longest and not any(packet.awaited for packet in self.packets)


class Leaving(NamedTuple):
    """What is about to be sent, noted in one step: where Ctrl-C interrupts the next ones, they are made up for."""

    number: int
    sent: Sent
    packets: list[Packet]  # to be taken from those that wait


@dataclass(slots=True)
class Lane:
    """The calls of one kind: a packet being filled, packets that wait, requests on their way (by number).

    ``reads`` is None for commands.
    """

    reads: Reads | None = None
    filling: Packet = field(default_factory=Packet)
    waiting: deque[Packet] = field(default_factory=deque)
    sent: dict[int, Sent] = field(default_factory=dict)
    last_number: int = 0
    leaving: Leaving | None = None
    gathering: Gathering = field(default_factory=Gathering)
    from_any_node: bool = False
    weight: float = 1.0  # bytes that a byte of a request moves there and back, as answers to queries may be large

    @property
    def in_use(self) -> bool:
        return bool(self.sent or self.waiting or self.filling.calls)

    def __post_init__(self) -> None:
        self.from_any_node = self.reads is not None and self.reads.from_any_node

    def close_filling(self) -> None:
        if self.filling.calls:
            self.waiting.append(self.filling)
            self.filling = Packet()

    def is_worth_a_call(self, config: ClientConfig) -> bool:
        """Whether what waits is enough to leave beside what is under way."""
        under_way = sum(len(sent.data) for sent in self.sent.values())
        enough = min(max(config.packet_bytes / self.weight, under_way), config.request_bytes / self.weight)
        size = calls = 0
        for packet in self.waiting:
            size, calls = size + packet.size, calls + len(packet.calls)
            if size >= enough or calls >= config.packet_calls:
                return True
        return False

    def next_packets(self, config: ClientConfig) -> list[Packet]:
        """Those of the waiting ones that go in the next request."""
        found: list[Packet] = []
        size = 0
        for packet in self.waiting:
            if found and (size + packet.size) * self.weight > config.request_bytes:
                break
            found.append(packet)
            size += packet.size
        return found

    def was_answered(self, request: int, answer: int) -> None:
        """A request of so many bytes by an answer of so many."""
        if self.reads is not None:
            self.weight += (1.0 + answer / request - self.weight) / LEARNS_FROM
