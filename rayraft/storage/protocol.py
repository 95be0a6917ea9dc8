"""What the replica asks of storage. RocksDB, memory and the simulator's disk each keep this contract.

1. `write` is atomic: after a crash either all of one call is there or none of it.
2. Nothing is durable before `sync` returns; after it, everything written before is.
3. After `DiskFailed` nothing more may be written: the owner stops, and reopens to learn what is there.
4. Entries between `first_index` and `last_index` are contiguous; `first_index - 1` is at most `snapshot.index`, which
   is at most `last_index`. So what a snapshot covers is never written again (ValueError).
5. `commit` is at most `last_index`, and the last entry's term at most the hard state's. The disk insists (ValueError).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import BinaryIO, Protocol

from rayraft.raft.types import Entry, HardState, SnapshotMeta


class LogStore(Protocol):
    """The durable log and hard state of one node. Reads see every write at once, synced or not."""

    def hard_state(self) -> HardState:
        """The last hard state written; ``HardState()`` on a new disk."""
        ...

    def snapshot(self) -> SnapshotMeta:
        """The newest snapshot recorded; on a new disk index 0 with the initial configuration."""
        ...

    def first_index(self) -> int:
        """The first index held (``last_index() + 1`` when the log is empty)."""
        ...

    def last_index(self) -> int:
        """The last index held, or the snapshot's index when the log is empty."""
        ...

    def term(self, index: int) -> int:
        """Term of the entry at ``index``; ``first_index() - 1`` is answered too. KeyError outside that range."""
        ...

    def entries(self, low: int, high: int, max_bytes: int) -> list[Entry]:
        """Entries of ``[low, high)``, cut after ``max_bytes`` (sum of `Entry.size`) but never to none.

        KeyError when ``low`` or ``high - 1`` is outside the log; no entries for an empty range.
        """
        ...

    def configuration_indexes(self) -> list[int]:
        """The indexes, ascending, of the entries of kind CONFIGURATION above the snapshot."""
        ...

    def write(self, hard_state: HardState | None, entries: Sequence[Entry]) -> None:
        """Append contiguous ``entries`` and set the hard state. Entries from ``entries[0].index`` on are replaced."""
        ...

    def sync(self) -> None:
        """Make everything written durable. Raises DiskFailed; never retried."""
        ...

    def compact(self, snapshot: SnapshotMeta, first_index: int) -> None:
        """Record ``snapshot`` (its bytes are saved already) and drop the entries below ``first_index``; durable.

        ValueError when the snapshot is older than the one recorded or past the log, or a gap would follow it.
        """
        ...

    def install(self, snapshot: SnapshotMeta, hard_state: HardState) -> None:
        """Replace the whole log by ``snapshot`` (its bytes are saved already); durable. ValueError when it is older."""
        ...

    def close(self) -> None: ...


class SnapshotStore(Protocol):
    """The bytes of snapshots, by index and term."""

    def save(self, meta: SnapshotMeta, write: Callable[[BinaryIO], None]) -> int:
        """Have ``write`` fill a new snapshot and make it durable under its name; returns its size in bytes."""
        ...

    def size(self, meta: SnapshotMeta) -> int:
        """Bytes of a saved snapshot. KeyError when there is none."""
        ...

    def read(self, meta: SnapshotMeta, offset: int, length: int) -> bytes:
        """A part of the saved bytes. KeyError when there is none."""
        ...

    def load(self, meta: SnapshotMeta) -> BinaryIO:
        """The whole verified content as a stream. KeyError, or DamagedSnapshot when the checksum fails."""
        ...

    def receive(self, meta: SnapshotMeta, offset: int, data: bytes, total: int = 0) -> int:
        """Store a chunk that came from the leader, exactly the bytes that `read` gave there.

        A chunk that is not at the end of what is held is ignored, and so is one after `finish`. The beginning of
        another snapshot takes the place of what is half received. Returns how many bytes are held.

        Where there is no room for the whole, of ``total`` bytes, beside what the log may need, this and `finish` raise
        DiskFull and forget what was received; the store can go on being used.
        """
        ...

    def finish(self, meta: SnapshotMeta) -> None:
        """Verify a received snapshot and make it durable under its name; nothing to do when that was done.

        Raises DamagedSnapshot, and forgets what was received. KeyError when nothing was.
        """
        ...

    def discard_except(self, keep: SnapshotMeta) -> None:
        """Delete every other snapshot, and what is half received of one that is not newer."""
        ...
