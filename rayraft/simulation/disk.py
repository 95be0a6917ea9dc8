"""The simulated disk: it takes time, forgets at a crash what was not synced, and fails when told to."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Sequence
from typing import BinaryIO, Protocol

from rayraft.errors import DiskFailed
from rayraft.raft.types import Configuration, Entry, HardState, NodeId, SnapshotMeta
from rayraft.replica.snapshotter import SnapshotNotSaved
from rayraft.simulation.effects import Effect, Effects
from rayraft.storage.memory import MemoryLogStore, MemorySnapshotStore

ALL = 1 << 62


class DiskWatch(Protocol):
    """Who looks at what reaches a disk."""

    def writing(self, log: SimulatedLog, entries: Sequence[Entry]) -> None: ...
    def synced(self, log: SimulatedLog) -> None: ...


class Trouble:
    """The state of one disk: how slow it is, and whether the next sync fails."""

    __slots__ = ("_rng", "effects", "fails", "latency", "slow_until")

    def __init__(self, effects: Effects, rng: random.Random, latency: float) -> None:
        self.effects = effects
        self.latency = latency
        self.fails = False
        self.slow_until = 0.0
        self._rng = rng

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
        self._trouble = trouble
        self._effects = trouble.effects
        self._watch = watch
        self._now = now

    def write(self, hard_state: HardState | None, entries: Sequence[Entry]) -> None:
        self._effects.point(Effect.WRITE)
        self._watch.writing(self, entries)
        super().write(hard_state, entries)
        if entries:
            self.dirty_from = min(self.dirty_from, entries[0].index)
        self._effects.point(Effect.WRITE)

    def sync(self) -> None:
        self._effects.point(Effect.SYNC)
        self._trouble.sync(self._now())
        super().sync()
        self._settled()
        self._effects.point(Effect.SYNC)

    def compact(self, snapshot: SnapshotMeta, first_index: int) -> None:
        self._effects.point(Effect.COMPACT)
        super().compact(snapshot, first_index)
        self._effects.point(Effect.COMPACT)

    def install(self, snapshot: SnapshotMeta, hard_state: HardState) -> None:
        self._effects.point(Effect.INSTALL)
        super().install(snapshot, hard_state)
        self._settled()
        self._effects.point(Effect.INSTALL)

    def crash(self, keep: int = 0) -> None:
        super().crash(keep)
        self._settled()

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
        self._effects.point(Effect.SAVE)
        self._trouble.sync(self._now())
        size = super().save(meta, write)
        self._effects.point(Effect.SAVE)
        return size

    def read(self, meta: SnapshotMeta, offset: int, length: int) -> bytes:
        return super().read(meta, offset, min(length, self._chunk_bytes))

    def load(self, meta: SnapshotMeta) -> BinaryIO:
        self._effects.point(Effect.RESTORE)
        self.loaded = meta
        return super().load(meta)

    def receive(self, meta: SnapshotMeta, offset: int, data: bytes) -> int:
        self._effects.point(Effect.RECEIVE)
        return super().receive(meta, offset, data)

    def finish(self, meta: SnapshotMeta) -> None:
        self._effects.point(Effect.RECEIVE)
        self._trouble.sync(self._now())
        super().finish(meta)
        self._effects.point(Effect.RECEIVE)

    def discard_except(self, keep: SnapshotMeta) -> None:
        self._effects.point(Effect.DISCARD)
        super().discard_except(keep)
        self._effects.point(Effect.DISCARD)


class DelayedSnapshotter:
    """Freezes the state at once and saves it some time later, as a forked process would."""

    def __init__(self, store: SimulatedSnapshots, delay: float, now: Callable[[], float]) -> None:
        self._store = store
        self._delay = delay
        self._now = now
        self._job: tuple[float, SnapshotMeta, bytes] | None = None

    @property
    def busy(self) -> bool:
        return self._job is not None

    def begin(self, meta: SnapshotMeta, save: Callable[[BinaryIO], None]) -> None:
        stream = io.BytesIO()
        save(stream)
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
