"""Snapshots under load, and how long a node takes to come back with a long log."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

import ray
from rich.table import Table

from rayraft.bench import figures
from rayraft.bench.faults import wait_until_whole
from rayraft.bench.figures import Figure, table
from rayraft.bench.journal import clock
from rayraft.bench.load import PUT, Load, Style
from rayraft.bench.progress import Phase, Stage
from rayraft.bench.run import run_load
from rayraft.bench.sections.plan import Plan, Section
from rayraft.bench.stats import Timeline, format_duration, format_rate
from rayraft.client.handle import Handle
from rayraft.errors import NoQuorum
from rayraft.ray.cluster import Cluster
from rayraft.ray.settings import Settings
from rayraft.ray.spec import NodeReport

NEVER: Final = 1 << 62
WAIT_SECONDS: Final = 600.0  # for a snapshot, or for a node to come back
POLL_SECONDS: Final = 0.01
CALLERS: Final = 8  # that keep the node busy while it saves its state


def _without_snapshots(settings: Settings) -> Settings:
    """None but those that the bench asks for."""
    return replace(settings, snapshot_entries=NEVER, snapshot_bytes=NEVER)


def _replicas(cluster: Cluster) -> dict[int, Any]:
    reports = cluster.reports()
    return {node: report.replica for node, report in reports.items() if isinstance(report, NodeReport)}


# --- snapshots under load ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Snapshots(Section):
    """One pause for each snapshot; the quiet ones are from some seconds of the load before it."""

    keys: int
    value_size: int
    took: list[float]  # until every node had written its own and cut its log
    pauses: list[float]  # the longest without a commit meanwhile
    quiet_pauses: list[float]
    rate: float  # commands per second, snapshots included
    intact: bool

    def table(self) -> Table:
        title = f"{len(self.took)} snapshots of {self.keys:,} keys under load ({format_rate(self.rate)})"
        found = table(title, "", "longest", "each, ms")
        for name, times in (
            ("until all nodes were done", self.took),
            ("longest pause of commits", self.pauses),
            ("longest pause before, without", self.quiet_pauses),
        ):
            each = " ".join(f"{seconds * 1e3:,.0f}" for seconds in times)
            found.add_row(name, format_duration(max(times)), each)
        return found

    def figures(self) -> Iterable[Figure]:
        yield figures.seconds("pause", max(self.pauses))
        yield figures.seconds("quiet_pause", max(self.quiet_pauses))
        if max(self.quiet_pauses) > 0:  # else there was no load before
            yield figures.cost("pause_of_quiet", max(self.pauses) / max(self.quiet_pauses))
        yield figures.seconds("took", max(self.took))
        yield figures.rate("rate", self.rate)


@dataclass(slots=True)
class Trigger:
    """Beside a load: waits until it has run for a while, has every node take a snapshot, waits until all have, and ends
    the load.
    """

    cluster: Cluster
    delay: float
    started: threading.Event = field(default_factory=threading.Event)  # making the puts takes seconds
    over: threading.Event = field(default_factory=threading.Event)
    asked: float = 0.0
    done: float = 0.0
    ended: float = 0.0  # the load, from here on: what its clients have made for it goes, which is no pause of commits
    error: Exception | None = None

    def tick(self, phase: Phase, elapsed: float, done: int) -> None:
        """The load runs."""
        self.started.set()
        phase.advance(elapsed, done)

    def run(self) -> None:
        try:
            self.started.wait()
            time.sleep(self.delay)
            before = {node: replica.snapshot for node, replica in _replicas(self.cluster).items()}
            self.asked = clock()
            self.cluster.take_snapshot()
            while clock() < self.asked + WAIT_SECONDS:
                now = _replicas(self.cluster)
                if all(node in now and now[node].snapshot > index for node, index in before.items()):
                    self.done = clock()
                    time.sleep(self.delay / 4)  # the log is cut
                    return
                time.sleep(POLL_SECONDS)
            raise TimeoutError(f"no snapshot within {WAIT_SECONDS} s")
        except Exception as error:
            self.error = error
        finally:
            self.ended = clock()
            self.over.set()

    def pauses(self, timeline: Timeline) -> tuple[float, float]:
        """The longest from when the snapshots were asked for until their logs were cut, and before. In seconds."""
        begin = min(timeline.times, default=self.asked)  # the client's start is no pause
        quiet = timeline.longest_gap(min(begin, self.asked), self.asked)
        return timeline.longest_gap(self.asked, self.ended).seconds, quiet.seconds


def snapshots(plan: Plan, stage: Stage) -> Snapshots:
    keys = plan.snapshot_keys
    took, pauses, quiet, rates = [], [], [], []
    settings = _without_snapshots(plan.settings)
    with plan.group(stage, plan.put_bytes, records=keys, settings=settings) as (handle, witness):
        for count in range(plan.snapshots):
            trigger = Trigger(handle.cluster, plan.seconds / 2)
            thread = threading.Thread(target=trigger.run, daemon=True)
            # One command at a time each: what one answer carries does not hide how often there is one.
            load = Load(PUT, keys, Style.CLOSED, CALLERS, seconds=WAIT_SECONDS, seed=count)
            with stage.phase(f"Snapshot {count + 1} of {plan.snapshots} under load") as phase:
                thread.start()
                result = run_load(handle, load, witness, partial(trigger.tick, phase), until=trigger.over)
                thread.join()
            if trigger.error is not None:
                raise trigger.error
            took.append(trigger.done - trigger.asked)
            pause, before = trigger.pauses(result.recorder.timeline)
            pauses.append(pause)
            quiet.append(before)
            rates.append(result.rate)
        with stage.phase("Reading every key back", keys) as phase:
            intact = witness.verify(handle, phase.advance).intact
    return Snapshots(keys, plan.put_bytes, took, pauses, quiet, sum(rates) / len(rates), intact)


# --- recovery ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Comeback:
    """A follower's process was killed and had so many commands behind its last snapshot."""

    commands: int  # since the records were loaded
    seconds: float  # until it had applied all that was committed
    replay: float  # of these, from opening its disk until it had applied all that was committed by what the disk says


