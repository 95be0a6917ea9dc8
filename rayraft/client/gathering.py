"""Waiting a moment for callers who most likely call again together."""

from __future__ import annotations

from dataclasses import dataclass

FOREVER = float("inf")
# Seconds: callers are woken one after the other, and a call to a node takes some milliseconds.
GATHERING_START, GATHERING_EACH, MAX_GATHERING = 0.001, 0.0001, 0.008
ROUNDS_OFF = 32


@dataclass(slots=True)
class Gathering:
    """Callers who got their answers together most likely call again together: what they send waits for all of them.

    So their calls travel in one request, and not in as many as there were to begin with.

    1. It ends when all are there, or after a moment that is short against a call to a node.
    2. When fewer than half came, nobody is waited for in the next few rounds: nothing waits for callers who went away.
    3. Answers to more calls than callers went to some who make many, one after the other: ``in_series`` says so until
       the next answers. Behind a call others most likely come, so it should not leave at once.
    """

    expected: int = 0  # callers who have not come back yet
    until: float = FOREVER
    called: int = 0  # how many were to come
    rounds_off: int = 0
    in_series: bool = False

    def begin(self, callers: int, calls: int, now: float) -> None:
        """So many calls are answered now, and so many callers wait for that."""
        self.in_series = calls > max(callers, 1)
        if self.rounds_off:
            self.rounds_off -= 1
        elif callers > 1:
            self.called = self.expected = callers
            self.until = now + min(MAX_GATHERING, GATHERING_START + callers * GATHERING_EACH)

    def arrived(self) -> bool:
        """Somebody calls; whether it is the last one who was waited for."""
        if not self.expected:
            return False
        self.expected -= 1
        return not self.expected

    def goes_on(self, now: float) -> bool:
        if self.expected and now >= self.until:
            if self.expected > self.called // 2:
                self.rounds_off = ROUNDS_OFF
            self.expected = 0
        if not self.expected:
            self.until = FOREVER
        return self.expected > 0
