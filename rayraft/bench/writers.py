"""The writers of a load: threads and coroutines that ask a handle for one operation after another, or many together."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from itertools import islice
from typing import Any, Final

from rayraft.bench.journal import clock
from rayraft.bench.load import READS, TICK_SECONDS, WRITES, Load, LoadResult, Recorder
from rayraft.bench.rounds import Puts, Rounds
from rayraft.bench.stats import Timeline
from rayraft.bench.witness import Witness
from rayraft.bench.ycsb import Chooser, Operation, key_name
from rayraft.errors import ClientClosed

CLOSED_SET: Final = 32  # puts that are made together: to note how each small set ended cost a fifth of the throughput


class Run:
    """What the threads of one run share."""

    def __init__(self, handle: Any, load: Load, witness: Witness) -> None:
        self.handle, self.load, self.witness = handle, load, witness
        self.origin = 0.0
        self.deadline = float("inf")
        self.over = False
        self.error: BaseException | None = None
        self.recorders: list[Recorder] = []

    def start(self) -> None:
        """Everything is ready: the clock runs from now on."""
        self.origin = clock()
        if self.load.seconds is not None:
            self.deadline = self.origin + self.load.seconds
        for recorder in self.recorders:
            recorder.timeline.origin = self.origin

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


class Worker:
    """One writer: its operations, and the keys that are its own."""

    def __init__(self, run: Run, index: int) -> None:
        self._run = run
        self._witness = run.witness
        self._get, self._put = run.handle.get, run.handle.put
        load = run.load
        self._index, self._writers, self._records = load.first + index, load.all_writers, load.records
        total = load.operations
        self._share = None if total is None else total // load.writers + (index < total % load.writers)

    def run(self) -> None:
        raise NotImplementedError

    def _operations(self) -> Iterator[tuple[Operation, int]]:
        """The stream until the run is over, each key that will be written moved to one that this writer owns."""
        load = self._run.load
        chooser = Chooser(load.workload, load.records, load.seed, client=self._index, clients=self._writers)
        for operation, key in islice(chooser, self._share):
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


class OneAtATime(Worker):
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


class Closed(OneAtATime):
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


class Awaited(OneAtATime):
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


class PlainPuts(Worker):
    """Puts that are made before the clock runs, in sets of ``size``, so that the driver's time is the client's."""

    def __init__(self, run: Run, index: int, size: int) -> None:
        super().__init__(run, index)
        self._sets = self._rounds(size)
        self._recorder = run.recorder()

    def _account(self, puts: Puts, begins: list[float], ends: list[float], failed: dict[int, Exception]) -> None:
        """How those ended that were sent."""
        for place, error in failed.items():
            self._recorder.failure(error)
            puts.unsure(place, begins[place], error)
        fine = [place for place in range(len(ends)) if place not in failed] if failed else range(len(ends))
        puts.acknowledge(begins, ends, fine)
        if failed:
            begins, ends = [begins[place] for place in fine], [ends[place] for place in fine]
        self._recorder.successes(Operation.UPDATE, begins, ends)


class OnePutAtATime(PlainPuts):
    def __init__(self, run: Run, index: int) -> None:
        super().__init__(run, index, CLOSED_SET)

    def _steps(self) -> Generator[tuple[str, bytes], Exception | None, None]:
        """The puts to be made, one after the other; each takes what came of the one before."""
        error: Exception | None = None
        run = self._run
        for puts in self._sets.take(self._share, self._is_over):
            begins, ends, failed = list[float](), list[float](), dict[int, Exception]()
            for name, value in zip(puts.names, puts.values, strict=True):
                begins.append(clock())
                error = yield name, value
                ends.append(clock())
                if error is not None:
                    failed[len(ends) - 1] = error
                    if isinstance(error, ClientClosed):  # nothing more can be asked
                        break
                if run.over or ends[-1] >= run.deadline:
                    break
            self._account(puts, begins, ends, failed)
            if isinstance(error, ClientClosed):
                return


class ClosedPuts(OnePutAtATime):
    def run(self) -> None:
        put, steps, error = self._put, self._steps(), None
        with contextlib.suppress(StopIteration):
            while True:
                name, value = steps.send(error)
                error = None
                try:
                    put(name, value)
                except Exception as raised:
                    error = raised


class AwaitedPuts(OnePutAtATime):
    async def go(self) -> None:
        put, steps, error = self._put.remote, self._steps(), None
        with contextlib.suppress(StopIteration):
            while True:
                name, value = steps.send(error)
                error = None
                try:
                    await put(name, value)
                except Exception as raised:
                    error = raised


class Batches(OneAtATime):
    """One that writes many keys together."""

    def __init__(self, run: Run, index: int) -> None:
        super().__init__(run, index)
        self._sets = self._rounds(run.load.batch)

    def run(self) -> None:
        for puts in self._sets.take(self._share, self._is_over):
            with self._accounted(Operation.UPDATE, puts.count):
                self._write(puts)

    def _write(self, puts: Puts) -> None:
        begin = clock()
        try:
            self._put_all(puts)
        except Exception as error:
            for place in range(puts.count):
                puts.unsure(place, begin, error)
            raise
        puts.acknowledge([begin] * puts.count, [clock()] * puts.count, range(puts.count))

    def _put_all(self, puts: Puts) -> None:
        raise NotImplementedError


class Packed(Batches):
    def _put_all(self, puts: Puts) -> None:
        with self._run.handle.batch() as batch:
            put = batch.put
            for name, value in zip(puts.names, puts.values, strict=True):
                put(name, value)
        _ = batch.results  # raises what one of them raised


class Many(Batches):
    def _put_all(self, puts: Puts) -> None:
        self._run.handle.put_many(dict(zip(puts.names, puts.values, strict=True)))
