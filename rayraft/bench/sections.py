"""The sections of `rayraft bench`: each measures one thing on a new group and returns its figures."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

from rich.table import Table

from rayraft.bench import floor
from rayraft.bench.faults import Ambush, wait_until_whole
from rayraft.bench.figures import Latency, table
from rayraft.bench.journal import BENCH_EVERY, Journal, clock
from rayraft.bench.load import PUT, Load, LoadResult, Style, load_records, run_load
from rayraft.bench.progress import Stage
from rayraft.bench.session import Disks, store
from rayraft.bench.stats import Gap, format_duration, format_rate, format_size
from rayraft.bench.witness import Verification, Witness
from rayraft.bench.ycsb import VALUE_SIZE, WORKLOADS, Workload
from rayraft.client.handle import Handle
from rayraft.ray.cluster import Settings
from rayraft.ray.node import NodeReport

PUT_BYTES: Final = 256
KILL_WINDOW_SECONDS: Final = 3.0  # the time without service is looked for in this long after a kill


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
    memory_commands: int = 1_000_000
    seed: int = 0
    disks: Disks = field(default_factory=Disks)
    settings: Settings = field(default_factory=Settings)

    @property
    def put_bytes(self) -> int:
        return self.value_size or PUT_BYTES

    @contextlib.contextmanager
    def group(self, stage: Stage, value_size: int) -> Iterator[tuple[Handle, Witness]]:
        """A new group with every record loaded."""
        with contextlib.ExitStack() as stack:
            with stage.phase(f"Starting {self.nodes} nodes"):
                handle = stack.enter_context(store(self.disks, nodes=self.nodes, settings=self.settings))
            witness = Witness(value_size, self.seed, Journal(BENCH_EVERY))
            with stage.phase(f"Loading {self.records:,} records of {value_size} bytes", self.records) as phase:
                load_records(handle, witness, self.records, phase.advance)
            yield handle, witness


# --- one command at a time --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sequential:
    """One client, one command at a time, and the floors measured in the same minutes."""

    value_size: int
    commit: Latency
    read: Latency
    relay: Latency
    synced_write: Latency
    ratio_p50: float
    ratio_p99: float

    def table(self) -> Table:
        found = table("One client, one command at a time", "", "p50", "p95", "p99", "max")
        for name, latency in (
            (f"put of {self.value_size} bytes", self.commit),
            ("linearizable read", self.read),
            ("floor: bare relay driver → actor → actor", self.relay),
            ("floor: bare synced RocksDB write", self.synced_write),
        ):
            found.add_row(name, *latency.cells())
        found.add_row("put / relay", f"{self.ratio_p50:.2f} x", "", f"{self.ratio_p99:.2f} x", "")
        return found


def sequential(plan: Plan, stage: Stage) -> Sequential:
    blocks = 20
    per_block = max(1, plan.sequential // blocks)
    size = plan.put_bytes
    value = bytes(size)
    with plan.disks.directory() as directory, plan.group(stage, size) as (handle, _):
        total = 4 * blocks * per_block
        title = "One command at a time, in turns with bare relays and synced writes"
        with (
            floor.relay() as relay,
            floor.synced_writer(directory) as write,
            stage.phase(title, total) as phase,
        ):
            calls: list[Callable[[], Any]] = [
                lambda: handle.put("sequential", value),
                lambda: relay(value),
                lambda: handle.get("sequential"),
                lambda: write(value),
            ]
            histograms = floor.interleave(calls, blocks=blocks, per_block=per_block, on_block=phase.advance)
    commit, relayed, read, synced = (Latency.of(histogram) for histogram in histograms)
    return Sequential(size, commit, read, relayed, synced, commit.p50 / relayed.p50, commit.p99 / relayed.p99)


# --- throughput -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Throughput:
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

    @classmethod
    def of(cls, result: LoadResult, value_size: int, verification: Verification) -> Throughput:
        load, recorder = result.load, result.recorder
        return cls(
            workload=load.workload.name,
            style=load.style.value,
            width=load.width,
            batch=load.batch if load.style is Style.PACKED else 1,
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
        )

    def table(self) -> Table:
        kind = "puts" if self.workload == PUT.name else f"YCSB {self.workload}"
        how = {
            Style.CLOSED.value: f"{self.width} clients, one call each",
            Style.PIPELINED.value: f"one client, {self.width} calls under way",
            Style.PACKED.value: f"batches of {self.batch}, {self.width} under way",
        }[self.style]
        found = table(f"{kind} of {self.value_size} bytes: {how}", "", "", "p50", "p95", "p99", "max")
        found.add_row("all operations", format_rate(self.rate))
        for name, latency in self.latency.items():
            found.add_row(name, format_rate(latency.count / self.seconds), *latency.cells())
        lost = self.verification.lost + self.verification.damaged + self.stale_reads
        found.add_row("acknowledged writes lost", f"{lost} of {self.commands:,}")
        found.add_row("history linearizable", str(self.verification.history))
        for error, count in self.errors.items():
            found.add_row(f"failed: {error}", f"{count:,}")
        return found


def _throughput(plan: Plan, stage: Stage, load: Load, value_size: int, title: str) -> Throughput:
    with plan.group(stage, value_size) as (handle, witness):
        with stage.phase(title, load.seconds) as phase:
            result = run_load(handle, load, witness, phase.advance)
        with stage.phase("Reading every key back", load.records) as phase:
            verification = witness.verify(handle, phase.advance)
    return Throughput.of(result, value_size, verification)


def packed(plan: Plan, stage: Stage) -> Throughput:
    load = Load(PUT, plan.records, Style.PACKED, plan.in_flight, plan.batch, plan.seconds, seed=plan.seed)
    return _throughput(plan, stage, load, plan.put_bytes, f"Puts in batches of {plan.batch:,}")


def single(plan: Plan, stage: Stage) -> Throughput:
    load = Load(PUT, plan.records, Style.PIPELINED, plan.outstanding, seconds=plan.seconds, seed=plan.seed)
    return _throughput(plan, stage, load, plan.put_bytes, "Single puts, packed by the client")


def workload(plan: Plan, stage: Stage) -> Throughput:
    style, width = (Style.CLOSED, plan.clients) if plan.clients else (Style.PIPELINED, plan.outstanding)
    load = Load(plan.workload, plan.records, style, width, seconds=plan.seconds, seed=plan.seed)
    size = plan.value_size or (PUT_BYTES if plan.workload is PUT else VALUE_SIZE)
    return _throughput(plan, stage, load, size, f"Workload {plan.workload.name}: {plan.workload.description}")


# --- killing the leader -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Failover:
    """Times in seconds, one for each kill of the leader's process."""

    without_service: list[float]
    node_back: list[float]
    commands: int
    verification: Verification

    @property
    def p50(self) -> float:
        return median(self.without_service)

    def table(self) -> Table:
        found = table(f"{len(self.without_service)} x SIGKILL of the leader's process", "", "p50", "max", "each, ms")
        for name, times in (
            ("time without service", self.without_service),
            ("until the killed node is back", self.node_back),
        ):
            each = " ".join(f"{seconds * 1e3:,.0f}" for seconds in times)
            found.add_row(name, format_duration(median(times)), format_duration(max(times)), each)
        lost = self.verification.lost + self.verification.damaged
        found.add_row("acknowledged writes lost", f"{lost} of {self.commands:,}")
        return found


