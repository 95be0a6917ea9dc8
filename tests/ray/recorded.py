"""A handle whose calls are recorded: whatever is done to the group meanwhile, one order must explain every answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import rayraft
from rayraft.history import Kind, Recording, Verdict, check
from rayraft.history.models import KeyValueEntry


def unchanged(answer: Any) -> Any:
    return answer


@dataclass(frozen=True, slots=True)
class Shape:
    """What a method does, in the words of a history: to which key, with which input, and what its answer says."""

    kind: Kind
    key: Callable[..., str]
    given: Callable[..., Any] = lambda *_: None
    answer: Callable[[Any], Any] = unchanged


# Every token of `mark` is fresh, so to mark one is to increment their number; a number that is 0 was never set.
SHAPES = {
    "deposit": Shape(Kind.INCREMENT, lambda who, amount: who, lambda who, amount: amount),
    "balance_of": Shape(Kind.READ, lambda who: who, answer=lambda balance: balance or None),
    "mark": Shape(Kind.INCREMENT, lambda token: "tokens", lambda token: 1),
    "seen": Shape(Kind.READ, lambda: "tokens", answer=lambda tokens: len(tokens) or None),
    "put": Shape(Kind.WRITE, lambda key, value: key, lambda key, value: value),
    "get": Shape(Kind.READ, lambda key: key),
    "keep": Shape(Kind.INCREMENT, lambda note: "notes", lambda note: 1),
    "kept": Shape(Kind.READ, lambda: "notes"),
}


class Recorded:
    """The calls of one client. Those of `SHAPES` are recorded; everything else is the handle's own."""

    def __init__(self, handle: rayraft.Handle, recording: Recording | None = None, client: str = "main") -> None:
        self._handle = handle
        self._client = client
        self.recording = recording or Recording(time.perf_counter)

    def through(self, handle: rayraft.Handle) -> Recorded:
        """The same history, continued through another handle: of the group as it was resumed, for example."""
        return Recorded(handle, self.recording, self._client)

    def options(self, **settings: Any) -> Recorded:
        if "max_staleness_s" in settings:
            raise ValueError("a stale read is not linearizable: ask the handle itself")
        return self.through(self._handle.options(**settings))

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._handle, name)
        return self._recorded(SHAPES[name], method) if name in SHAPES else method

    def _recorded(self, shape: Shape, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            ticket = self.recording.begin(self._client, shape.kind, shape.key(*args), shape.given(*args))
            answer = method(*args)  # after an error its outcome stays unknown
            self.recording.end(ticket, shape.answer(answer))
            return answer

        return call

    def assert_linearizable(self, at_least: int = 1) -> None:
        """One order explains every answer, of all clients that share the recording; there are ``at_least`` so many."""
        report = check(self.recording.history(), KeyValueEntry())
        assert report.verdict is Verdict.LINEARIZABLE, report.explain()
        assert report.operations >= at_least, "hardly anything was recorded"
