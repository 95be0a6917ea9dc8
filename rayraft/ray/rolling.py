"""Changing every node of a group while it serves: its size, and its processes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeAlias

import ray
from ray.exceptions import ActorDiedError

from rayraft.errors import MembershipRefused, NoQuorum, RayraftError
from rayraft.raft.quorum import majority
from rayraft.raft.types import Configuration, NodeId
from rayraft.ray.actors import gather, left
from rayraft.ray.group import POLL_SECONDS, Group
from rayraft.ray.members import Members
from rayraft.ray.names import find_nodes
from rayraft.ray.settings import SIZES, bad_size
from rayraft.ray.spec import NodeReport, NodeState
from rayraft.ray.wire import check_version

if TYPE_CHECKING:
    from collections.abc import Iterator


PATIENCE_SECONDS = 5.0
RECOVERY_SECONDS = 20.0
CLOSE_BEHIND = 100  # entries that a node under load may lack and still count as caught up
Progress: TypeAlias = Callable[[str], None]
Reports: TypeAlias = "Mapping[NodeId, NodeReport | Exception]"


def ignore(_: str) -> None:
    """Nobody looks."""


# --- the size ---------------------------------------------------------------------------------------------------------


def scale(cluster: Group, nodes: int, timeout_s: float, on_progress: Progress) -> Configuration:
    """Invariants:

    1. The voters change in one joint step, and only to voters a majority of whom answers and has caught up.
    2. Where it fails it takes the learners back that it has added. Those that it could not, as its process was killed,
       become voters when it is repeated.
    """
    if nodes not in SIZES:
        raise bad_size(nodes)
    deadline = time.monotonic() + timeout_s
    members = Members(cluster)
    configuration, reports = members.configuration(), cluster.reports()
    if configuration.witnesses:
        raise MembershipRefused("a group with witnesses is changed node by node: add_node, remove_node, set_members")
    stay = _who_stays(configuration, reports, nodes, cluster.leader(left(deadline)))
    healthy = [node for node in stay if is_healthy(reports.get(node))]
    coming = nodes - len(stay)
    if len(healthy) + coming < majority(nodes):
        raise MembershipRefused(
            f"of {nodes} voters only {len(healthy) + coming} would answer, which is no majority: bring nodes "
            f"{', '.join(str(node) for node in stay if node not in healthy)} back, or replace them first"
        )
    learners = [node for node in configuration.learners if is_healthy(reports.get(node))][:coming]
    kept = [node for node in configuration.learners if node not in learners]
    added: list[NodeId] = []
    try:
        while len(learners) + len(added) < coming:
            on_progress(f"starting node {len(stay) + len(learners) + len(added) + 1} of {nodes}")
            added.append(members.add(learner=True, timeout_s=left(deadline)))
        wanted = sorted([*stay, *learners, *added])
        if set(wanted) != set(configuration.voters) or configuration.is_joint:
            on_progress(_what(configuration, wanted))
            _require_voters(members, configuration)
            members.set(wanted, kept, left(deadline))
    except BaseException:
        with suppress(Exception):
            members.take_back(added)
        raise
    _end_leftovers(cluster, members)
    on_progress(f"{len(wanted)} voters: {', '.join(map(str, wanted))}")
    return members.configuration()


def _require_voters(members: Members, before: Configuration) -> None:
    """Somebody else's change must not be undone: who leaves was decided without it."""
    now = members.configuration()
    if set(now.voters) != set(before.voters):
        raise MembershipRefused(
            f"somebody else has changed the voters meanwhile, to {', '.join(map(str, now.voters))}: repeat it where "
            "that is not what you want"
        )


def _end_leftovers(cluster: Group, members: Members) -> None:
    """Actors that an operator who was interrupted has left: an id that was passed over never becomes a member."""
    configuration = members.configuration()
    cluster.look_again()
    for node in set(cluster.nodes) - set(configuration.members()):
        if node <= configuration.highest_id:
            members.end(node)


