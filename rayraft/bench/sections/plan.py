"""What a bench run is asked for, and what every section gives back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from rich.table import Table

from rayraft.bench.figures import Figure
from rayraft.bench.journal import BENCH_EVERY, Journal
from rayraft.bench.load import load_records
from rayraft.bench.progress import Stage
from rayraft.bench.session import Disks, store
from rayraft.bench.witness import Witness
from rayraft.bench.ycsb import WORKLOADS, Workload
from rayraft.client.handle import Handle
from rayraft.ray.settings import Settings

PUT_BYTES: Final = 256
KEPT_BYTES: Final = 64 << 20  # of all records together: large values get fewer of them


class Section:
    """What a section has found."""

    __slots__ = ()

    @property
    def intact(self) -> bool:
        """Nothing that was acknowledged was lost, as far as the section looked."""
        return True

    def table(self) -> Table:
        raise NotImplementedError

    def figures(self) -> Iterable[Figure]:
        """Its numbers by name, to be compared with those of other runs."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Plan:
    """The settings of one bench run."""

    workload: Workload = WORKLOADS["A"]
    nodes: int = 3
    records: int = 10_000
    value_size: int | None = None  # None: 256 bytes for puts, 1000 for YCSB
    seconds: float = 8.0
    clients: int | None = None  # closed-loop clients of the workload; None: one pipelined client
    outstanding: int = 4_000
    batch: int = 2_000
    in_flight: int = 8
    kills: int = 10
    sequential: int = 1_000  # commands in the sequential section
    callers: int = 64  # threads or coroutines with one call each, in the sections of those names
    processes: tuple[int, ...] = (1, 4, 16, 64)  # client processes
    value_sizes: tuple[int, ...] = (16, 256, 4 << 10, 64 << 10, 1 << 20)
    group_sizes: tuple[int, ...] = (1, 3, 5, 7)
    offered: tuple[float, ...] = (0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 1.0, 1.1)  # of the closed loop's rate
    snapshot_keys: int = 1_000_000
    snapshots: int = 5
    recovery_commands: int = 1_000_000
    memory_commands: int = 1_000_000
    peer_batch: int = 120  # puts in one of etcd's transactions, whose default limit is 128
    turns: int = 3  # in which contenders are measured one after another, each `seconds` long in all
    seed: int = 0
    disks: Disks = field(default_factory=Disks)
    settings: Settings = field(default_factory=Settings)

    @property
    def put_bytes(self) -> int:
        return self.value_size or PUT_BYTES

    def records_of(self, value_size: int) -> int:
        """As many records of this size as memory should hold, but enough for every writer."""
        return min(self.records, max(4 * self.in_flight, KEPT_BYTES // value_size))

    @contextlib.contextmanager
    def group(
        self, stage: Stage, value_size: int, *, records: int | None = None, settings: Settings | None = None
    ) -> Iterator[tuple[Handle, Witness]]:
        """A new group with every record loaded."""
        records = records or self.records_of(value_size)
        with contextlib.ExitStack() as stack:
            with stage.phase(f"Starting {self.nodes} nodes"):
                handle = stack.enter_context(store(self.disks, nodes=self.nodes, settings=settings or self.settings))
            witness = Witness(value_size, self.seed, Journal(BENCH_EVERY))
            with stage.phase(f"Loading {records:,} records of {value_size:,} bytes", records) as phase:
                load_records(handle, witness, records, phase.advance)
            yield handle, witness
