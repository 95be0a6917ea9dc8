"""Simulated time: callbacks in order of their moment, and processes that wait in it."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Action: TypeAlias = Callable[[], None]


class Promise:
    """A value that is still to come; the first one given counts."""

    __slots__ = ("_then", "value")

    def __init__(self) -> None:
        self.value: Any = None
        self._then: Callable[[Any], None] | None = None

    def give(self, value: Any) -> None:
        if self.value is None:
            self.value = value
            if self._then is not None:
                self._then(value)

    def then(self, action: Callable[[Any], None]) -> None:
        self._then = action


@dataclass(frozen=True, slots=True)
class Wait:
    """What a process yields to wait for a promise, at most ``seconds``; it goes on with the value, or None."""

    promise: Promise
    seconds: float


# A process yields the seconds to sleep, or a `Wait`.
Process: TypeAlias = "Generator[float | Wait, Any, Any]"


@dataclass(slots=True)
class Task:
    """A process under way, and what it returned."""

    process: Process
    done: bool = False
    result: Any = None


@dataclass(slots=True)
class Clock:
    now: float = 0.0
    _queue: list[tuple[float, int, Action]] = field(default_factory=list)
    _count: int = 0

    def at(self, moment: float, action: Action) -> None:
        self._count += 1  # what falls on one moment happens in the order it was asked for
        heapq.heappush(self._queue, (max(moment, self.now), self._count, action))

    def after(self, seconds: float, action: Action) -> None:
        self.at(self.now + seconds, action)

    def run(self, seconds: float) -> None:
        """Let time pass."""
        self.until(lambda: False, seconds)

    def until(self, condition: Callable[[], Any], seconds: float) -> bool:
        """Let time pass until ``condition`` holds; False when it did not come to that within ``seconds``."""
        end = self.now + seconds
        while not condition():
            if not self._queue or self._queue[0][0] > end:
                self.now = end
                return False
            self.now, _, action = heapq.heappop(self._queue)
            action()
        return True

    # --- processes ----------------------------------------------------------------------------------------------------

    def spawn(self, process: Process) -> Task:
        """Start a process now. What it raises leaves the `run` that is under way."""
        task = Task(process)
        self._resume(task, None)
        return task

    def finish(self, process: Process) -> Any:
        """Run a process to its end; what it returned."""
        task = self.spawn(process)
        assert self.until(lambda: task.done, 3600), "a process did not end within an hour"
        return task.result

    def _resume(self, task: Task, value: Any) -> None:
        try:
            wish = task.process.send(value)
        except StopIteration as end:
            task.done, task.result = True, end.value
            return
        if isinstance(wish, Wait):
            self._wait(task, wish)
        else:
            self.after(wish, lambda: self._resume(task, None))

    def _wait(self, task: Task, wait: Wait) -> None:
        waiting = True

        def go_on(value: Any) -> None:
            nonlocal waiting
            if waiting:
                waiting = False
                # Not at once: the one who gives the value may be in the middle of something.
                self.after(0.0, lambda: self._resume(task, value))

        if wait.promise.value is not None:
            go_on(wait.promise.value)
        else:
            wait.promise.then(go_on)
            self.after(wait.seconds, lambda: go_on(None))
