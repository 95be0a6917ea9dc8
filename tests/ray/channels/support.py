"""A channel in the memory of this process, which holds one value until it is read, as Ray's do; and a clock."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayChannelError, RayChannelTimeoutError

from rayraft.ray.channels import ends
from rayraft.ray.channels.caller import Link
from rayraft.ray.channels.ends import Reader, Writer
from rayraft.ray.channels.frames import Item, Kind
from rayraft.ray.channels.poller import Poller
from rayraft.ray.channels.server import Answer, ServedCaller
from rayraft.ray.channels.session import sessions


class SingleValue:
    def __init__(self) -> None:
        self.value: bytes | None = None
        self.broken = False
        self.written: list[bytes] = []

    def ensure_registered_as_reader(self) -> None: ...

    def write(self, value: bytes, timeout: float) -> None:
        self._check()
        if self.value is not None:
            raise RayChannelTimeoutError("not yet")
        self.value = value
        self.written.append(value)

    def read(self, timeout: float) -> Any:
        self._check()
        if self.value is None:
            raise RayChannelTimeoutError("not yet")
        value, self.value = self.value, None
        return value

    def _check(self) -> None:
        if self.broken:
            raise RayChannelError("closed")


def a_worker() -> Any:
    """Stands for Ray's own record of whether it is up in this process."""
    return SimpleNamespace(connected=True, threads_stopped=SimpleNamespace(is_set=lambda: False), core_worker=object())


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Any:
    found = a_worker()
    monkeypatch.setattr(sessions, "_worker", found)
    monkeypatch.setattr(sessions, "_ended", None)
    return found


class Actor:
    """Stands for the handle of the actor that is called; every remote call of it waits in ``remote_calls``."""

    def __init__(self) -> None:
        self.remote_calls: list[tuple[str, tuple[Any, ...], dict[str, Any], Future[Any]]] = []

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=lambda *args, **kwargs: self._called(name, args, kwargs))

    def _called(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        future: Future[Any] = Future()
        self.remote_calls.append((name, args, kwargs, future))
        return SimpleNamespace(future=lambda: future)

    @property
    def names(self) -> list[str]:
        return [name for name, *_ in self.remote_calls]


class Pair:
    """Both sides of one link, looked at by hand. ``serve`` gets every call; by default it answers it in capitals."""

    def __init__(self, serve: Callable[[Kind, bytes, Answer], None] | None = None) -> None:
        self.calls, self.answers = SingleValue(), SingleValue()
        self.served: list[tuple[Kind, bytes, Answer]] = []
        self.actor = Actor()
        self.server = ServedCaller(Writer(self.answers), serve or self._serve)
        self.server.begin(Reader(self.calls))
        self.link = Link(self.actor, 7, Writer(self.calls), Reader(self.answers), Poller())
        self.outcomes: dict[bytes, Any] = {}

    def _serve(self, kind: Kind, data: bytes, answer: Answer) -> None:
        self.served.append((kind, data, answer))
        answer.put(data.upper())

    def warm(self) -> None:
        """A remote call that woke the actor was answered."""
        self.link._warm_until = float("inf")

    def call(self, data: bytes, now: float = 0.0) -> Any:
        return self.link.call(Kind.SUBMIT, data, lambda answer, _: self.outcomes.__setitem__(data, answer), now)

    def look(self, now: float = 0.0) -> None:
        self.server.poll(now)
        self.link.poll(now)


def texts(frames: list[bytes]) -> list[list[bytes]]:
    return [[item.data for item in ends.unpack(frame)] for frame in frames]


def an_item(number: int, data: bytes) -> Item:
    return Item(number, Kind.SUBMIT, data)
