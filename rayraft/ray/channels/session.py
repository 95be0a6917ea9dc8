"""Nobody may use a channel as Ray goes down in this process: Ray ends a process that does.

`ray.shutdown`, also at the end of the process, first tears down the compiled graphs, for the same reason; what is
registered here is torn down with them.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import weakref
from collections.abc import Iterator
from typing import Any, Protocol

import ray


class ChannelGone(ConnectionError):
    """Nothing comes through it any more; whether the last frame was read is not known."""


class End(Protocol):
    def leave(self) -> None:
        """Ask Ray for nothing more; when this returns, nobody is doing so."""
        ...


class Sessions:
    """1. A channel is made only within `making`, in a session of Ray that has not begun to end.
    2. When `teardown` returns, nobody makes a channel or uses one of that session, nor will.
    """

    def __init__(self) -> None:
        self._worker = ray._private.worker.global_worker
        self._making = threading.Lock()
        self._ends: weakref.WeakSet[End] = weakref.WeakSet()
        self._ended: Any = None  # the session that was torn down last

    @property
    def current(self) -> Any:
        """Stands for the session that Ray is in; None where it is not up."""
        worker = self._worker
        is_up = worker.connected and not worker.threads_stopped.is_set()
        return getattr(worker, "core_worker", None) if is_up and not self.is_ending else None

    @property
    def is_ending(self) -> bool:
        """Whether `ray.shutdown` has begun, or has ended and nothing followed."""
        return self._ended is not None and getattr(self._worker, "core_worker", None) in (None, self._ended)

    @contextlib.contextmanager
    def making(self) -> Iterator[None]:
        """Raises ChannelGone."""
        with self._making:
            if self.current is None:
                raise ChannelGone("Ray was shut down in this process")
            self._register()
            yield

    def _register(self) -> None:
        with contextlib.suppress(ImportError, AttributeError):  # with another version of Ray, `atexit` is left
            from ray.dag import compiled_dag_node

            compiled_dag_node._compiled_dags["rayraft"] = self

    def add(self, end: End) -> None:
        self._ends.add(end)

    def teardown(self, kill_actors: bool = False) -> None:
        """Called by Ray."""
        with self._making:
            self._ended = getattr(self._worker, "core_worker", None)
            ends = list(self._ends)
        for end in ends:
            end.leave()

    def forget(self) -> None:
        """In a forked child: all are the parent's, and whoever held a lock is not here."""
        self._making = threading.Lock()
        self._ended = getattr(self._worker, "core_worker", None)
        self._ends.clear()


sessions = Sessions()
atexit.register(sessions.teardown)
os.register_at_fork(after_in_child=sessions.forget)
