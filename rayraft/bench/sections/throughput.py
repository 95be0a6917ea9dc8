"""Puts at full speed: packed by the caller, packed by the client, by many threads or coroutines."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from rich.table import Table

from rayraft.bench import figures, floor
from rayraft.bench.figures import Figure, Latency, table
from rayraft.bench.load import PUT, Load, LoadResult, Style
from rayraft.bench.progress import Stage
from rayraft.bench.run import run_load
from rayraft.bench.sections.plan import Plan, Section
from rayraft.bench.stats import format_rate
from rayraft.bench.witness import Verification
from rayraft.bench.ycsb import key_name


@dataclass(frozen=True, slots=True)
class Throughput(Section):
    """A load at full speed."""

    workload: str
    style: str
    width: int
    batch: int
    value_size: int
    records: int
    operations: int
    commands: int
    seconds: float
    rate: float
    latency: dict[str, Latency]  # by kind of operation
    errors: dict[str, int]
    stale_reads: int
    verification: Verification
    pipe: float | None = None  # commands per second through Ray and synced writes alone, in calls of the same size

    @classmethod
    def of(
        cls, result: LoadResult, value_size: int, verification: Verification, pipe: float | None = None
    ) -> Throughput:
        load, recorder = result.load, result.recorder
        return cls(
            workload=load.workload.name,
            style=load.style.value,
            width=load.width,
            batch=load.batch if load.style in (Style.PACKED, Style.MANY) else 1,
            value_size=value_size,
            records=load.records,
            operations=result.operations,
            commands=result.commands,
            seconds=result.seconds,
            rate=result.rate,
            latency={kind.value: Latency.of(found) for kind, found in recorder.latencies.items()},
            errors=dict(recorder.errors),
            stale_reads=recorder.stale_reads,
            verification=verification,
            pipe=pipe,
        )

    @property
    def intact(self) -> bool:
        return self.verification.intact and not self.stale_reads

    @property
    def lost(self) -> int:
        """Acknowledged writes that are gone or damaged, and reads that did not see one."""
        return self.verification.lost + self.verification.damaged + self.stale_reads

    @property
    def how(self) -> str:
        return {
            Style.CLOSED.value: f"{self.width} clients, one call each",
            Style.AWAITED.value: f"{self.width} coroutines, one call each",
            Style.PIPELINED.value: f"one client, {self.width} calls under way",
            Style.PACKED.value: f"batches of {self.batch}, {self.width} under way",
            Style.MANY.value: f"{self.batch} in one command, {self.width} under way",
        }[self.style]

    def figures(self) -> Iterable[Figure]:
        yield figures.rate("rate", self.rate)
        for kind, latency in self.latency.items():
            yield from latency.figures(kind)
        if self.pipe is not None:
            yield figures.rate("pipe", self.pipe)
            yield figures.share("of_pipe", self.rate / self.pipe)

    def table(self) -> Table:
        found = table(f"puts of {self.value_size} bytes: {self.how}", "", "", "p50", "p95", "p99", "max")
        found.add_row("all operations", format_rate(self.rate))
        for name, latency in self.latency.items():
            found.add_row(name, format_rate(latency.count / self.seconds), *latency.cells())
        if self.pipe is not None:
            found.add_row("floor: the pipe, same bytes a call", format_rate(self.pipe))
            found.add_row("puts / pipe", f"{self.rate / self.pipe:.2f} x")
        found.add_row("acknowledged writes lost", f"{self.lost} of {self.commands:,}")
        found.add_row("history linearizable", str(self.verification.history))
        for error, count in self.errors.items():
            found.add_row(f"failed: {error}", f"{count:,}")
        return found


def throughput(
    plan: Plan, stage: Stage, load: Load, value_size: int, title: str, packed: tuple[int, int] | None = None
) -> Throughput:
    """``packed``: commands that travel in one call, and calls under way; the pipe carries as many bytes."""
    with plan.shared_group(stage, value_size) as (handle, witness), contextlib.ExitStack() as stack:
        measure_pipe = stack.enter_context(_pipe(plan, stage, load, value_size, packed)) if packed is not None else None
        rates = [measure_pipe()] if measure_pipe is not None else []
        with stage.phase(title, load.seconds) as phase:
            result = run_load(handle, load, witness, phase.advance)
        if measure_pipe is not None:
            rates.append(measure_pipe())  # before and after: the machine's speed changes
        stack.close()
        with stage.phase("Reading every key back", load.records) as phase:
            verification = witness.verify(handle, phase.advance)
    return Throughput.of(result, value_size, verification, sum(rates) / len(rates) if rates else None)


@contextlib.contextmanager
def _pipe(
    plan: Plan, stage: Stage, load: Load, value_size: int, packed: tuple[int, int]
) -> Iterator[Callable[[], float]]:
    """A function that measures how many commands a second the pipe carries."""
    commands, calls = packed
    payload = commands * floor.put_bytes(value_size, key_name(0))
    with (
        plan.disks.directory() as directory,
        floor.pipe(directory, plan.nodes, calls, fsync=plan.settings.fsync) as pipe,
    ):
        with stage.phase("Starting the pipe"):
            pipe(bytes(payload))

        def measure() -> float:
            with stage.phase("The pipe"):
                return pipe.flow(payload, calls, (load.seconds or 1) / 4).rate * commands

        yield measure


def packed(plan: Plan, stage: Stage, *, pipe: bool = True) -> Throughput:
    load = Load(
        PUT, plan.records_of(plan.put_bytes), Style.PACKED, plan.in_flight, plan.batch, plan.seconds, seed=plan.seed
    )
    shape = (plan.batch, plan.in_flight) if pipe else None
    return throughput(plan, stage, load, plan.put_bytes, f"Puts in batches of {plan.batch:,}", shape)


def single(plan: Plan, stage: Stage) -> Throughput:
    load = Load(
        PUT, plan.records_of(plan.put_bytes), Style.PIPELINED, plan.outstanding, seconds=plan.seconds, seed=plan.seed
    )
    client = plan.settings.client
    each = floor.put_bytes(plan.put_bytes, key_name(0))
    together = max(1, min(client.packet_bytes // each, client.packet_calls, plan.outstanding))
    shape = (together, max(1, min(client.max_window, plan.outstanding // together)))
    return throughput(plan, stage, load, plan.put_bytes, "Single puts, packed by the client", shape)


def callers(plan: Plan, stage: Stage) -> Throughput:
    """As many threads as a service has requests, each one put at a time, through one client."""
    return _callers(plan, stage, Style.CLOSED, "threads")


def coroutines(plan: Plan, stage: Stage) -> Throughput:
    """The same with coroutines of one event loop: Python wakes them far more cheaply than threads."""
    return _callers(plan, stage, Style.AWAITED, "coroutines")


def _callers(plan: Plan, stage: Stage, style: Style, kind: str) -> Throughput:
    load = Load(PUT, plan.records_of(plan.put_bytes), style, plan.callers, seconds=plan.seconds, seed=plan.seed)
    return throughput(plan, stage, load, plan.put_bytes, f"{plan.callers} {kind}, each one put at a time")
