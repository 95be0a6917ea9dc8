"""What a commit can not be faster than on this machine: bare Ray calls, a synced write, and both together.

The *relay* is a call driver → actor → actor by actors that do no work; the *call* is driver → actor. The *pipe* is what
a replicated write costs without any consensus: the leader's part sends the payload to every follower's and writes it
itself meanwhile, each into a RocksDB of its own with a sync, and answers when a majority has it. It keeps no order, no
term and no log, decodes nothing and applies nothing.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from rocksdict import Options, Rdict, WriteOptions

from rayraft.bench.figures import Latency
from rayraft.bench.journal import clock
from rayraft.bench.stats import LatencyHistogram
from rayraft.machine.calls import encode_call
from rayraft.raft.quorum import majority
from rayraft.ray.priority import NICENESS, take_niceness
from rayraft.ray.wire import join, split
from rayraft.storage.rocks_open import options

WARM_UP = 20  # calls of each kind before any is measured


class NodeLike:
    """A process with the priority of a node's."""

    def __init__(self) -> None:
        take_niceness(NICENESS)


class End(NodeLike):
    """The follower's part: it only answers."""

    def echo(self, _: bytes) -> bytes:
        return b""

    def answer(self, size: int) -> bytes:
        return bytes(size)


class Middle(NodeLike):
    """The leader's part: it asks one other actor and passes its answer on."""

    def __init__(self, end: Any) -> None:
        super().__init__()
        self._end = end

    def forward(self, payload: bytes) -> bytes:
        answer: bytes = ray.get(self._end.echo.remote(payload))
        return answer


@contextlib.contextmanager
def relay() -> Iterator[Callable[[bytes], Any]]:
    """driver -> actor -> actor and back, plain sync actors that do no work: call it with a payload."""
    end = _plain(End).remote()
    middle = _plain(Middle).remote(end)
    try:
        yield lambda payload: ray.get(middle.forward.remote(payload))
    finally:
        ray.kill(middle)
        ray.kill(end)


@contextlib.contextmanager
def call() -> Iterator[Callable[[bytes], Any]]:
    """driver -> actor and back."""
    end = _plain(End).remote()
    try:
        yield lambda payload: ray.get(end.echo.remote(payload))
    finally:
        ray.kill(end)


@contextlib.contextmanager
def answers(in_flight: int) -> Iterator[Callable[[int, float], Flow]]:
    """driver -> actor, with an answer of so many bytes, for so many seconds: no packed read can be faster."""
    end = _actor(End, in_flight)
    try:
        ray.get(end.echo.remote(b""))  # it runs
        yield lambda size, seconds: flow(lambda: end.answer.remote(size), size, in_flight, seconds)
    finally:
        ray.kill(end)


@contextlib.contextmanager
def synced_writer(directory: Path) -> Iterator[Callable[[bytes], None]]:
    """A RocksDB of its own whose writes are on the disk when they return."""
    db = Rdict(str(directory / "floor"), Options(raw_mode=True))
    durable = WriteOptions()
    durable.sync = True
    count = iter(range(1 << 62))
    try:
        yield lambda value: db.put(next(count).to_bytes(8, "big"), value, write_opt=durable)
    finally:
        db.close()


# --- the pipe ---------------------------------------------------------------------------------------------------------


class Store(NodeLike):
    """A follower's part: the payload is on its disk when it answers. The database has the settings of a node's."""

    def __init__(self, directory: str, fsync: bool = True) -> None:
        super().__init__()
        self._fsync = fsync
        os.makedirs(directory, exist_ok=True)
        self._db = Rdict(os.path.join(directory, "rocksdb"), options(create=True))
        self._count = 0

    def store(self, *parts: bytes) -> bytes:
        self._count += 1  # threads may share a number: then one of two payloads is dropped, as late as compaction
        self._db.put(self._count.to_bytes(8, "big"), join(parts))
        if self._fsync:
            self._db.flush_wal(True)  # as a node does: without the interpreter lock
        return b""

    def close(self) -> None:
        self._db.close()


