"""A leader whose disk or machine stalls is worse than none: its heartbeats go on, and nothing else does."""

from __future__ import annotations

from collections import deque


class Watchdog:
    """Counts the slow turns of a replica: those in which the disk and the machine took longer than ``slow`` seconds.

    One slow turn may be a large command or a passing stall. ``strikes`` of them within ``window`` seconds make the
    node unfit to lead; a stall longer than an election timeout ends its leadership anyway, for it sends no heartbeats.
    """

    __slots__ = ("_slow", "_slow_turns", "_strikes", "_window")

    def __init__(self, *, slow: float, window: float, strikes: int = 3) -> None:
        self._slow = slow
        self._window = window
        self._strikes = strikes
        self._slow_turns: deque[float] = deque()

    def turned(self, now: float, took: float) -> None:
        """A turn that ended at ``now`` has taken ``took`` seconds."""
        if took > self._slow:
            self._slow_turns.append(now)

    def unfit(self, now: float) -> bool:
        turns = self._slow_turns
        while turns and turns[0] < now - self._window:
            turns.popleft()
        return len(turns) >= self._strikes

    def handed_over(self) -> None:
        """Begin to count anew, so that leadership is not passed on and on."""
        self._slow_turns.clear()
