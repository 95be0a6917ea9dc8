"""Snapshots arrive whole or not at all, in files and in memory alike."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayraft.errors import DamagedSnapshot, DiskFailed, DiskFull
from rayraft.raft.types import SnapshotMeta
from rayraft.storage.memory import MemorySnapshotStore
from rayraft.storage.protocol import SnapshotStore
from rayraft.storage.snapshots import FileSnapshotStore
from tests.storage.helpers import THREE, cut, finish_discarding, flip

META = SnapshotMeta(42, 3, THREE)
OTHER = SnapshotMeta(43, 3, THREE)
CONTENT = bytes(range(256)) * 40


def writer(content: bytes) -> Callable[[BinaryIO], None]:
    """Writes ``content`` in uneven pieces."""

    def write(file: BinaryIO) -> None:
        position, size = 0, 1
        while position < len(content):
            file.write(content[position : position + size])
            position, size = position + size, size * 3

    return write


def content(store: SnapshotStore, meta: SnapshotMeta = META) -> bytes:
    with store.load(meta) as file:
        return file.read()


@pytest.fixture(params=["file", "memory"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], SnapshotStore]:
    if request.param == "memory":
        return lambda name: MemorySnapshotStore()
    return lambda name: FileSnapshotStore(tmp_path / name)


class TestBothStores:
    @pytest.mark.parametrize("body", [b"", b"x", CONTENT, bytes(5_000_000)])
    def test_roundtrip(self, make: Callable[[str], SnapshotStore], body: bytes) -> None:
        store = make("a")
        size = store.save(META, writer(body))
        assert content(store) == body
        assert store.size(META) == size > len(body)
        raw = b"".join(store.read(META, offset, 100_000) for offset in range(0, size, 100_000))
        assert len(raw) == size
        assert raw.endswith(body)
        assert store.read(META, size, 10) == b""

    def test_unknown_snapshot(self, make: Callable[[str], SnapshotStore]) -> None:
        store = make("a")
        for call in (store.size, store.load, store.finish, lambda meta: store.read(meta, 0, 1)):
            with pytest.raises(KeyError):
                call(META)

    def test_failed_save_leaves_nothing(self, make: Callable[[str], SnapshotStore]) -> None:
        def fail(file: BinaryIO) -> None:
            file.write(CONTENT)
            raise RuntimeError("the machine can not be saved")

        store = make("a")
        with pytest.raises(RuntimeError, match="can not be saved"):
            store.save(META, fail)
        with pytest.raises(KeyError):
            store.size(META)

    def test_writer_may_close_the_file(self, make: Callable[[str], SnapshotStore]) -> None:
        def write(file: BinaryIO) -> None:
            with file:
                file.write(CONTENT)

        store = make("a")
        store.save(META, write)
        assert content(store) == CONTENT

    def test_saving_again_replaces(self, make: Callable[[str], SnapshotStore]) -> None:
        store = make("a")
        store.save(META, writer(CONTENT))
        store.save(META, writer(b"other"))
        assert content(store) == b"other"

    def test_late_doubled_and_reordered_chunks(self, make: Callable[[str], SnapshotStore]) -> None:
        leader, follower = make("leader"), make("follower")
        size = leader.save(META, writer(CONTENT))
        chunks = {offset: leader.read(META, offset, 1000) for offset in range(0, size, 1000)}
        assert follower.receive(META, 2000, chunks[2000]) == 0  # too early
        assert follower.receive(META, 0, chunks[0]) == 1000
        assert follower.receive(META, 0, chunks[0]) == 1000  # doubled
        held = 1000
        while held < size:
            for offset in (held + 1000, held, max(0, held - 1000)):
                held = follower.receive(META, offset, chunks.get(offset, b"late"))
        assert held == size
        with pytest.raises(KeyError):
            follower.size(META)  # not before it is finished
        follower.finish(META)
        follower.finish(META)
        assert content(follower) == CONTENT
        assert follower.receive(META, 0, chunks[0]) == size  # later than the end
        follower.finish(META)
        assert follower.read(META, 0, size) == leader.read(META, 0, size)

    @pytest.mark.parametrize("kind", ["short", "flipped", "long", "of another index", "header only", "empty"])
    def test_received_damage_is_found_and_forgotten(self, make: Callable[[str], SnapshotStore], kind: str) -> None:
        leader, follower = make("leader"), make("follower")
        size = leader.save(META, writer(CONTENT))
        good = leader.read(META, 0, size)
        leader.save(OTHER, writer(CONTENT))
        bad = {
            "short": good[:-1],
            "flipped": good[:-1] + bytes([good[-1] ^ 1]),
            "long": good + b"x",
            "of another index": leader.read(OTHER, 0, size),
            "header only": good[:20],
            "empty": b"",
        }[kind]
        follower.receive(META, 0, bad)
        reasons = {"short": "10239 bytes", "long": "10241 bytes", "flipped": "checksum", "of another index": "index 43"}
        with pytest.raises(DamagedSnapshot, match=reasons.get(kind, "cut short")):
            follower.finish(META)
        assert follower.receive(META, 0, good) == size
        follower.finish(META)
        assert content(follower) == CONTENT

    def test_discarding(self, make: Callable[[str], SnapshotStore]) -> None:
        store = make("a")
        store.save(META, writer(CONTENT))
        store.save(OTHER, writer(CONTENT))
        store.receive(SnapshotMeta(40, 3, THREE), 0, b"half")
        store.discard_except(OTHER)
        assert content(store, OTHER) == CONTENT
        with pytest.raises(KeyError):
            store.size(META)
        assert store.receive(SnapshotMeta(40, 3, THREE), 4, b"more") == 0

    def test_discarding_leaves_what_is_half_received_of_a_newer_one(self, make: Callable[[str], SnapshotStore]) -> None:
        store = make("a")
        newer, newest = SnapshotMeta(50, 3, THREE), SnapshotMeta(51, 3, THREE)
        store.save(META, writer(CONTENT))
        store.receive(newer, 0, b"half")
        store.discard_except(META)
        assert store.receive(newer, 4, b"more") == 8
        store.receive(newest, 0, b"half")
        assert store.receive(newest, 4, b"more") == 8
        assert store.receive(newer, 8, b"more") == 0, "more than one is half received"

    @given(order=st.lists(st.integers(0, 10), max_size=60), size=st.integers(1, 40))
    def test_any_order_of_chunks_gives_a_prefix(self, order: list[int], size: int) -> None:
        store, raw = MemorySnapshotStore(), bytes(range(200))
        held = 0
        for number in order:
            offset = number * size
            expected = held + len(raw[offset : offset + size]) if offset == held else held
            held = store.receive(META, offset, raw[offset : offset + size])
            assert held == expected


class TestFiles:
    @pytest.mark.parametrize("damage", [lambda path: flip(path, 5000), lambda path: flip(path, 9), lambda p: cut(p, 1)])
    def test_damaged_file(self, tmp_path: Path, damage: Callable[[Path], None]) -> None:
        store = FileSnapshotStore(tmp_path)
        store.save(META, writer(CONTENT))
        (path,) = tmp_path.iterdir()
        damage(path)
        with pytest.raises(DamagedSnapshot, match=path.name):
            store.load(META)

    def test_every_cut_is_found(self, tmp_path: Path) -> None:
        store = FileSnapshotStore(tmp_path)
        size = store.save(META, writer(b"some content"))
        (path,) = tmp_path.iterdir()
        for _ in range(size):
            cut(path, 1)
            with pytest.raises(DamagedSnapshot):
                store.load(META)

    def test_another_object_finds_it(self, tmp_path: Path) -> None:
        FileSnapshotStore(tmp_path).save(META, writer(CONTENT))
        assert content(FileSnapshotStore(tmp_path)) == CONTENT

    def test_forked_child_saves_for_its_parent(self, tmp_path: Path) -> None:
        store = FileSnapshotStore(tmp_path)
        child = os.fork()
        if child == 0:
            try:
                store.save(META, writer(CONTENT))
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        assert content(store) == CONTENT

    def test_new_owner_goes_on_with_what_is_half_received(self, tmp_path: Path) -> None:
        leader = MemorySnapshotStore()
        size = leader.save(META, writer(CONTENT))
        assert FileSnapshotStore(tmp_path).receive(META, 0, leader.read(META, 0, 1000)) == 1000
        store = FileSnapshotStore(tmp_path)
        assert store.receive(META, 0, b"x") == 1000
        store.receive(META, 1000, leader.read(META, 1000, size))
        store.finish(META)
        assert content(store) == CONTENT

    def test_what_was_half_received_and_damaged_is_found_at_the_end(self, tmp_path: Path) -> None:
        """A power loss may leave nothing but zeros of it."""
        leader = MemorySnapshotStore()
        size = leader.save(META, writer(CONTENT))
        FileSnapshotStore(tmp_path).receive(META, 0, bytes(1000))
        store = FileSnapshotStore(tmp_path)
        store.receive(META, 1000, leader.read(META, 1000, size))
        with pytest.raises(DamagedSnapshot):
            store.finish(META)
        assert store.receive(META, 0, leader.read(META, 0, size)) == size
        store.finish(META)
        assert content(store) == CONTENT

    def test_what_is_received_leaves_the_log_its_room(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whoever begins has room for the whole; where it goes meanwhile, what was received gives its own back."""
        leader, store, free = MemorySnapshotStore(), FileSnapshotStore(tmp_path), 0
        size = leader.save(META, writer(CONTENT))
        monkeypatch.setattr("rayraft.storage.space.room", lambda directory: (free, 500))
        free = 500 + size - 1
        with pytest.raises(DiskFull):
            store.receive(META, 0, leader.read(META, 0, 1000), size)
        assert list(tmp_path.iterdir()) == []
        free = 500 + size
        assert store.receive(META, 0, leader.read(META, 0, 1000), size) == 1000
        free = 500 + size - 1000
        assert store.receive(META, 1000, leader.read(META, 1000, 1000), size) == 2000
        free = 500
        with pytest.raises(DiskFull):
            store.receive(META, 2000, leader.read(META, 2000, 1000), size)
        assert list(tmp_path.iterdir()) == []
        assert store.receive(META, 2000, leader.read(META, 2000, 1000), size) == 0, "from the start again"

    def test_what_can_not_be_made_durable_for_want_of_room_is_forgotten(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(file: BinaryIO) -> None:
            raise OSError(28, "No space left on device")

        leader, store = MemorySnapshotStore(), FileSnapshotStore(tmp_path)
        size = leader.save(META, writer(CONTENT))
        store.receive(META, 0, leader.read(META, 0, size), size)
        monkeypatch.setattr("rayraft.storage.snapshots._sync", full)
        with pytest.raises(DiskFull):
            store.finish(META)
        assert list(tmp_path.iterdir()) == []

    def test_new_owner_removes_what_is_half_saved(self, tmp_path: Path) -> None:
        store = FileSnapshotStore(tmp_path)
        store.save(META, writer(CONTENT))
        store.receive(OTHER, 0, b"half")

        def die(file: BinaryIO) -> None:
            os._exit(0)  # in the middle of a save

        child = os.fork()
        if child == 0:
            store.save(OTHER, die)
        os.waitpid(child, 0)
        assert len(list(tmp_path.iterdir())) == 3
        assert content(FileSnapshotStore(tmp_path)) == CONTENT
        assert sorted(path.suffix for path in tmp_path.iterdir()) == [".part", ".snapshot"]

    def test_what_is_discarded_gives_its_room_back(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("rayraft.storage.snapshots._FREED_AT_ONCE", len(CONTENT) // 3)  # in several steps
        store = FileSnapshotStore(tmp_path)
        for meta in (META, OTHER):
            store.save(meta, writer(CONTENT))
        store.discard_except(OTHER)
        finish_discarding()
        assert len(list(tmp_path.iterdir())) == 1

    def test_failing_disk(self, tmp_path: Path) -> None:
        def full(file: BinaryIO) -> None:
            raise OSError(28, "No space left on device")

        store = FileSnapshotStore(tmp_path)
        with pytest.raises(DiskFailed, match="No space left"):
            store.save(META, full)
        assert list(tmp_path.iterdir()) == []
        with pytest.raises(DiskFailed):
            FileSnapshotStore("/proc/no/such/place")


def test_half_received_memory_snapshot_is_lost_in_a_crash() -> None:
    store = MemorySnapshotStore()
    store.save(META, writer(CONTENT))
    store.receive(OTHER, 0, b"half")
    store.crash()
    assert store.receive(OTHER, 4, b"more") == 0
    assert content(store) == CONTENT
