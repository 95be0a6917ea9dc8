"""The workloads of YCSB, one after another on one group."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, replace

from rich.table import Table

from rayraft.bench import figures
from rayraft.bench.figures import Figure, table
from rayraft.bench.load import ALL_WORKLOADS, PUT, Load, Style
from rayraft.bench.progress import Stage
from rayraft.bench.sections.plan import PUT_BYTES, Kept, Plan, Section
from rayraft.bench.sections.throughput import Throughput, throughput
from rayraft.bench.stats import format_rate
from rayraft.bench.ycsb import VALUE_SIZE, Workload


@dataclass(frozen=True, slots=True)
class Workloads(Section):
    rows: dict[str, Throughput]  # by name of the workload

    @property
    def intact(self) -> bool:
        return all(row.intact for row in self.rows.values())

    def figures(self) -> Iterable[Figure]:
        for name, row in self.rows.items():
            yield figures.rate(f"{name}.rate", row.rate)
            for kind, latency in row.latency.items():
                yield from latency.figures(f"{name}.{kind}")

    def table(self) -> Table:
        first, *_ = self.rows.values()
        title = f"YCSB, {first.records:,} records: {first.how}"
        found = table(title, "", "", "p50", "p95", "p99", "max", "lost", "linearizable")
        for name, row in self.rows.items():
            about = ALL_WORKLOADS[name].description
            checks = f"{row.lost} of {row.commands:,}", row.verification.history.verdict.value
            found.add_row(f"{name} ({about}), {row.value_size} bytes", format_rate(row.rate), *[""] * 4, *checks)
            for kind, latency in row.latency.items():
                found.add_row(f"  {kind}", format_rate(latency.count / row.seconds), *latency.cells())
            for error, count in row.errors.items():
                found.add_row(f"  failed: {error}", f"{count:,}")
        return found


def workload(plan: Plan, stage: Stage) -> Workloads:
    """Each goes on with what the one before has left, so one that inserts had better be last (YCSB's own advice)."""
    with contextlib.nullcontext(plan.kept) if plan.kept else contextlib.closing(Kept()) as kept:
        plan = replace(plan, kept=kept)
        return Workloads({one.name: _measure(plan, stage, one) for one in plan.workloads})


def _measure(plan: Plan, stage: Stage, chosen: Workload) -> Throughput:
    style, width = (Style.CLOSED, plan.clients) if plan.clients else (Style.PIPELINED, plan.outstanding)
    size = plan.value_size or (PUT_BYTES if chosen.name == PUT.name else VALUE_SIZE)
    load = Load(chosen, plan.records_of(size), style, width, seconds=plan.seconds, seed=plan.seed)
    return throughput(plan, stage, load, size, f"Workload {chosen.name}: {chosen.description}")
