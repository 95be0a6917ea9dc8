"""Long work shown live: a bar with the current rate and the time that is left, or plain lines where there is none."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterator
from typing import Final, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from rayraft.bench.stats import format_rate

LINE_SECONDS: Final = 5.0
RATE_SECONDS: Final = 1.0  # the current rate is that of the last second


class Phase(Protocol):
    """One piece of long work."""

    def advance(self, done: float, operations: int | None = None) -> None:
        """``done`` of the total; the rate shown is that of ``operations`` (default: of ``done``)."""
        ...

    def say(self, line: str) -> None:
        """A line that stays."""
        ...


class Stage:
    """Shows one phase after another on a console."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def say(self, line: str) -> None:
        self.console.print(line, highlight=False)

    @contextlib.contextmanager
    def phase(self, title: str, total: float | None = None) -> Iterator[Phase]:
        if not self.console.is_terminal:
            self.say(f"{title} …")
            yield _Lines(self.console, total)
            return
        columns = [
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[rate]}", justify="right"),
            TimeRemainingColumn(),
        ]
        # Not redirecting: whoever made the console has said what the standard output is for.
        with Progress(
            *columns, console=self.console, transient=True, redirect_stdout=False, redirect_stderr=False
        ) as progress:
            yield _Bar(progress, title, total)


class _Rate:
    """Operations per second over the last second."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque([(time.monotonic(), 0)])

    def __call__(self, operations: int) -> str:
        now = time.monotonic()
        while len(self._seen) > 1 and self._seen[0][0] < now - RATE_SECONDS:
            self._seen.popleft()
        then, before = self._seen[0]
        self._seen.append((now, operations))
        return format_rate((operations - before) / (now - then)) if now > then else ""


class _Bar:
    def __init__(self, progress: Progress, title: str, total: float | None) -> None:
        self._progress = progress
        self._task = progress.add_task(title, total=total, rate="")
        self._rate = _Rate()

    def advance(self, done: float, operations: int | None = None) -> None:
        rate = self._rate(int(done) if operations is None else operations)
        self._progress.update(self._task, completed=done, rate=rate)

    def say(self, line: str) -> None:
        self._progress.console.print(line, highlight=False)


class _Lines:
    """A line every few seconds: for logs and pipes."""

    def __init__(self, console: Console, total: float | None) -> None:
        self._console = console
        self._total = total
        self._begin = time.monotonic()
        self._next = self._begin + LINE_SECONDS
        self._rate = _Rate()

    def advance(self, done: float, operations: int | None = None) -> None:
        rate = self._rate(int(done) if operations is None else operations)
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + LINE_SECONDS
        if not self._total:
            self.say(f"  {rate}")
            return
        left = (now - self._begin) * (self._total - done) / done if done else float("nan")
        self.say(f"  {min(done / self._total, 1):4.0%}  {rate}  {max(left, 0):.0f} s left")

    def say(self, line: str) -> None:
        self._console.print(line, highlight=False)
