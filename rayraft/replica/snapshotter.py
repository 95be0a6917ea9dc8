"""Taking snapshots beside the work: the state is saved by a forked copy of the process, while commits go on."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from rayraft.raft.types import SnapshotMeta
from rayraft.replica.forked import LONGEST_WAIT, Copy, CopyFailed, fork
from rayraft.replica.pages import LargePages
from rayraft.storage.protocol import SnapshotStore
from rayraft.storage.snapshots import FileSnapshotStore

Save = Callable[[BinaryIO], None]


class SnapshotNotSaved(Exception):
    """An attempt to save the state has failed; the log still has everything, so work goes on."""


class Snapshotter(Protocol):
    """At most one snapshot is under way at a time. `begin` and `poll` may raise SnapshotNotSaved; then none is."""

    @property
    def busy(self) -> bool: ...

    def prepare(self) -> bool:
        """Do what makes `begin` take as little time as it can; ask again until that is done."""
        ...

    def begin(self, meta: SnapshotMeta, save: Save) -> None:
        """Start to save the state as it is now."""
        ...

    def poll(self) -> SnapshotMeta | None:
        """The snapshot that has become durable since the last call, if one has."""
        ...

    def close(self) -> None: ...


class InlineSnapshotter:
    """Saves at once: deterministic, for the simulator and for small states."""

    def __init__(self, store: SnapshotStore) -> None:
        self._store = store
        self._done: SnapshotMeta | None = None

    @property
    def busy(self) -> bool:
        return self._done is not None

    def prepare(self) -> bool:
        return True

    def begin(self, meta: SnapshotMeta, save: Save) -> None:
        try:
            self._store.save(meta, save)
        except Exception as error:
            raise SnapshotNotSaved(_failure(meta, f"{type(error).__name__}: {error}")) from error
        self._done = meta

    def poll(self) -> SnapshotMeta | None:
        done, self._done = self._done, None
        return done

    def close(self) -> None:
        self._done = None


@dataclass(slots=True)
class Child:
    """A process that saves a snapshot."""

    copy: Copy
    meta: SnapshotMeta
    deadline: float
    saved: int | None = None  # bytes, when it was looked last; None while it waits for its turn


class ForkSnapshotter:
    """Saves in a child process that shares the memory copy-on-write, so the parent stops only for the fork itself.

    The child touches nothing but the state and the new file. One that makes no headway for ``timeout`` seconds (a lock
    held at the moment of the fork) is killed, and the next time the state is saved in this process.
    """

    def __init__(self, store: FileSnapshotStore, *, timeout: float = 300.0) -> None:
        self._store = store
        self._timeout = timeout
        self._child: Child | None = None
        self._pages = LargePages()
        self._inline = InlineSnapshotter(store)
        self._hung = False  # the last child was

    @property
    def busy(self) -> bool:
        return self._child is not None or self._inline.busy

    def prepare(self) -> bool:
        return self._hung or self._pages.prepare()

    def begin(self, meta: SnapshotMeta, save: Save) -> None:
        if self._hung:
            self._hung = False
            self._inline.begin(meta, save)
            return

        def work() -> bytes:
            self._store.save(meta, save)
            return b""

        try:
            copy = fork(work)
        except OSError as error:
            raise SnapshotNotSaved(_failure(meta, str(error))) from error
        self._child = Child(copy, meta, time.monotonic() + LONGEST_WAIT + self._timeout)

    def poll(self) -> SnapshotMeta | None:
        child = self._child
        if child is None:
            return self._inline.poll()
        try:
            done = child.copy.result() is not None
        except CopyFailed as error:
            self.close()
            raise SnapshotNotSaved(_failure(child.meta, str(error))) from error
        if done:
            self.close()
            return child.meta
        self._look_at(child)
        return None

    def _look_at(self, child: Child) -> None:
        """A large state takes its time: only one of which no more comes to the disk hangs."""
        saved = self._store.half_saved(child.meta, child.copy.pid)
        if saved != child.saved:
            child.saved, child.deadline = saved, time.monotonic() + self._timeout
        elif time.monotonic() > child.deadline:
            self.close()
            self._hung = True
            raise SnapshotNotSaved(_failure(child.meta, f"its process hung for {self._timeout} s"))

    def close(self) -> None:
        if self._child is not None:
            self._child.copy.end()
            self._store.abandon(self._child.meta, self._child.copy.pid)
            self._child = None


def _failure(meta: SnapshotMeta, reason: str) -> str:
    return f"the state at index {meta.index} could not be saved, so the log is not cut: {reason}"
