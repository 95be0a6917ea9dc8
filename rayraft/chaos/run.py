"""A chaos run: machines, a group, clients, the nemesis, and what came of it."""

from __future__ import annotations

import json
import secrets
import threading
import time
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any, Final

from rayraft.bench.figures import surroundings
from rayraft.chaos import disks, sync_errors
from rayraft.chaos.group import Group, Verdict, digests
from rayraft.chaos.machines import Machines, RayOptions
from rayraft.chaos.nemesis import HEAD, Injection, Nemesis
from rayraft.chaos.schedule import Fault, FaultKind, draw, repeat
from rayraft.chaos.station import ClientPlan
from rayraft.ray.settings import Settings

SMALL_DISK_BYTES: Final = 256 << 20
# Ray's own patience: how long it goes on without its head, and how long a machine may not answer the head before it is
# taken for dead: longer than any cut. A machine that is back starts its node only when its former life is over.
RAY: Final = {
    "RAY_gcs_rpc_server_reconnect_timeout_s": "600",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1500",
    "RAY_health_check_failure_threshold": "12",
}
WARM_UP_SECONDS: Final = 2.0
LOOK_SECONDS: Final = 0.25
WRITERS: Final = frozenset({1, 2})  # machines with a client that measures: one fault never strikes both
PEACE: Final = "none, between two"  # stands for a kind of fault in `Outcome.gaps`


