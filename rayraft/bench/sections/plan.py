"""What a bench run is asked for, and what every section gives back."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from rich.table import Table

from rayraft.bench.figures import Figure
from rayraft.bench.journal import BENCH_EVERY, Journal
from rayraft.bench.progress import Stage
from rayraft.bench.run import load_records
from rayraft.bench.session import Disks, store
from rayraft.bench.witness import Witness
from rayraft.bench.ycsb import WORKLOADS, Workload
from rayraft.client.handle import Handle
from rayraft.errors import BadConfiguration
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


Opening: TypeAlias = AbstractContextManager[tuple[Handle, Witness]]


class Kept:
    """The group of the section before, for the next that needs such a one: to start it takes longer than to measure."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._kind: Any = None
        self._group: tuple[Handle, Witness] | None = None

    def get(self, kind: Any, make: Callable[[], Opening]) -> tuple[Handle, Witness]:
        if self._group is None or self._kind != kind:
            self.close()
            self._group, self._kind = self._stack.enter_context(make()), kind
        return self._group

    def close(self) -> None:
        self._group = None
        self._stack.close()


@dataclass(frozen=True, slots=True)
class Plan:
    """The settings of one bench run."""

    workloads: tuple[Workload, ...] = tuple(WORKLOADS[name] for name in "ABCFD")  # D inserts: YCSB runs it last, too
    nodes: int = 3
    records: int = 40_000
    value_size: int | None = None  # None: 256 bytes for puts, 1000 for YCSB
    seconds: float = 8.0
    clients: int | None = None  # closed-loop clients of the workloads; None: one pipelined client
    outstanding: int = 10_000
    batch: int = 2_000
    in_flight: int = 8
    kills: int = 10
    sequential: int = 1_000  # commands in the sequential section
    callers: int = 64  # threads or coroutines with one call each, in the sections of those names
    processes: tuple[int, ...] = (1, 4, 16, 64)  # client processes
    value_sizes: tuple[int, ...] = (16, 256, 4 << 10, 64 << 10, 1 << 20)
    group_sizes: tuple[int, ...] = (1, 3, 5, 7)
    group_pipes: bool = True  # measure the pipe with as many nodes, too
    read_kinds: tuple[str, ...] = ("linearizable", "lease", "follower", "stale")
    offered: tuple[float, ...] = (0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 1.0, 1.1)  # of the closed loop's rate
    snapshot_keys: int = 1_000_000
    snapshots: int = 5
    recovery_commands: int = 1_000_000
    recovery_parts: tuple[float, ...] = (0.05, 0.25, 0.5, 1.0)  # of them behind the last snapshot, at each kill
    memory_commands: int = 1_000_000
    peers_alone: bool = True  # contenders are also measured with one command at a time
    peer_batch: int = 120  # puts in one of etcd's transactions, whose default limit is 128
    turns: int = 3  # in which contenders are measured one after another, each `seconds` long in all
    seed: int = 0
    disks: Disks = field(default_factory=Disks)
    settings: Settings = field(default_factory=Settings)
    kept: Kept | None = None  # sections that can go on with each other's group do

    @property
    def put_bytes(self) -> int:
        return self.value_size or PUT_BYTES

    def check(self, sections: Iterable[str]) -> None:
        """Raises BadConfiguration where a section would have writers without a key of their own."""
        writers = {"callers": self.callers, "coroutines": self.callers, "peers": max(self.callers, self.in_flight)}
        for section in sections:
            needed = writers.get(section, self.in_flight)
            found = self.peer_records if section == "peers" else self.records_of(self.put_bytes)
            if found < needed:
                raise BadConfiguration(f"section {section}: {needed} writers need as many records, not {found}")

    @property
    def many(self) -> int:
        """Puts in one command, at most `batch`: so few that each writer finds as many keys of its own."""
        return max(1, min(self.batch, self.records_of(self.put_bytes) // self.in_flight))

    @property
    def peer_records(self) -> int:
        """Of the section `peers`: enough for transactions whose keys all differ."""
        return max(self.records_of(self.put_bytes), self.in_flight * self.peer_batch)

    def records_of(self, value_size: int) -> int:
        """As many records of this size as memory should hold, but enough for every writer."""
        return min(self.records, max(4 * self.in_flight, KEPT_BYTES // value_size))

    @contextlib.contextmanager
    def group(
        self, stage: Stage, value_size: int, *, records: int | None = None, settings: Settings | None = None
    ) -> Iterator[tuple[Handle, Witness]]:
        """A new group with every record loaded."""
        if self.kept is not None:
            self.kept.close()  # an idle group would still have its share of the machine
        records = records or self.records_of(value_size)
        with contextlib.ExitStack() as stack:
            with stage.phase(f"Starting {self.nodes} nodes"):
                handle = stack.enter_context(store(self.disks, nodes=self.nodes, settings=settings or self.settings))
            witness = Witness(value_size, self.seed, Journal(BENCH_EVERY))
            with stage.phase(f"Loading {records:,} records of {value_size:,} bytes", records) as phase:
                load_records(handle, witness, records, phase.advance)
            yield handle, witness

    @contextlib.contextmanager
    def shared_group(
        self, stage: Stage, value_size: int, *, records: int | None = None
    ) -> Iterator[tuple[Handle, Witness]]:
        """As `group`, but the one of the section before where the plan keeps it, with all that was written to it."""
        records = records or self.records_of(value_size)

        def make() -> Opening:
            return self.group(stage, value_size, records=records)

        if self.kept is None:
            with make() as found:
                yield found
        else:
            yield self.kept.get((self.nodes, value_size, records, self.settings), make)
