"""Log compaction (§7): the state is saved now and then, and the log behind it goes."""

from __future__ import annotations

import logging

from rayraft.machine.replicated import ReplicatedMachine
from rayraft.raft.raft import Raft
from rayraft.raft.types import SnapshotMeta
from rayraft.replica.config import ReplicaConfig
from rayraft.replica.divergence import StateCheck
from rayraft.replica.snapshotter import SnapshotNotSaved, Snapshotter
from rayraft.replica.status import Counters
from rayraft.replica.trail import Trail
from rayraft.replica.transfer import SnapshotSender
from rayraft.storage.protocol import LogStore, SnapshotStore

log = logging.getLogger("rayraft")


class Compaction:
    """One node's own snapshots.

    1. The log is cut only behind a snapshot that is durable, when the log's store has recorded it; only then the one
       before it is discarded.
    2. No snapshot is taken of a state that is known to be wrong.
    3. Where states are compared, a snapshot is recorded, and so sent to others, only after a comparison at its index or
       later spoke for this node (`StateCheck.checked`): a wrong state does not spread, a restart begins from a right
       one, and the log has everything since. The exception: the next snapshot is due and there was no verdict yet.
    4. One is saved at a time, and one may wait to be recorded.
    """

    def __init__(
        self,
        config: ReplicaConfig,
        raft: Raft,
        machine: ReplicatedMachine,
        store: LogStore,
        snapshots: SnapshotStore,
        snapshotter: Snapshotter,
        state_check: StateCheck,
        sender: SnapshotSender,
        counters: Counters,
    ) -> None:
        self._config = config
        self._raft = raft
        self._machine = machine
        self._store = store
        self._snapshots = snapshots
        self._snapshotter = snapshotter
        self._state_check = state_check
        self._sender = sender
        self._counters = counters
        self._trail = Trail(config.snapshot_trailing, config.snapshot_trailing_bytes)
        self._due_after, self._bytes_since = self._in_turn()
        # Where the state was saved last, or the attempt to do so failed, or where it came from.
        self._tried_at = store.snapshot().index
        self._ordered = False
        self._keep_from = 0  # where the log will begin once the snapshot that is being saved is durable
        self._candidate: SnapshotMeta | None = None  # durable, and not recorded before it is checked
        self.error = ""  # why the last one could not be saved, or one of another node not be received

    def _in_turn(self) -> tuple[int, int]:
        """After how many entries the first snapshot is due, and the bytes that count for it as applied already.

        Each member begins at another point of the distance, so that they do not all save their states at one moment.
        """
        config, members = self._config, sorted(self._raft.configuration.members())
        if self._raft.id not in members:
            return config.snapshot_entries, 0
        share = members.index(self._raft.id) / len(members)
        return max(1, round((1 - share) * config.snapshot_entries)), int(share * config.snapshot_bytes)

    # --- what happens elsewhere ---------------------------------------------------------------------------------------

    def applied(self, size: int) -> None:
        """The next entry, of ``size`` bytes, was applied."""
        self._bytes_since += size
        self._trail.add(size)

    def installed(self) -> None:
        """State and log were replaced by those of another node."""
        self._candidate = None
        self._bytes_since = 0
        self._trail.clear()
        self.error = ""

    def replaced(self, index: int) -> None:
        """The state is that of a snapshot of ``index`` now, and of the log behind it."""
        self._tried_at = max(self._tried_at, index)

    def diverged(self) -> None:
        """The state is wrong, and so may be what was saved of it."""
        self._candidate, self._ordered = None, False

    # --- what is asked ------------------------------------------------------------------------------------------------

    @property
    def saving(self) -> bool:
        return self._snapshotter.busy or self._ordered

    @property
    def busy(self) -> bool:
        """Whether `tend` has something to do soon, though nothing comes in."""
        return self._snapshotter.busy or self._wants()

    @property
    def unchecked(self) -> int:
        """The index of the snapshot that waits for a comparison of states; 0 when none does."""
        return self._candidate.index if self._candidate is not None else 0

    def _due(self) -> bool:
        entries = self._raft.log.applied - self._tried_at
        return entries >= self._due_after or (entries > 0 and self._bytes_since >= self._config.snapshot_bytes)

    def _wants(self) -> bool:
        return self._state_check.trusted and (self._ordered or self._due())

    def _may_save(self) -> bool:
        """All wait while the leader is copied, so it prepares for that."""
        free = not self._snapshotter.busy and not self._state_check.waits
        return free and (not self._raft.is_leader or self._snapshotter.prepare())

    # --- what it does -------------------------------------------------------------------------------------------------

    def order(self) -> None:
        """Have a snapshot taken as soon as that is prepared."""
        self._ordered = self._state_check.trusted

    def tend(self) -> bool:
        """Save the state when it is time, and cut the log when that is done; whether it was cut."""
        recorded = False
        try:
            if self._snapshotter.busy or self._candidate is not None:
                recorded = self._cut_log()
            if self._wants() and self._may_save():
                if self._due():
                    recorded |= self._record()  # there was no verdict for so long: the log must not grow for ever
                self.take()
        except SnapshotNotSaved as error:  # the log is whole without it; the next attempt is a snapshot's distance away
            if not self.error:
                log.warning("node %d: %s", self._raft.id, error)
            self.error = str(error)
        return recorded

    def take(self) -> None:
        """Begin to save the state as it is. Raises SnapshotNotSaved."""
        self._ordered = False
        index = self._raft.log.applied
        term = self._raft.log.term(index)
        members = self._raft.log.configurations.at(index)
        if self._snapshotter.busy or not self._state_check.trusted:
            return
        if term is None or index <= self._store.snapshot().index or index == self.unchecked:
            return
        if not members.voters:  # a node that joined has to learn from the log who they are
            return
        self._bytes_since, self._tried_at = 0, index
        self._due_after = self._config.snapshot_entries
        self._keep_from = index + 1 - len(self._trail)
        self._snapshotter.begin(SnapshotMeta(index, term, members), self._machine.save)

    def _cut_log(self) -> bool:
        """Once a snapshot is durable, and the state that it is of was checked, the log behind it can go."""
        done = self._snapshotter.poll() if self._snapshotter.busy else None
        if done is not None and self._state_check.trusted:
            self._candidate = done
        return (not self._state_check.enabled or self.unchecked <= self._state_check.checked) and self._record()

    def record_for(self, index: int) -> bool:
        """Record what waits, for a node that needs a snapshot no older than ``index``; whether that was done.

        Too few could say whether it is right, but this node was not found wrong.
        """
        return index <= self.unchecked <= self._state_check.settled and self._record()

    def _record(self) -> bool:
        done, self._candidate = self._candidate, None
        if done is None or done.index <= self._store.snapshot().index:
            return False
        self._store.compact(done, max(self._store.first_index(), min(self._keep_from, done.index + 1)))
        if not self._sender.active:  # else a slow follower would never get to the end of one
            self._snapshots.discard_except(done)
        self._counters.snapshots += 1
        self.error = ""
        return True

    def close(self) -> None:
        self._snapshotter.close()
