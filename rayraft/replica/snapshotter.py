"""Taking snapshots beside the work: the state is saved by a forked copy of the process, while commits go on."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import BinaryIO, NamedTuple, Protocol

from rayraft.raft.types import SnapshotMeta
from rayraft.replica.forked import Copy, CopyFailed, fork
from rayraft.replica.pages import LargePages
from rayraft.storage.protocol import SnapshotStore

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


class Child(NamedTuple):
    """A process that saves a snapshot."""

    copy: Copy
    meta: SnapshotMeta
    deadline: float


class ForkSnapshotter:
    """Saves in a child process that shares the memory copy-on-write, so the parent stops only for the fork itself.

    The child touches nothing but the state and the new file. One that does not end within ``timeout`` seconds (a lock
    held at the moment of the fork) is killed, and from then on the state is saved in this process.
    """

    def __init__(self, store: SnapshotStore, *, timeout: float = 300.0) -> None:
        self._store = store
        self._timeout = timeout
        self._child: Child | None = None
        self._pages = LargePages()
        self._inline = InlineSnapshotter(store)
        self._fork_works = True

    @property
    def busy(self) -> bool:
        return self._child is not None or self._inline.busy

    def prepare(self) -> bool:
        return not self._fork_works or self._pages.prepare()

    def begin(self, meta: SnapshotMeta, save: Save) -> None:
        if not self._fork_works:
            self._inline.begin(meta, save)
            return

        def work() -> bytes:
            self._store.save(meta, save)
            return b""

        try:
            copy = fork(work)
        except OSError as error:
            raise SnapshotNotSaved(_failure(meta, str(error))) from error
        self._child = Child(copy, meta, time.monotonic() + self._timeout)

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
        if time.monotonic() > child.deadline:
            self.close()
            self._fork_works = False
            raise SnapshotNotSaved(_failure(child.meta, f"its process hung for {self._timeout} s"))
        return None

    def close(self) -> None:
        if self._child is not None:
            self._child.copy.end()
            self._child = None


def _failure(meta: SnapshotMeta, reason: str) -> str:
    return f"the state at index {meta.index} could not be saved, so the log is not cut: {reason}"