@dataclass(frozen=True, slots=True)
class Recovery(Section):
    value_size: int
    batch: int
    points: list[Comeback]
    intact: bool = True

    @property
    def replay(self) -> float:
        """Commands per second: the slope of a line through all points, so that opening the disk does not count."""
        xs, ys = [point.commands for point in self.points], [point.replay for point in self.points]
        x, y = sum(xs) / len(xs), sum(ys) / len(ys)
        slope = sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True)) / (sum((a - x) ** 2 for a in xs) or 1)
        return 1 / slope if slope > 0 else float("nan")

    def table(self) -> Table:
        title = f"A follower is killed and comes back (batches of {self.batch:,}, values of {self.value_size} bytes)"
        found = table(title, "commands since the last snapshot", "until it is back", "of it opening and replaying")
        for point in self.points:
            found.add_row(f"{point.commands:,}", format_duration(point.seconds), format_duration(point.replay))
        found.add_row("replay", "", format_rate(self.replay))
        return found

    def figures(self) -> Iterable[Figure]:
        if self.replay == self.replay:  # too few commands show no slope
            yield figures.rate("replay", self.replay)
        yield figures.seconds("longest", self.points[-1].seconds)


def recovery(plan: Plan, stage: Stage) -> Recovery:
    points: list[Comeback] = []
    written, records = 0, plan.records_of(plan.put_bytes)
    with plan.group(stage, plan.put_bytes, settings=_without_snapshots(plan.settings)) as (handle, witness):
        for part in plan.recovery_parts:
            more = max(1, round(part * plan.recovery_commands) - written)
            batch = min(plan.batch, more)
            load = Load(PUT, records, Style.PACKED, plan.in_flight, batch, operations=more, seed=len(points))
            with stage.phase(f"{more:,} commands more", more) as phase:
                run_load(handle, load, witness, lambda _, done, phase=phase: phase.advance(done))  # type: ignore[misc]
            written += more
            with stage.phase("Killing a follower, and waiting for it"):
                points.append(Comeback(written, *_come_back(handle)))
        with stage.phase("Reading every key back", records) as phase:
            intact = witness.verify(handle, phase.advance).intact
    return Recovery(plan.put_bytes, plan.batch, points, intact)


def _come_back(handle: Handle) -> tuple[float, float]:
    """Kill a follower; seconds until it is back, and of these, until its own disk's part was applied."""
    cluster = handle.cluster
    wait_until_whole(cluster, WAIT_SECONDS)
    leader = cluster.leader()
    follower = next((node for node in cluster.nodes if node != leader), leader)
    before = cluster.reports()[follower]
    assert isinstance(before, NodeReport)
    assert before.replica is not None
    begin = clock()
    ray.kill(cluster.actor(follower), no_restart=False)  # on whatever machine it is
    while clock() < begin + WAIT_SECONDS:
        try:
            report = ray.get(cluster.actor(follower).report.remote(), timeout=WAIT_SECONDS)
        except ray.exceptions.RayError:  # it is coming up
            time.sleep(POLL_SECONDS)
            continue
        if report.pid != before.pid and report.replica is not None and report.replica.applied >= before.replica.commit:
            assert report.recovery is not None
            return clock() - begin, report.recovery
        time.sleep(POLL_SECONDS)
    raise NoQuorum(f"node {follower} was not back within {WAIT_SECONDS} s")
