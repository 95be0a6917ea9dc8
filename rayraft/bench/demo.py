"""`rayraft demo`: real load on three nodes, the leader's process killed in the middle of it, and what came of that."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rayraft.bench.faults import Ambush, Kill, wait_until_whole
from rayraft.bench.figures import Latency, surroundings, table
from rayraft.bench.load import WRITES, Load, LoadResult, Style
from rayraft.bench.plot import throughput_timeline
from rayraft.bench.progress import Phase, Stage
from rayraft.bench.run import load_records, run_load
from rayraft.bench.session import Disks, store
from rayraft.bench.stats import LatencyHistogram, format_duration, format_rate
from rayraft.bench.witness import Verification, Witness
from rayraft.bench.ycsb import VALUE_SIZE, WORKLOADS, Operation, Workload
from rayraft.client.handle import Handle
from rayraft.history import Report, Verdict

GAP_SECONDS: Final = 10.0  # how long after the kill the time without service is looked for


@dataclass(frozen=True, slots=True)
class DemoPlan:
    workload: Workload = WORKLOADS["A"]
    seconds: float = 20.0
    records: int = 10_000
    nodes: int = 3
    value_size: int = VALUE_SIZE
    outstanding: int = 256
    out: Path = Path("demo-out")
    seed: int = 0
    disks: Disks = field(default_factory=Disks)

    def loads(self) -> list[Load]:
        """The chosen workload, then the write-only one for half the time."""
        chosen = Load(
            self.workload, self.records, Style.PIPELINED, self.outstanding, seconds=self.seconds, seed=self.seed
        )
        if self.workload.name == "W":
            return [chosen]
        writes = Load(
            WORKLOADS["W"], self.records, Style.PIPELINED, self.outstanding, seconds=self.seconds / 2, seed=self.seed
        )
        return [chosen, writes]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one workload with its kill has shown. Times in seconds."""

    workload: str
    operations: int
    commands: int
    seconds: float
    rate: float
    latency: dict[str, Latency]  # "read", "write"
    without_service: float
    killed_node: int
    new_leader: int | None
    led_after: float | None
    back_after: float | None
    errors: dict[str, int]
    stale_reads: int
    verification: Verification
    digests: dict[int, tuple[int, str]]  # (applied index, hash of the state) by node
    hashes_agree: bool
    picture: str | None

    @property
    def good(self) -> bool:
        return self.verification.intact and not self.stale_reads and self.hashes_agree


def run_demo(plan: DemoPlan, console: Console) -> list[Outcome]:
    """Run it and print what happens; the outcomes also go to ``plan.out/demo.json``."""
    stage = Stage(console)
    plan.out.mkdir(parents=True, exist_ok=True)
    stage.say(
        f"[bold]rayraft demo[/]: {plan.nodes} Raft nodes, each an actor in Ray with a RocksDB of its own. "
        "A write is answered when it is on the disks of a majority. "
        "In the middle of the load the leader's process is killed.\n"
    )
    with stage.phase("Starting the nodes"):
        group = store(plan.disks, nodes=plan.nodes)
        handle = group.__enter__()
    try:
        outcomes = _run_all(plan, stage, handle)
    finally:
        group.__exit__(None, None, None)
    (plan.out / "demo.json").write_text(
        json.dumps(
            {"surroundings": surroundings(), "outcomes": [asdict(one) for one in outcomes]}, indent=2, default=str
        )
        + "\n"
    )
    _conclude(plan, stage, outcomes)
    return outcomes


def _run_all(plan: DemoPlan, stage: Stage, handle: Handle) -> list[Outcome]:
    reports = handle.cluster.status()
    leader = handle.cluster.leader()
    processes = ", ".join(f"node {node} is process {report.pid}" for node, report in sorted(reports.items()))
    stage.say(f"[green]✓[/] {processes}; node {leader} leads")
    witness = Witness(plan.value_size, plan.seed)
    with stage.phase(f"Loading {plan.records:,} records", plan.records) as phase:
        load_records(handle, witness, plan.records, phase.advance)
    stage.say(f"[green]✓[/] {plan.records:,} records of {plan.value_size:,} bytes loaded")
    return [_run_one(plan, stage, handle, witness, load) for load in plan.loads()]


