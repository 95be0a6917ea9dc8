"""The writers of a load: threads and coroutines that ask a handle for one operation after another, or many together."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import islice
from queue import SimpleQueue
from typing import Any, TypeAlias

from rayraft.bench.journal import clock
from rayraft.bench.load import READS, TICK_SECONDS, WRITES, Load, LoadResult, Recorder, Style
from rayraft.bench.stats import Timeline
from rayraft.bench.witness import Witness
from rayraft.bench.ycsb import Chooser, Operation, key_name
from rayraft.errors import ClientClosed


class Run:
    """What the threads of one run share."""

    def __init__(self, handle: Any, load: Load, witness: Witness) -> None:
        self.handle, self.load, self.witness = handle, load, witness
        self.origin = clock()
        self.deadline = self.origin + (load.seconds if load.seconds is not None else float("inf"))
        self.over = False
        self.error: BaseException | None = None
        self.recorders: list[Recorder] = []

    def workers(self) -> list[Callable[[], None]]:
        if self.load.style is Style.AWAITED:
            coroutines = [_Awaited(self, index) for index in range(self.load.writers)]
            return [lambda: asyncio.run(_together(coroutines))]
        styles: dict[Style, type[_Worker]] = {
            Style.CLOSED: _Closed, Style.PIPELINED: _Pipelined, Style.PACKED: _Packed, Style.MANY: _Many
        }  # fmt: skip
        return [styles[self.load.style](self, index).run for index in range(self.load.writers)]

    def recorder(self) -> Recorder:
        self.recorders.append(Recorder(Timeline(interval=TICK_SECONDS, origin=self.origin)))
        return self.recorders[-1]

    def guard(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self.error, self.over = error, True

    def result(self) -> LoadResult:
        seconds = clock() - self.origin
        total = Recorder(Timeline(interval=TICK_SECONDS, origin=self.origin))
        for recorder in self.recorders:
            total.merge(recorder)
        return LoadResult(self.load, seconds, total)


class _Worker:
    """One writer: its stream of operations, and the keys that are its own."""

    def __init__(self, run: Run, index: int) -> None:
        self._run = run
        self._witness = run.witness
        self._get, self._put = run.handle.get, run.handle.put
        load = run.load
        self._index, self._writers, self._records = load.first + index, load.all_writers, load.records
        chooser = Chooser(load.workload, load.records, load.seed, client=self._index, clients=self._writers)
        total = load.operations
        share = None if total is None else total // load.writers + (index < total % load.writers)
        self._stream = islice(chooser, share)

    def run(self) -> None:
        raise NotImplementedError

    def _operations(self) -> Iterator[tuple[Operation, int]]:
        """The stream until the run is over, each key that will be written moved to one that this writer owns."""
        for operation, key in self._stream:
            if self._is_over():
                return
            yield operation, self._own(key) if operation in WRITES else key

    def _is_over(self) -> bool:
        return self._run.over or clock() >= self._run.deadline

    def _own(self, key: int) -> int:
        """The nearest key of this writer: every key has one writer, and hot keys stay hot."""
        if self._writers == 1 or key >= self._records:  # inserts are the writer's own anyway
            return key
        own = key - key % self._writers + self._index
        return own if own < self._records else self._index


class _OneAtATime(_Worker):
    """One that waits for an answer before it asks again."""

    def __init__(self, run: Run, index: int) -> None:
        super().__init__(run, index)
        self._recorder = run.recorder()
        self._closed = False  # the client was: nothing more can be asked

    def _is_over(self) -> bool:
        return self._closed or super()._is_over()

    @contextlib.contextmanager
    def _accounted(self, operation: Operation, count: int = 1) -> Iterator[None]:
        """Around ``count`` operations that are asked for together: how they ended goes into the recorder."""
        begin = clock()
        try:
            yield
        except Exception as error:
            self._recorder.failure(error, count)
            self._closed = isinstance(error, ClientClosed)
        else:
            self._recorder.success(operation, begin, clock(), count)

    @contextlib.contextmanager
    def _witnessed(self, key: int) -> Iterator[bytes]:
        """Around a write of the value that it gives."""
        version, value = self._witness.next_value(key)
        begin = clock()
        try:
            yield value
        except Exception as error:
            self._witness.journal.unsure(key, version, begin, error)
            raise
        self._witness.acknowledge(key, version, begin)


class _Closed(_OneAtATime):
    def run(self) -> None:
        for operation, key in self._operations():
            with self._accounted(operation):
                if operation in READS:
                    self._read(key)
                if operation in WRITES:
                    with self._witnessed(key) as value:
                        self._put(key_name(key), value)

    def _read(self, key: int) -> None:
        floor, begin = self._witness.acknowledged(key), clock()
        self._recorder.stale_reads += self._witness.saw(key, self._get(key_name(key)), begin) < floor


class _Awaited(_OneAtATime):
    async def go(self) -> None:
        for operation, key in self._operations():
            with self._accounted(operation):
                if operation in READS:
                    await self._read(key)
                if operation in WRITES:
                    with self._witnessed(key) as value:
                        await self._put.remote(key_name(key), value)

    async def _read(self, key: int) -> None:
        floor, begin = self._witness.acknowledged(key), clock()
        self._recorder.stale_reads += self._witness.saw(key, await self._get.remote(key_name(key)), begin) < floor


async def _together(workers: list[_Awaited]) -> None:
    await asyncio.gather(*(worker.go() for worker in workers))


class _Batches(_OneAtATime):
    """One that writes many keys together."""

    def run(self) -> None:
        while keys := self._next_keys():
            with self._accounted(Operation.UPDATE, len(keys)):
                self._write(keys)

    def _next_keys(self) -> Collection[int]:
        own = self._own
        return [] if self._is_over() else [own(key) for _, key in islice(self._stream, self._run.load.batch)]

    def _write(self, keys: Collection[int]) -> None:
        versions, values = self._witness.next_values(keys)
        begin = clock()
        try:
            self._put_all(map(key_name, keys), values)
        except Exception as error:
            for key, version in zip(keys, versions, strict=True):
                self._witness.journal.unsure(key, version, begin, error)
            raise
        self._witness.acknowledge_all(keys, versions, begin)

    def _put_all(self, names: Iterable[str], values: list[bytes]) -> None:
        raise NotImplementedError


class _Packed(_Batches):
    def _put_all(self, names: Iterable[str], values: list[bytes]) -> None:
        with self._run.handle.batch() as batch:
            put = batch.put
            for name, value in zip(names, values, strict=True):
                put(name, value)
        _ = batch.results  # raises what one of them raised


class _Many(_Batches):
    def _next_keys(self) -> Collection[int]:
        """Different ones: where a key was drawn twice, the next that is free goes in its place."""
        keys: dict[int, None] = {}
        for key in super()._next_keys():
            while key in keys:
                key = self._own((key + self._writers) % self._records)
            keys[key] = None
        return keys

    def _put_all(self, names: Iterable[str], values: list[bytes]) -> None:
        self._run.handle.put_many(dict(zip(names, values, strict=True)))


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


class _Pipelined(_Worker):
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
