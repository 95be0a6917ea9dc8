"""Forked copies of a node: what is done so that the node, and its neighbours, go on undisturbed beside them.

1. A copy ends with its node, whatever it is at: also one that hangs on a lock that was held at the moment of the fork.
2. It holds nothing that was open in the node: its connections would stay open after the node's end, and the others,
   and Ray, would take it for a node that is slow to answer.
3. It takes the processor last, and one copy on a machine works at a time.
"""

from __future__ import annotations

import contextlib
import ctypes
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

_copies: set[int] = set()  # of this process, that may not have ended yet
_made = 0
_SET_PARENT_DEATH_SIGNAL = 1  # Linux: PR_SET_PDEATHSIG
_prctl = getattr(ctypes.CDLL(None), "prctl", None)  # looked up here: a copy must not wait for the loader's lock


class Orphaned(Exception):
    """The node is gone, and with it whoever wanted the copy's work."""


def fork(work: Callable[[int], None]) -> tuple[int, int]:
    """Have a copy of this process call ``work`` with the end of a pipe; its id, and where the pipe comes out.

    The copy leaves without any clean-up of this process's things, with status 0 only if ``work`` returns. It has the
    state of this moment, however late it begins (`LONGEST_WAIT`), but none of the open files. Where the calling thread
    ends, the copy does too. Raises OSError.
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
            _end_with(node)
            _close_all_but(pipe_end)
            _be_quiet()
            _take_turns(node)
            work(pipe_end)
            code = 0
        finally:
            os._exit(code)
    os.close(pipe_end)
    _remember(pid)
    return pid, pipe


def _remember(pid: int) -> None:
    global _made
    _made += 1
    _copies.add(pid)
    any_copy()  # forgets those that have ended


def copies_made() -> int:
    """How often this process was copied."""
    return _made


def any_copy() -> bool:
    """Whether a copy of this process shares its memory now."""
    for pid in list(_copies):
        if _has_ended(pid):
            _copies.discard(pid)
    return bool(_copies)


def _has_ended(pid: int) -> bool:
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:  # and was reaped; the number may be another process by now
        return True


def _end_with(node: int) -> None:
    if _prctl is not None:
        _prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != node:  # it ended before that took effect
        raise Orphaned


def _close_all_but(kept: int) -> None:
    """What is open beyond the standard streams: sockets, and the files of the database."""
    highest = max(map(int, os.listdir("/dev/fd")))
    os.closerange(3, kept)
    os.closerange(kept + 1, highest + 1)


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
