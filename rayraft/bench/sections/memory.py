"""What the nodes hold and write: memory as the commands go through, and bytes on the disk for each of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from rayraft.bench import figures
from rayraft.bench.faults import wait_until_whole
from rayraft.bench.figures import Figure, table
from rayraft.bench.load import PUT, Load, Style
from rayraft.bench.places import on_machine_of, reports_of
from rayraft.bench.progress import Stage
from rayraft.bench.run import run_load
from rayraft.bench.sections.plan import Plan, Section
from rayraft.bench.stats import format_rate, format_size
from rayraft.bench.ycsb import key_name
from rayraft.client.handle import Handle


@dataclass(frozen=True, slots=True)
class Sample:
    commands: int
    rss_bytes: dict[int, int]
    disk_bytes: int
    log_entries: int


@dataclass(frozen=True, slots=True)
class Memory(Section):
    """What the nodes hold after so many commands; the records are overwritten, so that only the log grows."""

    value_size: int
    batch: int
    samples: list[Sample]
    intact: bool = True

    @property
    def growth(self) -> int:
        """The most that a node grew over the second half, in bytes: a log kept in memory would show here."""
        middle, end = self.samples[len(self.samples) // 2], self.samples[-1]
        return max(end.rss_bytes[node] - middle.rss_bytes[node] for node in end.rss_bytes)

    def table(self) -> Table:
        nodes = sorted(self.samples[0].rss_bytes)
        columns = [f"memory of node {node}" for node in nodes]
        found = table("Memory and disk as the commands go through", "commands", *columns, "log entries", "disk (all)")
        for sample in self.samples:
            memory = [format_size(sample.rss_bytes[node]) for node in nodes]
            found.add_row(f"{sample.commands:,}", *memory, f"{sample.log_entries:,}", format_size(sample.disk_bytes))
        found.add_row("growth over the second half", format_size(self.growth) if self.growth > 0 else "none")
        return found

    def figures(self) -> Iterable[Figure]:
        end = self.samples[-1]
        yield figures.size("growth", max(0, self.growth))
        yield figures.size("highest", max(end.rss_bytes.values()))
        yield figures.size("disk", end.disk_bytes)


def memory(plan: Plan, stage: Stage) -> Memory:
    steps = 8
    each = max(1, plan.memory_commands // steps)
    batch = min(plan.batch, each)
    with plan.group(stage, plan.put_bytes) as (handle, witness):
        samples = [_sample(handle, 0)]
        with stage.phase(f"{plan.memory_commands:,} commands", steps * each) as phase:
            for step in range(steps):
                load = Load(
                    PUT,
                    plan.records_of(plan.put_bytes),
                    Style.PACKED,
                    plan.in_flight,
                    batch,
                    operations=each,
                    seed=step,
                )
                done = step * each
                run_load(handle, load, witness, lambda _, count, done=done: phase.advance(done + count))  # type: ignore[misc]
                wait_until_whole(handle.cluster)
                samples.append(_sample(handle, done + each))
        with stage.phase("Reading every key back", plan.records_of(plan.put_bytes)) as phase:
            intact = witness.verify(handle, phase.advance).intact
    return Memory(plan.put_bytes, batch, samples, intact)


def _sample(handle: Handle, commands: int) -> Sample:
    reports = reports_of(handle)
    return Sample(
        commands,
        {report.node_id: report.rss_bytes for report in reports},
        sum(report.disk_bytes for report in reports),
        max(report.replica.last_index - report.replica.first_index + 1 for report in reports if report.replica),
    )


# --- bytes written ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Written:
    """By one shape of load: bytes that each node's process sent to its disk for one command, on average."""

    shape: str
    commands: int
    rate: float
    node_bytes: float
    amplification: float  # node_bytes / the bytes of key and value


@dataclass(frozen=True, slots=True)
class Writes(Section):
    value_size: int
    payload: int  # bytes of a key and its value
    rows: list[Written]
    intact: bool = True

    def table(self) -> Table:
        found = table(
            f"Bytes written by each node for a put of {self.payload} bytes",
            "",
            "commands",
            "",
            "bytes",
            "amplification",
        )
        for row in self.rows:
            cells = (f"{row.commands:,}", format_rate(row.rate), f"{row.node_bytes:,.0f}", f"{row.amplification:.2f} x")
            found.add_row(row.shape, *cells)
        return found

    def figures(self) -> Iterable[Figure]:
        for row in self.rows:
            yield figures.cost(f"{row.shape}.amplification", row.amplification)


def writes(plan: Plan, stage: Stage) -> Writes:
    """From the kernel's account of each process: log, tables, compaction and snapshots, whatever reached the disk."""
    payload = plan.put_bytes + len(key_name(0))
    shapes = (
        ("sequential", Style.CLOSED, 1),
        ("single", Style.PIPELINED, plan.outstanding),
        ("packed", Style.PACKED, plan.in_flight),
    )
    rows = []
    with plan.group(stage, plan.put_bytes) as (handle, witness):
        for shape, style, width in shapes:
            load = Load(
                PUT, plan.records_of(plan.put_bytes), style, width, plan.batch, plan.seconds / 2, seed=plan.seed
            )
            with stage.phase(f"Bytes written: {shape} puts", load.seconds) as phase:
                wait_until_whole(handle.cluster)
                before = written_bytes(handle)
                result = run_load(handle, load, witness, phase.advance)
                wait_until_whole(handle.cluster)
                after = written_bytes(handle)
            each = [(after[node] - before[node]) / max(1, result.commands) for node in before.keys() & after.keys()]
            mean = sum(each) / len(each) if each else float("nan")
            rows.append(Written(shape, result.commands, result.rate, mean, mean / payload))
        with stage.phase("Reading every key back", plan.records_of(plan.put_bytes)) as phase:
            intact = witness.verify(handle, phase.advance).intact
    return Writes(plan.put_bytes, payload, rows, intact)


def written_bytes(handle: Handle) -> dict[int, int]:
    """What the kernel counts as sent to a disk by each node's process so far; asked on the node's own machine."""
    found = {report.node_id: on_machine_of(report, _written_bytes, report.pid) for report in reports_of(handle)}
    return {node: count for node, count in found.items() if count is not None}


def _written_bytes(pid: int) -> int | None:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/io").read_text().splitlines():
            if line.startswith("write_bytes:"):
                return int(line.split()[1])
    return None
