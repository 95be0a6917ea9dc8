"""Forked copies of a node: what is done so that the node, and its neighbours, go on undisturbed beside them."""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable

NICENESS = 5  # on top of the parent's: a third of its share where both want a processor, so that it ends in time
LONGEST_WAIT = 60.0  # s for other copies on the machine; one that hangs must not stop the others
LOOK_EVERY = 0.02  # s


class Orphaned(Exception):
    """The node is gone, and with it whoever wanted the copy's work."""


def fork(work: Callable[[int], None]) -> tuple[int, int]:
    """Have a copy of this process call ``work`` with the end of a pipe; its id, and where the pipe comes out.

    The copy leaves without any clean-up of this process's things, with status 0 only if ``work`` returns. It has the
    state of this moment, however late it begins (`LONGEST_WAIT`). Raises OSError.
    """
    node = os.getpid()
    pipe, pipe_end = os.pipe()
    try:
        pid = os.fork()
    except OSError:
        os.close(pipe)
        os.close(pipe_end)
        raise
    if pid == 0:
        code = 1
        try:
            _be_quiet()
            _take_turns(node)
            work(pipe_end)
            code = 0
        finally:
            os._exit(code)
    os.close(pipe_end)
    return pid, pipe


def _be_quiet() -> None:
    gc.disable()  # a collection writes to every object that it looks at, and so copies pages that are still shared
    os.nice(NICENESS)


def _take_turns(node: int) -> None:
    """One copy at a time on a machine: many that compute leave no processor for commits, nor for the kernel's syncs."""
    with contextlib.suppress(OSError):  # a courtesy, nothing depends on it
        lock = os.open(tempfile.gettempdir(), os.O_RDONLY)  # a place that all know; locked until this process ends
        deadline = time.monotonic() + LONGEST_WAIT
        while time.monotonic() < deadline:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            time.sleep(LOOK_EVERY)
            if os.getppid() != node:
                raise Orphaned


def end(pid: int) -> None:
    """Kill a copy; a thread waits for it, since the kernel takes 0.1 s to take back what a large one has written."""
    os.kill(pid, signal.SIGKILL)  # not waited for yet, so the id is still its own
    threading.Thread(target=os.waitpid, args=(pid, 0), name="rayraft-reap", daemon=True).start()
