"""What a log on a disk promises: a crash loses nothing acknowledged, and damage is never silent."""

from __future__ import annotations

import contextlib
import shutil
import signal
from pathlib import Path

import pytest
from rocksdict import Options, Rdict

from rayraft.errors import DamagedLog, DirectoryInUse, DiskFailed, LostDisk, StorageError, WrongDirectory
from rayraft.raft.types import Configuration, Entry, HardState, SnapshotMeta
from rayraft.storage.guard import Guard, Mark
from rayraft.storage.records import ANCHOR, HARD_STATE, entry_key, pack
from rayraft.storage.rocks import RocksLogStore
from rayraft.storage.rocks_open import BESIDE_TABLES
from tests.storage.helpers import ALL, THREE, cut, entry, flip, killed, opened, raw, run, start, wal

LARGE = b"x" * (2 * BESIDE_TABLES)
# One write and sync for each of the entries 1..100, with the vote and the commit index that go with them.
HUNDRED = "for i in range(1, 101):\n    store.write(HardState(1, 1, i - 1), [entry(i)]); store.sync()\n"


def damage(path: Path, **settings: object) -> DamagedLog:
    """The error of opening ``path``; the log must be refused a second time too, with the same index."""
    with pytest.raises(DamagedLog) as first:
        RocksLogStore(path, THREE, **settings)  # type: ignore[arg-type]
    with pytest.raises(DamagedLog) as second:
        RocksLogStore(path, THREE, **settings)  # type: ignore[arg-type]
    assert first.value.index == second.value.index
    assert first.value.directory == str(path)
    assert str(path) in str(first.value)
    assert str(first.value.index) in str(first.value)
    return first.value


def large(index: int) -> Entry:
    return entry(index, data=LARGE)


def large_log(path: Path, indexes: range) -> None:
    """A closed log of large records, which are in no write-ahead log any longer."""
    with opened(path) as store:
        store.write(HardState(1), [large(index) for index in indexes])
        store.sync()


def files_beside_tables(path: Path) -> list[Path]:
    return sorted((path / "rocksdb").glob("*.blob"))


class TestCrash:
    def test_everything_acknowledged_is_there_after_sigkill(self, tmp_path: Path) -> None:
        body = "i = 0\nwhile True:\n    i += 1\n    store.write(HardState(1, 1, i - 1), [entry(i)]); store.sync()\n"
        process = start(body + "    print(i, flush=True)\n", tmp_path / "log")
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= 300:
                process.kill()
                break
        acknowledged = max([300, *(int(line) for line in process.stdout if line.endswith("\n"))])
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        with opened(tmp_path / "log", create=False) as store:
            last = store.last_index()
            assert last >= acknowledged
            assert store.entries(1, last + 1, ALL) == run(1, last + 1)
            assert store.hard_state() == HardState(1, 1, last - 1)
            store.check()

    def test_truncation_and_entries_are_one_write(self, tmp_path: Path) -> None:
        killed(tmp_path / "log", HUNDRED + "store.write(HardState(2, 3, 60), run(70, 75, term=2)); store.sync()")
        with opened(tmp_path / "log") as store:
            assert store.entries(1, 75, ALL) == run(1, 70) + run(70, 75, term=2)
            assert store.last_index() == 74
            assert store.hard_state() == HardState(2, 3, 60)

    def test_compaction_and_installation_survive(self, tmp_path: Path) -> None:
        killed(tmp_path / "a", HUNDRED + "store.compact(SnapshotMeta(90, 1, THREE), 81)")
        with opened(tmp_path / "a") as store:
            assert (store.first_index(), store.last_index(), store.term(80)) == (81, 100, 1)
            assert store.snapshot() == SnapshotMeta(90, 1, THREE)
            store.check()
        killed(tmp_path / "b", HUNDRED + "store.install(SnapshotMeta(500, 4, THREE), HardState(5, 0, 500))")
        with opened(tmp_path / "b") as store:
            assert (store.first_index(), store.last_index(), store.term(500)) == (501, 500, 4)
            assert store.hard_state() == HardState(5, 0, 500)
            store.check()

    @pytest.mark.parametrize("database", [False, True])
    def test_interrupted_founding_starts_again(self, tmp_path: Path, database: bool) -> None:
        Guard.create(tmp_path / "acknowledged").close()
        if database:
            Rdict(str(tmp_path / "rocksdb"), Options(raw_mode=True)).close()
        with opened(tmp_path) as store:
            assert store.snapshot().configuration == THREE
        with opened(tmp_path, create=False):
            pass


