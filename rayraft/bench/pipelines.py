"""Writers that keep many calls under way."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Final, TypeAlias

from rayraft.bench.journal import clock
from rayraft.bench.load import READS, Recorder
from rayraft.bench.rounds import Puts
from rayraft.bench.writers import PlainPuts, Run, Worker
from rayraft.bench.ycsb import Operation, key_name
from rayraft.errors import ClientClosed

SETS_UNDER_WAY: Final = 16  # of a pipeline of plain puts

# A call under way: operation, key, version (of a write its own, of a read the least that it must find), when it began,
# and its result. A plain tuple: one is made for every call.
_Flight: TypeAlias = tuple[Operation, int, int, float, Any]


class _Room:
    """Permits for calls under way: one thread takes them, others give them back; far cheaper than a semaphore."""

    def __init__(self, width: int) -> None:
        self._free = width
        self._returned: SimpleQueue[int] = SimpleQueue()

    def take(self, count: int = 1) -> None:
        while self._free < count:
            self._free += self._returned.get()
        self._free -= count

    def give(self) -> None:
        self._returned.put(1)


class Pipelined(Worker):
    """Reads and writes overtake each other, so each kind has a thread that waits for its answers in order."""

    def __init__(self, run: Run, index: int) -> None:
        super().__init__(run, index)
        self._room = _Room(run.load.width)
        self._order = threading.Lock()  # versions are sent in order: a read-modify-write is sent by another thread
        self._reads: SimpleQueue[_Flight | None] = SimpleQueue()
        self._writes: SimpleQueue[_Flight | None] = SimpleQueue()
        self._collectors = [
            threading.Thread(target=self._collect, args=(queue, end, run.recorder()), daemon=True)
            for queue, end in ((self._reads, self._end_read), (self._writes, self._end_write))
        ]
        self._recorder = run.recorder()

    def run(self) -> None:
        for thread in self._collectors:
            thread.start()
        for operation, key in self._operations():
            self._room.take()
            try:
                (self._send_read if operation in READS else self._send_write)(operation, key, clock())
            except Exception as error:
                self._recorder.failure(error)
                self._room.give()
                if isinstance(error, ClientClosed):
                    break
        self._room.take(self._run.load.width)  # all of it: everything was answered
        for queue, thread in zip((self._reads, self._writes), self._collectors, strict=True):
            queue.put(None)
            thread.join()

    def _send_read(self, operation: Operation, key: int, begin: float) -> None:
        floor = self._witness.acknowledged(key)
        self._reads.put((operation, key, floor, begin, self._get.remote(key_name(key))))

    def _send_write(self, operation: Operation, key: int, begin: float) -> None:
        with self._order:
            version, value = self._witness.next_value(key)
            try:
                result = self._put.remote(key_name(key), value)
            except Exception as error:
                self._witness.journal.unsure(key, version, begin, error)
                raise
        self._writes.put((operation, key, version, begin, result))

    def _collect(
        self, queue: SimpleQueue[_Flight | None], end: Callable[[_Flight, Any, Recorder], bool], recorder: Recorder
    ) -> None:
        while (flight := queue.get()) is not None:
            try:
                ended = end(flight, flight[-1].result(), recorder)
            except Exception as error:
                if queue is self._writes:
                    _, key, version, begin, _ = flight
                    self._witness.journal.unsure(key, version, begin, error)
                recorder.failure(error)
                ended = True
            if ended:
                self._room.give()

    def _end_read(self, flight: _Flight, read: bytes | None, recorder: Recorder) -> bool:
        operation, key, version, begin, _ = flight
        recorder.stale_reads += self._witness.saw(key, read, begin) < version
        if operation is Operation.READ_MODIFY_WRITE:
            self._send_write(operation, key, begin)
            return False
        recorder.success(operation, begin, clock())
        return True

    def _end_write(self, flight: _Flight, _: None, recorder: Recorder) -> bool:
        operation, key, version, begin, _ = flight
        self._witness.acknowledge(key, version, begin)
        recorder.success(operation, begin, clock())
        return True


@dataclass(frozen=True, slots=True)
class _Refused:
    """In the place of a result that there is none of."""

    error: Exception

    def result(self) -> Any:
        raise self.error


class PipelinedPuts(PlainPuts):
    """Nothing is read, so one thread does it all: it sends a set of calls, and takes the answers of the oldest set."""

    def __init__(self, run: Run, index: int) -> None:
        width = run.load.width
        size = max(1, width // SETS_UNDER_WAY)
        super().__init__(run, index, size)
        self._under_way = max(1, width // size)
        self._flight: deque[tuple[Puts, list[float], list[Any]]] = deque()

    def run(self) -> None:
        for puts in self._sets.take(self._share, self._is_over):
            if not self._send(puts):
                break
            if len(self._flight) == self._under_way:
                self._collect()
        while self._flight:
            self._collect()

    def _send(self, puts: Puts) -> bool:
        """False when nothing more can be sent."""
        begins, results, put = list[float](), list[Any](), self._put.remote
        self._flight.append((puts, begins, results))
        for name, value in zip(puts.names, puts.values, strict=True):
            begins.append(clock())
            try:
                results.append(put(name, value))
            except Exception as error:
                results.append(_Refused(error))
                if isinstance(error, ClientClosed):
                    return False
        return True

    def _collect(self) -> None:
        puts, begins, results = self._flight.popleft()
        ends, failed = list[float](), dict[int, Exception]()
        for place, result in enumerate(results):
            try:
                result.result()
            except Exception as error:
                failed[place] = error
            ends.append(clock())
        self._account(puts, begins, ends, failed)