def _run_one(plan: DemoPlan, stage: Stage, handle: Handle, witness: Witness, load: Load) -> Outcome:
    assert load.seconds is not None
    wait_until_whole(handle.cluster)
    stage.say(f"\n[bold]{_title(load)}[/] for {load.seconds:g} s")
    with stage.phase(f"workload {load.workload.name}", load.seconds) as phase:
        story = _Story(phase, load.seconds / 2)
        ambush = Ambush(handle.cluster, load.seconds / 2, on_change=lambda: story.tell(ambush.kill))
        ambush.start()
        result = run_load(handle, load, witness, phase.advance)
        ambush.join()
    if ambush.error is not None:
        raise ambush.error
    assert ambush.kill is not None
    with stage.phase("reading every key back", plan.records) as phase:
        verification = witness.verify(handle, phase.advance)
    stage.say(f"  history linearizable: {_verdict(verification.history)}")
    with stage.phase("comparing the replicas' states"):
        wait_until_whole(handle.cluster)
        digests = handle.cluster.wait_until_equal()
    picture = _draw(plan, stage, result, ambush.kill)
    return _outcome(plan, result, ambush.kill, verification, digests, picture)


class _Story:
    """Tells each thing once, when it has happened."""

    def __init__(self, phase: Phase, planned_at: float) -> None:
        self._phase = phase
        self._planned_at = planned_at
        self._told: set[str] = set()

    def tell(self, kill: Kill | None) -> None:
        if kill is None:
            return
        self._once(
            f"  [red]✗[/] after {self._planned_at:g} s: SIGKILL to process {kill.pid}, node {kill.node}, the leader"
        )
        if kill.led_at is not None:
            after = format_duration(kill.led_at - kill.at)
            self._once(f"  [green]✓[/] {after} later: node {kill.new_leader} leads")
        if kill.back_at is not None:
            after = format_duration(kill.back_at - kill.at)
            self._once(f"  [green]✓[/] {after} later: node {kill.node} is back, restarted by Ray, and has caught up")

    def _once(self, line: str) -> None:
        if line not in self._told:
            self._told.add(line)
            self._phase.say(line)


def _outcome(
    plan: DemoPlan,
    result: LoadResult,
    kill: Kill,
    verification: Verification,
    digests: dict[int, tuple[int, str]],
    picture: Path | None,
) -> Outcome:
    timeline = result.recorder.timeline
    end = min(kill.at + GAP_SECONDS, timeline.origin + result.seconds)
    return Outcome(
        workload=result.load.workload.name,
        operations=result.operations,
        commands=result.commands,
        seconds=result.seconds,
        rate=result.rate,
        latency={
            name: found
            for name, kinds in (("read", (Operation.READ,)), ("write", WRITES))
            if (found := _latency(result, kinds))
        },
        without_service=timeline.longest_gap(kill.at, max(kill.at, end)).seconds,
        killed_node=kill.node,
        new_leader=kill.new_leader,
        led_after=None if kill.led_at is None else kill.led_at - kill.at,
        back_after=None if kill.back_at is None else kill.back_at - kill.at,
        errors=dict(result.recorder.errors),
        stale_reads=result.recorder.stale_reads,
        verification=verification,
        digests=digests,
        hashes_agree=len(digests) == plan.nodes and len(set(digests.values())) == 1,
        picture=None if picture is None else str(picture),
    )


def _latency(result: LoadResult, kinds: tuple[Operation, ...]) -> Latency | None:
    total = LatencyHistogram()
    for kind, histogram in result.recorder.latencies.items():
        if kind in kinds:
            total.merge(histogram)
    return Latency.of(total) if total.count else None


def _draw(plan: DemoPlan, stage: Stage, result: LoadResult, kill: Kill) -> Path | None:
    path = plan.out / f"throughput-{result.load.workload.name}.png"
    timeline = result.recorder.timeline
    origin = timeline.origin
    events = [(kill.at - origin, f"leader (node {kill.node}) killed")]
    if kill.led_at is not None:
        events.append((kill.led_at - origin, f"node {kill.new_leader} leads"))
    if kill.back_at is not None:
        events.append((kill.back_at - origin, f"node {kill.node} back"))
    points = timeline.points()[:-1]  # the last interval was cut short
    try:
        throughput_timeline(path, points, events=events, title=f"{_title(result.load)}, on {plan.nodes} nodes")
    except ImportError as error:
        stage.say(f"[yellow]The picture is left out: {escape(str(error))}[/]")
        return None
    return path


