"""Throughput against offered load: an open loop, so that queueing is not hidden.

Commands arrive by a schedule drawn before (a Poisson process of the offered rate), whether earlier ones are answered or
not, and the latency of each is counted from the moment it was due: a client that can not keep up makes its commands
late, and that is seen. The *knee* is where the power, throughput / mean latency (Kleinrock, 1979), is highest: beyond
it, more load buys more waiting than work.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, Final

from rich.table import Table

from rayraft.bench import figures, floor
from rayraft.bench.figures import Figure, Latency, table
from rayraft.bench.journal import clock
from rayraft.bench.load import PUT, Load, Style
from rayraft.bench.progress import Phase, Stage
from rayraft.bench.run import run_load
from rayraft.bench.sections.plan import Plan, Section
from rayraft.bench.stats import LatencyHistogram, format_rate
from rayraft.bench.witness import Verification, Witness
from rayraft.bench.ycsb import key_name

PATIENCE: Final = 2.0  # a step ends after so many times its length, even if its schedule is not worked off
RELAYS: Final = 100


@dataclass(frozen=True, slots=True)
class Step:
    """One offered load."""

    offered: float  # commands per second
    achieved: float
    latency: Latency  # since each command was due
    late: int  # commands of the schedule that were never sent, for want of time
    errors: dict[str, int]

    @property
    def power(self) -> float:
        return self.achieved / self.latency.mean if self.latency.count else 0.0


@dataclass(frozen=True, slots=True)
class Offered(Section):
    value_size: int
    closed_rate: float  # of a closed loop before: the loads are parts of it
    relay: Latency
    steps: list[Step]
    verification: Verification

    @property
    def intact(self) -> bool:
        return self.verification.intact

    @property
    def knee(self) -> Step:
        return max(self.steps, key=lambda step: step.power)

    @property
    def saturation(self) -> float:
        """The highest throughput of any step."""
        return max(step.achieved for step in self.steps)

    def table(self) -> Table:
        title = f"Open loop: puts of {self.value_size} bytes by a schedule, latency since each was due"
        found = table(title, "offered", "carried", "p50", "p95", "p99", "max", "p50 / relay", "not sent", "failed", "")
        for step in self.steps:
            mark = "knee" if step is self.knee else ""
            ratio = f"{step.latency.p50 / self.relay.p50:.1f} x"
            found.add_row(
                format_rate(step.offered),
                format_rate(step.achieved),
                *step.latency.cells(),
                ratio,
                *_not_answered(step),
                mark,
            )
        return found

    def figures(self) -> Iterable[Figure]:
        yield figures.rate("saturation", self.saturation)
        yield figures.rate("knee", self.knee.achieved)
        yield from self.knee.latency.figures("knee")
        lightest = self.steps[0].latency
        yield from lightest.figures("lightest")
        yield figures.cost("lightest_of_relay.p50", lightest.p50 / self.relay.p50)


def _not_answered(step: Step) -> tuple[str, str]:
    """Commands that are in no latency: of the schedule and never sent, and sent without an answer."""
    return f"{step.late:,}" if step.late else "", f"{sum(step.errors.values()):,}" if step.errors else ""


def offered(plan: Plan, stage: Stage) -> Offered:
    size = plan.put_bytes
    records = plan.records_of(size)
    each = plan.seconds / 2
    with plan.group(stage, size) as (handle, witness):
        with floor.relay() as relay, stage.phase("Bare relays", RELAYS) as phase:
            relayed = floor.interleave([lambda: relay(bytes(size))], blocks=1, per_block=RELAYS, on_block=phase.advance)
        closed = Load(PUT, records, Style.PIPELINED, plan.outstanding, seconds=each, seed=plan.seed)
        with stage.phase("A closed loop, for the loads to offer", each) as phase:
            top = run_load(handle, closed, witness, phase.advance).rate
        steps = []
        for part in sorted(plan.offered):
            with stage.phase(f"Offering {format_rate(part * top)}", each) as phase:
                steps.append(_Step(handle, witness, records, part * top, each, plan.seed).run(phase))
        with stage.phase("Reading every key back", records) as phase:
            verification = witness.verify(handle, phase.advance)
    return Offered(size, top, Latency.of(relayed[0]), steps, verification)


@dataclass(slots=True)
class _Step:
    """One thread sends by the schedule, another takes the answers."""

    handle: Any
    witness: Witness
    records: int
    rate: float
    seconds: float
    seed: int
    histogram: LatencyHistogram = field(default_factory=LatencyHistogram)
    errors: Counter[str] = field(default_factory=Counter)
    answers: SimpleQueue[tuple[float, float, int, int, Any] | None] = field(default_factory=SimpleQueue)

    def run(self, phase: Phase) -> Step:
        collector = threading.Thread(target=self._collect, daemon=True)
        collector.start()
        begin = clock()
        late = self._send(begin, phase)
        self.answers.put(None)
        collector.join()
        achieved = self.histogram.count / (clock() - begin)
        return Step(self.rate, achieved, Latency.of(self.histogram), late, dict(self.errors))

    def _send(self, begin: float, phase: Phase) -> int:
        """How many of the schedule were not sent before the step had to end."""
        dice = random.Random(self.seed)
        put, next_value, queue = self.handle.put, self.witness.next_value, self.answers.put
        due, end, give_up = begin, begin + self.seconds, begin + PATIENCE * self.seconds
        shown = begin
        while (due := due + dice.expovariate(self.rate)) < end:
            now = clock()
            if due > now:
                time.sleep(due - now)
            elif now > give_up:
                return round((end - due) * self.rate)
            if now - shown > 0.1:
                shown = now
                phase.advance(now - begin, self.histogram.count)
            key = int(self.records * dice.random())
            version, value = next_value(key)
            sent = clock()
            try:
                queue((due, sent, key, version, put.remote(key_name(key), value)))
            except Exception as error:
                self._failed(error, key, version, sent)
        return 0

    def _collect(self) -> None:
        while (item := self.answers.get()) is not None:
            due, sent, key, version, result = item
            try:
                result.result()
            except Exception as error:
                self._failed(error, key, version, sent)
            else:
                self.histogram.record(clock() - due)
                self.witness.acknowledge(key, version, sent)

    def _failed(self, error: Exception, key: int, version: int, sent: float) -> None:
        self.errors[type(error).__name__] += 1
        self.witness.journal.unsure(key, version, sent, error)