class Front(Store):
    """The leader's part."""

    def __init__(self, directory: str, fsync: bool, followers: list[Any]) -> None:
        super().__init__(directory, fsync)
        self._followers = followers

    def submit(self, *parts: bytes) -> bytes:
        others = [follower.store.remote(*parts) for follower in self._followers]
        self.store(*parts)
        needed = majority(len(others) + 1) - 1
        if needed:
            ray.wait(others, num_returns=needed)
        return b""


class Pipe:
    def __init__(self, front: Any) -> None:
        self._front = front

    def __call__(self, payload: bytes) -> None:
        ray.get(self._front.submit.remote(*split(payload)))

    def flow(self, payload: int, in_flight: int, seconds: float) -> Flow:
        parts = split(os.urandom(payload))
        return flow(lambda: self._front.submit.remote(*parts), payload, in_flight, seconds)


@contextlib.contextmanager
def pipe(directory: Path, nodes: int = 3, threads: int = 8, *, fsync: bool = True) -> Iterator[Pipe]:
    """Plain actors in the place of nodes; several calls at once in each, as many as the bench has under way."""
    stores = [_actor(Store, threads, str(directory / f"pipe-{node}"), fsync) for node in range(2, nodes + 1)]
    front = _actor(Front, threads, str(directory / "pipe-1"), fsync, stores)
    try:
        yield Pipe(front)
    finally:
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get([actor.close.remote() for actor in (front, *stores)])  # the directory may go once nobody writes
        for actor in (front, *stores):
            ray.kill(actor)


def _plain(kind: type) -> Any:
    """Spread over the machines of the cluster, as the nodes of a group are."""
    return ray.remote(num_cpus=0, scheduling_strategy="SPREAD")(kind)


def _actor(kind: type, threads: int, *arguments: Any) -> Any:
    return _plain(kind).options(max_concurrency=max(1, threads)).remote(*arguments)


def put_bytes(value_size: int, key: str) -> int:
    """Of one encoded put: what a client sends for it."""
    return len(encode_call("put", (key, bytes(value_size)), {}))


# --- measuring --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Flow:
    """Calls of ``payload`` bytes, ``in_flight`` at once."""

    payload: int
    in_flight: int
    calls: int
    seconds: float
    latency: Latency

    @property
    def rate(self) -> float:
        """Calls per second."""
        return self.calls / self.seconds


def flow(send: Callable[[], Any], payload: int, in_flight: int, seconds: float) -> Flow:
    """Keep ``in_flight`` calls under way; their answers are taken in order, as a window does."""
    histogram = LatencyHistogram()
    flight: deque[tuple[float, Any]] = deque()
    begin = clock()
    while (now := clock()) - begin < seconds or flight:
        if now - begin < seconds and len(flight) < in_flight:
            flight.append((now, send()))
            continue
        sent, answer = flight.popleft()
        ray.get(answer)
        histogram.record(clock() - sent)
    return Flow(payload, in_flight, histogram.count, clock() - begin, Latency.of(histogram))


def interleave(
    calls: Sequence[Callable[[], Any]], *, blocks: int, per_block: int, on_block: Callable[[int], None]
) -> list[LatencyHistogram]:
    """The latency of each call, measured in alternate blocks so that the machine's noise hits all of them alike."""
    found = [LatencyHistogram() for _ in calls]
    for call in calls:  # actors that still start would be in the way of what is measured first
        for _ in range(WARM_UP):
            call()
    for block in range(blocks):
        for call, histogram in zip(calls, found, strict=True):
            call()  # the first of a block pays for cold caches
            for _ in range(per_block):
                begin = clock()
                call()
                histogram.record(clock() - begin)
        on_block((block + 1) * per_block * len(calls))
    return found