def _what(configuration: Configuration, wanted: list[NodeId]) -> str:
    come = [str(node) for node in wanted if node not in configuration.voters]
    go = [str(node) for node in configuration.voters if node not in wanted]
    parts = [f"nodes {', '.join(come)} catch up"] * bool(come) + [f"nodes {', '.join(go)} leave"] * bool(go)
    return " and ".join(parts)


def _who_stays(configuration: Configuration, reports: Reports, nodes: int, leader: NodeId) -> list[NodeId]:
    """The voters without the surplus: the sick go first, the leader last, and between them those on full machines."""
    stay = list(configuration.voters)
    while len(stay) > nodes:
        crowd = Counter(_machine(reports.get(node)) for node in stay)

        def dispensable(node: NodeId, crowd: Counter[str] = crowd) -> tuple[bool, bool, int, NodeId]:
            report = reports.get(node)
            return not is_healthy(report), node != leader, crowd[_machine(report)], node

        stay.remove(max(stay, key=dispensable))
    return stay


def is_healthy(report: NodeReport | Exception | None) -> bool:
    """It answers, and takes part with a state that is right."""
    return isinstance(report, NodeReport) and report.state is NodeState.RUNNING and report.replica is not None


def _machine(report: NodeReport | Exception | None) -> str:
    return str(report.home) if isinstance(report, NodeReport) else ""


# --- the processes ----------------------------------------------------------------------------------------------------


def restart_nodes(cluster: Group, allow_downtime: bool, timeout_s: float, on_progress: Progress) -> None:
    """Invariants:

    1. A voter goes only while a majority without it is up and has caught up.
    2. The leader goes last, when it leads no longer.
    3. None goes where the version installed here could not run beside the others.
    """
    deadline = time.monotonic() + timeout_s
    members = Members(cluster)
    for report in cluster.reports().values():
        if isinstance(report, NodeReport) and report.replica is not None:  # else it is the one that has to go
            check_version(cluster.name, report.protocol)
    with _nobody_preferred(members, deadline):
        leader, done = cluster.leader(left(deadline)), set[NodeId]()
        while True:
            todo = [node for node in members.configuration().members() if node not in done and node in cluster.nodes]
            if not todo:
                return
            reports = cluster.reports()
            node = _next(todo, leader, reports)
            if not allow_downtime:
                _wait_until_safe(cluster, members.configuration(), node)
            _hand_over(cluster, members, node, deadline, on_progress)
            on_progress(f"restarting node {node} ({len(done) + 1} of {len(done) + len(todo)})")
            _restart(cluster, members, node, reports.get(node), deadline)
            done.add(node)
            leader = cluster.leader(left(deadline))


def _next(todo: list[NodeId], leader: NodeId, reports: Reports) -> NodeId:
    """The sick first: they may get well by it, and take nothing from the others."""
    return min(todo, key=lambda node: (node == leader, is_healthy(reports.get(node)), node))


@contextmanager
def _nobody_preferred(members: Members, deadline: float) -> Iterator[None]:
    """A preferred leader would be made leader again before it could be restarted."""
    preferred = list(members.configuration().preferred)
    if preferred:
        members.prefer([], left(deadline))
    try:
        yield
    except BaseException:
        with suppress(RayraftError):
            _prefer_again(members, preferred, 30.0)
        raise
    _prefer_again(members, preferred, max(30.0, left(deadline)))


def _prefer_again(members: Members, preferred: list[NodeId], timeout_s: float) -> None:
    """Those who are members still."""
    if preferred:
        there = members.configuration().members()
        members.prefer([node for node in preferred if node in there], timeout_s)


