"""Opening RocksDB for a log, reading the log through, and saying what is wrong when either does not work."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rocksdict import AccessType, BlockBasedOptions, Cache, DBCompressionType, DBRecoveryMode, Options, Rdict

from rayraft.errors import DamagedLog, DirectoryInUse, StorageError
from rayraft.raft.types import EntryKind
from rayraft.storage import records
from rayraft.storage.records import ANCHOR, ENTRY_PREFIX, Anchor, entry_key, unpack
from rayraft.storage.space import disk_failed

MIB = 1 << 20
BESIDE_TABLES = 4 << 10  # a record of at least so many bytes has its place beside the tables


class Untrusted(Exception):
    """``index`` is the first that can not be trusted."""

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(reason)
        self.index = index
        self.reason = reason


def options(*, create: bool = False) -> Options:
    """RocksDB for a log: appended, read near its end, dropped from its front. Memory stays below some 150 MiB."""
    o = Options(raw_mode=True)
    o.create_if_missing(create)
    # A damaged middle must refuse to open. The default recovery mode would drop it and all that follows, in silence.
    o.set_wal_recovery_mode(DBRecoveryMode.tolerate_corrupted_tail_records())
    # Small buffers: while one is written to a table the log's syncs wait, on ext4 for all of it. Many, because a write
    # that must wait for a table would hold the interpreter lock meanwhile.
    o.set_write_buffer_size(8 * MIB)
    o.set_max_write_buffer_number(16)
    o.set_max_total_wal_size(128 * MIB)
    o.set_max_manifest_file_size(16 * MIB)
    o.set_max_open_files(256)
    # Entries are dropped after the next snapshot: not worth compressing, or copying while tables are merged, which took
    # a quarter of a node's time. So they lie in files beside the tables, each deleted once nothing in it is needed.
    o.set_compression_type(DBCompressionType.none())
    o.set_enable_blob_files(True)
    o.set_min_blob_size(BESIDE_TABLES)
    o.set_max_bytes_for_level_base(256 * MIB)
    o.set_level_zero_file_num_compaction_trigger(12)
    o.set_level_zero_slowdown_writes_trigger(48)
    o.set_level_zero_stop_writes_trigger(64)
    # Write tables out steadily; the writeback of a whole one at once would delay the syncs of the log.
    o.set_bytes_per_sync(MIB)
    o.set_max_background_jobs(2)
    table = BlockBasedOptions()
    table.set_block_cache(Cache(8 * MIB))
    o.set_block_based_table_factory(table)
    o.set_keep_log_file_num(2)
    o.set_max_log_file_size(4 * MIB)
    o.set_stats_dump_period_sec(0)
    o.set_stats_persist_period_sec(0)
    return o


def open_database(path: Path, *, create: bool) -> Rdict:
    """Open RocksDB at ``path``, with the lock. Raises DirectoryInUse, DiskFailed or DamagedLog."""
    try:
        # Named, or the column family would keep the settings of the version that made the directory.
        return Rdict(str(path), options(create=create), column_families={"default": options()})
    except Exception as error:
        raise _why(path, str(error)) from error


@dataclass(frozen=True, slots=True)
class Scan:
    """What reading the whole log found: its last index and term, and where it holds configurations."""

    last: int
    term: int
    configurations: list[int]


def scan(db: Rdict, anchor: Anchor) -> Scan:
    """Read every entry record. Raises Untrusted at the first gap or bad record.

    Starts by a seek: before the first entry lie the tombstones of all that compaction dropped. An iterator, not
    ``items()``, which ends without an error where a block can not be read.
    """
    index, term = anchor.first, anchor.base_term
    configurations: list[int] = []
    cursor = None
    try:
        cursor = db.iter()
        cursor.seek(entry_key(index))
        while cursor.valid():
            key = entry_key(index)
            if (found := cursor.key()) != key:
                if found.startswith(ENTRY_PREFIX):
                    raise Untrusted(index, f"entry {index} is missing, and later ones are there")
                break
            head = records.decode_head(unpack(key, cursor.value()))
            if head.index != index or head.term < term:
                raise Untrusted(index, f"the record of entry {index} is of index {head.index}, term {head.term}")
            if head.kind == EntryKind.CONFIGURATION:
                configurations.append(index)
            index, term = index + 1, head.term
            cursor.next()
        cursor.status()
    except Untrusted:
        raise
    except Exception as error:
        raise Untrusted(index, str(error)) from error
    finally:
        del cursor  # in a traceback it would live on, and keep the directory locked
    return Scan(index - 1, term, configurations)


def _why(path: Path, words: str) -> StorageError:
    directory = path.parent
    if "lock hold by current process" in words or "While lock file" in words:
        return DirectoryInUse(f"{directory} is held by another store or process: {words}")
    if any(sign in words for sign in ("No space left", "Permission denied", "Read-only file system", "Input/output")):
        return disk_failed(directory, words, "opening")
    index = _first_untrusted(path)
    message = f"the log in {directory} can not be trusted from index {index} on. RocksDB says: {words}"
    return DamagedLog(message, directory=str(directory), index=index)


def _first_untrusted(path: Path) -> int:
    """One past the last entry that can be read of a database that does not open; 1 when not even its start can.

    A read-only database may stop at the first damage of the write-ahead log, and changes nothing on the disk.
    """
    o = options()
    o.set_wal_recovery_mode(DBRecoveryMode.point_in_time())
    try:
        db = Rdict(str(path), o, access_type=AccessType.read_only(False))
    except Exception:
        return 1
    try:
        anchor = records.decode_anchor(unpack(ANCHOR, db.get(ANCHOR)))
        return scan(db, anchor).last + 1
    except Untrusted as bad:
        return bad.index
    except Exception:
        return 1
    finally:
        db.close()
