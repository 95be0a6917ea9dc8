"""What rayraft aims at, as ratios of figures of one run: `rayraft bench quick` prints how far each is reached."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from rich.table import Table

from rayraft.bench.figures import Unit, table
from rayraft.bench.sections import (
    GroupSizes,
    Kept,
    Memory,
    Plan,
    ReadKinds,
    Recovery,
    Rivals,
    Section,
    Sequential,
    Sizes,
    Snapshots,
    Throughput,
)
from rayraft.bench.suite import Report

# What the table needs, each as short as still says something: under three minutes on two cores. In this order as many
# as can go on with one group.
QUICK_SECTIONS: Final = (
    "sequential", "single", "callers", "coroutines", "peers", "nodes", "reads", "sizes", "snapshots", "recovery",
    "memory",
)  # fmt: skip

S = TypeVar("S", bound=Section)


def quick(plan: Plan) -> Plan:
    """``plan`` without what the aims do not ask for."""
    return replace(
        plan,
        value_sizes=(1 << 20,),
        group_sizes=(3, 5, 7),
        group_pipes=False,
        read_kinds=("linearizable", "lease"),
        peers_alone=False,
        recovery_parts=(0.02, 1.0),
        snapshots=1,
        turns=1,
        kept=Kept(),
    )


@dataclass(frozen=True, slots=True)
class Aim:
    what: str
    bound: float
    at_least: bool
    unit: Unit
    measure: Callable[[Report], float | None]  # None: its section did not run, or a peer is not here

    def shown(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.unit.show(self.bound)}"

    def met(self, measured: float) -> bool:
        return measured >= self.bound if self.at_least else measured <= self.bound


def _of(kind: type[S], name: str, value: Callable[[S], float | None]) -> Callable[[Report], float | None]:
    def measure(report: Report) -> float | None:
        found = report.sections.get(name)
        return value(found) if isinstance(found, kind) else None

    return measure


def _against(ours: str, system: str, theirs: str | None) -> Callable[[Report], float | None]:
    """Our rate in one contest by theirs in another; ``theirs`` None: at its best."""

    def value(found: Rivals) -> float | None:
        mine = found.rate("rayraft", ours)
        other = found.rate(system, theirs) if theirs is not None else found.best(system)
        return mine / other if mine and other == other and other else None

    return _of(Rivals, "peers", value)


def _kind(found: ReadKinds, name: str) -> Any:
    return next(kind for kind in found.kinds if kind.name == name)


def _per_byte(found: GroupSizes) -> float | None:
    return min((ratio for nodes in found.rows if nodes > 3 and (ratio := found.per_byte(nodes))), default=None)


def _megabyte(found: Sizes) -> float | None:
    return next((row.rate / row.pipe for row in found.rows if row.value_size == 1 << 20 and row.pipe), None)


def aims(plan: Plan) -> list[Aim]:
    times, per_second, seconds = Unit.RATIO, Unit.PER_SECOND, Unit.SECONDS
    batches = f"batches of {plan.peer_batch}"
    return [
        Aim(f"{batches} puts / etcd's", 2, True, times, _against(batches, "etcd", batches)),
        Aim("best batch / etcd's best", 4, True, times, _against("best batch", "etcd", None)),
        Aim("best batch / etcd's 1000 single clients", 15, True, times, _against("best batch", "etcd", "1000 singly")),
        Aim("best batch / PySyncObj's best", 12, True, times, _against("best batch", "PySyncObj", None)),
        Aim("single puts from one thread", 50_000, True, per_second, _of(Throughput, "single", lambda f: f.rate)),
        Aim("the same / the pipe", 0.7, True, times, _of(Throughput, "single", lambda f: f.rate / (f.pipe or 1))),
        Aim("sequential put, p50 / relay", 1.25, False, times, _of(Sequential, "sequential", lambda f: f.ratio_p50)),
        Aim("sequential put, p99 / relay", 2, False, times, _of(Sequential, "sequential", lambda f: f.ratio_p99)),
        Aim(f"{plan.callers} threads, each one put at a time", 10_000, True, per_second,
            _of(Throughput, "callers", lambda f: f.rate)),
        Aim(f"{plan.callers} coroutines, each one put at a time", 10_000, True, per_second,
            _of(Throughput, "coroutines", lambda f: f.rate)),
        Aim(f"{plan.callers} coroutines / etcd's 1000", 1, True, times, _against("callers", "etcd", "1000 singly")),
        Aim("packed linearizable reads / packed puts", 5, True, times,
            _of(ReadKinds, "reads", lambda f: _kind(f, "linearizable").packed / f.put_rate)),
        Aim("lease read, p50 / bare call", 1.15, False, times,
            _of(ReadKinds, "reads", lambda f: _kind(f, "lease").of_call(f.call))),
        Aim("1-MiB values / the pipe", 0.5, True, times, _of(Sizes, "sizes", _megabyte)),
        Aim("5 and 7 nodes, throughput per byte written / 3 nodes'", 1, True, times,
            _of(GroupSizes, "nodes", _per_byte)),
        Aim(f"pause of commits at a snapshot of {plan.snapshot_keys:,} keys", 0.05, False, seconds,
            _of(Snapshots, "snapshots", lambda f: max(f.pauses))),
        Aim(f"replay after a restart, {plan.recovery_commands:,} commands", 200_000, True, per_second,
            _of(Recovery, "recovery", lambda f: f.replay)),
        Aim(f"growth of a node over the second half of {plan.memory_commands:,} commands", 64 << 20, False, Unit.BYTES,
            _of(Memory, "memory", lambda f: max(0, f.growth))),
    ]  # fmt: skip


def summary(report: Report, wanted: Iterable[Aim], *, only_measured: bool = False) -> Table:
    found = table("Aims", "", "aim", "measured", "met")
    for aim in wanted:
        measured = aim.measure(report)
        if measured is None or measured != measured:
            if not only_measured:
                found.add_row(aim.what, aim.shown(), "not measured", "")
            continue
        met = "[green]yes[/]" if aim.met(measured) else "[bold red]no[/]"
        found.add_row(aim.what, aim.shown(), aim.unit.show(measured), met)
    return found
