"""Which machine each replica lives on. Pure: what Ray and the disks say comes in, a plan goes out.

A replica is bound to its machine by a `Place`, and never moves: its disk is there. What must hold:

1. A place names something that a restart of the machine does not change: a label that the user gave it, or else its
   address. Never Ray's node id, which is new after every restart: an actor bound to it would wait for ever.
2. Two replicas of a group share a machine only where `Placement.allow_colocated` says so.
3. A replica whose disk is known is placed there and nowhere else; where that machine is away, it waits for it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec

from rayraft.errors import BadConfiguration, NotEnoughMachines, WrongDirectory
from rayraft.raft.types import NodeId

MACHINE_LABEL = "rayraft.io/machine"  # ray start --labels rayraft.io/machine=NAME
MACHINE_FIELD = "{machine}"  # in a data directory it stands for the machine's name
_SELECTOR = re.compile(r"(!?)(?:in\((.*)\)|(.*))")


class Place(msgspec.Struct, frozen=True):
    """What a replica is bound to: a node label, or the address of a machine that has none (``key`` is empty then)."""

    key: str
    value: str

    def options(self) -> dict[str, Any]:
        """The options of an actor or task that runs nowhere else. Ray gives each address a resource of its own."""
        if self.key:
            return {"label_selector": {self.key: self.value}}
        return {"resources": {f"node:{self.value}": 0.001}}

    def __str__(self) -> str:
        return self.value


NOWHERE = Place("", "")


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """Where a group's replicas may live."""

    # The label that names a machine. Machines without it go by their address.
    label: str = MACHINE_LABEL
    # Only machines with these labels: values as in Ray's label selectors, "a", "!a", "in(a, b)", "!in(a, b)".
    where: dict[str, str] = {}
    # Only these machines, in this order, each by its label, address or host name; empty: any.
    machines: tuple[str, ...] = ()
    # False: a machine has at most one replica of the group, so that losing it costs one vote.
    allow_colocated: bool = False


ANYWHERE = Placement()
PlacementLike: TypeAlias = Placement | Mapping[str, str] | Sequence[str] | None


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine that is up: one or several of Ray's nodes with the same place."""

    place: Place
    address: str
    host: str
    labels: Mapping[str, str]
    ray_nodes: tuple[str, ...]  # ids, good until the next restart

    @property
    def name(self) -> str:
        return self.place.value

    @property
    def names(self) -> set[str]:
        """All that a user may call it."""
        return {self.name, self.address, self.host}

    def is_at(self, place: Place) -> bool:
        """Whether what is bound to ``place`` runs here."""
        return self.labels.get(place.key) == place.value if place.key else self.address == place.value


@dataclass(frozen=True, slots=True)
class Disk:
    """The directory of a node, as found on one machine."""

    node: NodeId
    place: Place
    disk_id: str  # of its identity; empty where that can not be read


def placement_of(given: PlacementLike, *, allow_colocated: bool = False) -> Placement:
    """The user's ``placement=``: a label selector, or a list of machines, or both as a `Placement`."""
    if isinstance(given, Placement):
        return msgspec.structs.replace(given, allow_colocated=given.allow_colocated or allow_colocated)
    if given is None:
        return Placement(allow_colocated=allow_colocated)
    if isinstance(given, Mapping):
        if not all(isinstance(item, str) for pair in given.items() for item in pair):
            raise BadConfiguration(f"placement must map labels to values as in Ray's label selectors, not {given!r}")
        return Placement(where=dict(given), allow_colocated=allow_colocated)
    if isinstance(given, str) or not all(isinstance(name, str) for name in given):
        raise BadConfiguration(f"placement must be a label selector (a dict) or a list of machines, not {given!r}")
    return Placement(machines=tuple(dict.fromkeys(given)), allow_colocated=allow_colocated)


# --- the machines there are -------------------------------------------------------------------------------------------


def machines_of(ray_nodes: Iterable[Mapping[str, Any]], label: str) -> list[Machine]:
    """The machines of those of Ray's nodes (`ray.nodes()`) that are alive, by name.

    Raises BadConfiguration where two hosts claim one name: what is bound to it could start on the wrong disk.
    """
    found: dict[Place, Machine] = {}
    for node in ray_nodes:
        if not node["Alive"]:
            continue
        address, host, labels = node["NodeManagerAddress"], node["NodeManagerHostname"], node.get("Labels") or {}
        place = Place(label, labels[label]) if label in labels else Place("", address)
        known = found.get(place)
        if known is not None and known.address != address and known.host != host:
            raise BadConfiguration(
                f"two machines carry the label {label}={place.value}: {known.host} ({known.address}) and {host} "
                f"({address}). A replica bound to it could come up on the other's disk: give each its own name"
            )
        ids = (*(known.ray_nodes if known is not None else ()), node["NodeID"])
        found[place] = Machine(place, address, host, labels, ids)
    return sorted(found.values(), key=lambda machine: machine.name)


