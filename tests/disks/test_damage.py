"""Bits flip, files vanish: a node finds it at open, or by reading what nobody reads, and takes no part."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rayraft.errors import DamagedLog, LostDisk
from rayraft.raft.types import HardState, RequestVote
from rayraft.ray import diskwatch
from rayraft.ray.spec import NodeState
from rayraft.ray.wire import encode_messages
from rayraft.storage.identity import IDENTITY_FILE
from rayraft.storage.records import HARD_STATE
from tests.disks.support import Order, node_on, numbers_of, solo
from tests.storage.helpers import flip, raw, wal

NODE = "node-1"


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The disk of a node that was killed twice: with a snapshot, tables and a write-ahead log."""
    directory = tmp_path_factory.mktemp("disk")
    for prefix in "ab":
        with solo(Order(directory=str(directory / NODE), prefix=prefix, snapshot_every=40)) as running:
            running.wait_for(60)
            running.read(lambda running=running: running.snapshot > 0)  # type: ignore[misc]
            running.wait_for(len(running.acknowledged) + 20)
            running.end()
    return directory / NODE


def middle(path: Path) -> None:
    flip(path, path.stat().st_size // 2)


def snapshots_of(node: Path) -> list[Path]:
    """The recorded one, and maybe a newer one that was not recorded yet."""
    return list((node / "snapshots").glob("*.snapshot"))


def flip_tables(node: Path) -> None:
    """In every part, for some of it may be of entries that were dropped."""
    for path in (node / "log" / "rocksdb").glob("*.sst"):
        for offset in range(50, path.stat().st_size, 500):
            flip(path, offset)


def end_of_wal(node: Path) -> None:
    """Its last quarter: RocksDB takes a torn record at the end for one that was never synced, and drops it.

    Not the last record alone, which the kill may have left unsynced: nobody would miss that one.
    """
    path = wal(node / "log")
    data = path.read_bytes().rstrip(b"\0")
    os.truncate(path, len(data) * 3 // 4)


def bad_hard_state(node: Path) -> None:
    with raw(node / "log") as db:
        record = db[HARD_STATE]
        db[HARD_STATE] = record[:-1] + bytes([record[-1] ^ 1])


DAMAGE: dict[str, Callable[[Path], object]] = {
    "the middle of the write-ahead log": lambda node: middle(wal(node / "log")),
    "the end of the write-ahead log": end_of_wal,
    "a table": flip_tables,
    "term and vote": bad_hard_state,
    "the guard": lambda node: flip(node / "log" / "acknowledged", 5),
    "no guard": lambda node: (node / "log" / "acknowledged").unlink(),
    "the snapshot": lambda node: [middle(path) for path in snapshots_of(node)],
    "no snapshot": lambda node: [path.unlink() for path in snapshots_of(node)],
    "the identity": lambda node: flip(node / IDENTITY_FILE, 20),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_found_at_open_and_the_node_does_not_vote(disk: Path, tmp_path: Path, what: str) -> None:
    copy = tmp_path / NODE
    shutil.copytree(disk, copy)
    DAMAGE[what](copy)
    with node_on(Order(directory=str(copy))) as node:
        report = node.report()
        assert report.state is NodeState.FAILED
        assert isinstance(report.error, DamagedLog), report.error
        assert report.error.directory.startswith(str(copy))
        assert report.error.index >= 0
        assert node.deliver(encode_messages([RequestVote(99, 2, 1, 10_000, 98)])) == b"", "it never votes again"


def test_without_damage_it_comes_up(disk: Path, tmp_path: Path) -> None:
    shutil.copytree(disk, tmp_path / NODE)
    with node_on(Order(directory=str(tmp_path / NODE))) as node:
        assert len(numbers_of(node)) >= 120


@pytest.mark.parametrize("what", ["snapshot", "hard state", "guard"])
def test_damage_that_nobody_reads_is_found_under_a_running_node(disk: Path, tmp_path: Path, what: str) -> None:
    copy = tmp_path / NODE
    shutil.copytree(disk, copy)
    with node_on(Order(directory=str(copy))) as node:
        watch, loop = node._watch, node._running()
        assert watch is not None
        watch.look()
        watch.check_snapshot()  # all is well
        if what == "snapshot":
            for path in snapshots_of(copy):
                middle(path)
            with pytest.raises(DamagedLog, match="checksum"):
                watch.check_snapshot()
            return
        if what == "guard":
            flip(copy / "log" / "acknowledged", 5)
        else:
            loop.run(lambda replica: setattr(replica._store, "_hard_state", HardState(1, 1, 0)))

        def look_until_found() -> None:
            for _ in range(100):
                watch.look()

        with pytest.raises(DamagedLog):
            look_until_found()


def test_a_scrub_reads_every_entry(disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayraft.storage.scrub.SLICE_ENTRIES", 3)
    copy = tmp_path / NODE
    shutil.copytree(disk, copy)
    with node_on(Order(directory=str(copy))) as node:
        loop = node._running()
        read: list[int] = []

        def record(replica):  # type: ignore[no-untyped-def]
            entries = replica._store.entries

            def reading(low: int, high: int, size: int):  # type: ignore[no-untyped-def]
                found = entries(low, high, size)
                read.extend(entry.index for entry in found)
                return found

            monkeypatch.setattr(replica._store, "entries", reading)
            rounds = loop.scrub.rounds
            while loop.scrub.rounds < rounds + 2:
                loop.scrub.step()
            return set(range(replica._store.first_index(), replica._store.last_index() + 1))

        everything = loop.run(record)
        assert everything <= set(read)


@pytest.mark.parametrize("gone", ["", "log", "log/rocksdb", "log/acknowledged", "snapshots", IDENTITY_FILE])
def test_a_deleted_directory_is_found(disk: Path, tmp_path: Path, gone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diskwatch, "LOOK_SECONDS", 1_000.0)
    copy = tmp_path / NODE
    shutil.copytree(disk, copy)
    with node_on(Order(directory=str(copy))) as node:
        assert node._watch is not None
        node._watch.look()
        os.rename(copy / gone, tmp_path / "away")
        with pytest.raises(LostDisk, match="deleted or replaced"):
            node._watch.look()


def test_a_node_whose_directory_was_deleted_stops_and_never_votes_again(tmp_path: Path) -> None:
    order = Order(directory=str(tmp_path / NODE))
    with solo(order) as running:
        running.wait_for(20)
        shutil.rmtree(tmp_path / NODE, ignore_errors=True)
        errors = running.wait()
        assert running.process.returncode == 1
    assert "was deleted or replaced" in errors or "failed" in errors
    with node_on(order) as node:
        assert node.deliver(encode_messages([RequestVote(99, 2, 1, 10_000, 98)])) == b""
        report = node.report()
        assert report.state is NodeState.FAILED
        assert isinstance(report.error, (LostDisk, DamagedLog)), report.error
