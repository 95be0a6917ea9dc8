"""A replicated group on the machines of the bed, as seen from outside: no fault reaches this view of it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import ray

import rayraft
from rayraft.chaos.machines import BedError, Machines, Process, wait_for
from rayraft.chaos.records import Books, Seen, Tail, lost_commands, repeated_commands
from rayraft.chaos.station import NAMESPACE, STOP, ClientPlan, Station
from rayraft.chaos.store import VERSIONS
from rayraft.history import Kind, Limits, Operation, Report, check
from rayraft.history import Verdict as Judgement
from rayraft.history.models import KeyValueEntry
from rayraft.ray.cluster import find_cluster
from rayraft.ray.placement import MACHINE_LABEL
from rayraft.ray.settings import Settings
from rayraft.ray.spec import NodeReport

NAME: Final = "chaos"
FRESH_SECONDS: Final = 1.0  # what a node said before that may be over
EVERYTHING_SECONDS: Final = 120.0  # the longest wait: machines may be slow


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the histories of all clients show."""

    commands: int  # acknowledged
    history: Report
    lost: list[Operation]
    repeated: list[str]
    errors: dict[str, int]

    @property
    def good(self) -> bool:
        return self.history.verdict is Judgement.LINEARIZABLE and not self.lost and not self.repeated


class Group:
    """Call `look` often: it takes in what the stations wrote down since the last call."""

    def __init__(self, machines: Machines, homes: Sequence[int], *, settings: Settings | None = None) -> None:
        """Its nodes live on the machines ``homes``, node 1 on the first of them."""
        self.machines = machines
        self.homes = list(homes)
        self.settings = settings or Settings(snapshot_entries=2_000, snapshot_trailing=200, digest_entries=500)
        self.books = Books()
        self.seen: list[Seen] = []
        self._newest: dict[int, Seen] = {}
        self._journals = machines.shared / "journals"
        self._journals.mkdir(exist_ok=True)
        self._looking = threading.Lock()  # a view may look while a fault is waited for
        self._tail = Tail(self._journals)

    # --- its life -----------------------------------------------------------------------------------------------------

    def start(self, on: int = 1) -> None:
        """Start it, or resume it from the machines' disks, by a driver on machine ``on``."""
        self.machines.call(on, start_group, self.homes, self.machines.data, self.settings, timeout_s=400)

    def start_stations(self, on: int = 1, plan: ClientPlan | None = None) -> None:
        """Clients and an observer on every machine."""
        self.machines.call(
            on, start_stations, sorted(self.machines.machines), self._journals, plan or ClientPlan(), timeout_s=400
        )
        wait_for(self.leader, EVERYTHING_SECONDS, "nobody sees a leader")

    def stop_stations(self) -> None:
        (self._journals / STOP).touch()

    # --- what is seen -------------------------------------------------------------------------------------------------

    def look(self) -> None:
        with self._looking:
            for record in self._tail.news():
                if isinstance(record, Seen):
                    self.seen.append(record)
                    self._newest[record.machine] = record
                else:
                    self.books.add(record)

    def now(self) -> dict[int, Seen]:
        """By machine, what its node says now; nothing of those that do not answer."""
        self.look()
        horizon = time.monotonic() - FRESH_SECONDS
        return {machine: seen for machine, seen in sorted(self._newest.items()) if seen.at > horizon}

    def leader(self, among: list[int] | None = None) -> Seen | None:
        """Who leads in the newest term (of the nodes on these machines) and serves."""
        leaders = [seen for machine, seen in self.now().items() if among is None or machine in among]
        newest = max((seen for seen in leaders if seen.role == "leader"), key=lambda seen: seen.term, default=None)
        return newest if newest is not None and newest.serves else None

    def wait_for_leader(self, among: list[int] | None = None, timeout_s: float = EVERYTHING_SECONDS) -> Seen:
        found: Seen = wait_for(
            lambda: self.leader(among), timeout_s, f"no leader serves on the machines {among or 'at all'}"
        )
        return found

    def wait_until_whole(self, timeout_s: float = EVERYTHING_SECONDS) -> None:
        """Every machine has a voter that runs, knows one leader, and has what was committed when this was called."""
        goal = max((seen.commit for seen in self.now().values()), default=0)

        def whole() -> bool:
            seen = [each for each in self.now().values() if each.state == "running"]
            leader = self.leader()
            return (
                len(seen) == len(self.homes)
                and leader is not None
                and sorted(leader.voters) == sorted(each.node for each in seen)
                and len({each.leader for each in seen}) == 1
                and min(each.applied for each in seen) >= goal
            )

        self.wait_until(whole, "not whole", timeout_s)

    def wait_until_replaced(self, node: int, timeout_s: float = EVERYTHING_SECONDS) -> None:
        """``node`` votes no more."""

        def replaced() -> bool:
            leader = self.leader()
            return leader is not None and node not in leader.voters

        self.wait_until(replaced, f"node {node} is not replaced", timeout_s)

    def disk_of(self, seen: Seen) -> Path:
        """The directory of a node, as this process sees it."""
        return self.machines.machines[seen.machine].disk / f"node-{seen.node}"

    def wait_for_commands(self, count: int, timeout_s: float = EVERYTHING_SECONDS) -> None:
        """Until ``count`` more commands are acknowledged."""
        self.look()
        goal = len(self.books.acknowledged) + count

        self.wait_until(lambda: len(self.books.acknowledged) >= goal, "no service", timeout_s)

    def explain(self) -> str:
        now = self.now()
        return "; ".join(
            f"m{machine}: {_describe(now[machine]) if machine in now else 'no answer'}"
            for machine in sorted(self.machines.machines)
        )

    def process(self, machine: int) -> Process:
        """The process of the node on this machine."""

        def find() -> Process | None:
            seen = self.now().get(machine)
            running = self.machines.processes(machine) if seen is not None and seen.state == "running" else []
            return next((process for process in running if seen and process.inner_id == seen.pid), None)

        found: Process = wait_for(find, EVERYTHING_SECONDS, f"no node runs on m{machine}")
        return found

    # --- the verdict --------------------------------------------------------------------------------------------------

    def verdict(self, on: int = 1) -> Verdict:
        """Read everything, and look for one order that explains all answers so far."""
        begun = time.monotonic()
        final = self.machines.call(on, read_everything)
        ended = time.monotonic()
        self.look()
        history = self.books.history()
        lost = lost_commands(history, final, begun)
        for key in history.by_key():
            operation = Operation("final", Kind.READ, key, None, final.get(key), begun, ended)
            history.operations.append(operation)
        return Verdict(
            commands=len(self.books.acknowledged),
            history=check(history, KeyValueEntry(), Limits(steps=5_000_000)),
            lost=lost,
            repeated=repeated_commands(final),
            errors=self.books.errors,
        )

    def transfer_to(self, machine: int, on: int = 1) -> Seen:
        """Have the node of ``machine`` lead."""
        node = self.now()[machine].node
        self.machines.call(on, transfer_leadership, node)
        self.wait_until(lambda: self.is_leader(machine), f"m{machine} does not lead")
        return self.now()[machine]

    def is_leader(self, machine: int) -> bool:
        leader = self.leader()
        return leader is not None and leader.machine == machine

    def wait_until(self, condition: Callable[[], Any], otherwise: str, timeout_s: float = EVERYTHING_SECONDS) -> Any:
        """Looking all the while. Raises BedError with what ``otherwise`` says, and what the nodes say."""

        def probe() -> Any:
            self.look()
            return condition()

        try:
            return wait_for(probe, timeout_s, otherwise)
        except BedError as error:
            raise BedError(f"{error}: {self.explain()}") from None


