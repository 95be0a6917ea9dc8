"""What to do to a replicated key-value store, and what came of it: YCSB operations in several styles of client."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from rayraft.bench.stats import LatencyHistogram, Timeline
from rayraft.bench.ycsb import WORKLOADS, Distribution, Operation, Workload
from rayraft.errors import BadConfiguration

TICK_SECONDS: Final = 0.1
# Tuples: to look an enum up in one costs no call of its hash.
READS: Final = (Operation.READ, Operation.READ_MODIFY_WRITE)
WRITES: Final = (Operation.UPDATE, Operation.INSERT, Operation.READ_MODIFY_WRITE)

# Plain puts on evenly chosen keys: what is quoted as "puts per second".
PUT: Final = replace(WORKLOADS["W"], name="put", description="puts", distribution=Distribution.UNIFORM)
ALL_WORKLOADS: Final[dict[str, Workload]] = {**WORKLOADS, PUT.name: PUT}


class Style(enum.Enum):
    CLOSED = "closed loop"  # each client thread waits for its answer before it asks again
    AWAITED = "awaited"  # the same, with coroutines of one event loop instead of threads
    PIPELINED = "pipelined"  # one thread keeps many calls under way; the client packs them
    PACKED = "packed"  # the caller itself packs many commands into one call, each with an answer of its own
    MANY = "many"  # many puts are one command: all of them or none, and one answer, as a transaction of other stores


@dataclass(frozen=True, slots=True)
class Load:
    """What to do to a store, and until when: ``seconds`` or ``operations``, whichever ends first."""

    workload: Workload
    records: int
    style: Style = Style.PIPELINED
    width: int = 64  # client threads or coroutines, calls under way, or batches under way
    batch: int = 1000  # puts in a batch
    seconds: float | None = None
    operations: int | None = None
    seed: int = 0
    # Of several processes that load one store: the number of this one's first writer, and of the writers of all.
    first: int = 0
    among: int | None = None  # None: it is alone

    def __post_init__(self) -> None:
        for name in ("records", "width", "batch", "seconds", "operations"):
            figure = getattr(self, name)
            if figure is not None and not figure > 0:
                raise BadConfiguration(f"{name} must be above 0, not {figure}")
        if self.seconds is None and self.operations is None:
            raise BadConfiguration("a load needs an end: a number of seconds or of operations")
        if self.records < self.all_writers:
            raise BadConfiguration(f"{self.all_writers} writers need as many records, not {self.records}: one each")
        if self.style in (Style.PACKED, Style.MANY) and not self.is_plain_puts:
            raise BadConfiguration(f"batches are of plain puts, not of workload {self.workload.name}")
        if self.style is Style.MANY and self.records < self.batch * self.all_writers:
            needed = self.batch * self.all_writers
            raise BadConfiguration(f"one command puts a key once only: that needs {needed} records, not {self.records}")

    @property
    def is_plain_puts(self) -> bool:
        """Nothing is read and no key is hotter than others: all can be made before the clock runs."""
        return self.workload == PUT

    @property
    def writers(self) -> int:
        return 1 if self.style is Style.PIPELINED else self.width

    @property
    def all_writers(self) -> int:
        return self.among or self.writers


@dataclass(slots=True)
class Recorder:
    """What one thread has seen; nobody else writes to it."""

    timeline: Timeline
    latencies: dict[Operation, LatencyHistogram] = field(default_factory=dict)
    operations: int = 0
    stale_reads: int = 0
    errors: Counter[str] = field(default_factory=Counter)

    def success(self, operation: Operation, begin: float, end: float, count: int = 1) -> None:
        histogram = self.latencies.get(operation)
        if histogram is None:
            histogram = self.latencies[operation] = LatencyHistogram()
        histogram.record(end - begin, count)
        self.timeline.record(end, count)
        self.operations += count

    def successes(self, operation: Operation, begins: Sequence[float], ends: Sequence[float]) -> None:
        """The same for many operations, each with its times."""
        histogram = self.latencies.setdefault(operation, LatencyHistogram())
        histogram.record_all([end - begin for begin, end in zip(begins, ends, strict=True)])
        self.timeline.record_all(ends)
        self.operations += len(ends)

    def failure(self, error: Exception, count: int = 1) -> None:
        self.errors[type(error).__name__] += count

    def merge(self, other: Recorder) -> None:
        for operation, histogram in other.latencies.items():
            self.latencies.setdefault(operation, LatencyHistogram()).merge(histogram)
        self.timeline.merge(other.timeline)
        self.operations += other.operations
        self.stale_reads += other.stale_reads
        self.errors += other.errors


@dataclass(frozen=True, slots=True)
class LoadResult:
    load: Load
    seconds: float
    recorder: Recorder

    @property
    def operations(self) -> int:
        return self.recorder.operations

    @property
    def commands(self) -> int:
        """Acknowledged commands; reads are none."""
        return sum(found.count for operation, found in self.recorder.latencies.items() if operation in WRITES)

    @property
    def rate(self) -> float:
        return self.operations / self.seconds

    @property
    def latency(self) -> LatencyHistogram:
        """Of all operations together."""
        total = LatencyHistogram()
        for histogram in self.recorder.latencies.values():
            total.merge(histogram)
        return total