class TestDamage:
    def test_flipped_bit_in_the_middle_of_the_write_ahead_log(self, tmp_path: Path) -> None:
        killed(tmp_path, HUNDRED)
        flip(wal(tmp_path), wal(tmp_path).stat().st_size // 2)
        error = damage(tmp_path)
        assert 40 <= error.index <= 60
        assert "Corruption" in str(error)

    def test_flipped_bit_in_a_table(self, tmp_path: Path) -> None:
        with opened(tmp_path) as store:
            store.write(HardState(1), run(1, 101))
            store.sync()
        table = max((tmp_path / "rocksdb").glob("*.sst"))
        flip(table, table.stat().st_size // 2)
        error = damage(tmp_path)
        assert 1 < error.index < 101
        assert "checksum" in str(error)

    def test_flipped_bit_in_a_large_record(self, tmp_path: Path) -> None:
        """Large records lie in files beside the tables, with checksums of their own."""
        large_log(tmp_path, range(1, 101))
        (beside,) = files_beside_tables(tmp_path)
        flip(beside, beside.stat().st_size // 2)
        error = damage(tmp_path)
        assert 40 <= error.index <= 60
        assert "checksum" in str(error) or "CRC" in str(error)

    def test_a_missing_file_of_large_records(self, tmp_path: Path) -> None:
        large_log(tmp_path, range(1, 101))
        (beside,) = files_beside_tables(tmp_path)
        beside.unlink()
        assert damage(tmp_path).index == 1

    def test_a_large_record_is_checked_when_it_is_read_while_running(self, tmp_path: Path) -> None:
        large_log(tmp_path, range(1, 101))
        with opened(tmp_path) as store:
            assert store.entries(1, 101, ALL) == [large(index) for index in range(1, 101)]
            for beside in files_beside_tables(tmp_path):
                flip(beside, beside.stat().st_size // 2)
            with pytest.raises(DamagedLog) as error:
                store.check()
            assert 40 <= error.value.index <= 60

    @pytest.mark.parametrize(
        ("value", "reason"),
        [
            (pack(entry_key(50), entry(50))[:-1] + b"?", "fails its checksum"),
            (pack(entry_key(51), entry(51)), "fails its checksum"),
            (pack(entry_key(50), entry(51)), "is of index 51"),
            (pack(entry_key(50), entry(50, term=0)), "term 0"),
            (pack(entry_key(50), "no entry"), "Expected"),
            (b"", "fails its checksum"),
        ],
    )
    def test_bad_record(self, tmp_path: Path, value: bytes, reason: str) -> None:
        with opened(tmp_path) as store:
            store.write(HardState(1), run(1, 101))
            store.sync()
        with raw(tmp_path) as db:
            db[entry_key(50)] = value
        error = damage(tmp_path)
        assert error.index == 50
        assert reason in str(error)

    @pytest.mark.parametrize("missing", [1, 50, 99])
    def test_hole(self, tmp_path: Path, missing: int) -> None:
        with opened(tmp_path) as store:
            store.write(HardState(1), run(1, 101))
            store.sync()
        with raw(tmp_path) as db:
            del db[entry_key(missing)]
        assert damage(tmp_path).index == missing

    def test_log_that_ends_before_its_snapshot(self, tmp_path: Path) -> None:
        with opened(tmp_path) as store:
            store.write(HardState(1), run(1, 101))
            store.compact(SnapshotMeta(100, 1, THREE), 91)
        with raw(tmp_path) as db:
            del db[entry_key(100)]
        assert damage(tmp_path).index == 100

    @pytest.mark.parametrize(
        ("key", "index"), [(HARD_STATE, 101), (ANCHOR, 1)], ids=["term and vote", "beginning of the log"]
    )
    def test_lost_or_bad_state(self, tmp_path: Path, key: bytes, index: int) -> None:
        with opened(tmp_path) as store:
            store.write(HardState(1), run(1, 101))
            store.sync()
        with raw(tmp_path) as db:
            good = db[key]
            db[key] = good[:-1] + bytes([good[-1] ^ 1])
        assert damage(tmp_path).index == index
        with raw(tmp_path) as db:
            del db[key]
        assert damage(tmp_path).index == index

    @pytest.mark.parametrize("state", [HardState(1, 1, 101), HardState(0, 0, 50)], ids=["commit", "term"])
    def test_implausible_hard_state(self, tmp_path: Path, state: HardState) -> None:
        with opened(tmp_path) as store:
            store.write(HardState(1), run(1, 101))
            store.sync()
            with pytest.raises(ValueError, match="does not allow"):
                store.write(state, run(101, 101) or [entry(100)])
            store.check()
        with raw(tmp_path) as db:
            db[HARD_STATE] = pack(HARD_STATE, state)
        assert damage(tmp_path).index == 101

    def test_missing_table_or_database(self, tmp_path: Path) -> None:
        with opened(tmp_path) as store:
            store.write(HardState(1), run(1, 101))
            store.sync()
        for table in (tmp_path / "rocksdb").glob("*.sst"):
            table.unlink()
        assert damage(tmp_path).index == 1
        for file in (tmp_path / "rocksdb").iterdir():
            file.unlink()
        assert damage(tmp_path).index == 1

    def test_damage_found_while_running(self, tmp_path: Path) -> None:
        with opened(tmp_path) as store:
            store.write(HardState(1), run(1, 101))
            store.sync()
            store._db[entry_key(50)] = b"rubbish"
            for read in (lambda: store.term(50), lambda: store.entries(40, 60, ALL), store.check):
                with pytest.raises(DamagedLog) as error:
                    read()
                assert error.value.index == 50
            assert store.entries(51, 101, ALL) == run(51, 101)


class TestGuard:
    def test_synced_tail_that_was_cut(self, tmp_path: Path) -> None:
        killed(tmp_path, HUNDRED)
        cut(wal(tmp_path), 5)
        error = damage(tmp_path)
        assert error.index == 100
        assert "acknowledged up to index 100 and ends at 99" in str(error)

    def test_synced_vote_that_was_cut(self, tmp_path: Path) -> None:
        killed(tmp_path, HUNDRED + "store.write(HardState(2, 3, 99), []); store.sync()")
        cut(wal(tmp_path), 5)
        assert damage(tmp_path).index == 101  # every entry is there; the vote is not

    def test_synced_replacement_that_was_cut(self, tmp_path: Path) -> None:
        killed(tmp_path, HUNDRED + "store.write(HardState(2, 3, 60), run(70, 75, term=2)); store.sync()")
        cut(wal(tmp_path), 5)
        assert damage(tmp_path).index == 70  # the old entries 70..100 are there again

    def test_several_writes_of_one_sync_that_were_cut(self, tmp_path: Path) -> None:
        replace = "store.write(HardState(2, 3, 60), run(70, 75, term=2)); store.write(None, [entry(75, 2, b'')])"
        killed(tmp_path, HUNDRED + replace + "; store.sync()")
        cut(wal(tmp_path), 200)  # the second one, and a part of the first
        assert damage(tmp_path).index == 70

    def test_several_synced_writes_that_were_cut(self, tmp_path: Path) -> None:
        killed(tmp_path, HUNDRED)
        cut(wal(tmp_path), wal(tmp_path).stat().st_size // 2)
        assert damage(tmp_path).index <= 60

    def test_lost_write_ahead_log(self, tmp_path: Path) -> None:
        killed(tmp_path, HUNDRED)
        wal(tmp_path).unlink()
        assert damage(tmp_path).index == 1

    def test_unsynced_tail_may_be_cut(self, tmp_path: Path) -> None:
        killed(tmp_path, HUNDRED + "store.write(HardState(2, 3, 60), run(70, 75, term=2))")
        cut(wal(tmp_path), 5)
        with opened(tmp_path) as store:
            assert store.entries(1, 101, ALL) == run(1, 101)
            assert store.hard_state() == HardState(1, 1, 99)
            store.write(HardState(3, 1, 99), run(100, 102, term=3))
            store.sync()
        with opened(tmp_path) as store:
            assert store.last_index() == 101

    def test_shorter_log_is_no_false_alarm(self, tmp_path: Path) -> None:
        killed(tmp_path, HUNDRED.replace("i - 1", "0") + "store.write(HardState(2), [entry(5, 2)]); store.sync()")
        with opened(tmp_path) as store:
            assert store.last_index() == 5

    def test_missing_or_damaged_guard(self, tmp_path: Path) -> None:
        with opened(tmp_path) as store:
            store.write(HardState(1), run(1, 101))
            store.sync()
        flip(tmp_path / "acknowledged", 7)
        assert damage(tmp_path).index == 101
        (tmp_path / "acknowledged").unlink()
        assert damage(tmp_path).index == 1


class TestDirectory:
    def test_new_log(self, tmp_path: Path) -> None:
        with opened(tmp_path / "some" / "where") as store:
            assert (store.first_index(), store.last_index(), store.term(0)) == (1, 0, 0)
            assert store.hard_state() == HardState()
            assert store.snapshot() == SnapshotMeta(0, 0, THREE)
        with opened(tmp_path / "some" / "where", create=False) as store:
            assert store.snapshot() == SnapshotMeta(0, 0, THREE)

    def test_first_configuration_is_the_one_founded_with(self, tmp_path: Path) -> None:
        with opened(tmp_path):
            pass
        store = RocksLogStore(tmp_path, Configuration(voters=(7,)))
        assert store.snapshot().configuration == THREE
        store.close()

    def test_lost_log_of_a_sealed_node(self, tmp_path: Path) -> None:
        with pytest.raises(LostDisk):
            RocksLogStore(tmp_path, THREE, create=False)
        assert list(tmp_path.iterdir()) == []

    def test_log_of_another_disk(self, tmp_path: Path) -> None:
        with opened(tmp_path, owner="disk a"):
            pass
        with pytest.raises(WrongDirectory, match="disk a"):
            RocksLogStore(tmp_path, THREE, owner="disk b")
        with opened(tmp_path, owner="disk a"):
            pass

    def test_in_use_by_another_process(self, tmp_path: Path) -> None:
        process = start("print('open', flush=True)\nsys.stdin.read()\n", tmp_path)
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        with pytest.raises(DirectoryInUse, match=str(tmp_path)):
            RocksLogStore(tmp_path, THREE)
        process.communicate()
        with opened(tmp_path):
            pass

    def test_in_use_by_this_process(self, tmp_path: Path) -> None:
        with opened(tmp_path), pytest.raises(DirectoryInUse):
            RocksLogStore(tmp_path, THREE)

    def test_closed_store(self, tmp_path: Path) -> None:
        with opened(tmp_path) as store:
            store.write(HardState(1), run(1, 3))
        store.close()
        with pytest.raises(DiskFailed, match="closed"):
            store.write(HardState(2), [])
        with pytest.raises(StorageError, match="closed"):
            store.entries(1, 2, ALL)


class FailingDatabase:
    """Passes everything on to the real database, but fails what it is told to, and counts."""

    def __init__(self, db: object, failing: str) -> None:
        self._db = db
        self._failing = failing
        self.touched = 0

    def __getattr__(self, name: str) -> object:
        if name in ("write", "flush_wal"):
            self.touched += 1
        if name == self._failing:
            raise Exception("IO error: No space left on device")
        return getattr(self._db, name)


class TestFailure:
    @pytest.mark.parametrize("failing", ["write", "flush_wal"])
    def test_nothing_is_written_after_a_failure(self, tmp_path: Path, failing: str) -> None:
        with opened(tmp_path) as store:
            store.write(HardState(1), run(1, 11))
            store.sync()
            failing_db = FailingDatabase(store._db, failing)
            store._db = failing_db  # type: ignore[assignment]
            with pytest.raises(DiskFailed, match="No space left"):  # noqa: PT012 (either may be the one that fails)
                store.write(HardState(1, 1, 5), run(11, 21))
                store.sync()
            touched = failing_db.touched
            failing_db._failing = ""  # the disk is well again, but it is too late
            for again in (
                store.sync,
                lambda: store.write(HardState(1, 1, 6), []),
                lambda: store.compact(SnapshotMeta(5, 1, THREE), 6),
                lambda: store.install(SnapshotMeta(50, 1, THREE), HardState(1, 0, 50)),
            ):
                with pytest.raises(DiskFailed, match="No space left"):
                    again()
            assert failing_db.touched == touched
            assert store.entries(1, 11, ALL) == run(1, 11)
        with opened(tmp_path) as store:
            assert store.last_index() in (10, 20)

    def test_refused_write_changes_nothing(self, tmp_path: Path) -> None:
        with opened(tmp_path) as store:
            store.write(HardState(1), run(1, 11))
            store.compact(SnapshotMeta(8, 1, THREE), 5)
            for bad in ([entry(12)], [entry(4)], [entry(11), entry(13)], [entry(11, term=2)]):
                with pytest.raises(ValueError, match=r"entry|allow"):
                    store.write(None, bad)
            with pytest.raises(ValueError, match="outside"):
                store.compact(SnapshotMeta(7, 1, THREE), 5)
            with pytest.raises(ValueError, match="gap"):
                store.compact(SnapshotMeta(9, 1, THREE), 11)
            with pytest.raises(ValueError, match="older"):
                store.install(SnapshotMeta(7, 1, THREE), HardState(1))
            store.check()
            assert store.entries(5, 11, ALL) == run(5, 11)

    def test_without_fsync_the_rest_is_the_same(self, tmp_path: Path) -> None:
        with opened(tmp_path, fsync=False) as store:
            store._db = FailingDatabase(store._db, "flush_wal")  # type: ignore[assignment]
            store.write(HardState(1), run(1, 11))
            store.sync()
            store.compact(SnapshotMeta(8, 1, THREE), 5)
        with opened(tmp_path) as store:
            assert store.entries(5, 11, ALL) == run(5, 11)


def test_a_directory_of_another_version_gets_the_settings_of_this_one(tmp_path: Path) -> None:
    large_log(tmp_path, range(1, 101))
    with raw(tmp_path) as db:
        older = dict(db.items())
    shutil.rmtree(tmp_path / "rocksdb")
    with contextlib.closing(Rdict(str(tmp_path / "rocksdb"), Options(raw_mode=True))) as db:
        for key, value in older.items():
            db[key] = value
    Guard(tmp_path / "acknowledged").store(Mark(0, 1, 100))
    assert not files_beside_tables(tmp_path)
    with opened(tmp_path, create=False) as store:
        assert store.entries(1, 101, ALL) == [large(index) for index in range(1, 101)]
        store.write(None, [large(index) for index in range(101, 151)])
        store.sync()
    assert files_beside_tables(tmp_path)


def test_what_was_dropped_gives_its_room_back(tmp_path: Path) -> None:
    """Nothing is copied for it: a file of large records goes when the last of them is dropped.

    RocksDB merges in threads of its own and when so many tables are there, so this goes on until it has.
    """
    written = 0
    with opened(tmp_path) as store:
        while not written or (len(files_beside_tables(tmp_path)) > written // 10 and written < 10_000):
            for index in range(written + 1, written + 51):
                store.write(HardState(1, 1, index - 1), [large(index)])
                if index % 5 == 0:
                    store._db.flush()  # as when a buffer is full
            written += 50
            store.sync()
            store.compact(SnapshotMeta(written - 10, 1, THREE), written - 10)
        assert len(files_beside_tables(tmp_path)) <= written // 10, "half of those that were written are still there"
        store.check()
        kept = range(written - 10, written + 1)
        assert store.entries(kept[0], kept[-1] + 1, ALL) == [large(index) for index in kept]