def eligible(machines: Iterable[Machine], rules: Placement) -> list[Machine]:
    """Those of ``machines`` where the group's replicas may live; a list of names gives their order."""
    fitting = [
        machine
        for machine in machines
        if all(_selects(selector, machine.labels.get(key)) for key, selector in rules.where.items())
    ]
    if not rules.machines:
        return fitting
    listed = {name: index for index, name in reversed(list(enumerate(rules.machines)))}
    ranked = [
        (min(listed[name] for name in names), machine)
        for machine in fitting
        if (names := machine.names & listed.keys())
    ]
    return [machine for _, machine in sorted(ranked, key=lambda item: (item[0], item[1].name))]


def _selects(selector: str, value: str | None) -> bool:
    parts = _SELECTOR.fullmatch(selector)
    assert parts is not None  # it matches any text
    negated, several, single = parts.groups()
    wanted = {item.strip() for item in several.split(",")} if several is not None else {single}
    return (value in wanted) is not bool(negated)


# --- who lives where --------------------------------------------------------------------------------------------------


def plan(
    group: str, nodes: Sequence[NodeId], machines: Iterable[Machine], rules: Placement, homes: Mapping[NodeId, Place]
) -> dict[NodeId, Place]:
    """A place for each of ``nodes``, which are new, beside those that live at ``homes``. Raises NotEnoughMachines.

    Every group begins with another machine, so that several groups do not all crowd the first ones.
    """
    candidates = eligible(machines, rules)
    if not rules.machines:
        candidates.sort(key=lambda machine: hashlib.blake2b(f"{group}\n{machine.name}".encode()).digest())
    load = {machine.place: sum(machine.is_at(home) for home in homes.values()) for machine in candidates}
    placed: dict[NodeId, Place] = {}
    for node in nodes:
        free = [machine for machine in candidates if rules.allow_colocated or not load[machine.place]]
        if not free:
            raise _not_enough(group, len(nodes), candidates, rules, homes)
        best = min(free, key=lambda machine: load[machine.place])
        load[best.place] += 1
        placed[node] = best.place
    return placed


def _not_enough(
    group: str, wanted: int, candidates: Sequence[Machine], rules: Placement, homes: Mapping[NodeId, Place]
) -> NotEnoughMachines:
    fitting = " that placement allows" if rules.machines or rules.where else ""
    names = ", ".join(machine.name for machine in candidates) or "none"
    used = f", of which its other nodes use {', '.join(sorted(map(str, set(homes.values()))))}" if homes else ""
    what = f"{wanted} more" if homes else f"{wanted}"
    return NotEnoughMachines(
        f"group {group!r} needs {what} machine{'s' if wanted > 1 else ''} of its own, one for each node, and this Ray "
        f"cluster has {len(candidates)}{fitting} ({names}){used}: add machines with `ray start`, ask for fewer nodes, "
        "or pass allow_colocated=True where several nodes may share one (losing it then loses several votes)"
    )


def settle(
    group: str,
    nodes: Sequence[NodeId],
    disks: Iterable[Disk],
    machines: Sequence[Machine],
    rules: Placement,
    recorded: Mapping[NodeId, Place],
) -> dict[NodeId, Place]:
    """The places of a group that was founded before: each of ``nodes`` where its disk is (3).

    A directory that several machines see is on a file system that they share. A node whose disk is nowhere belongs
    where it was ``recorded``, be that machine up or away; one that was never recorded gets a free machine, where it
    will say that its disk is lost, or none where there is none. Raises WrongDirectory for two disks of one node.
    """
    seen: dict[NodeId, list[Disk]] = {}
    for disk in disks:
        seen.setdefault(disk.node, []).append(disk)
    homes: dict[NodeId, Place] = {}
    shared: list[NodeId] = []
    for node in nodes:
        found, home = seen.get(node, []), recorded.get(node)
        if len({disk.disk_id for disk in found} - {""}) > 1:
            raise _differ(group, node, found, home)
        at = [machine for machine in machines if any(disk.place == machine.place for disk in found)]
        if home is not None and (not at or any(machine.is_at(home) for machine in at)):
            homes[node] = home
        elif len(at) == 1:
            homes[node] = at[0].place
        else:
            shared.append(node)
    for node in shared:
        reachable = [disk.place for disk in seen.get(node, [])]
        allowed = [machine for machine in machines if not reachable or machine.place in reachable]
        try:
            homes |= plan(group, [node], allowed, rules, homes)
        except NotEnoughMachines:
            continue
    return homes


def _differ(group: str, node: NodeId, found: Iterable[Disk], home: Place | None) -> WrongDirectory:
    where = ", ".join(sorted(str(disk.place) for disk in found))
    remembered = f"by what the group's disks remember it lives on {home}; " if home is not None else ""
    return WrongDirectory(
        f"node {node} of {group!r} has a directory on several machines ({where}), which differ: one is a copy or a "
        f"leftover. Move it away, so that the right one is left: {remembered}the log of the right one was written last "
        "(compare the times of the files in it)"
    )
