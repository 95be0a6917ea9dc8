"""What a group's actors are called in the Ray cluster."""

from __future__ import annotations

import contextlib
import re

import ray
from ray.actor import ActorHandle

from rayraft.errors import BadConfiguration, NoSuchGroup
from rayraft.raft.types import NodeId

NAMESPACE = "rayraft"
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}")


def check_group_name(name: str) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise BadConfiguration(f"a group's name is 1 to 100 letters, digits, '_', '.' or '-', not {name!r}")


def actor_name(group: str, node: NodeId) -> str:
    return f"{group}:{node}"


def supervisor_name(group: str) -> str:
    return f"{group}:supervisor"


def node_handle(group: str, node: NodeId) -> ActorHandle:
    """Asks Ray's head; ValueError when there is no such actor."""
    return ray.get_actor(actor_name(group, node), namespace=NAMESPACE)


def ask_for_address(handle: ActorHandle) -> ActorHandle:
    """Have Ray find out where the actor is, which it does at the first call: its head may be away at a later one."""
    handle.__ray_ready__.remote()
    return handle


def find_supervisor(group: str) -> ActorHandle | None:
    """The supervisor of a group, None where it has none."""
    with contextlib.suppress(ValueError):
        return ray.get_actor(supervisor_name(group), namespace=NAMESPACE)
    return None


def list_groups() -> dict[str, list[NodeId]]:
    """The groups of this Ray cluster, with the ids of their nodes."""
    groups: dict[str, list[NodeId]] = {}
    for actor in ray.util.list_named_actors(all_namespaces=True):
        if actor["namespace"] == NAMESPACE:
            group, _, node = actor["name"].rpartition(":")
            if node.isdecimal():
                groups.setdefault(group, []).append(int(node))
    return {group: sorted(nodes) for group, nodes in sorted(groups.items())}


def find_nodes(group: str) -> dict[NodeId, ActorHandle]:
    """The node actors of a group. Raises NoSuchGroup."""
    groups = list_groups()
    nodes: dict[NodeId, ActorHandle] = {}
    for node in groups.get(group, ()):
        with contextlib.suppress(ValueError):  # it ended since the names were listed
            nodes[node] = node_handle(group, node)
    if not nodes:
        known = ", ".join(name for name in groups if name != group) or "none"
        raise NoSuchGroup(
            f"no group {group!r} runs in this Ray cluster (running: {known}); start it with rayraft.start(...), on its "
            "old data directory if it has one"
        )
    return nodes
