"""The log on a disk: RocksDB, one write batch per `write`, one sync of its write-ahead log per `sync`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from rocksdict import Rdict, WriteBatch

from rayraft.errors import DamagedLog, DiskFailed, LostDisk, StorageError, WrongDirectory
from rayraft.raft.types import Configuration, Entry, EntryKind, HardState, SnapshotMeta
from rayraft.storage import records
from rayraft.storage.files import make_directory
from rayraft.storage.guard import Guard, Mark
from rayraft.storage.records import ANCHOR, HARD_STATE, Anchor, BadRecord, entry_key, pack, unpack
from rayraft.storage.rocks_open import Scan, Untrusted, open_database, scan
from rayraft.storage.rules import check_bounds, check_compact, check_install
from rayraft.storage.space import disk_failed

T = TypeVar("T")
_CLOSED = "the store is closed"


class RocksLogStore:
    """The `LogStore` of a node that runs.

    Everything is in one key space (see `records`) so that one batch is one atomic write. Nothing of the log is kept in
    memory but its bounds: whoever reads the newest entries often, caches them.

    Invariants, in addition to those of `rayraft.storage.protocol`:

    1. There is one entry record for each index of ``[first, last]`` and none outside; its key, its index and its
       checksum agree. Terms do not fall, and none is below the anchor's ``base_term``.
    2. ``commit`` is at most the last index, and no entry has a term above the hard state's: `write` insists.
    3. ``_anchor``, ``_last``, ``_hard_state`` and ``_configurations`` equal what is in RocksDB.
    4. The guard's mark is at most what is durable (see `guard`), and ``_mark`` is at least the guard's.
    5. Once ``_failure`` is set, the disk is not written again.

    One thread writes. `sync` may run in another one at the same time, and covers the writes that returned before it
    began. A forked child must leave by ``os._exit`` and never touch the store.
    """

    def __init__(
        self,
        path: str | Path,
        initial: Configuration,
        *,
        owner: str = "",
        create: bool = True,
        fsync: bool = True,
    ) -> None:
        """Open the log in the directory ``path`` and read it through; what was read is durable then.

        ``initial`` is the configuration of a new log. ``owner`` names the disk (`Identity.disk_id`); a log that was
        made for another one is refused. ``create=False`` says that the log must be there: right for a sealed identity.
        ``fsync=False`` leaves out every sync, to let a benchmark show what they cost; a power loss then loses data.

        Raises DamagedLog, LostDisk (no log, ``create=False``), WrongDirectory (``owner``), DirectoryInUse, DiskFailed.
        """
        self._path = Path(path)
        self._fsync = fsync
        self._failure: str | None = None
        self._anchor = Anchor(records.FORMAT, owner, SnapshotMeta(configuration=initial), 1, 0)
        self._last = 0
        self._hard_state = HardState()
        self._configurations: list[int] = []  # the indexes of CONFIGURATION entries, old ones included
        self._mark = self._synced = Mark(0, 1, 0)
        guard_path, database = self._path / "acknowledged", self._path / "rocksdb"
        try:
            self._guard = self._open_guard(guard_path, database, create)
        except OSError as error:
            raise disk_failed(guard_path, error) from error
        try:
            promised = self._guard.read()
            fresh = create and promised is not None and promised.sequence == 0
            if fresh:
                make_directory(database)
            self._db: Rdict = open_database(database, create=fresh)
        except OSError as error:
            self._guard.close()
            raise disk_failed(self._path, error) from error
        except BaseException:
            self._guard.close()
            raise
        try:
            self._load(promised, fresh)
        except BaseException:
            self._failure = "the log was refused"
            self.close()
            raise

    # --- reading ------------------------------------------------------------------------------------------------------

    def hard_state(self) -> HardState:
        return self._hard_state

    def snapshot(self) -> SnapshotMeta:
        return self._anchor.snapshot

    def first_index(self) -> int:
        return self._anchor.first

    def last_index(self) -> int:
        return self._last

    def term(self, index: int) -> int:
        """As the protocol says. Raises DamagedLog when the entry's record is bad."""
        if index == self._anchor.first - 1:
            return self._anchor.base_term
        if not self._anchor.first <= index <= self._last:
            raise KeyError(index)
        head = self._get(entry_key(index), records.decode_head, index)
        if head is None:
            raise self._damaged(index, f"entry {index} is missing")
        return head.term

    def entries(self, low: int, high: int, max_bytes: int) -> list[Entry]:
        """As the protocol says. Raises DamagedLog when a record is bad."""
        if low >= high:
            return []
        if low < self._anchor.first or high - 1 > self._last:
            raise KeyError(low if low < self._anchor.first else high - 1)
        found: list[Entry] = []
        index, total = low, 0
        cursor = None
        try:
            cursor = self._db.iter()
            cursor.seek(entry_key(low))
            while index < high:
                key = entry_key(index)
                if not cursor.valid() or cursor.key() != key:
                    cursor.status()
                    raise BadRecord(f"entry {index} is missing")
                entry = records.decode_entry(unpack(key, cursor.value()))
                total += entry.size
                if total > max_bytes and found:
                    break
                found.append(entry)
                index += 1
                cursor.next()
        except Exception as error:
            raise self._unreadable(index, error) from error
        finally:
            del cursor  # in a traceback it would live on, and keep the directory locked
        return found

    def configuration_indexes(self) -> list[int]:
        return [index for index in self._configurations if index > self._anchor.snapshot.index]

    # --- writing ------------------------------------------------------------------------------------------------------

    def write(self, hard_state: HardState | None, entries: Sequence[Entry]) -> None:
        """As the protocol says. Raises DiskFailed; ValueError, with nothing written, for what would break a rule."""
        low = entries[0].index if entries else self._last + 1
        if not self._anchor.snapshot.index < low <= self._last + 1:
            raise ValueError(f"entry {low} does not continue the log after {self._anchor.snapshot.index}..{self._last}")
        batch = WriteBatch(raw_mode=True)
        last = low - 1
        configurations = [index for index in self._configurations if index < low]
        for entry in entries:
            last += 1
            if entry.kind is EntryKind.CONFIGURATION:
                configurations.append(last)
            if entry.index != last:
                raise ValueError(f"entry {entry.index} where {last} was expected")
            key = entry_key(last)
            batch.put(key, pack(key, entry))
        if last < self._last:
            batch.delete_range(entry_key(last + 1), entry_key(self._last + 1))
        state = self._hard_state if hard_state is None else hard_state
        if state.commit > last or (entries and entries[-1].term > state.term):
            raise ValueError(f"{state} does not allow a log that ends at {entries[-1:] or last}")
        if hard_state is not None:
            batch.put(HARD_STATE, pack(HARD_STATE, hard_state))
        self._put(batch, low, last)
        self._last, self._configurations = last, configurations
        self._hard_state = state

    def sync(self) -> None:
        self._refuse_after_failure()
        mark = self._mark
        try:
            if self._fsync:
                self._db.flush_wal(True)  # unlike a synced write, this does not hold the interpreter lock
            self._guard.store(mark)
        except Exception as error:
            raise self._fail("sync", error) from error
        self._synced = mark

    def compact(self, snapshot: SnapshotMeta, first_index: int) -> None:
        """As the protocol says. Raises DiskFailed; ValueError when that would leave a gap or step back."""
        check_compact(self, snapshot, first_index)
        old = self._anchor
        first = max(first_index, old.first)
        anchor = Anchor(old.format, old.owner, snapshot, first, self.term(first - 1))
        batch = WriteBatch(raw_mode=True)
        if first > old.first:
            batch.delete_range(entry_key(old.first), entry_key(first))
        batch.put(ANCHOR, pack(ANCHOR, anchor))
        self._put(batch, self._last + 1, self._last)
        self._anchor = anchor
        self._configurations = self.configuration_indexes()
        self.sync()

    def install(self, snapshot: SnapshotMeta, hard_state: HardState) -> None:
        """As the protocol says. Raises DiskFailed; ValueError for a snapshot older than the one recorded."""
        check_install(self, snapshot)
        old = self._anchor
        anchor = Anchor(old.format, old.owner, snapshot, snapshot.index + 1, snapshot.term)
        batch = WriteBatch(raw_mode=True)
        if self._last >= old.first:
            batch.delete_range(entry_key(old.first), entry_key(self._last + 1))
        batch.put(ANCHOR, pack(ANCHOR, anchor))
        batch.put(HARD_STATE, pack(HARD_STATE, hard_state))
        self._put(batch, min(snapshot.index + 1, self._last + 1), snapshot.index)
        self._anchor, self._last, self._hard_state = anchor, snapshot.index, hard_state
        self._configurations = []
        self.sync()

    def close(self) -> None:
        """Release the directory; closing again does nothing. Raises DiskFailed when RocksDB can not write its rest."""
        if self._failure == _CLOSED:
            return
        failed, self._failure = self._failure, _CLOSED
        self._guard.close()
        try:
            self._db.close()
        except Exception as error:
            if failed is None:
                raise DiskFailed(f"{self._path}: close failed: {error}") from error

    def check(self) -> None:
        """Raise AssertionError or DamagedLog unless the invariants hold. Reads the whole log."""
        found = self._scan()
        assert found.last == self._last, f"the log ends at {found.last}, not at {self._last} (3)"
        above = [index for index in found.configurations if index > self._anchor.snapshot.index]
        assert above == self.configuration_indexes(), "the configurations differ (3)"
        assert self._get(ANCHOR, records.decode_anchor, 1) == self._anchor, "the anchor differs (3)"
        stored = self._get(HARD_STATE, records.decode_hard_state, 1)
        assert stored == self._hard_state, f"the hard state is {stored}, not {self._hard_state} (3)"
        promised = self._guard.read()
        assert promised is not None, "the guard is damaged (4)"
        assert promised.sequence <= self._mark.sequence, "the guard is ahead (4)"
        check_bounds(self, found.term)

    def check_heads(self) -> None:
        """Read again what is not an entry. Raises DamagedLog unless it is as it was written (3)."""
        if (anchor := self._get(ANCHOR, records.decode_anchor, 1)) != self._anchor:
            raise self._damaged(1, f"the record of where it begins holds {anchor}, and {self._anchor} was written")
        state = self._get(HARD_STATE, records.decode_hard_state, self._last + 1)
        if state != self._hard_state:
            raise self._damaged(self._last + 1, f"term and vote are {state}, and {self._hard_state} was written")
        promised = self._guard.read()
        if promised is None:
            raise self._damaged(self._last + 1, "the guard file fails its checksum")

    # --- opening ------------------------------------------------------------------------------------------------------

    def _open_guard(self, path: Path, database: Path, create: bool) -> Guard:
        """The guard comes before the database, so that a database without one has lost it."""
        if path.exists():
            return Guard(path)
        if database.exists():
            raise self._damaged(1, f"the guard file {path.name} is missing")
        if not create:
            raise LostDisk(f"{self._path}: the node has a sealed identity, but no log")
        make_directory(self._path)
        return Guard.create(path)

    def _load(self, promised: Mark | None, fresh: bool) -> None:
        anchor = self._get(ANCHOR, records.decode_anchor, 1)
        if anchor is None:
            if not fresh:
                raise self._damaged(1, "the record of where the log begins is missing")
            self._found()
            return
        if anchor.format != records.FORMAT:
            raise StorageError(
                f"{self._path} has format {anchor.format}; this version of rayraft reads {records.FORMAT}"
            )
        if anchor.owner != self._anchor.owner:
            raise WrongDirectory(f"{self._path} holds the log of disk {anchor.owner!r}, not of {self._anchor.owner!r}")
        self._anchor = anchor
        found = self._scan()
        self._last, self._configurations = found.last, found.configurations
        hard_state = self._get(HARD_STATE, records.decode_hard_state, self._last + 1)
        if hard_state is None:
            raise self._damaged(self._last + 1, "the record of term and vote is missing")
        self._hard_state = hard_state
        self._check_promise(promised)
        try:
            check_bounds(self, found.term)
        except AssertionError as error:
            raise self._damaged(self._last + 1, str(error)) from error
        # RocksDB wrote what it recovered to a synced table before it opened, so all that was read is durable.
        self._mark = Mark(self._db.latest_sequence_number(), self._last + 1, self._last)
        self.sync()

    def _found(self) -> None:
        batch = WriteBatch(raw_mode=True)
        batch.put(ANCHOR, pack(ANCHOR, self._anchor))
        batch.put(HARD_STATE, pack(HARD_STATE, self._hard_state))
        self._put(batch, 1, 0)
        self.sync()

    def _check_promise(self, promised: Mark | None) -> None:
        """Raise DamagedLog when something that was synced is gone."""
        if promised is None:
            raise self._damaged(self._last + 1, "the guard file fails its checksum: a synced tail may be missing")
        held = self._db.latest_sequence_number()
        if held < promised.sequence:
            raise self._damaged(
                min(promised.low, self._last + 1),
                f"writes {held + 1}..{promised.sequence} had been synced and are gone; the log was acknowledged up to "
                f"index {promised.last} and ends at {self._last}",
            )

    def _scan(self) -> Scan:
        try:
            return scan(self._db, self._anchor)
        except Untrusted as bad:
            raise self._damaged(bad.index, bad.reason) from bad

    # --- the disk -----------------------------------------------------------------------------------------------------

    def _get(self, key: bytes, decode: Callable[[memoryview], T], index: int) -> T | None:
        """The record at ``key``. Raises DamagedLog, which names ``index``, when it is bad."""
        try:
            value: bytes | None = self._db.get(key)
            return None if value is None else decode(unpack(key, value))
        except Exception as error:
            raise self._unreadable(index, error) from error

    def _put(self, batch: WriteBatch, low: int, last: int) -> None:
        self._refuse_after_failure()
        if not len(batch):
            return
        try:
            self._db.write(batch)
        except Exception as error:
            raise self._fail("write", error) from error
        mark = self._mark
        low = low if mark is self._synced else min(low, mark.low)
        self._mark = Mark(self._db.latest_sequence_number(), low, last)

    def _refuse_after_failure(self) -> None:
        if self._failure is not None:
            raise DiskFailed(f"{self._path}: {self._failure}; nothing more is written")

    def _fail(self, what: str, error: Exception) -> DiskFailed:
        self._failure = f"{what} failed: {error}"
        return disk_failed(self._path, error, what)

    def _unreadable(self, index: int, error: Exception) -> StorageError:
        return (
            StorageError(f"{self._path}: {_CLOSED}") if self._failure == _CLOSED else self._damaged(index, str(error))
        )

    def _damaged(self, index: int, reason: str) -> DamagedLog:
        message = f"the log in {self._path} can not be trusted from index {index} on: {reason}"
        return DamagedLog(message, directory=str(self._path), index=index)