def _title(load: Load) -> str:
    shares = ", ".join(f"{share:.0%} {kind.value}" for kind, share in load.workload.proportions.items() if share)
    name = "Write-only load W" if load.workload.name == "W" else f"YCSB {load.workload.name}"
    return f"{name}: {shares}"


# --- the end ----------------------------------------------------------------------------------------------------------


def _conclude(plan: DemoPlan, stage: Stage, outcomes: list[Outcome]) -> None:
    stage.console.print()
    stage.console.print(_table(outcomes))
    for outcome in outcomes:
        for example in outcome.verification.examples:
            stage.say(f"[red]{outcome.workload}: {example}[/]")
        if story := outcome.verification.history.explain():
            stage.say(escape(story))
    pictures = [outcome.picture for outcome in outcomes if outcome.picture is not None]
    if pictures:
        stage.say(f"Throughput over time: {', '.join(pictures)}")
    if all(outcome.good for outcome in outcomes):
        stage.say(
            "[bold green]The leader died in the middle of the load, and nothing that was acknowledged was lost.[/]"
        )
    else:
        stage.say("[bold red]Something acknowledged was lost, or the replicas differ: this is a bug.[/]")


def _table(outcomes: list[Outcome]) -> Table:
    found = table("", "", *(f"YCSB {one.workload}" if one.workload != "W" else "write-only W" for one in outcomes))
    for name, cell in _ROWS:
        cells = [cell(outcome) for outcome in outcomes]
        if any(cells):
            found.add_row(name, *cells)
    return found


def _percentiles(kind: str, outcome: Outcome) -> str:
    if kind not in outcome.latency:
        return "-"
    latency = outcome.latency[kind]
    return " / ".join(_milliseconds(seconds) for seconds in (latency.p50, latency.p95, latency.p99))


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:,.0f}" if seconds >= 0.1 else f"{seconds * 1e3:.1f}"


def _yes_or_no(good: bool, yes: str, no: str) -> str:
    return f"[green]{yes}[/]" if good else f"[bold red]{no}[/]"


def _verdict(history: Report) -> str:
    style = {Verdict.LINEARIZABLE: "green", Verdict.VIOLATED: "bold red"}.get(history.verdict, "yellow")
    return f"[{style}]{history}[/]"


def _lost(outcome: Outcome) -> str:
    lost = outcome.verification.lost + outcome.verification.damaged
    return _yes_or_no(not lost, "0", f"{lost:,}")


def _after(seconds: float | None) -> str:
    return "-" if seconds is None else f"after {format_duration(seconds)}"


_ROWS: Final[list[tuple[str, Callable[[Outcome], str]]]] = [
    ("operations", lambda one: f"{one.operations:,} in {format_duration(one.seconds)}"),
    ("rate", lambda one: format_rate(one.rate)),
    ("commands committed", lambda one: f"{one.commands:,}"),
    ("read, ms: p50 / p95 / p99", partial(_percentiles, "read")),
    ("write, ms: p50 / p95 / p99", partial(_percentiles, "write")),
    ("time without service at the kill", lambda one: format_duration(one.without_service)),
    ("new leader", lambda one: "-" if one.new_leader is None else f"node {one.new_leader}, {_after(one.led_after)}"),
    ("killed node back", lambda one: f"node {one.killed_node}, {_after(one.back_after)}"),
    ("operations failed", lambda one: ", ".join(f"{count:,} {error}" for error, count in one.errors.items())),
    ("keys read back and compared", lambda one: f"{one.verification.keys:,}"),
    ("acknowledged commands lost", _lost),
    (
        "stale reads",
        lambda one: _yes_or_no(not one.stale_reads, "0", f"{one.stale_reads:,}"),
    ),
    ("history linearizable", lambda one: _verdict(one.verification.history)),
    ("state hashes of the replicas", lambda one: _yes_or_no(one.hashes_agree, "all equal", "DIFFERENT")),
]
