"""The thread that looks for what channels bring."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Protocol

from rayraft.ray.priority import sleep_exactly

SHORTEST_NAP, LONGEST_NAP = 20e-6, 1e-3  # seconds between two looks
NAP_SHARE = 0.1  # of the time that was waited for already, so that what takes long is not looked for all the time
TIDY_SECONDS = 10.0


class Polled(Protocol):
    def expects(self, now: float) -> bool:
        """Whether anything may come, so that it is worth looking."""
        ...

    def poll(self, now: float) -> bool:
        """Look, without waiting; whether something came. Raises nothing."""
        ...

    def is_over(self, now: float) -> bool:
        """Whether it need not be asked any more."""
        ...


class Poller:
    """1. While something that is watched expects anything, the thread looks; else it sleeps until `wake`."""

    def __init__(self, after: Callable[[], None] = lambda: None) -> None:
        """``after`` is called in that thread when something came."""
        self._after = after
        self._lock = threading.Lock()
        self._watched: tuple[Polled, ...] = ()
        self._bell = threading.Event()
        self._thread: threading.Thread | None = None

    def watch(self, polled: Polled) -> None:
        with self._lock:
            self._watched += (polled,)
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="rayraft-channels", daemon=True)
                thread.start()
                self._thread = thread
        self.wake()

    def wake(self) -> None:
        if not self._bell.is_set():
            self._bell.set()

    def _run(self) -> None:
        sleep_exactly()
        since = time.monotonic()
        while True:
            self._bell.clear()
            now = time.monotonic()
            expecting = [polled for polled in self._watched if polled.expects(now)]
            if not expecting:
                if not self._bell.wait(TIDY_SECONDS):
                    self._tidy()
                since = time.monotonic()
                continue
            found = [polled.poll(now) for polled in expecting]  # all, before `after`: what came shares one turn
            if any(found):
                self._after()
                since = time.monotonic()
                continue
            time.sleep(nap(now - since))

    def _tidy(self) -> None:
        now = time.monotonic()
        with self._lock:
            self._watched = tuple(polled for polled in self._watched if not polled.is_over(now))


def nap(waited_s: float) -> float:
    """For how long not to look again, after so long without success."""
    return min(max(SHORTEST_NAP, waited_s * NAP_SHARE), LONGEST_NAP)


_of_clients: Poller | None = None
_lock = threading.Lock()


def poller_of_clients() -> Poller:
    """One for all clients of this process."""
    global _of_clients
    with _lock:
        if _of_clients is None:
            _of_clients = Poller()
        return _of_clients


def _begin_anew() -> None:
    """In a forked child, where that thread does not run."""
    global _of_clients, _lock
    _of_clients, _lock = None, threading.Lock()


os.register_at_fork(after_in_child=_begin_anew)
