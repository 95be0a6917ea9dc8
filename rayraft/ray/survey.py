"""What the machines of a Ray cluster have of a group: asked by a short task on each, for nobody else sees its disks."""

from __future__ import annotations

import contextlib
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import ray
from ray.exceptions import RayError

from rayraft.errors import NoQuorum, StorageError
from rayraft.raft.types import NodeId
from rayraft.ray.founding import FOUNDING_FILE
from rayraft.ray.placement import MACHINE_FIELD, Disk, Machine, Place, machines_of
from rayraft.storage.files import make_directory, sync_directory, write_file
from rayraft.storage.identity import Identity, read_identity, retire

LIVENESS_SECONDS = 1.0
PLACES_FILE = "places"  # beside the identity: where each node of the group lives, as far as this one was told


class Found(msgspec.Struct, frozen=True):
    """One directory of a node."""

    node: NodeId
    directory: str
    identity: Identity | None
    unclear: bool  # there is something, but no identity that can be read: the node itself will say what
    places: dict[NodeId, Place]
    keeps_class: bool = False  # the class that the log begins with is kept there (`rayraft.ray.founding`)


@dataclass(frozen=True, slots=True)
class Survey:
    """The directories of a group on every machine that answered."""

    by_place: Mapping[Place, Sequence[Found]]

    def everything(self) -> list[Found]:
        return [found for directories in self.by_place.values() for found in directories]

    def identities(self) -> dict[NodeId, Identity]:
        return {found.node: found.identity for _, found in self._best() if found.identity is not None}

    def disks(self) -> list[Disk]:
        return [
            Disk(found.node, place, found.identity.disk_id if found.identity is not None else "")
            for place, found in self._best()
            if _worth(found)
        ]

    def elsewhere(self) -> set[NodeId]:
        """The nodes that live where no directory of theirs is seen; a leftover may be, on another machine."""
        here = {(found.node, place) for place, found in self._best()}
        return {node for node, place in self.recorded().items() if (node, place) not in here}

    def used(self) -> set[NodeId]:
        """The ids that a disk has, also one whose node never became a member."""
        return {found.node for _, found in self._best()}

    def recorded(self) -> dict[NodeId, Place]:
        """Where each node lives by what the disks say; a node lives in one place for ever."""
        speaking = [found for found in self.everything() if found.identity is None or not found.identity.removed]
        return {node: place for found in speaking for node, place in found.places.items()}

    def unfinished(self) -> dict[NodeId, str]:
        """The nodes whose joining was interrupted before they could become members, and their directories."""
        return {found.node: found.directory for _, found in self._best() if is_unfinished(found.identity)}

    def _best(self) -> list[tuple[Place, Found]]:
        """Of several directories of one node those that count: what a node left that never was one does not."""
        used = [
            (place, found)
            for place, directories in self.by_place.items()
            for found in directories
            if found.identity is not None or found.unclear
        ]
        best: dict[NodeId, int] = {}
        for _, found in used:
            best[found.node] = max(best.get(found.node, 0), _worth(found))
        return [(place, found) for place, found in used if _worth(found) == best[found.node]]


def is_unfinished(identity: Identity | None) -> bool:
    """Whether it is that of a node that was to join, and never came so far as to be a member."""
    return identity is not None and not (identity.sealed or identity.removed or identity.voters)


def _worth(found: Found) -> int:
    """2: a node that took part. 1: it may have, or was to found the group. 0: it does not come up (again)."""
    identity = found.identity
    if identity is not None and (identity.removed or is_unfinished(identity)):
        return 0
    return 2 if identity is not None and identity.sealed else 1


def alive_machines(label: str) -> list[Machine]:
    """The machines of the Ray cluster that are up, by the label or address that names them."""
    return machines_of(ray.nodes(), label)


def directory_of(data_dir: str, place: Place, node: NodeId) -> str:
    """Where a node that lives at ``place`` keeps its disk."""
    return str(Path(data_dir.replace(MACHINE_FIELD, place.value)) / f"node-{node}")


