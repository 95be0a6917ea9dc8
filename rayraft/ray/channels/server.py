"""The side of the actor that is called: channels that its callers have opened."""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray

from rayraft.ray.channels.ends import Reader, Writer, make_channel
from rayraft.ray.channels.frames import Item, Kind
from rayraft.ray.channels.poller import Poller
from rayraft.ray.channels.session import ChannelGone

log = logging.getLogger("rayraft")
AWAKE_SECONDS = 0.064  # for which to look for further calls after each...
AWAKE_PER_BYTE = 0.5 / (1 << 20)  # ... and longer after large ones: they come less often, and cost most as remote calls
MAX_AWAKE_SECONDS = 1.0
SERVED_SECONDS = 60.0  # after which channels that were not used are given up; callers give theirs up sooner
MAX_SERVED = 16  # callers; each takes 4 MiB of Ray's object store
UNREAD_SECONDS = 2.0  # for which to offer an answer to a caller who does not read

Serve = Callable[[Kind, bytes, "Answer"], None]


def awake_seconds(size: int) -> float:
    """For how long the actor looks for calls after it has answered one of ``size`` bytes."""
    return min(AWAKE_SECONDS + size * AWAKE_PER_BYTE, MAX_AWAKE_SECONDS)


@dataclass(frozen=True, slots=True)
class Offer:
    """The first half: what the caller shall read. It makes the other half and hands it over by `Server.accept`."""

    link: int
    answers: Any  # a Ray channel


class Server:
    """1. Every call gets at most one answer, by `Answer.put`, in any thread.
    2. ``serve`` is called by the poller's thread alone, in the order of each caller's calls.
    """

    def __init__(self, poller: Poller, serve: Serve) -> None:
        self._poller, self._serve = poller, serve
        self._lock = threading.Lock()
        self._served: dict[int, ServedCaller] = {}

    def offer(self, caller_node: str) -> Offer | None:
        """None where the caller is on another Ray node, or there are too many."""
        context = ray.get_runtime_context()
        now = time.monotonic()
        with self._lock:
            self._served = {link: served for link, served in self._served.items() if not served.is_over(now)}
            if context.get_node_id() != caller_node or len(self._served) >= MAX_SERVED:
                return None
            channel = make_channel(context.current_actor, caller_node)
            link = random.SystemRandom().getrandbits(63)  # a later process must not take it for one of its own
            self._served[link] = ServedCaller(Writer(channel), self._serve)
        return Offer(link, channel)

    def accept(self, link: int, calls: Any) -> bool:
        """The other half, which brings the calls; False where the offer is not known (any more)."""
        served = self._served.get(link)
        if served is None:
            return False
        served.begin(Reader(calls))
        self._poller.watch(served)
        return True

    def wake(self, link: int, size: int = 0) -> bool:
        """Look for calls of that caller now, and for a while after this one of ``size`` bytes; False where it is not
        known.
        """
        served = self._served.get(link)
        if served is None or served.gone:
            return False
        served.wake(time.monotonic(), size)
        self._poller.wake()
        return True

    @property
    def callers(self) -> int:
        return sum(not served.gone for served in list(self._served.values()))


class ServedCaller:
    """The channels of one caller."""

    def __init__(self, answers: Writer, serve: Serve) -> None:
        self._answers = answers
        self._calls: Reader | None = None
        self._serve = serve
        self._open: dict[int, int] = {}  # numbers of calls that have no answer yet, and how large they are
        self._awake_until = 0.0
        self._used = time.monotonic()
        self.gone = False

    def begin(self, calls: Reader) -> None:
        self._calls = calls
        self.wake(time.monotonic())

    def wake(self, now: float, size: int = 0) -> None:
        self._used = now
        self._awake_until = max(self._awake_until, now + awake_seconds(size))

    def expects(self, now: float) -> bool:
        if self.gone:
            return False
        unread = not self._answers.is_empty and now - self._used < UNREAD_SECONDS
        return now < self._awake_until or unread or (bool(self._open) and now - self._used < SERVED_SECONDS)

    def poll(self, now: float) -> bool:
        assert self._calls is not None
        try:
            written = self._answers.flush()
            calls = self._calls.read()
        except ChannelGone:
            self._end()
            return False
        if calls is None:
            return written
        self.wake(now)
        for number, kind, data in calls:
            self._open[number] = len(data)
            try:
                self._serve(kind, data, Answer(self, number))
            except Exception:  # what no caller of this version sends
                log.exception("a call that came through a channel could not be read")
                self._end()
                break
        return True

    def answer(self, number: int, data: bytes) -> None:
        size = self._open.pop(number, 0)
        self._awake_until = max(self._awake_until, time.monotonic() + awake_seconds(size))
        with contextlib.suppress(ChannelGone):  # the caller asks again
            self._answers.put(Item(number, Kind.ANSWER, data))

    def is_over(self, now: float) -> bool:
        if now - self._used > SERVED_SECONDS:
            self._end()
        return self.gone

    def _end(self) -> None:
        self.gone = True
        self._answers.leave()
        if self._calls is not None:
            self._calls.leave()


class Answer:
    """Where the answer to one call goes."""

    __slots__ = ("_number", "_served")

    def __init__(self, served: ServedCaller, number: int) -> None:
        self._served, self._number = served, number

    def put(self, data: bytes, /) -> None:
        self._served.answer(self._number, data)
