"""The same load along one dimension: client processes, bytes of a value, nodes of the group."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import ray
from rich.table import Table

import rayraft
from rayraft.bench import figures
from rayraft.bench.figures import Figure, Latency, table
from rayraft.bench.journal import BENCH_EVERY, Journal
from rayraft.bench.load import PUT, Load, Style
from rayraft.bench.progress import Stage
from rayraft.bench.run import run_load
from rayraft.bench.sections.plan import Plan, Section
from rayraft.bench.sections.throughput import Throughput, packed
from rayraft.bench.stats import LatencyHistogram, format_rate, format_size
from rayraft.bench.witness import Verification, Witness

CALL_BYTES = 512 << 10  # values in one call: large ones travel in smaller batches

# --- client processes -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Crowd:
    """What so many client processes did together."""

    processes: int
    machines: int
    outstanding: int  # calls under way in each
    rate: float  # of all together, from when the first began until the last ended
    slowest: float  # the least of theirs
    latency: Latency
    lost: int  # or damaged, or read too old


@dataclass(frozen=True, slots=True)
class Processes(Section):
    value_size: int
    rows: list[Crowd]

    @property
    def intact(self) -> bool:
        return not any(row.lost for row in self.rows)

    def table(self) -> Table:
        title = f"Client processes (Ray actors), puts of {self.value_size} bytes, as many under way in all"
        titles = ("processes", "machines", "under way in each", "all", "slowest", "p50", "p95", "p99", "max", "lost")
        found = table(title, *titles)
        for row in self.rows:
            cells = (str(row.machines), str(row.outstanding), format_rate(row.rate), format_rate(row.slowest))
            found.add_row(str(row.processes), *cells, *row.latency.cells(), str(row.lost))
        return found

    def figures(self) -> Iterable[Figure]:
        for row in self.rows:
            yield figures.rate(f"{row.processes}.rate", row.rate)
            yield from row.latency.figures(f"{row.processes}")


@dataclass(frozen=True, slots=True)
class Part:
    """What one of them did. Its times are of the wall clock, which machines share as well as they may."""

    began: float
    ended: float
    commands: int
    latency: LatencyHistogram
    verification: Verification

    @property
    def rate(self) -> float:
        return self.commands / (self.ended - self.began)


class Loader:
    """One client process. Its keys are its own, so that it can read back what it wrote."""

    def __init__(self, group: str) -> None:
        self._handle = rayraft.connect(group)

    def machine(self) -> str:
        return str(ray.get_runtime_context().get_node_id())

    def warm_up(self, load: Load) -> None:
        """The first calls find the leader and open the session."""
        run_load(self._handle, replace(load, operations=load.width), Witness(16, load.seed))

    def run(self, load: Load, value_size: int) -> Part:
        witness = Witness(value_size, load.seed, Journal(BENCH_EVERY))
        result = run_load(self._handle, load, witness)
        ended = time.time()
        return Part(ended - result.seconds, ended, result.commands, result.latency, witness.verify(self._handle))


def processes(plan: Plan, stage: Stage) -> Processes:
    most = max(plan.processes)
    records = max(plan.records_of(plan.put_bytes), 16 * most)
    rows = []
    with plan.group(stage, plan.put_bytes, records=records) as (handle, _):
        actor = ray.remote(num_cpus=0)(Loader).options(scheduling_strategy="SPREAD")
        loaders = [actor.remote(handle.name) for _ in range(most)]
        try:
            with stage.phase(f"Starting {most} client processes", most):
                machines: list[str] = ray.get([loader.machine.remote() for loader in loaders])
            for count in plan.processes:
                each = max(1, plan.outstanding // count)
                load = Load(PUT, records, Style.PIPELINED, each, seconds=plan.seconds, seed=plan.seed, among=count)
                with stage.phase(f"{count} client processes"):
                    rows.append(_crowd(loaders[:count], load, plan.put_bytes, len(set(machines[:count]))))
        finally:
            for loader in loaders:
                ray.kill(loader)
    return Processes(plan.put_bytes, rows)


def _crowd(loaders: list[Any], load: Load, value_size: int, machines: int) -> Crowd:
    loads = [replace(load, first=number) for number in range(len(loaders))]
    ray.get([loader.warm_up.remote(own) for loader, own in zip(loaders, loads, strict=True)])
    parts: list[Part] = ray.get(
        [loader.run.remote(own, value_size) for loader, own in zip(loaders, loads, strict=True)]
    )
    return together(parts, machines, load.width)


def together(parts: list[Part], machines: int, outstanding: int) -> Crowd:
    total = LatencyHistogram()
    for part in parts:
        total.merge(part.latency)
    span = max(part.ended for part in parts) - min(part.began for part in parts)
    found = [part.verification for part in parts]
    lost = sum(each.lost + each.damaged + (not each.intact) for each in found)
    rate, slowest = sum(part.commands for part in parts) / span, min(part.rate for part in parts)
    return Crowd(len(parts), machines, outstanding, rate, slowest, Latency.of(total), lost)


# --- bytes of a value -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sizes(Section):
    rows: list[Throughput]

    @property
    def intact(self) -> bool:
        return all(row.intact for row in self.rows)

    def table(self) -> Table:
        found = table(
            "Values of other sizes, in batches", "value", "batch", "puts", "bytes", "p50", "p99", "of the pipe"
        )
        for row in self.rows:
            put = row.latency["update"]
            shown = figures.Unit.SECONDS.show
            found.add_row(
                format_size(row.value_size),
                str(row.batch),
                format_rate(row.rate),
                f"{format_size(row.rate * row.value_size)}/s",
                shown(put.p50),
                shown(put.p99),
                f"{row.rate / row.pipe:.2f} x" if row.pipe else "",
            )
        return found

    def figures(self) -> Iterable[Figure]:
        for row in self.rows:
            yield figures.rate(f"{row.value_size}.rate", row.rate)
            yield from row.latency["update"].figures(str(row.value_size))
            if row.pipe:
                yield figures.share(f"{row.value_size}.of_pipe", row.rate / row.pipe)


def sizes(plan: Plan, stage: Stage) -> Sizes:
    rows = []
    for size in plan.value_sizes:
        batch = max(1, min(plan.batch, CALL_BYTES // size))
        rows.append(packed(replace(plan, value_size=size, batch=batch), stage))
    return Sizes(rows)


# --- nodes of the group -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class GroupSizes(Section):
    rows: dict[int, Throughput]  # by the number of nodes

    @property
    def intact(self) -> bool:
        return all(row.intact for row in self.rows.values())

    def per_byte(self, nodes: int) -> float | None:
        """The throughput for each byte that some node writes, against three nodes; above 1, it scales better."""
        base = self.rows.get(3)
        return self.rows[nodes].rate * nodes / (base.rate * 3) if base is not None else None

    def table(self) -> Table:
        title = "Groups of other sizes, puts in batches"
        found = table(title, "nodes", "puts", "p50", "p99", "of the pipe", "per byte written, against 3 nodes")
        for nodes, row in self.rows.items():
            put, shown, ratio = row.latency["update"], figures.Unit.SECONDS.show, self.per_byte(nodes)
            found.add_row(
                str(nodes),
                format_rate(row.rate),
                shown(put.p50),
                shown(put.p99),
                f"{row.rate / row.pipe:.2f} x" if row.pipe else "",
                f"{ratio:.2f} x" if ratio else "",
            )
        return found

    def figures(self) -> Iterable[Figure]:
        for nodes, row in self.rows.items():
            yield figures.rate(f"{nodes}.rate", row.rate)
            yield from row.latency["update"].figures(str(nodes))
            if row.pipe:
                yield figures.share(f"{nodes}.of_pipe", row.rate / row.pipe)
            if nodes != 3 and (ratio := self.per_byte(nodes)):
                yield figures.share(f"{nodes}.per_byte", ratio)


def nodes(plan: Plan, stage: Stage) -> GroupSizes:
    if plan.kept is not None:
        plan.kept.close()
    alone = replace(plan, kept=None)  # each of them new, or the one that has run for a while would do better
    found = {count: packed(replace(alone, nodes=count), stage, pipe=plan.group_pipes) for count in plan.group_sizes}
    return GroupSizes(found)
