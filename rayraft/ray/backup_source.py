"""A node's side of a backup: its state is saved beside the work, and handed out in chunks."""

from __future__ import annotations

import secrets
import shutil
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import rayraft
from rayraft.errors import StorageError
from rayraft.machine.classes import full_name
from rayraft.machine.objects import ObjectMachine
from rayraft.machine.replicated import ReplicatedMachine
from rayraft.machine.requests import Consistency, Status, encode_queries, pack
from rayraft.machine.sessions import SessionTable
from rayraft.raft.types import SnapshotMeta
from rayraft.replica.replica import Replica
from rayraft.replica.snapshotter import ForkSnapshotter, SnapshotNotSaved
from rayraft.storage.backup import BackupHeader
from rayraft.storage.snapshots import FileSnapshotStore

if TYPE_CHECKING:
    from rayraft.ray.loop import RaftLoop
    from rayraft.ray.spec import NodeSpec

BACKUP_DIRECTORY = "backup"  # in that of the node
CHUNK_BYTES = 1 << 20
WAIT_SECONDS = 5.0  # of one call that waits for the state to be saved
IDLE_SECONDS = 60.0  # after this without a call a backup is given up
SAVE_SECONDS = 3600.0
POLL_SECONDS = 0.02


class BackupSource:
    """A node's side. One backup at a time; its file lies beside the node's own snapshots until it was fetched.

    What nobody fetches does not stay: it goes after `IDLE_SECONDS`, and when the node comes up again.
    """

    def __init__(self, spec: NodeSpec, cluster_id: str, loop: RaftLoop) -> None:
        self._spec, self._cluster_id, self._loop = spec, cluster_id, loop
        self._directory = Path(spec.directory) / BACKUP_DIRECTORY
        self._lock = threading.Lock()  # remote calls come in several threads
        self._ticket = ""
        self._used = 0.0
        self._meta = SnapshotMeta()
        self._taken_at = 0.0
        self._machine_name = ""
        self._clear()

    def begin(self) -> str:
        """Save the state, which has every command that was acknowledged before this call; a ticket for the rest."""
        with self._lock:
            if self._ticket and not self._idle():
                raise StorageError(f"node {self._spec.node_id} gives a backup to somebody else at the moment")
            self._clear()
            self._confirm()
            self._store = FileSnapshotStore(self._directory)
            self._snapshotter = ForkSnapshotter(self._store, timeout=SAVE_SECONDS)
            self._taken_at = time.time()
            self._meta = self._loop.run(self._save)
            self._ticket, self._used = secrets.token_hex(8), time.monotonic()
            return self._ticket

    def _confirm(self) -> None:
        """A linearizable query of nothing: the machine has then applied all that was committed before."""
        answer = self._loop.ask("query", encode_queries(pack([]), Consistency.FOLLOWER))
        if answer[0] != Status.OK:
            raise StorageError(
                f"node {self._spec.node_id} can not say what is committed: {Status(answer[0]).name} {answer[1:]!r}"
            )

    def _save(self, replica: Replica) -> SnapshotMeta:
        """In the raft thread: the child that is forked here has the state of one moment."""
        index = replica.raft.log.applied
        term = replica.raft.log.term(index)
        if replica.diverged or term is None:
            raise StorageError(f"node {self._spec.node_id} is being rebuilt: its state is no backup")
        meta = SnapshotMeta(index, term)
        if isinstance(machine := replica.machine.machine, ObjectMachine):
            self._machine_name = full_name(machine.cls)  # which need not be the one that the log began with
        sessions = SessionTable()
        sessions.advance(replica.machine.time)
        self._snapshotter.begin(meta, ReplicatedMachine(replica.machine.machine, sessions).save)
        return meta

    def header(self, ticket: str) -> BackupHeader | None:
        """What is in the file; None when it is not whole yet after `WAIT_SECONDS`."""
        deadline = time.monotonic() + WAIT_SECONDS
        with self._lock:
            self._check(ticket)
            while self._snapshotter.busy and self._poll() is None:
                if time.monotonic() > deadline:
                    return None
                time.sleep(POLL_SECONDS)
            return BackupHeader(
                group=self._spec.group,
                cluster_id=self._cluster_id,
                index=self._meta.index,
                term=self._meta.term,
                taken_at=self._taken_at,
                machine_name=self._machine_name,
                machine=self._spec.machine,
                rayraft=rayraft.__version__,
                snapshot_bytes=self._store.size(self._meta),
            )

    def _poll(self) -> SnapshotMeta | None:
        try:
            return self._snapshotter.poll()
        except SnapshotNotSaved as error:
            self._clear()
            raise StorageError(f"node {self._spec.node_id} could not save its state for a backup: {error}") from error

    def read(self, ticket: str, offset: int) -> bytes:
        """The next part of the file; nothing at its end."""
        with self._lock:
            self._check(ticket)
            return self._store.read(self._meta, offset, CHUNK_BYTES)

    def end(self, ticket: str) -> None:
        with self._lock:
            if ticket == self._ticket:
                self._clear()

    def expire(self) -> None:
        """Give the backup up if nobody has asked for it for so long; to be called now and then."""
        if self._lock.acquire(blocking=False):  # else somebody asks right now
            try:
                if self._ticket and self._idle():
                    self._clear()
            finally:
                self._lock.release()

    def _idle(self) -> bool:
        return time.monotonic() - self._used >= IDLE_SECONDS

    def _check(self, ticket: str) -> None:
        if not ticket or ticket != self._ticket:
            raise StorageError(f"node {self._spec.node_id} has no such backup (any more): take it anew")
        self._used = time.monotonic()

    def _clear(self) -> None:
        if self._ticket:
            self._snapshotter.close()
        self._ticket = ""
        shutil.rmtree(self._directory, ignore_errors=True)
