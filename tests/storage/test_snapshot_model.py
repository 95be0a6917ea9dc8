"""Both snapshot stores against two plain dictionaries, through every operation, damage, crash and reopening."""

from __future__ import annotations

import io
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from rayraft.errors import DamagedSnapshot
from rayraft.raft.types import SnapshotMeta
from rayraft.storage.memory import MemorySnapshotStore
from rayraft.storage.protocol import SnapshotStore
from rayraft.storage.snapshot_format import write_snapshot
from rayraft.storage.snapshots import FileSnapshotStore
from tests.storage.helpers import THREE, finish_discarding

METAS = [SnapshotMeta(index, term, THREE) for index, term in ((1, 1), (2, 1), (2, 2))]
metas = st.sampled_from(METAS)
contents = st.binary(max_size=40)


class Stopped(Exception):
    """What a machine raises that can not be saved."""


def raw(meta: SnapshotMeta, content: bytes) -> bytes:
    """The bytes of a snapshot, as a leader sends them."""
    file = io.BytesIO()
    write_snapshot(file, meta, lambda stream: stream.write(content) and None)
    return file.getvalue()


class SnapshotMachine(RuleBasedStateMachine):
    """``whole`` is what is saved under each name, ``parts`` what is half received."""

    parts_survive = False

    def __init__(self) -> None:
        super().__init__()
        self.whole: dict[SnapshotMeta, bytes] = {}
        self.parts: dict[SnapshotMeta, bytes] = {}
        self.source = {meta: raw(meta, b"from the leader, %d" % meta.term) for meta in METAS}
        self.store: SnapshotStore = self.open()

    def open(self) -> SnapshotStore:
        raise NotImplementedError

    @rule(meta=metas, content=contents)
    def save(self, meta: SnapshotMeta, content: bytes) -> None:
        size = self.store.save(meta, lambda stream: stream.write(content) and None)
        self.whole[meta] = raw(meta, content)
        assert size == len(self.whole[meta])

    @rule(meta=metas, content=contents)
    def save_fails(self, meta: SnapshotMeta, content: bytes) -> None:
        def write(stream: io.BufferedIOBase) -> None:
            stream.write(content)
            raise Stopped

        with pytest.raises(Stopped):
            self.store.save(meta, write)  # type: ignore[arg-type]

    @rule(meta=metas, skip=st.integers(-3, 3), length=st.integers(0, 40), flip=st.integers(0, 30))
    def receive(self, meta: SnapshotMeta, skip: int, length: int, flip: int) -> None:
        """A chunk at the end of what is held, or late, or too early; now and then with a bit that was flipped."""
        held = self.parts.get(meta, b"")
        offset = max(0, len(held) + (skip if abs(skip) == 3 else 0))
        data = self.source[meta][offset : offset + length]
        if flip < len(data):
            data = data[:flip] + bytes([data[flip] ^ 1]) + data[flip + 1 :]
        answer = self.store.receive(meta, offset, data)
        if meta in self.whole:
            assert answer == len(self.whole[meta])
            return
        if offset == len(held):
            self.hold(meta, held + data)
        assert answer == len(self.parts.get(meta, b""))

    def hold(self, meta: SnapshotMeta, part: bytes) -> None:
        """At most one snapshot is half received: a new one takes the place of another."""
        if not self.parts.get(meta):
            self.parts.clear()
        self.parts[meta] = part

    @rule(meta=metas)
    def receive_the_rest(self, meta: SnapshotMeta) -> None:
        if meta not in self.whole:
            held = self.parts.get(meta, b"")
            self.hold(meta, held + self.source[meta][len(held) :])
            assert self.store.receive(meta, len(held), self.source[meta][len(held) :]) == len(self.parts[meta])

    @rule(meta=metas)
    def finish(self, meta: SnapshotMeta) -> None:
        if meta in self.whole:
            self.store.finish(meta)
        elif meta not in self.parts:
            with pytest.raises(KeyError):
                self.store.finish(meta)
        elif (got := self.parts.pop(meta)) == self.source[meta]:
            self.store.finish(meta)
            self.whole[meta] = got
        else:
            with pytest.raises(DamagedSnapshot):
                self.store.finish(meta)

    @rule(keep=metas)
    def discard_except(self, keep: SnapshotMeta) -> None:
        self.store.discard_except(keep)
        self.whole = {meta: held for meta, held in self.whole.items() if meta == keep}
        kept = (keep.index, keep.term)
        self.parts = {meta: part for meta, part in self.parts.items() if (meta.index, meta.term) > kept}

    @rule()
    def crash(self) -> None:
        """What is whole survives; what was half received does where a process died, and not where power was lost."""
        self.store = self.reopened()
        if not self.parts_survive:
            self.parts.clear()

    def reopened(self) -> SnapshotStore:
        raise NotImplementedError

    @rule(meta=metas, offset=st.integers(0, 60), length=st.integers(0, 60))
    def read(self, meta: SnapshotMeta, offset: int, length: int) -> None:
        if meta in self.whole:
            assert self.store.read(meta, offset, length) == self.whole[meta][offset : offset + length]
        else:
            with pytest.raises(KeyError):
                self.store.read(meta, offset, length)

    @invariant()
    def agrees(self) -> None:
        for meta in METAS:
            if meta not in self.whole:
                for call in (self.store.size, self.store.load):
                    with pytest.raises(KeyError):
                        call(meta)
                continue
            assert self.store.size(meta) == len(self.whole[meta])
            with self.store.load(meta) as stream:
                assert raw(meta, stream.read()) == self.whole[meta]


class MemorySnapshots(SnapshotMachine):
    def open(self) -> SnapshotStore:
        return MemorySnapshotStore()

    def reopened(self) -> SnapshotStore:
        assert isinstance(self.store, MemorySnapshotStore)
        self.store.crash()
        return self.store


class FileSnapshots(SnapshotMachine):
    parts_survive = True

    def open(self) -> SnapshotStore:
        self.directory = Path(tempfile.mkdtemp())
        return FileSnapshotStore(self.directory)

    def reopened(self) -> SnapshotStore:
        """A new owner, after one that died in the middle of a save."""
        (self.directory / "left.snapshot.1.tmp").write_bytes(b"unfinished")
        store = FileSnapshotStore(self.directory)
        assert {path.suffix for path in self.directory.iterdir()} <= {".snapshot", ".part"}
        return store

    def teardown(self) -> None:
        finish_discarding()
        shutil.rmtree(self.directory)


TestMemorySnapshots = MemorySnapshots.TestCase
TestMemorySnapshots.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestFileSnapshots = FileSnapshots.TestCase
TestFileSnapshots.settings = settings(
    max_examples=20, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
