"""Simulated time: the queue of what will happen, and the clocks by which the nodes see it pass."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import TypeAlias

Action: TypeAlias = Callable[[], None]


class Scheduler:
    """Events in order of time; those of one moment in the order in which they were asked for.

    Idle time costs nothing: `step` jumps to the next event.
    """

    __slots__ = ("_queue", "events", "now")

    def __init__(self) -> None:
        self.now = 0.0
        self.events = 0
        self._queue: list[tuple[float, int, Action]] = []

    def at(self, time: float, action: Action) -> None:
        self.events += 1
        heappush(self._queue, (time, self.events, action))

    def after(self, delay: float, action: Action) -> None:
        self.events += 1
        heappush(self._queue, (self.now + delay, self.events, action))

    def run_until(self, time: float) -> None:
        """Let everything up to ``time`` happen."""
        queue = self._queue
        while queue and queue[0][0] <= time:
            moment, _, action = heappop(queue)
            if moment > self.now:
                self.now = moment
            action()
        self.now = max(self.now, time)


class Clock:
    """One node's clock: it never goes back, but it runs at a rate of its own."""

    __slots__ = ("_here", "_there", "rate", "slowest")

    def __init__(self, offset: float, rate: float) -> None:
        self._there, self._here, self.rate = 0.0, offset, rate
        self.slowest = rate  # it ever ran at

    def read(self, time: float) -> float:
        """What the node's clock shows at simulated ``time``."""
        return self._here + (time - self._there) * self.rate

    def when(self, reading: float) -> float:
        """The simulated time at which the clock shows ``reading``, just past it."""
        return self._there + (reading - self._here) / self.rate + 1e-6

    def set_rate(self, time: float, rate: float) -> None:
        self._there, self._here, self.rate = time, self.read(time), rate
        self.slowest = min(self.slowest, rate)
