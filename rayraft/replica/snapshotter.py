"""Taking snapshots beside the work: the state is saved by a forked copy of the process, while commits go on."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import BinaryIO, Protocol

from rayraft.raft.types import SnapshotMeta
from rayraft.storage.protocol import SnapshotStore

Save = Callable[[BinaryIO], None]


class Snapshotter(Protocol):
    """At most one snapshot is under way at a time."""

    @property
    def busy(self) -> bool: ...

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
        self.last_error = ""

    @property
    def busy(self) -> bool:
        return self._done is not None

    def begin(self, meta: SnapshotMeta, save: Save) -> None:
        self._store.save(meta, save)
        self._done = meta

    def poll(self) -> SnapshotMeta | None:
        done, self._done = self._done, None
        return done

    def close(self) -> None:
        self._done = None


class ForkSnapshotter:
    """Saves in a child process that shares the memory copy-on-write, so the parent stops only for the fork itself.

    The child touches nothing but the state and the new file, and leaves without any clean-up of the parent's things.
    A child that does not end within ``timeout`` seconds (a lock held at the moment of the fork) is killed, and the
    state is saved in this process instead the next time.
    """

    def __init__(self, store: SnapshotStore, *, timeout: float = 300.0) -> None:
        self._store = store
        self._timeout = timeout
        self._child: tuple[int, SnapshotMeta, float] | None = None
        self._inline = InlineSnapshotter(store)
        self._fork_works = True
        self.last_error = ""

    @property
    def busy(self) -> bool:
        return self._child is not None or self._inline.busy

    def begin(self, meta: SnapshotMeta, save: Save) -> None:
        if not self._fork_works:
            self._inline.begin(meta, save)
            return
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.nice(5)
                self._store.save(meta, save)
                code = 0
            finally:
                os._exit(code)
        self._child = (pid, meta, time.monotonic() + self._timeout)

    def poll(self) -> SnapshotMeta | None:
        if self._child is None:
            return self._inline.poll()
        pid, meta, deadline = self._child
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended == 0:
            if time.monotonic() > deadline:
                os.kill(pid, 9)
                os.waitpid(pid, 0)
                self._child, self._fork_works = None, False
                self.last_error = f"the process that saved snapshot {meta.index} hung for {self._timeout} s"
            return None
        self._child = None
        if status != 0:
            self.last_error = f"the process that saved snapshot {meta.index} ended with status {status}"
            self._fork_works = False  # save it here the next time, where the error can be seen
            return None
        self.last_error = ""
        return meta

    def close(self) -> None:
        if self._child is not None:
            os.kill(self._child[0], 9)
            os.waitpid(self._child[0], 0)
            self._child = None
