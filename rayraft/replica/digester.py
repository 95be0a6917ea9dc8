"""Computing the digest of a state beside the work: in a forked copy of the process, while commits go on."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

from rayraft.replica.forked import Copy, CopyFailed, fork
from rayraft.replica.pages import LargePages

Digest = Callable[[], bytes]


class Digester(Protocol):
    """At most one digest is under way at a time; a new one takes the place of an older one."""

    @property
    def busy(self) -> bool: ...

    def prepare(self) -> bool:
        """Do what makes `begin` take as little time as it can; ask again until that is done."""
        ...

    def begin(self, index: int, digest: Digest) -> None:
        """Start on the digest of the state as it is now, after entry ``index``."""
        ...

    def poll(self) -> tuple[int, bytes] | None:
        """(index, digest) of the one that has ended since the last call; an empty digest when it failed."""
        ...

    def close(self) -> None:
        """Forget what is under way."""
        ...


class InlineDigester:
    """Computes at once: deterministic, for the simulator and for small states."""

    def __init__(self) -> None:
        self._done: tuple[int, bytes] | None = None

    @property
    def busy(self) -> bool:
        return self._done is not None

    def prepare(self) -> bool:
        return True

    def begin(self, index: int, digest: Digest) -> None:
        self._done = (index, digest())

    def poll(self) -> tuple[int, bytes] | None:
        done, self._done = self._done, None
        return done

    def close(self) -> None:
        self._done = None


class Child(NamedTuple):
    copy: Copy
    entry: int  # the index after which the state is digested
    deadline: float


class ForkDigester:
    """Computes in a child process that shares the memory copy-on-write, so the parent stops only for the fork itself.

    A child that does not end within ``timeout`` seconds (a lock held at the moment of the fork) is killed, and there
    is no digest of that index.
    """

    def __init__(self, *, timeout: float = 300.0) -> None:
        self._timeout = timeout
        self._child: Child | None = None
        self._failed = 0  # the index whose child could not be started
        self._pages = LargePages()

    @property
    def busy(self) -> bool:
        return self._child is not None or self._failed > 0

    def prepare(self) -> bool:
        return self._pages.prepare()

    def begin(self, index: int, digest: Digest) -> None:
        self.close()
        try:
            copy = fork(digest)
        except OSError:
            self._failed = index
            return
        self._child = Child(copy, index, time.monotonic() + self._timeout)

    def poll(self) -> tuple[int, bytes] | None:
        if self._failed:
            failed, self._failed = self._failed, 0
            return failed, b""
        child = self._child
        if child is None:
            return None
        try:
            data = child.copy.result()
        except CopyFailed:
            data = b""
        if data is None and time.monotonic() < child.deadline:
            return None
        self.close()
        return child.entry, data or b""

    def close(self) -> None:
        self._failed = 0
        if self._child is not None:
            self._child.copy.end()
            self._child = None
