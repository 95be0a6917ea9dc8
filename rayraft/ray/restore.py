"""Starting a new group from a backup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cloudpickle

from rayraft.client.handle import DEFAULT_TIMEOUT_S, Handle
from rayraft.errors import BadConfiguration, NoQuorum, StorageError
from rayraft.raft.types import Configuration, NodeId, SnapshotMeta
from rayraft.ray.actors import gather, left
from rayraft.ray.backup_source import CHUNK_BYTES
from rayraft.ray.cluster import Cluster
from rayraft.ray.placement import PlacementLike
from rayraft.ray.settings import Settings
from rayraft.ray.spec import NodeReport
from rayraft.ray.starting import start
from rayraft.storage.backup import BackupHeader, open_backup, verify_backup


def restore(
    path: str | Path,
    machine: type | None = None,
    *,
    name: str,
    nodes: int = 3,
    witnesses: int = 0,
    data_dir: str | Path,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    placement: PlacementLike = None,
    allow_colocated: bool = False,
    supervise: bool = True,
    settings: Settings | None = None,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    start_timeout_s: float = 120.0,
) -> Handle:
    """Start a new group with the state of the backup at ``path``; returns a handle when it serves.

    All arguments are as for `start`; without a ``machine``, the class and arguments are those in
    the file. **Unpickling runs code: restore only files that you trust.** The group gets an id of its own; clients of
    the old one find their sessions gone, so nothing of theirs is applied twice. The directories
    ``data_dir/node-i`` must be missing or empty.

    Raises DamagedBackup (nothing was touched then), GroupExists, WrongDirectory, BadConfiguration, NoQuorum.
    """
    path = Path(path).expanduser()
    header = verify_backup(path)
    if machine is None:
        machine, args, kwargs = _machine_of(header, path)
    voters = tuple(range(1, nodes + 1))
    configuration = Configuration(voters=voters, witnesses=voters[nodes - witnesses :])

    def plant(cluster: Cluster, deadline: float) -> None:
        _plant(cluster, path, SnapshotMeta(header.index, header.term, configuration), deadline)

    return start(
        machine,
        name=name,
        nodes=nodes,
        witnesses=witnesses,
        data_dir=data_dir,
        args=args,
        kwargs=kwargs,
        placement=placement,
        allow_colocated=allow_colocated,
        supervise=supervise,
        settings=settings,
        timeout_s=timeout_s,
        start_timeout_s=start_timeout_s,
        plant=plant,
    )


def _machine_of(header: BackupHeader, path: Path) -> tuple[type, Sequence[Any], Mapping[str, Any]]:
    try:
        machine, args, kwargs = cloudpickle.loads(header.machine)
    except Exception as error:
        raise BadConfiguration(
            f"the class {header.machine_name} in {path} can not be loaded here ({error}): make its module importable, "
            "or name the class"
        ) from error
    return machine, args, kwargs


def _plant(cluster: Cluster, path: Path, meta: SnapshotMeta, deadline: float) -> None:
    """Have every node put the state on its disk, one chunk after another, all nodes side by side."""
    storing = [node for node in cluster.nodes if node not in meta.configuration.witnesses]
    with open_backup(path) as (_, file):
        offset = 0
        while data := file.read(CHUNK_BYTES):
            offset += len(data)
            calls = {node: cluster.actor(node).plant.remote(meta, offset - len(data), data) for node in storing}
            for node, held in _answers(cluster, calls, deadline).items():
                if held != offset:
                    raise StorageError(f"node {node} holds {held} bytes of the backup, {offset} were sent")
    calls = {node: cluster.actor(node).planted.remote(meta) for node in cluster.nodes}
    for node, report in _answers(cluster, calls, deadline).items():
        if not isinstance(report, NodeReport) or report.error is not None:
            raise (report.error if isinstance(report, NodeReport) else None) or StorageError(
                f"node {node} could not put the backup on its disk: {report}"
            )


def _answers(cluster: Cluster, calls: Mapping[NodeId, Any], deadline: float) -> dict[NodeId, Any]:
    answers = gather(calls, left(deadline))
    failed = {node: answer for node, answer in answers.items() if isinstance(answer, Exception)}
    if failed:
        raise NoQuorum(f"{cluster.name!r} could not be restored, some nodes failed: {failed}")
    return answers
