"""`simulate`: one seed, one run, one verdict. `tell`: the same, as a story."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rayraft.history import Verdict
from rayraft.raft.types import Configuration
from rayraft.simulation.clients import Client
from rayraft.simulation.clock import Scheduler
from rayraft.simulation.faults import Faults
from rayraft.simulation.invariants import Invariants, InvariantViolated, is_outcast
from rayraft.simulation.network import Network
from rayraft.simulation.node import Node, World
from rayraft.simulation.operators import Operators
from rayraft.simulation.plan import Plan, draw_plan, stream
from rayraft.simulation.record import Record
from rayraft.simulation.story import Story

CALM_TIMEOUTS = 20  # election timeouts within which a healed group must be well again ...
CALM_SECONDS = 15.0  # ... and what the resending of snapshots may take, which goes by seconds
LOOK_EVERY = 0.25
LAST_LINES = 60  # of the story of a failed run


@dataclass(frozen=True, slots=True)
class Report:
    """What a run without a violation amounted to."""

    seed: int
    nodes: int
    simulated_seconds: float
    events: int
    terms: int
    commits: int
    acknowledged: int
    reads: int
    snapshots_installed: int
    faults: dict[str, int]
    recovery: float  # simulated seconds from the end of all faults to agreement
    digest: str  # of everything that happened


class SimulationFailed(AssertionError):
    """An invariant broke; the message tells which, and the story of the run."""

    def __init__(self, plan: Plan, violation: InvariantViolated, story: Story) -> None:
        super().__init__(f"{plan.describe()}\n{story.tell(LAST_LINES)}\n=> seed {plan.seed} breaks {violation}")
        self.seed = plan.seed
        self.violation = violation
        self.story = story


class Simulation:
    """A group, its clients and its troubles, all drawn from ``plan.seed``."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.scheduler = Scheduler()
        self.story = Story()
        self.invariants = Invariants(self.scheduler)
        network = Network(self.scheduler, stream(plan.seed, "network"), plan)
        self.world = World(plan, self.scheduler, network, self.invariants, self.story, {})
        peers = tuple(range(1, plan.nodes + 1))
        founders = Configuration(peers, witnesses=peers[plan.nodes - plan.witnesses :])
        for peer in peers:
            node = self.world.nodes[peer] = Node(self.world, peer, founders, witness=peer in founders.witnesses)
            self.invariants.watch(node)
        for node in self.world.nodes.values():
            node.start()
        self.record = Record()
        self.clients = [Client(self.world, self.record, number) for number in range(1, plan.clients + 1)]
        self.faults = Faults(self.world)
        self.operators = Operators(self.world)

    def run(self) -> Report:
        """Raises SimulationFailed."""
        with _without_collector():
            return self._run()

    def _run(self) -> Report:
        try:
            self.scheduler.run_until(self.plan.seconds)
            self.faults.heal()
            self.operators.stop()
            recovery = self._recover()
            self._compare_states()
            self._check_history()
        except InvariantViolated as violation:
            raise SimulationFailed(self.plan, violation, self.story) from violation
        return self._report(recovery)

    def _recover(self) -> float:
        """Liveness: soon there is a leader, all that was asked is answered, a new command too, and all agree."""
        begun = self.scheduler.now
        deadline = begun + CALM_TIMEOUTS * self.plan.election_timeout + CALM_SECONDS
        for client in self.clients:
            client.stop()
        probe = Client(self.world, self.record, self.plan.clients + 1)
        probe.stop()
        while not (probe.acknowledged and self._settled()):
            if self.scheduler.now >= deadline:
                raise self.invariants.fail("liveness", f"no agreement {self.scheduler.now - begun:.1f} s after healing")
            self.scheduler.run_until(self.scheduler.now + LOOK_EVERY)
            probe.nudge()
        return self.scheduler.now - begun

    def _settled(self) -> bool:
        """All members have applied all; nobody else is left who could know that it is none."""
        nodes, configuration = self.world.nodes, self.invariants.configuration
        members = [nodes[node] for node in configuration.members() if not nodes[node].spoilt]
        rafts = [node.raft for node in members]
        applied = {raft.log.applied if raft else 0 for raft in rafts}
        return (
            all(client.idle for client in self.clients)
            and applied == {self.invariants.committed}
            and sum(raft is not None and raft.is_leader for raft in rafts) == 1
            and not configuration.is_joint
            and not any(self._lingers(node) for node in self.world.usable if node not in members)
        )

    def _lingers(self, node: Node) -> bool:
        """Whether a node that was removed runs on, although a voter that it knows is still there and could tell it."""
        nodes, configuration = self.world.nodes, self.invariants.configuration
        tellers = {member for member in configuration.members() if not nodes[member].spoilt}
        known = set() if node.raft is None else node.raft.configuration.all_voters()
        return is_outcast(node.id, configuration) and node.alive and bool(known & tellers)

    def _compare_states(self) -> None:
        nodes = self.world.nodes
        full = [nodes[node] for node in self.invariants.configuration.members() if not nodes[node].witness]
        machines = [node.machine for node in full if node.machine is not None and not node.spoilt]
        if len({machine.digest() for machine in machines}) != 1:
            raise self.invariants.fail("state machine safety", "equal applied indexes, different states")
        if any(machine.state() != self.invariants.model.state for machine in machines):
            raise self.invariants.fail("reference replay", "the final state is not that of the model")

    def _check_history(self) -> None:
        history = self.record.check()
        if history.verdict is not Verdict.LINEARIZABLE:
            raise self.invariants.fail("linearizable history", f"{history}\n{history.explain()}")

    def _report(self, recovery: float) -> Report:
        story, world = self.story, self.world
        story.trace_bytes(next(iter(world.nodes.values())).store.hard_state().term.to_bytes(8, "little"))
        installed = sum(node.installed for node in world.nodes.values())
        return Report(
            seed=self.plan.seed,
            nodes=self.plan.nodes,
            simulated_seconds=self.scheduler.now,
            events=self.scheduler.events,
            terms=len(self.invariants.leaders),
            commits=self.invariants.committed,
            acknowledged=sum(client.acknowledged for client in self.clients),
            reads=sum(client.read for client in self.clients),
            snapshots_installed=installed,
            faults={
                **dict(sorted(story.faults.items())),
                "lost messages": world.network.lost,
                "repeated messages": world.network.repeated,
            },
            recovery=recovery,
            digest=story.digest(),
        )


@contextmanager
def _without_collector() -> Iterator[None]:
    """A run makes few cycles and much garbage: looking for cycles would take a tenth of its time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def simulate(seed: int, *, nodes: int | None = None, seconds: float = 20.0) -> Report:
    """Run one seed: ``seconds`` of simulated time with faults, then until all agree again.

    ``nodes`` is drawn (3 or 5) unless given. Raises SimulationFailed.
    """
    return Simulation(draw_plan(seed, nodes, seconds)).run()


def tell(seed: int, *, nodes: int | None = None, seconds: float = 20.0) -> tuple[str, bool]:
    """What happens in the run of that seed, line by line, and whether it kept all invariants."""
    simulation = Simulation(draw_plan(seed, nodes, seconds))
    lines = [simulation.plan.describe()]
    try:
        report = simulation.run()
    except SimulationFailed as failure:
        return "\n".join([*lines, str(simulation.story), f"=> {failure.violation}"]), False
    end = (
        f"=> all invariants held: {report.acknowledged} commands acknowledged, {report.reads} reads,"
        f" {report.terms} leaders, agreement {report.recovery:.2f} s after healing; digest {report.digest}"
    )
    return "\n".join([*lines, str(simulation.story), end]), True
