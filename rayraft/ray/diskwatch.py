"""Looking after the disk of a node that runs, in a thread of its own: what commands do not touch fails unnoticed.

1. A data directory that was deleted or replaced is found within `LOOK_SECONDS` and a turn: the node stops.
2. A leader whose disk is nearly full hands over before it is full.
3. What nobody reads is read again: each entry once in (entries / `SLICE_ENTRIES`) looks, the snapshot every
   `SNAPSHOT_SECONDS`, and when a follower has refused what was sent of it. Damage ends the process; the next one reads
   the whole log, and stays down if it is damaged.
4. A backup that nobody fetches does not stay.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rayraft.errors import DamagedLog, DamagedSnapshot, DiskFull, LostDisk, StorageError
from rayraft.storage.identity import IDENTITY_FILE
from rayraft.storage.snapshots import NoSnapshot
from rayraft.storage.space import check_room

if TYPE_CHECKING:
    from rayraft.ray.backup_source import BackupSource
    from rayraft.ray.loop import RaftLoop

LOOK_SECONDS = 2.0
SNAPSHOT_SECONDS = 600.0
HAND_OVER_SECONDS = 60.0  # between two attempts, so that leadership is not passed round where every disk is full
_FIXED = ("", "log", "log/acknowledged", "log/rocksdb", "snapshots")  # made once, and never replaced while a node runs


class DiskWatch:
    """One node's. ``warning`` is what its operator should know while it goes on."""

    def __init__(self, directory: str, loop: RaftLoop, backups: BackupSource) -> None:
        self._directory = Path(directory)
        self._loop = loop
        self._snapshots = loop.snapshots
        self._backups = backups
        self._marks = {name: _mark(self._directory / name) for name in _FIXED}
        self._snapshot_due = time.monotonic() + SNAPSHOT_SECONDS
        self._refused = 0  # times that a follower has refused a snapshot, up to the last check
        self._handed_over = float("-inf")
        self.warning: DiskFull | None = None
        self._thread = threading.Thread(target=self._run, name="rayraft-disk", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        while not self._loop.stopped.wait(LOOK_SECONDS):
            try:
                self.look()
            except (DamagedLog, LostDisk) as error:
                self._loop.fail(error)
                return
            except (StorageError, OSError) as error:  # the disk hangs, or can not be asked: whoever writes will tell
                del error

    def look(self) -> None:
        """Once. Raises LostDisk, DamagedLog."""
        self._check_there()
        self._backups.expire()
        self._check_room()
        self._loop.run(lambda _: self._loop.scrub.step())
        refused = self._loop.run(lambda replica: replica.counters.snapshots_refused)
        if time.monotonic() >= self._snapshot_due or refused != self._refused:
            self.check_snapshot()
            self._snapshot_due, self._refused = time.monotonic() + SNAPSHOT_SECONDS, refused

    def _check_there(self) -> None:
        missing = [name for name, mark in self._marks.items() if _mark(self._directory / name) != mark]
        if not (self._directory / IDENTITY_FILE).exists():
            missing.append(IDENTITY_FILE)
        if not missing and not any((self._directory / "log" / "rocksdb").glob("*.log")):
            missing.append("log/rocksdb/*.log")
        if missing and not self._loop.stopped.is_set():
            names = ", ".join(name or "the directory itself" for name in missing)
            raise LostDisk(
                f"the data directory {self._directory} was deleted or replaced while its node was running ({names}): "
                "what it acknowledges from now on would be lost. Replace the node by a new one"
            )

    def _check_room(self) -> None:
        try:
            check_room(self._directory)
            self.warning = None
        except DiskFull as error:
            self.warning = error
            now = time.monotonic()
            if now - self._handed_over >= HAND_OVER_SECONDS and self._loop.run(lambda r: r.raft.hand_over()):
                self._handed_over = now

    def check_snapshot(self) -> None:
        """Read the recorded snapshot from the disk. Raises DamagedLog."""
        meta = self._loop.run(lambda replica: replica.recorded_snapshot)
        if not meta.index:
            return
        try:
            self._snapshots.verify(meta)
        except (DamagedSnapshot, NoSnapshot) as error:
            if self._loop.run(lambda replica: replica.recorded_snapshot) == meta:  # else a newer one took its place
                raise snapshot_damaged(self._directory, error) from error


def snapshot_damaged(directory: str | Path, error: Exception) -> DamagedLog:
    """Without its snapshot a log does not begin anywhere."""
    reason = str(error.args[0]) if error.args else str(error)
    return DamagedLog(
        f"the log in {directory} can not be trusted from index 1 on: {reason}", directory=str(directory), index=1
    )


def _mark(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
