"""rayraft, etcd and PySyncObj in turns: the same value size, machine, disk and number of puts under way."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from rich.markup import escape
from rich.table import Table

from rayraft.bench import figures
from rayraft.bench.figures import Figure, Latency, table
from rayraft.bench.load import PUT, Load, Style
from rayraft.bench.peers import MEMBERS, NotInstalled, Outcome, Peer, Shape, etcd, pysyncobj
from rayraft.bench.places import reports_of
from rayraft.bench.progress import Stage
from rayraft.bench.run import run_load
from rayraft.bench.sections.plan import Plan, Section
from rayraft.bench.stats import format_rate
from rayraft.bench.witness import Witness

OURS = "rayraft"
COMMANDS = "rayraft, by commands"  # each put a command with an answer of its own: more than a transaction offers


@dataclass(frozen=True, slots=True)
class Contest:
    """One discipline: what each system does in it."""

    name: str
    shapes: dict[str, Shape]  # by system

    @classmethod
    def all(cls, plan: Plan) -> list[Contest]:
        """Where a system has no transactions, or rayraft no need of threads, its own best way is taken.

        What etcd calls a transaction is one command of many puts in rayraft (`KeyValue.put_many`).
        """
        packs, wide = Shape(plan.in_flight, plan.peer_batch), Shape(8 * plan.in_flight, plan.peer_batch)
        best, single = Shape(plan.in_flight, plan.many), Shape(1000)
        many = Shape(plan.callers)
        awaited = Shape(plan.callers, awaited=True)  # its callers are coroutines
        alone = cls("sequential", {OURS: Shape(1), "etcd": Shape(1), "PySyncObj": Shape(1)})
        return [
            *([alone] if plan.peers_alone else []),
            cls(f"batches of {plan.peer_batch}", {OURS: packs, COMMANDS: packs, "etcd": packs}),
            cls("best batch", {OURS: best, COMMANDS: Shape(plan.in_flight, plan.batch), "etcd": wide}),
            cls("1000 singly", {OURS: single, "etcd": single, "PySyncObj": single}),
            cls("best singly", {OURS: Shape(plan.outstanding), "etcd": single, "PySyncObj": Shape(10_000)}),
            cls("callers", {OURS: awaited, "etcd": many}),
        ]


@dataclass(frozen=True, slots=True)
class Entrant:
    """What one system did in one discipline."""

    contest: str
    system: str
    shape: str
    rates: list[float]  # of each turn
    latency: Latency  # of the turn with the median rate
    errors: int

    @property
    def rate(self) -> float:
        return median(self.rates)


@dataclass(frozen=True, slots=True)
class Rivals(Section):
    value_size: int
    entrants: list[Entrant]
    versions: dict[str, str]
    commands: list[str]
    left_out: dict[str, str] = field(default_factory=dict)  # by system, why
    intact: bool = True
    machines: int = 1  # of rayraft's nodes

    def rate(self, system: str, contest: str) -> float | None:
        found = (one.rate for one in self.entrants if (one.system, one.contest) == (system, contest))
        return next(found, None)

    def best(self, system: str) -> float:
        return max((one.rate for one in self.entrants if one.system == system), default=float("nan"))

    def table(self) -> Table:
        where = (
            f"spread over {self.machines} machines (the peers on this one)" if self.machines > 1 else "on this machine"
        )
        title = f"Puts of {self.value_size} bytes, three members each {where}, in turns"
        found = table(title, "", "", "under way x batch", "median", "lowest", "highest", "p50", "p99", "errors")
        show = figures.Unit.SECONDS.show
        for one in self.entrants:
            rates = [format_rate(rate) for rate in (one.rate, min(one.rates), max(one.rates))]
            latency = (show(one.latency.p50), show(one.latency.p99))
            found.add_row(one.contest, one.system, one.shape, *rates, *latency, str(one.errors))
        for system, why in self.left_out.items():
            found.add_row(escape(f"{system} is left out: {why}"))
        return found

    def figures(self) -> Iterable[Figure]:
        for one in self.entrants:
            name = f"{one.contest}.{one.system}".replace(" ", "_")
            yield figures.rate(f"{name}.rate", one.rate)
            yield from one.latency.figures(name)
            ours = self.rate(OURS, one.contest)
            if one.system in self.versions and one.system != OURS and ours and one.rate:
                yield figures.share(f"{name}.ours", ours / one.rate)
        for system in self.versions:
            if system != OURS and self.best(system) > 0:  # it may have failed in everything
                yield figures.share(f"best_of_{system}", self.best(OURS) / self.best(system))


class Ours:
    """rayraft as a contestant: many puts together, packed by the client, or by coroutines with one put each."""

    def __init__(self, name: str, together: Style, handle: Any, witness: Witness) -> None:
        self.name, self._together = name, together
        self._handle, self._witness = handle, witness
        self.version = "this"
        self.commands: list[str] = []

    def put(self, shape: Shape, value_size: int, records: int, seconds: float) -> Outcome:
        style = self._together if shape.batch > 1 else Style.PIPELINED
        if shape.awaited:
            style = Style.AWAITED
        elif shape == Shape(1):
            style = Style.CLOSED
        load = Load(PUT, records, style, shape.clients, shape.batch, seconds)
        result = run_load(self._handle, load, self._witness)
        errors = sum(result.recorder.errors.values())
        return Outcome(result.operations, result.seconds, errors, Latency.of(result.latency))


def peers(plan: Plan, stage: Stage) -> Rivals:
    """As many members, and as durable, whatever else the plan says."""
    plan = replace(plan, nodes=MEMBERS, settings=replace(plan.settings, fsync=True))
    left_out: dict[str, str] = {}
    size = plan.put_bytes
    # A transaction puts a key once only, and each writer has keys of its own.
    records = plan.peer_records
    with contextlib.ExitStack() as stack:
        handle, witness = stack.enter_context(plan.shared_group(stage, size, records=records))
        directory = stack.enter_context(plan.disks.directory())
        styles = {OURS: Style.MANY, COMMANDS: Style.PACKED}
        ours = [Ours(name, style, handle, witness) for name, style in styles.items()]
        systems: list[Peer] = [*ours, *_start(stack, stage, directory, left_out)]
        contests = Contest.all(plan)
        entrants: list[Entrant] = []
        total = sum(len(contest.shapes) for contest in contests) * plan.turns
        with stage.phase("In turns", total) as phase:
            for contest in contests:
                outcomes: dict[str, list[Outcome]] = {}
                for _ in range(plan.turns):
                    for system in systems:
                        if (shape := contest.shapes.get(system.name)) is not None:
                            outcome = system.put(shape, size, records, plan.seconds / plan.turns)
                            outcomes.setdefault(system.name, []).append(outcome)
                            phase.advance(len(entrants) * plan.turns + sum(map(len, outcomes.values())))
                entrants += [_entrant(contest, name, found) for name, found in outcomes.items()]
        intact = witness.verify(handle).intact
        commands = [line for system in systems for line in system.commands]
        versions = {system.name: system.version for system in systems if system.name != COMMANDS}
        machines = len({report.host for report in reports_of(handle)})
    return Rivals(size, entrants, versions, commands, left_out, intact, machines)


def _start(stack: contextlib.ExitStack, stage: Stage, directory: Path, left_out: dict[str, str]) -> list[Peer]:
    found: list[Peer] = []
    for name, start in (("etcd", etcd), ("PySyncObj", pysyncobj)):
        try:
            with stage.phase(f"Starting {name}"):
                found.append(stack.enter_context(start(directory)))  # type: ignore[arg-type]
        except NotInstalled as why:
            left_out[name] = str(why)
            stage.say(escape(f"{name} is left out: {why}"))
    return found


def _entrant(contest: Contest, system: str, outcomes: list[Outcome]) -> Entrant:
    middle = sorted(outcomes, key=lambda outcome: outcome.rate)[len(outcomes) // 2]
    rates = [outcome.rate for outcome in outcomes]
    errors = sum(outcome.errors for outcome in outcomes)
    return Entrant(contest.name, system, str(contest.shapes[system]), rates, middle.latency, errors)
