"""The supervisor of a group: an actor that looks at it, decides (`supervision`) and does one step, again and again.

It keeps nothing that matters: what it needs is in the group, on its disks and in Ray, so Ray may start it anew anywhere
at any time, and two of them at once do no harm: a node takes the place of another only while that is still a member.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import ray

from rayraft.errors import DamagedLog, DamagedSnapshot, LostDisk, NoQuorum, NoSuchGroup, NotEnoughMachines
from rayraft.raft.types import NO_NODE, Configuration, NodeId
from rayraft.ray.actors import create_actor, creating, gather
from rayraft.ray.cluster import Cluster
from rayraft.ray.members import Home, Members, places_of, spec_like
from rayraft.ray.names import NAMESPACE, find_nodes, find_supervisor, supervisor_name
from rayraft.ray.placement import Place, plan
from rayraft.ray.spec import NodeReport, NodeSpec, NodeState
from rayraft.ray.supervision import (
    Begin,
    Decision,
    Dismiss,
    Finish,
    Health,
    Member,
    Restart,
    Revive,
    Rules,
    Silence,
    Step,
    Stranger,
    Supervision,
    Tell,
    View,
    Withdraw,
    decide,
)
from rayraft.ray.survey import Found, alive_machines, mark_removed, survey

LOOK_SECONDS = 2.0  # between two looks
ANSWER_SECONDS = 5.0  # a node that takes longer to say how it is counts as away
JOIN_SECONDS = 120.0
GONE_SECONDS = 180.0  # without a group, before a supervisor ends itself
HAND_OVER_SECONDS = 600.0  # a snapshot may have to be sent first
KEPT_STEPS = 100
_DAMAGE = (LostDisk, DamagedLog, DamagedSnapshot)


@dataclass(slots=True)
class Knowledge:
    """What helps from one look to the next; all of it can be found out anew."""

    since: dict[NodeId, tuple[str, float]] = field(default_factory=dict)
    specs: dict[NodeId, NodeSpec] = field(default_factory=dict)
    configuration: Configuration | None = None
    machines: frozenset[Place] = frozenset()  # that were up when the disks were last looked at
    forgotten: dict[NodeId, tuple[Place, Found]] = field(default_factory=dict)
    silent: dict[NodeId, Silence] = field(default_factory=dict)

    def seen(self, node: NodeId, condition: str, now: float) -> float:
        """Since when ``node`` has been so."""
        if self.since.get(node, ("", 0.0))[0] != condition:
            self.since[node] = (condition, now)
        return self.since[node][1]

    def silence(self, node: NodeId, is_silent: bool, now: float) -> Silence | None:
        if not is_silent:
            self.silent.pop(node, None)
            return None
        return self.silent.setdefault(node, Silence(now))


class Supervisor:
    """The actor: one thread looks and acts; the remote methods only read."""

    def __init__(self, group: str, rules: Rules) -> None:
        self._group, self._rules = group, rules
        self._knowledge = Knowledge()
        self._looks = 0
        self._decision = Decision()
        self._error: str | None = None
        self._steps: deque[str] = deque(maxlen=KEPT_STEPS)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._main, name="rayraft-supervisor", daemon=True)
        self._thread.start()

    def status(self) -> Supervision:
        return Supervision(self._rules, self._looks, self._decision.notes, list(self._steps), self._error)

    def pid(self) -> int:
        return os.getpid()

    def stop(self) -> None:
        """No further step; waits for the one that is under way, for as long as the caller does."""
        self._stopped.set()
        self._thread.join()

    def _end(self) -> None:
        """There is nothing to supervise: a group that is started again gets a new supervisor."""
        with contextlib.suppress(Exception):  # tried again after the next look
            if (supervisor := find_supervisor(self._group)) is not None:
                ray.kill(supervisor, no_restart=True)

    def _main(self) -> None:
        gone_since = float("inf")
        while not self._stopped.is_set():
            try:
                look = Look(Cluster(self._group, find_nodes(self._group)), self._knowledge)
                self._decision = decide(look.view, self._rules, time.monotonic())
                if (step := self._decision.step) is not None and not self._stopped.is_set():
                    self._steps.append(f"{time.strftime('%H:%M:%S')} {step}")
                    look.carry_out(step)
                self._error = None
                gone_since = float("inf")
            except NoSuchGroup as error:  # being shut down, or all of it is gone
                self._error = str(error)
                gone_since = min(gone_since, time.monotonic())
                if time.monotonic() - gone_since >= GONE_SECONDS:
                    self._end()
            except Exception as error:  # Ray's head is away, a machine went down in the middle of a step: look again
                self._error = f"{type(error).__name__}: {error}"
            self._looks += 1
            self._stopped.wait(LOOK_SECONDS)


class Look:
    """The group as it is at one moment, and the means to do something about it."""

    def __init__(self, cluster: Cluster, knowledge: Knowledge) -> None:
        self._cluster, self._knowledge = cluster, knowledge
        self._members = Members(cluster)
        answers = cluster.reports(ANSWER_SECONDS)
        self._reports = {node: report for node, report in answers.items() if isinstance(report, NodeReport)}
        self._learn_specs()
        leader = _leader(self._reports)
        if leader is not None and leader.replica is not None:
            knowledge.configuration = leader.replica.configuration
        if knowledge.configuration is None:  # of the newest log there is
            newest = [report.replica for report in self._reports.values() if report.replica is not None]
            if not newest:
                raise NoQuorum(f"no node of {cluster.name!r} says who belongs to it")
            knowledge.configuration = max(newest, key=lambda status: (status.term, status.last_index)).configuration
        self.configuration = knowledge.configuration
        self._pattern = next(iter(knowledge.specs.values()))
        self._machines = alive_machines(self._pattern.placement.label)
        self._places = places_of(self._reports.values())
        self._look_at_disks()
        self.view = self._view(leader is not None, time.monotonic())
        if leader is not None and any(set(self._places) - set(r.places) for r in self._reports.values() if r.replica):
            self._members.tell_places({})

    def _learn_specs(self) -> None:
        """What each node was started with, asked once."""
        specs = self._knowledge.specs
        unknown = [node for node in self._reports if node not in specs]
        found = gather({node: self._cluster.actor(node).spec.remote() for node in unknown}, ANSWER_SECONDS)
        specs |= {node: spec for node, spec in found.items() if isinstance(spec, NodeSpec)}
        if not specs:
            raise NoQuorum(f"no node of {self._cluster.name!r} answers")

    def _look_at_disks(self) -> None:
        """Find disks of removed nodes that do not know it, whenever a machine has come."""
        up = frozenset(machine.place for machine in self._machines)
        identity = next((report.identity for report in self._reports.values() if report.identity is not None), None)
        if up <= self._knowledge.machines or identity is None:
            self._knowledge.machines = up
            return
        members = set(self.configuration.members())
        found = survey(self._pattern.data_dir, self._machines, 30.0)
        self._knowledge.forgotten = {
            item.node: (place, item)
            for place, items in found.by_place.items()
            for item in items
            if item.identity is not None
            and item.identity.cluster_id == identity.cluster_id
            and not item.identity.removed
            and item.node not in members
            and item.node <= self.configuration.highest_id
        }
        self._knowledge.machines = up

    # --- the view -----------------------------------------------------------------------------------------------------

    def _view(self, led: bool, now: float) -> View:
        configuration = self.configuration
        members = set(configuration.members())
        return View(
            members=tuple(self._member(node, now) for node in sorted(members)),
            strangers=tuple(self._stranger(node, now) for node in self._cluster.nodes if node not in members),
            forgotten=frozenset(self._knowledge.forgotten) - members - set(self._cluster.nodes),
            led=led,
            changing=configuration.is_joint,
        )

    def _member(self, node: NodeId, now: float) -> Member:
        health = self._health(node)
        spec = self._knowledge.specs.get(node)
        home = self._home(node)
        return Member(
            node=node,
            votes=node in self.configuration.voters,
            health=health,
            since=self._knowledge.seen(node, health.value, now),
            machine_up=home is not None and any(machine.is_at(home) for machine in self._machines),
            room=self._has_room(node, health),
            replaces=spec.replaces if spec is not None else NO_NODE,
            ordered=spec is not None and spec.ordered,
            silence=self._knowledge.silence(node, self._is_silent(node), now),
        )

    def _is_silent(self, node: NodeId) -> bool:
        """It has an actor, but neither answers nor is heard by another: the supervisor alone may be cut off from it."""
        others = [report.replica for report in self._reports.values() if report.replica is not None]
        heard = any(node == other.leader or node in other.answering for other in others)
        return node in self._cluster.nodes and node not in self._reports and not heard

    def _home(self, node: NodeId) -> Place | None:
        spec = self._knowledge.specs.get(node)
        return self._places.get(node) or (spec.home if spec is not None else None)

    def _health(self, node: NodeId) -> Health:
        report = self._reports.get(node)
        if report is None:
            return Health.AWAY if node in self._cluster.nodes else Health.GONE
        if report.state is NodeState.BLANK or isinstance(report.error, _DAMAGE):
            return Health.DAMAGED
        return Health.WELL if report.replica is not None else Health.AWAY

    def _stranger(self, node: NodeId, now: float) -> Stranger:
        spec = self._knowledge.specs.get(node)
        return Stranger(
            node=node,
            was_member=node <= self.configuration.highest_id,
            since=self._knowledge.seen(node, "stranger", now),
            replaces=spec.replaces if spec is not None else NO_NODE,
        )

    def _avoided(self, node: NodeId, health: Health) -> Place | None:
        """Where a new node for ``node`` can not live: a machine that is silent may be away unnoticed."""
        return None if health is Health.DAMAGED else self._home(node)

    def _has_room(self, node: NodeId, health: Health) -> bool:
        others = {member: home for member in self.configuration.members() if (home := self._home(member))}
        others.pop(node, None)
        avoided = self._avoided(node, health)
        machines = [machine for machine in self._machines if avoided is None or not machine.is_at(avoided)]
        try:
            plan(self._cluster.name, [0], machines, self._pattern.placement, others)
        except NotEnoughMachines:
            return False
        return True

    # --- the steps ----------------------------------------------------------------------------------------------------

    def carry_out(self, step: Step) -> None:
        """Do it; what fails is tried again by another look, if it is still right then."""
        match step:
            case Revive(node):
                self._revive(node)
            case Restart(node):
                silence = self._knowledge.silent[node]
                self._knowledge.silent[node] = Silence(time.monotonic(), silence.ended + 1)
                ray.kill(self._cluster.actor(node), no_restart=False)
            case Begin(node):
                home = Home(avoid=self._avoided(node, self._health(node)))
                self._members.begin_replacement(node, home=home, replaces=node, timeout_s=JOIN_SECONDS)
            case Finish(node, new):
                self._members.hand_over(node, new, HAND_OVER_SECONDS)
            case Withdraw(node):
                self._members.remove(node, JOIN_SECONDS)
            case Dismiss(node):
                if node in self._reports:
                    gather({node: self._cluster.actor(node).retire.remote()}, ANSWER_SECONDS)
                self._members.end(node, ask=node in self._reports)
            case Tell(node):
                place, found = self._knowledge.forgotten.pop(node)
                if found.identity is not None:
                    mark_removed(place, found.directory, node, found.identity.cluster_id, 30.0)

    def _revive(self, node: NodeId) -> None:
        spec = self._knowledge.specs.get(node)
        if spec is None:
            home = self._home(node)
            if home is None:
                raise NoQuorum(f"nobody knows where node {node} lives")
            spec = spec_like(self._pattern, node, home, None, NO_NODE)
        with contextlib.suppress(ValueError):  # somebody else was faster
            self._cluster.admit(node, create_actor(spec))


def _leader(reports: Mapping[NodeId, NodeReport]) -> NodeReport | None:
    leading = [
        report
        for report in reports.values()
        if report.replica is not None and report.replica.role == "leader" and report.replica.serves
    ]
    return max(leading, key=lambda report: report.replica.term if report.replica is not None else 0, default=None)


# --- its life ---------------------------------------------------------------------------------------------------------


def ensure_supervisor(group: str, rules: Rules) -> None:
    """Create the group's supervisor unless there is one. Ray keeps it running, on whatever machine."""
    with creating:
        ray.remote(num_cpus=0)(Supervisor).options(
            name=supervisor_name(group),
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            max_restarts=-1,
            max_task_retries=0,
            max_concurrency=4,
            enable_task_events=False,
        ).remote(group, rules)
