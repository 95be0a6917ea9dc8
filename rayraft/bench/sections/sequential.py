"""One command at a time, and what it can not be faster than, in the same minutes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from rayraft.bench import figures, floor
from rayraft.bench.figures import Figure, Latency, table
from rayraft.bench.progress import Stage
from rayraft.bench.sections.plan import Plan, Section

BLOCKS = 20


@dataclass(frozen=True, slots=True)
class Sequential(Section):
    """One client, one command at a time, and the floors measured in the same minutes."""

    value_size: int
    commit: Latency
    read: Latency
    relay: Latency
    call: Latency
    synced_write: Latency
    pipe: Latency

    @property
    def ratio_p50(self) -> float:
        return self.commit.p50 / self.relay.p50

    @property
    def ratio_p99(self) -> float:
        return self.commit.p99 / self.relay.p99

    @property
    def sum_p50(self) -> float:
        """A relay and a synced write, one after the other."""
        return self.relay.p50 + self.synced_write.p50

    def table(self) -> Table:
        found = table("One client, one command at a time", "", "p50", "p95", "p99", "max")
        for name, latency in (
            (f"put of {self.value_size} bytes", self.commit),
            ("linearizable read", self.read),
            ("floor: bare relay driver → actor → actor", self.relay),
            ("floor: bare call driver → actor", self.call),
            ("floor: bare synced RocksDB write", self.synced_write),
            ("floor: the pipe, relay and synced writes", self.pipe),
        ):
            found.add_row(name, *latency.cells())
        for name, p50, p99 in (
            ("put / relay", self.ratio_p50, self.ratio_p99),
            ("put / (relay + synced write)", self.commit.p50 / self.sum_p50, None),
            ("put / pipe", self.commit.p50 / self.pipe.p50, self.commit.p99 / self.pipe.p99),
            ("read / call", self.read.p50 / self.call.p50, self.read.p99 / self.call.p99),
        ):
            found.add_row(name, f"{p50:.2f} x", "", f"{p99:.2f} x" if p99 is not None else "", "")
        return found

    def figures(self) -> Iterable[Figure]:
        for name in ("commit", "read", "relay", "call", "synced_write", "pipe"):
            yield from getattr(self, name).figures(name)
        yield figures.cost("of_relay.p50", self.ratio_p50)
        yield figures.cost("of_relay.p99", self.ratio_p99)
        yield figures.cost("of_sum.p50", self.commit.p50 / self.sum_p50)
        yield figures.cost("of_pipe.p50", self.commit.p50 / self.pipe.p50)
        yield figures.cost("read_of_call.p50", self.read.p50 / self.call.p50)


def sequential(plan: Plan, stage: Stage) -> Sequential:
    per_block = max(1, plan.sequential // BLOCKS)
    value = bytes(plan.put_bytes)
    with plan.disks.directory() as directory, plan.shared_group(stage, plan.put_bytes) as (handle, _):
        title = "One command at a time, in turns with bare relays, calls and synced writes"
        with (
            floor.relay() as relay,
            floor.call() as call,
            floor.synced_writer(directory) as write,
            floor.pipe(directory, plan.nodes, threads=1, fsync=plan.settings.fsync) as pipe,
            stage.phase(title, 6 * BLOCKS * per_block) as phase,
        ):
            calls: list[Callable[[], Any]] = [
                lambda: handle.put("sequential", value),
                lambda: handle.get("sequential"),
                lambda: relay(value),
                lambda: call(value),
                lambda: write(value),
                lambda: pipe(value),
            ]
            histograms = floor.interleave(calls, blocks=BLOCKS, per_block=per_block, on_block=phase.advance)
    return Sequential(plan.put_bytes, *(Latency.of(histogram) for histogram in histograms))
