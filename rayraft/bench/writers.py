"""The writers of a load: threads and coroutines that ask a handle for one operation after another, or many together."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice, repeat
from queue import SimpleQueue
from typing import Any, Final, TypeAlias

from rayraft.bench.journal import clock
from rayraft.bench.load import READS, TICK_SECONDS, WRITES, Load, LoadResult, Recorder, Style
from rayraft.bench.rounds import Puts, Rounds
from rayraft.bench.stats import Timeline
from rayraft.bench.witness import Witness
from rayraft.bench.ycsb import Chooser, Operation, key_name
from rayraft.errors import ClientClosed

SETS_UNDER_WAY: Final = 16  # of a pipeline of plain puts


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
        pipelined = _PipelinedPuts if self.load.is_plain_puts else _Pipelined
        styles: dict[Style, type[_Worker]] = {
            Style.CLOSED: _Closed, Style.PIPELINED: pipelined, Style.PACKED: _Packed, Style.MANY: _Many
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
        self._share = None if total is None else total // load.writers + (index < total % load.writers)
        self._stream = islice(chooser, self._share)

    def run(self) -> None:
        raise NotImplementedError

    def _operations(self) -> Iterator[tuple[Operation, int]]:
        """The stream until the run is over, each key that will be written moved to one that this writer owns."""
        for operation, key in self._stream:
            if self._is_over():
                return
            yield operation, self._own(key) if operation in WRITES else key

    def _rounds(self, size: int) -> Rounds:
        """Plain puts of this writer's keys, in sets of ``size``."""
        own = range(self._index, self._records, self._writers)
        return Rounds(self._witness, own, size, self._run.load.seed)

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
        for puts in self._rounds(self._run.load.batch).take(self._share):
            if self._is_over():
                return
            with self._accounted(Operation.UPDATE, len(puts.keys)):
                self._write(puts)

    def _write(self, puts: Puts) -> None:
        begin = clock()
        try:
            self._put_all(puts)
        except Exception as error:
            for key in puts.keys:
                self._witness.journal.unsure(key, puts.version, begin, error)
            raise
        self._witness.acknowledge_all(puts.keys, puts.version, repeat(begin), repeat(clock()))

    def _put_all(self, puts: Puts) -> None:
        raise NotImplementedError


class _Packed(_Batches):
    def _put_all(self, puts: Puts) -> None:
        with self._run.handle.batch() as batch:
            put = batch.put
            for name, value in zip(puts.names, puts.values, strict=True):
                put(name, value)
        _ = batch.results  # raises what one of them raised


class _Many(_Batches):
    def _put_all(self, puts: Puts) -> None:
        self._run.handle.put_many(dict(zip(puts.names, puts.values, strict=True)))


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


@dataclass(frozen=True, slots=True)
class _Refused:
    """In the place of a result that there is none of."""

    error: Exception

    def result(self) -> Any:
        raise self.error


class _PipelinedPuts(_Worker):
    """Nothing is read, so one thread waits for all answers, in order, and they are accounted for by the set."""

    def __init__(self, run: Run, index: int) -> None:
        super().__init__(run, index)
        width = run.load.width
        size = max(1, width // SETS_UNDER_WAY)
        self._sets = self._rounds(size)
        self._room = _Room(max(1, width // size))
        self._sent: SimpleQueue[tuple[Puts, list[float], list[Any]] | None] = SimpleQueue()
        self._collector = threading.Thread(target=self._collect, daemon=True)
        self._recorder = run.recorder()

    def run(self) -> None:
        self._collector.start()
        for puts in self._sets.take(self._share):
            self._room.take()
            if self._is_over() or not self._send(puts):
                break
        self._sent.put(None)
        self._collector.join()

    def _send(self, puts: Puts) -> bool:
        """False when nothing more can be sent."""
        begins, results, put = list[float](), list[Any](), self._put.remote
        closed = False
        for name, value in zip(puts.names, puts.values, strict=True):
            begins.append(clock())
            try:
                results.append(put(name, value))
            except Exception as error:
                results.append(_Refused(error))
                if closed := isinstance(error, ClientClosed):
                    break
        self._sent.put((puts, begins, results))
        return not closed

    def _collect(self) -> None:
        while (flight := self._sent.get()) is not None:
            puts, begins, results = flight
            ends, failed = list[float](), dict[int, Exception]()
            for place, result in enumerate(results):
                try:
                    result.result()
                except Exception as error:
                    failed[place] = error
                ends.append(clock())
            self._room.give()
            self._account(puts, begins, ends, failed)

    def _account(self, puts: Puts, begins: list[float], ends: list[float], failed: dict[int, Exception]) -> None:
        keys = puts.keys[: len(ends)]
        if failed:
            for place, error in failed.items():
                self._recorder.failure(error)
                self._witness.journal.unsure(keys[place], puts.version, begins[place], error)
            fine = [place for place in range(len(ends)) if place not in failed]
            keys = [keys[place] for place in fine]
            begins, ends = [begins[place] for place in fine], [ends[place] for place in fine]
        self._recorder.successes(Operation.UPDATE, begins, ends)
        self._witness.acknowledge_all(keys, puts.version, begins, ends)
