"""Giving the disk of a node that has yet to be sealed the state of a backup, as if it had been there from the start."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from rayraft.errors import WrongDirectory
from rayraft.raft.types import NO_NODE, HardState, SnapshotMeta
from rayraft.storage.identity import Identity, settle
from rayraft.storage.rocks import RocksLogStore
from rayraft.storage.snapshots import FileSnapshotStore


def plant_chunk(directory: Path, meta: SnapshotMeta, offset: int, data: bytes) -> int:
    """The next bytes of the snapshot; returns how many are held. Raises DiskFailed."""
    return FileSnapshotStore(directory / "snapshots").receive(meta, offset, data)


def finish_planting(
    directory: Path, identity: Identity, meta: SnapshotMeta, bare: Callable[[BinaryIO], None] | None
) -> Identity:
    """Let the log begin behind the snapshot, durably; only then may the identity be sealed.

    ``bare`` writes the snapshot of a witness, which stores no data. It may be repeated after an interruption.
    Raises DamagedSnapshot (what came is not whole), WrongDirectory, DiskFailed.
    """
    if identity.sealed or not identity.awaiting:
        raise WrongDirectory(f"{directory} does not wait for the state of a backup")
    snapshots = FileSnapshotStore(directory / "snapshots")
    if bare is not None:
        snapshots.save(meta, bare)
    else:
        snapshots.finish(meta)
    log = RocksLogStore(directory / "log", meta.configuration, owner=identity.disk_id)
    try:
        log.install(meta, HardState(meta.term, NO_NODE, meta.index))
    finally:
        log.close()
    return settle(directory)
