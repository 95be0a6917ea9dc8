"""Upgrading the machine's class while the group serves: asked of every node first, then one command of the log."""

from __future__ import annotations

import time

from rayraft.client.client import Client
from rayraft.client.config import ClientConfig
from rayraft.errors import ClassNotLoadable, NoQuorum, RayraftError, UpgradeFailed
from rayraft.machine.calls import encode_call
from rayraft.machine.classes import full_name, pack_class
from rayraft.machine.objects import UPGRADE, marked_methods
from rayraft.ray.actors import gather, left
from rayraft.ray.endpoints import RayEndpoints
from rayraft.ray.group import Group
from rayraft.ray.members import Members


def upgrade(cluster: Group, cls: type, *, without_absent: bool, timeout_s: float) -> int:
    """Returns the version of the class: 1 after the first upgrade. See `Cluster.upgrade`."""
    marked_methods(cls)
    deadline = time.monotonic() + timeout_s
    packed = pack_class(cls)
    replaces = _rehearse(cluster, cls, packed, without_absent, deadline)
    client = Client(RayEndpoints(cluster.name, {node: cluster.actor(node) for node in cluster.nodes}), ClientConfig())
    try:
        remaining = left(deadline)
        version: int = client.command(encode_call(UPGRADE, (replaces, packed), {}), remaining).result(remaining)
    finally:
        client.close()
    # A node that restarts need not go through the old class again. Who takes longer than there is time is left to it.
    cluster.take_snapshot(left(deadline) / len(cluster.nodes))
    return version


def _rehearse(cluster: Group, cls: type, packed: bytes, without_absent: bool, deadline: float) -> int:
    """Every member loads the class and migrates a copy of its state; the version that the leader has."""
    leader = cluster.leader(left(deadline, 0.1))
    configuration = Members(cluster).configuration()
    members = [node for node in configuration.members() if node not in configuration.witnesses]
    calls = {node: cluster.actor(node).prepare_upgrade.remote(packed) for node in members if node in cluster.nodes}
    answers = gather(calls, left(deadline))
    wrong: dict[int, Exception] = {node: NoQuorum("it has no actor") for node in members if node not in calls}
    wrong |= {node: answer for node, answer in answers.items() if isinstance(answer, Exception)}
    refusals = {node: error for node, error in wrong.items() if isinstance(error, (UpgradeFailed, ClassNotLoadable))}
    if refusals:
        node, error = next(iter(sorted(refusals.items())))
        raise UpgradeFailed(
            f"node {node} can not upgrade to {full_name(cls)}, so nothing was changed: {_reason(error)}"
        ) from None
    if leader in wrong or (wrong and not without_absent):
        absent = "; ".join(f"node {node}: {_reason(error)}" for node, error in sorted(wrong.items()))
        raise UpgradeFailed(
            f"nothing was changed, because some nodes could not be asked whether they can load {full_name(cls)}: "
            f"{absent}. Bring them back or remove them first; without_absent=True goes on without them, and one that "
            "can not load the class will stop when it comes to it"
        )
    return int(answers[leader])


def _reason(error: Exception) -> str:
    """What the node raised, without Ray's trace around it."""
    cause = getattr(error, "cause", None)
    return str(cause if isinstance(cause, RayraftError) else error)