@dataclass(frozen=True, slots=True)
class ChaosPlan:
    minutes: float = 2.0
    seed: int = 0
    machines: int = 5
    kinds: tuple[FaultKind, ...] = tuple(FaultKind)
    repeats: int | None = None  # not None: each kind so many times, to measure it, in place of a drawn schedule
    pause_s: float = 0.0  # between two calls of a client
    election_timeout: float = Settings().election_timeout
    out: Path = Path("chaos-out")

    def faults(self) -> Iterable[Fault]:
        return draw(self.seed, self.kinds) if self.repeats is None else repeat(self.seed, self.kinds, self.repeats)

    @property
    def settings(self) -> Settings:
        """A tormented group saves its state and compares digests all the time; a measured one as others do."""
        settings = Settings(election_timeout=self.election_timeout, rebuild_after=2.0)
        if self.repeats is not None:
            return settings
        return replace(settings, snapshot_entries=1_000, snapshot_trailing=200, digest_entries=500)

    @property
    def client_plan(self) -> ClientPlan:
        """To measure, a client writes all the time, and another one should the first one's machine be struck.

        More of them would compete with the nodes for the processors that all machines share.
        """
        if self.repeats is not None:
            return ClientPlan(clients=1, pause_s=self.pause_s, machines=WRITERS)
        return ClientPlan(pause_s=self.pause_s)

    def make_machines(self) -> Machines:
        """With the disks that the faults need."""
        small = {self.machines: SMALL_DISK_BYTES} if FaultKind.DISK_FULL in self.kinds else {}
        others = [i for i in range(1, self.machines + 1) if i != HEAD and i not in small]
        return Machines(
            self.machines,
            ray=RayOptions(
                environment=RAY,
                failing_syncs=FaultKind.SYNC_FAILED in self.kinds and sync_errors.why_not() is None,
            ),
            disk_bytes=small,
            loop_disks=others if FaultKind.POWER_LOST in self.kinds and disks.why_not() is None else (),
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run has shown. Times in seconds since the clients began."""

    plan: ChaosPlan
    seconds: float
    commands: int  # acknowledged
    operations: int
    lost: list[str]
    repeated: list[str]
    linearizable: str
    violation: str
    errors: dict[str, int]
    injections: list[Injection]
    longest_gap: float
    longest_gap_at: float
    gaps: dict[str, list[float]]  # the time without service at each fault, by kind; and in the peace between two
    leaders: list[tuple[float, int, int, int]]  # since when, term, node, machine
    throughput: list[tuple[float, float]]
    digests: dict[int, tuple[int, str]]
    not_whole: int  # faults after which the group was not whole in time

    @property
    def good(self) -> bool:
        agree = len(set(self.digests.values())) == 1
        return not self.lost and not self.repeated and self.linearizable == "yes" and agree

    @property
    def by_kind(self) -> dict[str, int]:
        return dict(Counter(injection.kind.value for injection in self.injections if not injection.failed))


class View:
    """What somebody who watches is told. This one tells nothing."""

    def begin(self, plan: ChaosPlan, group: Group, nemesis: Nemesis, origin: float) -> None: ...

    def say(self, line: str) -> None: ...

    def refresh(self) -> None: ...


def run_chaos(plan: ChaosPlan, view: View) -> Outcome:
    """Raises BedError when the machines or the group do not come up."""
    with plan.make_machines() as machines:
        view.say(f"{plan.machines} machines are up, Ray's head is on m1")
        group = Group(machines, sorted(machines.machines), settings=plan.settings)
        group.start()
        group.start_stations(plan=plan.client_plan)
        group.wait_until_whole()
        nemesis = Nemesis(group)
        origin = time.monotonic()
        view.begin(plan, group, nemesis, origin)
        with _looking(group, view):
            time.sleep(WARM_UP_SECONDS)
            _torment(plan, nemesis, view, origin)
            end = time.monotonic()
        group.stop_stations()
        view.say("reading everything, and looking for one order that explains all answers")
        verdict = group.verdict()
        return _outcome(plan, group, nemesis, verdict, origin, end, machines.call(1, digests))


def _torment(plan: ChaosPlan, nemesis: Nemesis, view: View, origin: float) -> None:
    faults = plan.faults()
    if plan.repeats is None:
        faults = takewhile(lambda _: time.monotonic() - origin < plan.minutes * 60, faults)
    for fault in faults:
        view.say(f"[dim]{fault}[/]")
        injection = nemesis.strike(fault)
        late = f"NOT WHOLE in time: {injection.missing}"
        whole = f"whole {injection.whole - injection.healed:.1f} s later" if injection.whole else late
        failed = f"; failed: {injection.failed}" if injection.failed else ""
        view.say(f"   {injection.target or 'nobody'}; {whole}{failed}")


class _looking:
    """Takes in what the stations write, and refreshes the view, in a thread beside the nemesis."""

    def __init__(self, group: Group, view: View) -> None:
        self._group, self._view = group, view
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            self._group.look()
            self._view.refresh()


# --- figures ----------------------------------------------------------------------------------------------------------


def _outcome(
    plan: ChaosPlan,
    group: Group,
    nemesis: Nemesis,
    verdict: Verdict,
    origin: float,
    end: float,
    states: dict[int, tuple[int, str]],
) -> Outcome:
    times = sorted(at for at, _ in group.books.acknowledged if origin <= at <= end)
    gap, gap_at = longest_gap(times, origin, end)
    relative = [
        replace(each, began=each.began - origin, healed=each.healed - origin, whole=max(0.0, each.whole - origin))
        for each in nemesis.done
    ]
    return Outcome(
        plan=plan,
        seconds=end - origin,
        commands=len(times),
        operations=verdict.history.operations,
        lost=[str(operation) for operation in verdict.lost],
        repeated=verdict.repeated,
        linearizable=verdict.history.verdict.value,
        violation=verdict.history.explain(),
        errors=verdict.errors,
        injections=relative,
        longest_gap=gap,
        longest_gap_at=gap_at - origin,
        gaps=gaps_by_kind(times, nemesis.done),
        leaders=[(max(0.0, at - origin), *rest) for at, *rest in _leaders(group)],  # type: ignore[misc]
        throughput=[(second, float(count)) for second, count in _per_second(times, origin, end)],
        digests=states,
        not_whole=sum(not each.whole and not _is_companion(each, nemesis.done) for each in nemesis.done),
    )


def _is_companion(injection: Injection, done: Sequence[Injection]) -> bool:
    return any(other.began < injection.began < other.healed for other in done if other is not injection)


def longest_gap(times: Sequence[float], begin: float, end: float) -> tuple[float, float]:
    """The longest time without one of ``times``, in order, that begins or ends within the bounds; and when it began."""
    first, last = bisect_right(times, begin), bisect_left(times, end)
    before = times[first - 1] if first else begin
    after = times[last] if last < len(times) else end
    inside = [before, *times[first:last], after]
    return max(((b - a, a) for a, b in pairwise(inside)), default=(0.0, begin))


def gaps_by_kind(times: Sequence[float], done: Sequence[Injection]) -> dict[str, list[float]]:
    """The time without service from each fault until the group was whole again; under `PEACE` what it was in between.

    Without that nobody could tell what is the fault's and what the computer's.
    """
    gaps: dict[str, list[float]] = defaultdict(list)
    for injection in done:
        if not injection.failed:
            until = injection.whole or injection.healed
            gaps[injection.kind.value].append(longest_gap(times, injection.began, until)[0])
    for earlier, later in pairwise(done):
        if 0.0 < earlier.whole < later.began:
            peace = times[: bisect_right(times, later.began)]  # the next gap is the fault's
            gaps[PEACE].append(longest_gap(peace, earlier.whole, later.began)[0])
    return dict(gaps)


def _leaders(group: Group) -> list[tuple[float, int, int, int]]:
    """When each term's leader was first seen to lead."""
    found: dict[int, tuple[float, int, int, int]] = {}
    for seen in sorted(group.seen, key=lambda seen: seen.at):
        if seen.role == "leader" and seen.term not in found:
            found[seen.term] = (seen.at, seen.term, seen.node, seen.machine)
    return sorted(found.values())


def _per_second(times: Sequence[float], origin: float, end: float) -> list[tuple[float, int]]:
    counts = Counter(int(at - origin) for at in times)
    return [(second, counts[second]) for second in range(int(end - origin))]


def write_json(outcome: Outcome, path: Path) -> None:
    def default(value: Any) -> Any:
        return value.value if isinstance(value, FaultKind) else str(value)

    record = {"surroundings": surroundings(), **asdict(outcome), "by_kind": outcome.by_kind}
    path.write_text(json.dumps(record, indent=1, default=default) + "\n")


def new_seed() -> int:
    return secrets.randbelow(1 << 32)
