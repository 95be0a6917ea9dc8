"""The time without service when the leader's process is killed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median
from typing import Final

from rich.table import Table

from rayraft.bench import figures
from rayraft.bench.faults import Ambush, wait_until_whole
from rayraft.bench.figures import Figure, table
from rayraft.bench.journal import clock
from rayraft.bench.load import PUT, Load, LoadResult, Style
from rayraft.bench.progress import Stage
from rayraft.bench.run import run_load
from rayraft.bench.sections.plan import Plan, Section
from rayraft.bench.stats import format_duration
from rayraft.bench.witness import Verification

KILL_WINDOW_SECONDS: Final = 3.0  # the time without service is looked for in this long after a kill
PICTURE_SECONDS: Final = 0.02  # of one step of the picture


@dataclass(frozen=True, slots=True)
class Failover(Section):
    """Times in seconds, one for each kill of the leader's process."""

    without_service: list[float]
    node_back: list[float]
    commands: int
    verification: Verification
    # Around the last kill, in seconds since it: commands per second, and what happened when.
    timeline: list[tuple[float, float]] = field(default_factory=list)
    events: list[tuple[float, str]] = field(default_factory=list)

    @property
    def p50(self) -> float:
        return median(self.without_service)

    @property
    def intact(self) -> bool:
        return self.verification.intact

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

    def figures(self) -> Iterable[Figure]:
        yield figures.seconds("without_service.p50", self.p50)
        yield figures.seconds("without_service.max", max(self.without_service))
        yield figures.seconds("node_back.p50", median(self.node_back))


def kills(plan: Plan, stage: Stage) -> Failover:
    """One client writes all the time, one command after another."""
    gaps: list[float] = []
    backs: list[float] = []
    commands = 0
    timeline: list[tuple[float, float]] = []
    events: list[tuple[float, str]] = []
    with plan.group(stage, plan.put_bytes) as (handle, witness):
        with stage.phase(f"Killing the leader, {plan.kills} times", plan.kills) as phase:
            for count in range(plan.kills):
                load = Load(
                    PUT, plan.records_of(plan.put_bytes), Style.CLOSED, 1, seconds=KILL_WINDOW_SECONDS + 0.5, seed=count
                )
                wait_until_whole(handle.cluster)
                ambush = Ambush(handle.cluster, 0.5)
                result = run_load(handle, load, witness, ambush.lie_in_wait)
                ambush.join()
                if ambush.error is not None or ambush.kill is None:
                    raise ambush.error or RuntimeError("the leader was not killed")
                kill = ambush.kill
                end = result.recorder.timeline.origin + result.seconds
                gaps.append(result.recorder.timeline.longest_gap(kill.at, max(kill.at, end)).seconds)
                backs.append((kill.back_at or clock()) - kill.at)
                commands += result.commands
                timeline = around(result, kill.at)
                events = [(0.0, "leader killed")]
                if kill.led_at is not None:
                    events.append((kill.led_at - kill.at, f"node {kill.new_leader} leads"))
                if kill.back_at is not None and kill.back_at < end:
                    events.append((kill.back_at - kill.at, f"node {kill.node} is back"))
                phase.advance(count + 1, commands)
        wait_until_whole(handle.cluster)
        verification = witness.verify(handle)
    return Failover(gaps, backs, commands, verification, timeline, events)


def around(result: LoadResult, moment: float) -> list[tuple[float, float]]:
    """(seconds since ``moment``, commands per second), in steps fine enough to show a failover."""
    steps = Counter(int((time - moment) // PICTURE_SECONDS) for time in result.recorder.timeline.times)
    if not steps:
        return []
    return [(step * PICTURE_SECONDS, steps[step] / PICTURE_SECONDS) for step in range(min(steps), max(steps) + 1)]
