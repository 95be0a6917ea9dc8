"""Large pages: before a process is copied, its memory is gathered into few of them, so that it stands still for less.

While a process is forked, the kernel goes through its pages: 30 ms for 400 MB in pages of 4 KiB, 8 in pages of 2 MiB.
Linux splits a large page in place when one of the two writes to it, so nothing more is copied later (from 5.8 on).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import threading
import time
from collections.abc import Iterator
from typing import Final

from rayraft.replica.forked import any_copy

LARGE: Final = 2 << 20
NICENESS: Final = 10
PAUSE: Final = 0.001  # s after each: a thread that needs a page for the first time waits while one is gathered
MADV_COLLAPSE: Final = 25  # Linux 6.1; before that, or without large pages, nothing is gathered

_libc = ctypes.CDLL(None, use_errno=True)


class LargePages:
    """Gathers the memory of this process when asked to, in a thread of its own.

    1. Hardly more memory is taken: only what is in use but for a sixteenth is gathered. (Python leaves the end of each
       of its arenas of 1 MiB unused.)
    2. Nothing is gathered beside a copy of this process: it would no longer share that with it.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None

    def ready(self) -> bool:
        """Begin, and from when it is done on True, until `spent`."""
        if self._thread is None:
            self._thread = threading.Thread(target=gather, name="rayraft-pages", daemon=True)
            self._thread.start()
        return not self._thread.is_alive()

    def spent(self) -> None:
        """The process was copied: what is written from now on splits large pages again."""
        self._thread = None


def gather() -> None:
    """Gather what can be; what can not stays as it is."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + NICENESS)
        for start, end in list(_regions()):
            for page in _in_use(start, end):
                if any_copy():
                    return
                if not _collapse(page):
                    break
                time.sleep(PAUSE)


def _regions() -> Iterator[tuple[int, int]]:
    """Where this process alone has memory that belongs to no file."""
    with open("/proc/self/maps") as maps:
        for line in maps:
            addresses, permissions, _, _, inode, *name = line.split()
            if permissions == "rw-p" and inode == "0" and name in ([], ["[heap]"]):
                start, _, end = addresses.partition("-")
                yield int(start, 16), int(end, 16)


def _in_use(start: int, end: int) -> Iterator[int]:
    """The beginnings of large pages that are in memory nearly as a whole."""
    first = -(-start // LARGE) * LARGE
    count = (end - first) // LARGE
    if count <= 0:
        return
    small = LARGE // mmap.PAGESIZE
    resident = (ctypes.c_ubyte * (count * small))()
    if _libc.mincore(ctypes.c_void_p(first), ctypes.c_size_t(count * LARGE), resident) != 0:
        return  # it was given back meanwhile
    found = bytes(resident)
    for number in range(count):
        if found.count(1, number * small, (number + 1) * small) >= small - small // 16:
            yield first + number * LARGE


def _collapse(page: int) -> bool:
    """Whether it is worth going on in this region: the kernel gathers there, although not always."""
    if _libc.madvise(ctypes.c_void_p(page), ctypes.c_size_t(LARGE), MADV_COLLAPSE) == 0:
        return True
    return ctypes.get_errno() != errno.EINVAL
