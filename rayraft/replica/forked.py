"""Forked copies of a node: what is done so that the node, and its neighbours, go on undisturbed beside them.

1. A copy ends with its node, whatever it is at: also one that hangs on a lock that was held at the moment of the fork.
2. It holds nothing that was open in the node: its connections would stay open after the node's end, and the others,
   and Ray, would take it for a node that is slow to answer.
3. It takes the processor last, and one copy on a machine works at a time.
4. What it says through its pipe tells how it went, never its status: where SIGCHLD is ignored, which Ray may leave so,
   the kernel reaps it, and its number may be another process by then.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import os
import select
import signal
import tempfile
import threading
import time
import weakref
from collections.abc import Callable
from typing import Final

NICENESS = 5  # on top of the parent's: a third of its share where both want a processor, so that it ends in time
LONGEST_WAIT = 60.0  # s for other copies on the machine; one that hangs must not stop the others
LOOK_EVERY = 0.02  # s
MAX_RESULT: Final = 4095  # bytes; with the one before them a pipe takes them at once, without a reader

_DONE: Final = b"+"  # before the result; anything else stands before the reason of a failure
_FAILED: Final = b"-"
_copies: set[Copy] = set()  # of this process, that may not have ended yet
_made = 0
_SET_PARENT_DEATH_SIGNAL = 1  # Linux: PR_SET_PDEATHSIG
_prctl = getattr(ctypes.CDLL(None), "prctl", None)  # looked up here: a copy must not wait for the loader's lock


class Orphaned(Exception):
    """The node is gone, and with it whoever wanted the copy's work."""


class CopyFailed(Exception):
    """A copy has ended without a result."""


class Copy:
    """A copy of this process, at its work or done with it."""

    def __init__(self, pid: int, pipe: int) -> None:
        self.pid = pid
        self.pipe = pipe  # where the result comes out
        self._handle: int | None = None  # which no other process gets when the copy is gone
        with contextlib.suppress(AttributeError, OSError):  # not on every system
            self._handle = os.pidfd_open(pid)
            weakref.finalize(self, os.close, self._handle)

    def result(self) -> bytes | None:
        """What its work returned; None while it is at it. Raises CopyFailed."""
        ended = self.has_ended()  # looked at first: what it had to say is in the pipe then
        try:
            said = os.read(self.pipe, len(_DONE) + MAX_RESULT)
        except BlockingIOError:
            if not ended:
                return None
            said = b""  # and some other process has inherited the pipe
        if said[:1] != _DONE:
            raise CopyFailed(said[1:].decode(errors="replace") or "its process ended without a word: was it killed?")
        return said[1:]

    def wait(self, seconds: float) -> bytes:
        """As `result`, once there is one; the copy is ended then. Raises CopyFailed, also when it takes longer."""
        said = select.poll()
        said.register(self.pipe)
        try:
            said.poll(seconds * 1000)
            result = self.result()
        finally:
            self.end()
        if result is None:
            raise CopyFailed(f"its process was not done within {seconds} s")
        return result

    def has_ended(self) -> bool:
        try:
            return self._wait(os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:  # and was reaped
            return True

    def end(self) -> None:
        """Kill it, unless it has ended.

        A thread waits for it, since the kernel takes 0.1 s to take back what a large one has written.
        """
        os.close(self.pipe)
        with contextlib.suppress(ProcessLookupError):
            if self._handle is not None:
                signal.pidfd_send_signal(self._handle, signal.SIGKILL)
            elif not self.has_ended():
                os.kill(self.pid, signal.SIGKILL)
        with contextlib.suppress(RuntimeError):  # no more threads are to be had: then it stays as a zombie
            threading.Thread(target=self._reap, name="rayraft-reap", daemon=True).start()

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):  # the kernel has done it
            self._wait(0)
        _copies.discard(self)

    def _wait(self, options: int) -> os.waitid_result | None:
        if self._handle is not None:
            return os.waitid(os.P_PIDFD, self._handle, os.WEXITED | options)
        return os.waitid(os.P_PID, self.pid, os.WEXITED | options)


def fork(work: Callable[[], bytes]) -> Copy:
    """Have a copy of this process call ``work``, which returns at most `MAX_RESULT` bytes.

    The copy leaves without any clean-up of this process's things. It has the state of this moment, however late it
    begins (`LONGEST_WAIT`), but none of the open files. Where the calling thread ends, the copy does too. Raises
    OSError.
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
        try:
            _end_with(node)
            _close_all_but(pipe_end)
            _be_quiet()
            _take_turns(node)
            os.write(pipe_end, _DONE + work())
        except BaseException as error:
            os.write(pipe_end, _FAILED + f"{type(error).__name__}: {error}".encode()[:MAX_RESULT])
        finally:
            os._exit(0)
    os.close(pipe_end)
    os.set_blocking(pipe, False)
    copy = Copy(pid, pipe)
    _remember(copy)
    return copy


def _remember(copy: Copy) -> None:
    global _made
    _made += 1
    _copies.add(copy)
    any_copy()  # forgets those that have ended


def copies_made() -> int:
    """How often this process was copied."""
    return _made


def any_copy() -> bool:
    """Whether a copy of this process shares its memory now."""
    for copy in list(_copies):
        if copy.has_ended():
            _copies.discard(copy)
    return bool(_copies)


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