def _wait_until_safe(cluster: Group, configuration: Configuration, node: NodeId) -> None:
    """Raises NoQuorum unless a majority is up and near the end of the log without ``node``, now or shortly."""
    patience = time.monotonic() + PATIENCE_SECONDS
    while True:
        reports = cluster.reports()
        running = [report.replica for report in reports.values() if isinstance(report, NodeReport) and report.replica]
        commit = max((status.commit for status in running), default=0)
        for voters in (configuration.voters, configuration.outgoing):
            up = [voter for voter in voters if voter != node and _is_current(reports.get(voter), commit)]
            if node in voters and len(up) < majority(len(voters)):
                break
        else:
            return
        if time.monotonic() > patience:
            raise NoQuorum(
                f"node {node} of {cluster.name!r} is not restarted: of {len(voters)} voters only {len(up)} others are "
                "up and have caught up, which is no majority. Bring the others back first; allow_downtime=True "
                "restarts it all the same"
            )
        time.sleep(POLL_SECONDS)


def _is_current(report: NodeReport | Exception | None, commit: int) -> bool:
    if not isinstance(report, NodeReport) or report.replica is None or not is_healthy(report):
        return False
    return report.replica.applied >= commit - CLOSE_BEHIND


def _hand_over(cluster: Group, members: Members, node: NodeId, deadline: float, on_progress: Progress) -> None:
    """Have somebody else lead if ``node`` does and anybody can."""
    if cluster.leader(left(deadline)) != node:
        return
    reports, configuration = cluster.reports(), members.configuration()
    heirs = {
        other: report.replica.applied
        for other in configuration.voters
        if other not in (node, *configuration.witnesses)
        and isinstance(report := reports.get(other), NodeReport)
        and is_healthy(report)
        and report.replica is not None
    }
    if heirs:
        heir = max(heirs, key=lambda other: (heirs[other], -other))
        on_progress(f"node {node} hands over to node {heir}")
        members.transfer(heir, left(deadline))


def _restart(
    cluster: Group, members: Members, node: NodeId, before: NodeReport | Exception | None, deadline: float
) -> None:
    """Another process in the place of the node's: Ray starts it under the same name, on the same machine.

    Does not wait for a node that somebody else removes meanwhile.
    """
    actor = cluster.actor(node)
    ray.kill(actor, no_restart=False)
    old = before.pid if isinstance(before, NodeReport) else 0
    goal, failing_since = 0, float("inf")
    while True:
        report = gather({node: actor.report.remote()}, min(5.0, left(deadline)))[node]
        if isinstance(report, ActorDiedError):  # for good
            actor = _next_actor(cluster, members, node)
            if actor is None:
                return
        if isinstance(report, NodeReport) and report.pid != old:
            failing = report.state is NodeState.FAILED
            failing_since = min(failing_since, time.monotonic()) if failing else float("inf")
            if time.monotonic() - failing_since > RECOVERY_SECONDS:  # it may try again by itself
                raise NoQuorum(
                    f"node {node} of {cluster.name!r} can not come back, the rest is not touched: {report.error}"
                )
            if not goal and is_healthy(report):
                leader = cluster.reports().get(cluster.leader(left(deadline)))
                goal = leader.replica.commit if isinstance(leader, NodeReport) and leader.replica else 0
            if goal and report.replica is not None and report.replica.applied >= goal:
                return
        if time.monotonic() > deadline:
            found = report if isinstance(report, Exception) else report.error or report.state.value
            raise NoQuorum(f"node {node} of {cluster.name!r} did not come back, the rest is left as it is: {found}")
        time.sleep(POLL_SECONDS)


def _next_actor(cluster: Group, members: Members, node: NodeId) -> Any | None:
    """Of a node whose actor somebody has ended; None where it was removed. Raises NoQuorum, NoSuchGroup."""
    found = find_nodes(cluster.name).get(node)
    if found is not None:
        cluster.admit(node, found)
    elif node in members.configuration().members():
        raise NoQuorum(
            f"the actor of node {node} of {cluster.name!r} was ended while it was restarted, the rest is left: "
            "repeat it when the supervisor has brought the node up again, or replace the node"
        )
    return found