def survey(data_dir: str, machines: Iterable[Machine], timeout_s: float, *, strict: bool = True) -> Survey:
    """Ask every machine what lies under ``data_dir``; one that turns out to be away is left out.

    Ray takes up to a minute to notice that a machine is gone. Raises NoQuorum where one that is up does not answer;
    unless ``strict`` that one is left out, too.
    """
    deadline = time.monotonic() + timeout_s
    here = None if ray.util.client.ray.is_connected() else ray.get_runtime_context().get_node_id()
    by_place: dict[Place, Sequence[Found]] = {}
    asked: list[tuple[Machine, Any]] = []
    for machine in machines:
        path = data_dir.replace(MACHINE_FIELD, machine.name)
        if here in machine.ray_nodes:
            by_place[machine.place] = look(path)
        else:
            asked.append((machine, _task(look, machine.place).remote(path)))
    while asked:
        ray.wait([reference for _, reference in asked], num_returns=len(asked), timeout=LIVENESS_SECONDS)
        up = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        silent = []
        for machine, reference in asked:
            answer = _answer(reference)
            if not isinstance(answer, Exception):
                by_place[machine.place] = answer
            elif up.isdisjoint(machine.ray_nodes) or (not strict and time.monotonic() > deadline):
                ray.cancel(reference, force=True)
            elif time.monotonic() > deadline:
                raise NoQuorum(f"machine {machine.name} does not say what is in {data_dir}, is it well? {answer}")
            else:
                silent.append((machine, reference))
        asked = silent
    return Survey(by_place)


def _answer(reference: Any) -> Sequence[Found] | Exception:
    if not ray.wait([reference], timeout=0)[0]:
        return TimeoutError("it does not answer in time")
    try:
        return list(ray.get(reference))
    except RayError as error:
        return TimeoutError(f"it fails: {error}")


def mark_removed(place: Place, directory: str, node: NodeId, cluster_id: str, timeout_s: float) -> None:
    """Tell the disk of a node that is no member, where its process can not; another disk is left alone."""
    ray.get(_task(_retire, place).remote(directory, node, cluster_id), timeout=timeout_s)


def _task(function: object, place: Place) -> ray.remote_function.RemoteFunction:
    return ray.remote(num_cpus=0, max_retries=0)(function).options(**place.options())


# --- on the machine itself --------------------------------------------------------------------------------------------


def look(data_dir: str) -> list[Found]:
    """The directories of nodes under ``data_dir`` on this machine."""
    found = []
    for path in sorted(Path(data_dir).glob("node-*")):
        if path.name[5:].isdecimal():
            identity, unclear = None, False
            try:
                identity = read_identity(path)
            except StorageError:
                unclear = True
            if identity is not None and path.is_symlink() and identity.node_id != int(path.name[5:]):
                continue  # a link on a shared file system, made for another machine's disk at the same path
            keeps_class = (path / FOUNDING_FILE).exists()
            found.append(Found(int(path.name[5:]), str(path), identity, unclear, read_places(path), keeps_class))
    return found


def leave_link(data_dir: str, place: Place, node: NodeId, directory: str) -> None:
    """Have a disk that lies elsewhere found under ``data_dir``: a cold start and `recover` look nowhere else."""
    link = Path(directory_of(data_dir, place, node))
    with contextlib.suppress(OSError):  # it is there, or the disk itself is; or an operator has to make it
        make_directory(link.parent)
        link.symlink_to(directory)
        sync_directory(link.parent)


def _retire(directory: str, node: NodeId, cluster_id: str) -> None:
    identity = read_identity(directory)
    if identity is not None and (identity.node_id, identity.cluster_id) == (node, cluster_id):
        retire(directory)


def read_places(directory: str | Path) -> dict[NodeId, Place]:
    """What `write_places` wrote; nothing where that is missing or damaged: it only helps where a disk is missing."""
    try:
        line, _, rest = (Path(directory) / PLACES_FILE).read_bytes().partition(b"\n")
        if rest != b"%08x\n" % zlib.crc32(line):
            return {}
        return msgspec.json.decode(line, type=dict[NodeId, Place])
    except (OSError, msgspec.DecodeError):
        return {}


def write_places(directory: str | Path, places: Mapping[NodeId, Place]) -> None:
    """Raises OSError."""
    line = msgspec.json.encode(dict(places))
    write_file(Path(directory) / PLACES_FILE, b"%s\n%08x\n" % (line, zlib.crc32(line)))
