"""Who leads, as far as a client knows: from refusals, and from watches that the nodes answer when it changes.

The answers name the members too, so that a client has looked a new one up before it needs it: when it does, Ray's head,
which knows where it is, may be away.
"""

from __future__ import annotations

import random
import struct
import time
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from rayraft.client.endpoints import Endpoints
from rayraft.raft.types import NO_NODE, NodeId

MAX_WATCHES = 3  # nodes watched at once: enough to hear of a new leader from a survivor
SILENCE = 10.0  # seconds for which a node that did not answer is spared what others can do
RETRY_AFTER = 0.1  # seconds until a node that did not answer is asked again
AT_ONCE = 1.0  # seconds: a node that has room for a watch answers later, or with news
LONGEST_PAUSE = 5.0  # seconds until a node without room for watches is asked again
LOOK_AFTER = 0.5  # seconds until it is looked up again: there is an election first, and calls that wait for it


class View(NamedTuple):
    """What a node tells its clients."""

    term: int = 0
    leader: NodeId = NO_NODE
    members: tuple[NodeId, ...] = ()

    def encode(self) -> bytes:
        return struct.pack(f"<{2 + len(self.members)}Q", self.term, self.leader, *self.members)

    @classmethod
    def decode(cls, data: bytes) -> View:
        term, leader, *members = struct.unpack(f"<{len(data) // 8}Q", data)
        return cls(term, leader, tuple(members))


class LeaderTracker:
    """Not thread-safe by itself: its owner calls it under the owner's lock, except for the callbacks it hands out.

    1. The term known never goes back; within a term the leader, once known, does not change (election safety).
    2. A node that failed to answer is not asked again before another one was.
    """

    def __init__(self, endpoints: Endpoints, rng: random.Random) -> None:
        self._endpoints = endpoints
        self._rng = rng
        self.term = 0
        self.leader: NodeId = NO_NODE
        self._suspect: NodeId = NO_NODE
        self._silent: dict[NodeId, float] = {}  # nodes whose last call failed, and until when to leave them alone
        self._nodes: Sequence[NodeId] = ()
        self._watch_due: dict[NodeId, float] = {}  # the watched nodes, and when to ask each of them again
        self._watched_since: dict[NodeId, float] = {}
        self._turned_away: dict[NodeId, int] = {}  # how often in a row a node has had no room for a watch
        self._guess = 0
        self._choose_watched()

    def _choose_watched(self) -> None:
        """Keep what is watched and still there, and fill up by chance: not every client watches the same nodes."""
        self._nodes = self._endpoints.nodes
        kept = {node: due for node, due in self._watch_due.items() if node in self._nodes}
        others = [node for node in self._nodes if node not in kept]
        self._rng.shuffle(others)
        self._watch_due = kept | dict.fromkeys(others[: MAX_WATCHES - len(kept)], 0.0)

    def learn(self, term: int, leader: NodeId) -> bool:
        """Take in what a node says; True when another leader is known now."""
        if term < self.term or leader == NO_NODE:
            return False
        if leader not in self._endpoints.nodes:
            self._endpoints.refresh()
            return False
        if term == self.term and self.leader == leader:
            self._suspect = NO_NODE  # somebody vouches for it: try it again
            return False
        self.term, self.leader, self._suspect = term, leader, NO_NODE
        return True

    def answered(self, node: NodeId) -> None:
        """``node`` has served a call, so it leads."""
        if self.leader == NO_NODE:
            self.leader = node
        if self._suspect == node:
            self._suspect = NO_NODE

    def suspect(self, node: NodeId) -> None:
        """A call to ``node`` failed, or it says that it does not lead."""
        if node == self.leader:
            self._suspect = node

    def failed(self, node: NodeId, now: float) -> None:
        """A call to ``node`` broke, or was left without an answer."""
        self._silent[node] = now + SILENCE
        self.suspect(node)

    def heard(self, node: NodeId) -> None:
        """``node`` has answered, whatever it said."""
        self._silent.pop(node, None)

    def target(self, now: float) -> NodeId:
        """Where to send now: the leader, or any other node to be told of it."""
        if self.leader != NO_NODE and self.leader != self._suspect:
            return self.leader
        return self.anyone(now, but={self._suspect})

    def anyone(self, now: float, but: Collection[NodeId] = ()) -> NodeId:
        """Each node in turn, but for ``but`` and those that failed just now, as long as there are others."""
        known = self._endpoints.nodes
        answering = [node for node in known if self._silent.get(node, 0.0) <= now]
        nodes = (
            [node for node in answering if node not in but]
            or [node for node in known if node not in but]
            or answering
            or known
        )
        self._guess += 1
        return nodes[self._guess % len(nodes)]

    def watches_due(self, now: float) -> list[NodeId]:
        if self._endpoints.nodes is not self._nodes:
            self._choose_watched()
        return [node for node, due in self._watch_due.items() if due <= now]

    @property
    def next_watch(self) -> float:
        return min(self._watch_due.values(), default=float("inf"))

    def watch(self, node: NodeId, done: Callable[[NodeId, bytes | BaseException], None]) -> None:
        """Open a watch on ``node``; it is due again when `watched` was called with its answer."""
        self._watch_due[node] = float("inf")
        self._watched_since[node] = time.monotonic()
        self._endpoints.watch(node, self.term, self.leader, lambda answer: done(node, answer))

    def watched(self, node: NodeId, answer: bytes | BaseException, now: float) -> bool:
        """A watch has ended; True when another leader is known now."""
        if isinstance(answer, BaseException):
            self._ask_again(node, now + RETRY_AFTER)
            self.failed(node, now)
            self._endpoints.refresh(LOOK_AFTER)
            return False
        self.heard(node)
        view = View.decode(answer)
        if not set(view.members).issubset(self._endpoints.nodes):
            self._endpoints.refresh()
        news = self.learn(view.term, view.leader)
        # An answer that says nothing new came from a node without room for watches: ask it again, but not at once.
        self._ask_again(node, now if news else now + self._pause(node, now))
        return news

    def _pause(self, node: NodeId, now: float) -> float:
        """Longer with each time that a node has answered at once: hundreds of clients would keep it busy else."""
        at_once = now - self._watched_since.get(node, 0.0) < AT_ONCE
        times = self._turned_away[node] = self._turned_away.get(node, 0) + 1 if at_once else 0
        return min(RETRY_AFTER * 2.0**times, LONGEST_PAUSE)

    def _ask_again(self, node: NodeId, due: float) -> None:
        if node in self._watch_due:  # else the members have changed meanwhile
            self._watch_due[node] = due