def kills(plan: Plan, stage: Stage) -> Failover:
    """One client writes all the time, one command after another."""
    gaps: list[Gap] = []
    backs: list[float] = []
    commands = 0
    with plan.group(stage, plan.put_bytes) as (handle, witness):
        with stage.phase(f"Killing the leader, {plan.kills} times", plan.kills) as phase:
            for count in range(plan.kills):
                load = Load(PUT, plan.records, Style.CLOSED, 1, seconds=KILL_WINDOW_SECONDS + 0.5, seed=count)
                wait_until_whole(handle.cluster)
                ambush = Ambush(handle.cluster, 0.5)
                ambush.start()
                result = run_load(handle, load, witness)
                ambush.join()
                if ambush.error is not None or ambush.kill is None:
                    raise ambush.error or RuntimeError("the leader was not killed")
                killed, end = ambush.kill.at, result.recorder.timeline.origin + result.seconds
                gaps.append(result.recorder.timeline.longest_gap(killed, max(killed, end)))
                backs.append((ambush.kill.back_at or clock()) - killed)
                commands += result.commands
                phase.advance(count + 1, commands)
        wait_until_whole(handle.cluster)
        verification = witness.verify(handle)
    return Failover([gap.seconds for gap in gaps], backs, commands, verification)


# --- memory -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Memory:
    """What the nodes hold after so many commands; the records are overwritten, so that only the log grows."""

    value_size: int
    batch: int
    samples: list[Sample]

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


@dataclass(frozen=True, slots=True)
class Sample:
    commands: int
    rss_bytes: dict[int, int]
    disk_bytes: int
    log_entries: int


def memory(plan: Plan, stage: Stage) -> Memory:
    steps = 8
    each = max(1, plan.memory_commands // steps)
    batch = min(plan.batch, each)
    with plan.group(stage, plan.put_bytes) as (handle, witness):
        samples = [_sample(handle, 0)]
        with stage.phase(f"{plan.memory_commands:,} commands", steps * each) as phase:
            for step in range(steps):
                load = Load(PUT, plan.records, Style.PACKED, plan.in_flight, batch, operations=each, seed=step)
                done = step * each
                run_load(handle, load, witness, lambda _, count, done=done: phase.advance(done + count))  # type: ignore[misc]
                wait_until_whole(handle.cluster)
                samples.append(_sample(handle, done + each))
    return Memory(plan.put_bytes, batch, samples)


def _sample(handle: Handle, commands: int) -> Sample:
    reports = [report for report in handle.cluster.reports().values() if isinstance(report, NodeReport)]
    return Sample(
        commands,
        {report.node_id: report.rss_bytes for report in reports},
        sum(report.disk_bytes for report in reports),
        max(report.replica.last_index - report.replica.first_index + 1 for report in reports if report.replica),
    )


Section = Sequential | Throughput | Failover | Memory
SECTIONS: Final[dict[str, Callable[[Plan, Stage], Section]]] = {
    "sequential": sequential,
    "packed": packed,
    "single": single,
    "workload": workload,
    "kills": kills,
    "memory": memory,
}
