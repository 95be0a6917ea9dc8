"""The simulated network: it loses, repeats, delays and reorders, and it can be cut or clogged, link by link."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from math import exp
from typing import Any, TypeAlias

from rayraft.raft.types import NodeId
from rayraft.simulation.clock import Scheduler
from rayraft.simulation.plan import Plan

Link: TypeAlias = tuple[NodeId, NodeId]
LONGEST_DELAY = 8.0
DELAYS = 512  # that one run chooses from


class Network:
    """Carries anything from one address to another. Clients have negative addresses."""

    def __init__(self, scheduler: Scheduler, rng: random.Random, plan: Plan) -> None:
        self.loss = plan.loss
        self.duplicates = plan.duplicates
        self._echo = plan.echo
        self.lost = 0
        self.repeated = 0
        self._delays = draw_delays(rng, plan.delay, plan.delay_spread)
        self._median = plan.delay
        self._scheduler = scheduler
        self._rng = rng
        self._cuts: dict[int, frozenset[Link]] = {}
        self._blocked: frozenset[Link] = frozenset()
        self._clogged: dict[Link, float] = {}
        self._last_cut = 0

    def send(self, link: Link, at: float, deliver: Callable[[Any], None], item: Any) -> None:
        """Have ``deliver(item)`` called a little after ``at``: once, several times, or never."""
        rng = self._rng
        if link in self._blocked or (self.loss and rng.random() < self.loss):
            self.lost += 1
            return
        clogged = self._clogged.get(link)
        earliest = at if clogged is None or clogged < at else clogged
        action = partial(deliver, item)
        self._scheduler.at(earliest + self._delays[int(rng.random() * DELAYS)], action)
        if self.duplicates and rng.random() < self.duplicates:
            self.repeated += 1
            late = rng.uniform(0.0, self._echo) if self._echo and rng.random() < 0.5 else 0.0
            self._scheduler.at(earliest + late + self._delays[int(rng.random() * DELAYS)], action)

    def cut(self, links: Iterable[Link]) -> int:
        """Let nothing through on ``links`` until `mend` is called with the number that is returned."""
        self._last_cut += 1
        self._cuts[self._last_cut] = frozenset(links)
        self._blocked = frozenset().union(*self._cuts.values())
        return self._last_cut

    def mend(self, cut: int) -> None:
        self._cuts.pop(cut, None)
        self._blocked = frozenset().union(*self._cuts.values())

    def clog(self, link: Link, until: float) -> None:
        self._clogged[link] = until

    def heal(self) -> None:
        """From now on everything arrives, soon."""
        self._cuts.clear()
        self._clogged.clear()
        self._blocked = frozenset()
        self.loss = self.duplicates = self._echo = 0.0
        self._delays = draw_delays(self._rng, min(self._median, 0.01), 0.2)


def draw_delays(rng: random.Random, median: float, spread: float) -> list[float]:
    """What messages take, to choose from: with a wide spread some are overtaken by many."""
    return [min(LONGEST_DELAY, median * exp(rng.gauss(0.0, spread))) for _ in range(DELAYS)]


def split(left: Sequence[NodeId], right: Sequence[NodeId]) -> set[Link]:
    """Two groups that can not reach each other."""
    return one_way(left, right) | one_way(right, left)


def one_way(sources: Sequence[NodeId], targets: Sequence[NodeId]) -> set[Link]:
    """``sources`` are not heard by ``targets``, but hear them."""
    return {(source, target) for source in sources for target in targets}


def bridge(nodes: Sequence[NodeId]) -> set[Link]:
    """Two halves that are joined by the first node alone."""
    rest = nodes[1:]
    middle = len(rest) // 2
    return split(rest[:middle], rest[middle:])


def ring(nodes: Sequence[NodeId]) -> set[Link]:
    """Each node reaches a bare majority, its neighbours on a ring; no two reach the same one."""
    count, reach = len(nodes), len(nodes) // 4 or 1
    return {
        (nodes[i], nodes[j])
        for i in range(count)
        for j in range(count)
        if i != j and min((i - j) % count, (j - i) % count) > reach
    }
