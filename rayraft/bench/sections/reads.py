"""Reads of each kind: one at a time, many under way that the client packs, and many keys in one query."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from rich.table import Table

from rayraft.bench import figures, floor
from rayraft.bench.figures import Figure, Latency, table
from rayraft.bench.journal import clock
from rayraft.bench.load import PUT, Load, Style
from rayraft.bench.progress import Stage
from rayraft.bench.run import run_load
from rayraft.bench.sections.plan import Plan, Section
from rayraft.bench.stats import format_rate
from rayraft.bench.witness import Witness, version_of
from rayraft.bench.ycsb import WORKLOADS, Distribution, key_name
from rayraft.client.handle import Handle

STALENESS_SECONDS: Final = 10.0
CLOCK_DRIFT: Final = 0.01  # reads by lease need a bound
BLOCKS: Final = 20
GET: Final = replace(WORKLOADS["C"], name="get", description="gets", distribution=Distribution.UNIFORM)


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of read; rates in keys per second."""

    name: str
    one: Latency
    single: float
    packed: float
    stale: int  # values older than what was acknowledged before

    def of_call(self, call: Latency) -> float:
        return self.one.p50 / call.p50


@dataclass(frozen=True, slots=True)
class ReadKinds(Section):
    value_size: int
    batch: int
    call: Latency
    put_rate: float  # packed puts, in the same minutes
    answers: float  # keys per second that bare calls carry, with answers of the same size
    kinds: list[Kind]

    @property
    def intact(self) -> bool:
        return not any(kind.stale for kind in self.kinds)

    def table(self) -> Table:
        title = f"Reads of {self.value_size} bytes, of each kind"
        columns = ("one at a time: p50", "p99", "p50 / bare call", "singly, many under way", f"{self.batch} in a query")
        found = table(title, "", *columns, "against packed puts", "of bare calls")
        show = figures.Unit.SECONDS.show
        found.add_row("floor: bare call", show(self.call.p50), show(self.call.p99), "", "", format_rate(self.answers))
        found.add_row("packed puts", "", "", "", "", format_rate(self.put_rate))
        for kind in self.kinds:
            found.add_row(
                kind.name,
                show(kind.one.p50),
                show(kind.one.p99),
                f"{kind.of_call(self.call):.2f} x",
                format_rate(kind.single),
                format_rate(kind.packed),
                f"{kind.packed / self.put_rate:.2f} x",
                f"{kind.packed / self.answers:.2f} x",
            )
        return found

    def figures(self) -> Iterable[Figure]:
        yield from self.call.figures("call")
        for kind in self.kinds:
            yield from kind.one.figures(kind.name)
            yield figures.cost(f"{kind.name}.of_call.p50", kind.of_call(self.call))
            yield figures.rate(f"{kind.name}.single", kind.single)
            yield figures.rate(f"{kind.name}.packed", kind.packed)
            yield figures.share(f"{kind.name}.of_puts", kind.packed / self.put_rate)
            yield figures.share(f"{kind.name}.of_answers", kind.packed / self.answers)


def reads(plan: Plan, stage: Stage) -> ReadKinds:
    size = plan.put_bytes
    records = plan.records_of(size)
    settings = replace(plan.settings, max_clock_drift=CLOCK_DRIFT)
    batch = min(plan.batch, records)
    with plan.group(stage, size, settings=settings) as (handle, witness):
        handles = {kind: _reading(handle, kind) for kind in plan.read_kinds}
        call, *ones = _one_at_a_time(plan, stage, list(handles.values()))
        load = Load(PUT, records, Style.PACKED, plan.in_flight, plan.batch, plan.seconds / 2, seed=plan.seed)
        with stage.phase("Packed puts", load.seconds) as phase:
            put_rate = run_load(handle, load, witness, phase.advance).rate
        with floor.answers(plan.in_flight) as answers, stage.phase("Bare calls with large answers"):
            answer_rate = answers(batch * (size + len(key_name(0))), plan.seconds / 2).rate * batch
        kinds = []
        for one, (name, reading) in zip(ones, handles.items(), strict=True):
            gets = Load(GET, records, Style.PIPELINED, plan.outstanding, seconds=plan.seconds / 2, seed=plan.seed)
            with stage.phase(f"{name} reads", plan.seconds / 2) as phase:
                single = run_load(reading, gets, witness, phase.advance)
            with stage.phase(f"{name} reads of {batch:,} keys in a query"):
                rate, stale = _packed(reading, witness, records, batch, plan.in_flight, plan.seconds / 2)
            kinds.append(Kind(name, one, single.rate, rate, stale + single.recorder.stale_reads))
    return ReadKinds(size, batch, call, put_rate, answer_rate, kinds)


def _reading(handle: Handle, kind: str) -> Handle:
    return handle.options(read=kind, max_staleness_s=STALENESS_SECONDS if kind == "stale" else None)


def _one_at_a_time(plan: Plan, stage: Stage, handles: list[Handle]) -> list[Latency]:
    """Of a bare call, then of each handle's reads, in turns."""
    per_block = max(1, plan.sequential // BLOCKS)
    payload = bytes(plan.put_bytes)
    key = key_name(0)
    title = "One read at a time, in turns with bare calls"
    with floor.call() as call, stage.phase(title, (1 + len(handles)) * BLOCKS * per_block) as phase:
        calls: list[Callable[[], Any]] = [partial(call, payload), *(partial(handle.get, key) for handle in handles)]
        return [
            Latency.of(found)
            for found in floor.interleave(calls, blocks=BLOCKS, per_block=per_block, on_block=phase.advance)
        ]


def _packed(
    handle: Handle, witness: Witness, records: int, batch: int, in_flight: int, seconds: float
) -> tuple[float, int]:
    """(keys per second, values that were too old). Nobody writes now: every value must be the newest.

    What to ask for and what must come is made before, so that the driver's time is the client's.
    """
    dice = random.Random(0)
    questions = []
    for _ in range(2 * in_flight):
        keys = dice.sample(range(records), batch)
        names = [key_name(key) for key in keys]
        questions.append((names, {name: witness.acknowledged(key) for name, key in zip(names, keys, strict=True)}))
    newest = [handle.get_many(names) for names, _ in questions]
    flight: deque[tuple[int, Any]] = deque()
    count = keys_read = stale = 0
    begin = clock()
    while (now := clock()) - begin < seconds or flight:
        if now - begin < seconds and len(flight) < in_flight:
            which = count % len(questions)
            count += 1
            flight.append((which, handle.get_many.remote(questions[which][0])))
            continue
        which, result = flight.popleft()
        values = result.result()
        keys_read += len(values)
        if values != newest[which]:
            stale += _stale(values, questions[which][1])
    rate = keys_read / (clock() - begin)
    return rate, stale + sum(_stale(found, versions) for found, (_, versions) in zip(newest, questions, strict=True))


def _stale(values: dict[str, Any], versions: dict[str, int]) -> int:
    return sum(version_of(values.get(name)) < version for name, version in versions.items())
