"""The simulated disk: it takes time, forgets at a crash what was not synced, and fails or decays when told to."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Sequence
from typing import BinaryIO, Protocol

from rayraft.errors import DamagedLog, DiskFailed
from rayraft.raft.types import Configuration, Entry, HardState, NodeId, SnapshotMeta
from rayraft.replica.snapshotter import SnapshotNotSaved
from rayraft.simulation.effects import COMPACT, DISCARD, INSTALL, RECEIVE, RESTORE, SAVE, SYNC, TRUNCATE, WRITE, Effects
from rayraft.storage.memory import MemoryLogStore, MemorySnapshotStore
from rayraft.storage.records import HARD_STATE, BadRecord, entry_key, pack, unpack

ALL = 1 << 62


class DiskWatch(Protocol):
    """Who looks at what reaches a disk."""

    def writing(self, log: SimulatedLog, entries: Sequence[Entry]) -> None: ...
    def synced(self, log: SimulatedLog) -> None: ...
    def kept(self, log: SimulatedLog, snapshot: SnapshotMeta) -> None: ...
    def fail(self, name: str, message: str) -> Exception: ...


class Trouble:
    """The state of one disk: how slow it is, whether the next sync fails, and until when it is full."""

    __slots__ = ("_rng", "effects", "fails", "full_until", "latency", "slow_until")

    def __init__(self, effects: Effects, rng: random.Random, latency: float) -> None:
        self.effects = effects
        self.latency = latency
        self.fails = False
        self.full_until = 0.0
        self.slow_until = 0.0
        self._rng = rng

    def write(self, now: float) -> None:
        """The time and the failure of one write. Raises DiskFailed."""
        if now < self.slow_until:
            self.effects.elapsed += self._rng.uniform(0.0, 1.0) ** 3
        if now < self.full_until:
            raise DiskFailed("the simulated disk is full")

    def sync(self, now: float) -> None:
        """The time and the failure of one sync. Raises DiskFailed."""
        latency = self._rng.uniform(0.1, 1.0) if now < self.slow_until else self.latency * self._rng.uniform(0.5, 2.0)
        self.effects.elapsed += latency
        if self.fails:
            self.fails = False
            raise DiskFailed("the simulated disk failed a sync")


class SimulatedLog(MemoryLogStore):
    """A log whose synced image is known: ``durable`` and the entries below ``dirty_from`` survive a crash now."""

    def __init__(
        self, node: NodeId, initial: Configuration, trouble: Trouble, watch: DiskWatch, now: Callable[[], float]
    ) -> None:
        super().__init__(initial)
        self.node = node
        self.durable = HardState()
        self.dirty_from = ALL
        self.truncated = 0  # entries that were replaced since somebody looked
        self._damage: tuple[bytes, bytes] | None = None
        self._trouble = trouble
        self._effects = trouble.effects
        self._watch = watch
        self._now = now

    def write(self, hard_state: HardState | None, entries: Sequence[Entry]) -> None:
        cut = max(0, self.last_index() + 1 - entries[0].index) if entries else 0
        effect = TRUNCATE if cut else WRITE
        self._effects.point(effect)
        self._trouble.write(self._now())
        self._watch.writing(self, entries)
        super().write(hard_state, entries)
        self.truncated += cut
        if entries:
            self.dirty_from = min(self.dirty_from, entries[0].index)
        self._effects.point(effect)

    def sync(self) -> None:
        self._effects.point(SYNC)
        self._trouble.sync(self._now())
        super().sync()
        self._settled()
        self._effects.point(SYNC)

    def compact(self, snapshot: SnapshotMeta, first_index: int) -> None:
        self._effects.point(COMPACT)
        self._trouble.write(self._now())
        self._watch.kept(self, snapshot)
        super().compact(snapshot, first_index)
        self._effects.point(COMPACT)

    def install(self, snapshot: SnapshotMeta, hard_state: HardState) -> None:
        self._effects.point(INSTALL)
        self._trouble.write(self._now())
        self._watch.kept(self, snapshot)
        super().install(snapshot, hard_state)
        self._settled()
        self._effects.point(INSTALL)

    def crash(self, keep: int = 0, rng: random.Random | None = None) -> None:
        """Lose power. The first write that is lost may lie there torn: its checksum must tell."""
        if rng is not None and self._entries and keep < self.unsynced:
            key = entry_key(self.last_index())
            whole = pack(key, self._entries[-1])
            try:
                unpack(key, whole[: rng.randrange(len(whole))])
            except BadRecord:
                pass
            else:
                raise self._watch.fail("damage", f"a torn record of node {self.node} passes for a whole one")
        super().crash(keep)
        self._settled()

    def flip_bit(self, rng: random.Random) -> None:
        """Damage the hard state or an entry, in the form that it has on a real disk."""
        key, record = HARD_STATE, self.hard_state()
        stored = pack(key, record)
        if self._entries and rng.random() < 0.7:
            entry = rng.choice(self._entries)
            key = entry_key(entry.index)
            stored = pack(key, entry)
        self._damage = key, flipped(stored, rng)

    def open(self) -> None:
        """What a process does first: read everything through. Raises DamagedLog."""
        if self._damage is not None:
            try:
                unpack(*self._damage)
            except BadRecord as error:
                raise DamagedLog(str(error)) from error

    def _settled(self) -> None:
        self.durable, self.dirty_from = self.hard_state(), ALL
        self._watch.synced(self)

    def holds(self, index: int, term: int) -> bool:
        """Whether the synced image has the entry of ``term`` at ``index``, or a snapshot in its place."""
        if index < self.first_index():
            return True
        return index < self.dirty_from and index <= self.last_index() and self.term(index) == term


class SimulatedSnapshots(MemorySnapshotStore):
    """Snapshots as files; ``loaded`` is the one that was read last. Small reads make transfers of many chunks."""

    def __init__(self, trouble: Trouble, chunk_bytes: int, now: Callable[[], float]) -> None:
        super().__init__()
        self.loaded = SnapshotMeta()
        self._chunk_bytes = chunk_bytes
        self._trouble = trouble
        self._effects = trouble.effects
        self._now = now

    def save(self, meta: SnapshotMeta, write: Callable[[BinaryIO], None]) -> int:
        self._effects.point(SAVE)
        self._trouble.write(self._now())
        self._trouble.sync(self._now())
        size = super().save(meta, write)
        self._effects.point(SAVE)
        return size

    def read(self, meta: SnapshotMeta, offset: int, length: int) -> bytes:
        return super().read(meta, offset, min(length, self._chunk_bytes))

    def load(self, meta: SnapshotMeta) -> BinaryIO:
        self._effects.point(RESTORE)
        self.loaded = meta
        return super().load(meta)

    def receive(self, meta: SnapshotMeta, offset: int, data: bytes, total: int = 0) -> int:
        self._effects.point(RECEIVE)
        self._trouble.write(self._now())
        return super().receive(meta, offset, data, total)

    def finish(self, meta: SnapshotMeta) -> None:
        self._effects.point(RECEIVE)
        self._trouble.sync(self._now())
        super().finish(meta)
        self._effects.point(RECEIVE)

    def discard_except(self, keep: SnapshotMeta) -> None:
        self._effects.point(DISCARD)
        super().discard_except(keep)
        self._effects.point(DISCARD)

    def flip_bit(self, meta: SnapshotMeta, rng: random.Random) -> bool:
        """Damage the bytes of a saved snapshot; whether there is one."""
        name = meta.index, meta.term
        if name not in self._saved:
            return False
        self._saved[name] = flipped(self._saved[name], rng)
        return True


def flipped(data: bytes, rng: random.Random) -> bytes:
    """``data`` with one bit changed."""
    damaged = bytearray(data)
    damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


class DelayedSnapshotter:
    """Freezes the state at once and saves it some time later, as a forked process would."""

    def __init__(self, store: SimulatedSnapshots, delay: float, now: Callable[[], float]) -> None:
        self._store = store
        self._delay = delay
        self._now = now
        self._job: tuple[float, SnapshotMeta, bytes] | None = None
        self._prepared_at: float | None = None

    @property
    def busy(self) -> bool:
        return self._job is not None

    def prepare(self) -> bool:
        """It takes as long as saving does."""
        if self._prepared_at is None:
            self._prepared_at = self._now() + self._delay
        return self._now() >= self._prepared_at

    def begin(self, meta: SnapshotMeta, save: Callable[[BinaryIO], None]) -> None:
        stream = io.BytesIO()
        save(stream)
        self._prepared_at = None
        self._job = (self._now() + self._delay, meta, stream.getvalue())

    def poll(self) -> SnapshotMeta | None:
        if self._job is None or self._job[0] > self._now():
            return None
        (_, meta, content), self._job = self._job, None

        def write(stream: BinaryIO) -> None:
            stream.write(content)

        try:
            self._store.save(meta, write)
        except DiskFailed as error:
            raise SnapshotNotSaved(str(error)) from error
        return meta

    def close(self) -> None:
        self._job = None
