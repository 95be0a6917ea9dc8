"""A node whose state has diverged gets a new one: that of a snapshot, and of the entries of its own log behind it.

Its log is as good as any: it goes on to vote, to acknowledge entries and, if it must, to lead; it only does not serve.
"""

from __future__ import annotations

from rayraft.machine.replicated import ReplicatedMachine
from rayraft.raft.raft import Raft
from rayraft.raft.types import NO_NODE, SnapshotMeta, SnapshotRequest
from rayraft.storage.protocol import LogStore, SnapshotStore


class Rebuild:
    """From the verdict at ``verdict`` until the machine is where the log is.

    1. Nothing is applied to the wrong state, and no snapshot is taken of it.
    2. The snapshot is not older than the verdict, so it is none of this node's own, whose names it could share, and
       none that was taken before the states were compared.
    3. The snapshot is durable and recorded before the state is replaced: a restart begins from it too.
    """

    def __init__(self, raft: Raft, store: LogStore, snapshots: SnapshotStore, verdict: int) -> None:
        self._raft = raft
        self._store = store
        self._snapshots = snapshots
        self._asked_at = float("-inf")
        self._machine_at = 0  # the last entry that the new state has
        self.verdict = verdict
        self.source: SnapshotMeta | None = None  # whole and durable here

    @property
    def catching_up(self) -> bool:
        return self._machine_at > 0

    def wants(self, snapshot: SnapshotMeta) -> bool:
        return self.source is None and snapshot.index >= self.verdict

    def request(self) -> SnapshotRequest | None:
        """Ask the leader, once an election timeout, until a snapshot is there."""
        raft = self._raft
        due = raft.now - self._asked_at >= raft.config.election_timeout
        if self.source is not None or not due or raft.leader in (NO_NODE, raft.id):
            return None
        self._asked_at = raft.now
        return SnapshotRequest(raft.term, raft.id, raft.leader, self.verdict)

    def go_on(self, machine: ReplicatedMachine, trailing: int, max_bytes: int) -> bool:
        """One step; whether the state is whole and as new as the log."""
        applied = self._raft.log.applied
        if self.source is None or applied < self.source.index:
            return False
        if not self.catching_up:
            keep_from = max(self._store.first_index(), self.source.index + 1 - trailing)
            self._store.compact(self.source, keep_from)
            machine.restore(self._snapshots.load(self.source))
            self._snapshots.discard_except(self.source)
            self._machine_at = self.source.index
        for entry in self._raft.log.entries(self._machine_at + 1, max_bytes, applied + 1):
            machine.apply(entry)  # those who waited for an answer were sent away when this began
            self._machine_at = entry.index
        return self._machine_at == applied
