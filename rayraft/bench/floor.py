"""What a commit can not be faster than on this machine: a bare relay through Ray, and a bare synced write."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
from rocksdict import Options, Rdict, WriteOptions

from rayraft.bench.journal import clock
from rayraft.bench.stats import LatencyHistogram


class End:
    """The follower's part: it only answers."""

    def echo(self, _: bytes) -> bytes:
        return b""


class Middle:
    """The leader's part: it asks one other actor and passes its answer on."""

    def __init__(self, end: Any) -> None:
        self._end = end

    def forward(self, payload: bytes) -> bytes:
        answer: bytes = ray.get(self._end.echo.remote(payload))
        return answer


@contextlib.contextmanager
def relay() -> Iterator[Callable[[bytes], Any]]:
    """driver -> actor -> actor and back, plain sync actors that do no work: call it with a payload."""
    end = ray.remote(num_cpus=0)(End).remote()
    middle = ray.remote(num_cpus=0)(Middle).remote(end)
    try:
        yield lambda payload: ray.get(middle.forward.remote(payload))
    finally:
        ray.kill(middle)
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


def interleave(
    calls: Sequence[Callable[[], Any]], *, blocks: int, per_block: int, on_block: Callable[[int], None]
) -> list[LatencyHistogram]:
    """The latency of each call, measured in alternate blocks so that the machine's noise hits all of them alike."""
    found = [LatencyHistogram() for _ in calls]
    for block in range(blocks):
        for call, histogram in zip(calls, found, strict=True):
            call()  # the first of a block pays for cold caches
            for _ in range(per_block):
                begin = clock()
                call()
                histogram.record(clock() - begin)
        on_block((block + 1) * per_block * len(calls))
    return found