def _describe(seen: Seen) -> str:
    leads = f" (voters: {', '.join(map(str, seen.voters))})" if seen.role == "leader" else ""
    return f"node {seen.node} {seen.state} {seen.role} of {seen.term}{leads}, applied {seen.applied} {seen.error}"


# --- called on a machine ----------------------------------------------------------------------------------------------


def start_group(homes: Sequence[int], data: Path, settings: Settings) -> None:
    rayraft.start(
        VERSIONS[0],
        name=NAME,
        nodes=len(homes),
        data_dir=data,
        placement=[f"m{home}" for home in homes],
        settings=settings,
        start_timeout_s=300,
    ).close()


def start_stations(machines: list[int], directory: Path, plan: ClientPlan) -> None:
    actor = ray.remote(num_cpus=0, max_restarts=-1)(Station)
    started = [
        actor.options(
            name=f"station-m{machine}",
            namespace=NAMESPACE,
            lifetime="detached",
            label_selector={MACHINE_LABEL: f"m{machine}"},
        ).remote(NAME, machine, directory, plan)
        for machine in machines
    ]
    ray.get([each.ready.remote() for each in started], timeout=300)


def replace_member(node: int, machine: int) -> int:
    """A new node on the same machine takes the place of ``node``; its id."""
    return find_cluster(NAME).replace_node(node, machine=f"m{machine}", timeout_s=100)


def scale_to(nodes: int) -> None:
    find_cluster(NAME).scale(nodes, timeout_s=200)


def replaced_or_done(node: int, machine: int) -> None:
    """What an operator does who finds the order of another one interrupted: give it again, if there is need to."""
    if node in find_cluster(NAME).configuration().members():
        replace_member(node, machine)


def wait_until_tidy(timeout_s: float = 100.0) -> None:
    """Until there is no learner, and no actor of a node that does not vote. Raises BedError."""

    def tidy() -> bool:
        cluster = find_cluster(NAME)
        configuration = cluster.configuration()
        return not configuration.learners and sorted(cluster.nodes) == sorted(configuration.voters)

    wait_for(tidy, timeout_s, "what an interrupted operator began is still there", every_s=0.5)


def upgrade_class() -> str:
    """To the other version of the class; its name."""
    cluster = find_cluster(NAME)
    version = max(report.version for report in cluster.reports().values() if isinstance(report, NodeReport))
    other = VERSIONS[(version + 1) % len(VERSIONS)]
    return f"{other.__name__}, version {cluster.upgrade(other)}"


def restart_nodes() -> None:
    find_cluster(NAME).restart_nodes(timeout_s=200)


def rescale(nodes: Sequence[tuple[int, int]]) -> None:
    """These (nodes, each with its machine) leave, then as many new ones come up on their machines."""
    cluster = find_cluster(NAME)
    for node, _ in nodes:
        cluster.remove_node(node)
    for _, machine in nodes:
        cluster.add_node(machine=f"m{machine}")


def transfer_leadership(to: int) -> None:
    find_cluster(NAME).transfer_leadership(to, timeout_s=60)


def digests() -> dict[int, tuple[int, str]]:
    """(applied index, hash of the state) by node, when no client asks for anything any more."""
    return find_cluster(NAME).wait_until_equal(60)


def read_everything() -> dict[str, Any]:
    handle = rayraft.connect(NAME, timeout_s=60)
    with contextlib.closing(handle):
        return dict(handle.scan())
