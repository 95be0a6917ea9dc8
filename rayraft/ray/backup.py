"""Taking a backup of a group that serves: one node saves its state beside the work, and the caller fetches the file."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray

from rayraft.errors import BadConfiguration, NoQuorum
from rayraft.raft.types import NodeId
from rayraft.ray.actors import gather
from rayraft.ray.backup_source import IDLE_SECONDS
from rayraft.ray.group import Group
from rayraft.storage.backup import BackupHeader, BackupWriter

LEADER_SECONDS = 30.0  # a group that has no leader for longer has lost its majority


class _Unable(Exception):
    """This node can not give a backup; another one may."""


def take_backup(
    cluster: Group, path: str | Path, *, timeout_s: float, progress: Callable[[int, int], None] | None = None
) -> BackupHeader:
    """As `Cluster.backup`. ``progress`` is told the bytes that are here, and how many there are."""
    path = Path(path).expanduser()
    if path.is_dir():
        raise BadConfiguration(f"{str(path)!r} is a directory: name the file that the backup is to be written to")
    deadline = time.monotonic() + timeout_s
    failed: dict[NodeId, object] = {}
    leader = cluster.leader(min(timeout_s, LEADER_SECONDS))
    for node in sorted(cluster.nodes, key=lambda node: (node == leader, node)):  # spare the leader
        try:
            return _fetch(cluster.actor(node), node, path, deadline, progress)
        except _Unable as error:
            failed[node] = error
    reasons = "; ".join(f"node {node}: {error}" for node, error in sorted(failed.items()))
    raise NoQuorum(f"no node of {cluster.name!r} could give a backup: {reasons}")


def _fetch(
    actor: Any, node: NodeId, path: Path, deadline: float, progress: Callable[[int, int], None] | None
) -> BackupHeader:
    def ask(method: Any, *arguments: Any) -> Any:
        left = deadline - time.monotonic()
        if left <= 0:
            raise _Unable("the time is over")
        answer = gather({node: method.remote(*arguments)}, min(left, 2 * IDLE_SECONDS))[node]
        if isinstance(answer, Exception):
            raise _Unable(" ".join(str(getattr(answer, "cause", None) or answer).split()))
        return answer

    ticket = ask(actor.backup_begin)
    try:
        while (header := ask(actor.backup_header, ticket)) is None:
            pass  # each call waits for a while
        with BackupWriter(path) as writer:
            writer.write_header(header)
            held = 0
            while held < header.snapshot_bytes:
                data = ask(actor.backup_read, ticket, held)
                if not data:
                    raise _Unable(f"its file ends after {held} of {header.snapshot_bytes} bytes")
                writer.write(data)
                held += len(data)
                if progress is not None:
                    progress(held, header.snapshot_bytes)
            written: BackupHeader = writer.commit()
            return written
    finally:
        if ray.is_initialized():
            actor.backup_end.remote(ticket)
