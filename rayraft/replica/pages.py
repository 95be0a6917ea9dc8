"""Large pages: before a process is copied, its memory is gathered into few of them, so that it stands still for less.

While a process is forked, the kernel goes through its pages: 30 ms for 400 MB in pages of 4 KiB, 10 in pages of 2 MiB.
Linux splits a large page in place when one of the two writes to it, so nothing more is copied later (from 5.8 on).
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from rayraft.replica.forked import any_copy, copies_made

LARGE: Final = 2 << 20
USED: Final = 15 / 16  # Python leaves the end of each of its arenas of 1 MiB unused
NICENESS: Final = 10
PAUSE: Final = 0.001  # s after each: a thread that needs a page for the first time waits while one is gathered
REFUSALS: Final = 16  # in a row, after which the rest of a region is not tried
FRESH: Final = 10.0  # s since anybody asked
SETTING: Final = Path("/sys/kernel/mm/transparent_hugepage/enabled")

_MADV_COLLAPSE: Final = 25  # from Linux 6.1 on
# Memory that belongs to no file and to this process alone, and how much of it is there.
_REGION: Final = re.compile(rb"^(\w+)-(\w+) rw-p \w+ \w+:\w+ 0 *(?:\[heap\])?\n(?:.*\n)*?Rss: +(\d+) kB$", re.MULTILINE)
_libc = ctypes.CDLL(None)


class Region(NamedTuple):
    """Addresses, and bytes that are in memory."""

    start: int
    end: int
    resident: int


class LargePages:
    """Gathers the memory of this process when asked to, in a thread of its own.

    1. Hardly more memory is taken: only what is in use but for a sixteenth is gathered.
    2. Nothing is gathered beside a copy of this process: it would no longer share that with it.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._copies = 0  # made when it began: what is written after a copy was made splits large pages again
        self._asked = 0.0

    def prepare(self) -> bool:
        """Begin, and from when it is done on True, as long as that is worth something."""
        now = time.monotonic()
        stale = self._copies != copies_made() or now - self._asked > FRESH
        self._asked = now
        if self._thread is None or (stale and not self._thread.is_alive()):
            self._copies = copies_made()
            self._thread = threading.Thread(target=gather, name="rayraft-pages", daemon=True)
            try:
                self._thread.start()
            except RuntimeError:  # no more threads are to be had: then as it is
                self._thread = None
                return True
        return not self._thread.is_alive()


def gather() -> None:
    """Gather what can be; what can not stays as it is."""
    with contextlib.suppress(OSError):
        if "[never]" in SETTING.read_text():
            return
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + NICENESS)
        for region in list(_regions()):
            _gather(region)


def _gather(region: Region) -> None:
    refused = 0
    for page in _in_use(region):
        if any_copy() or refused == REFUSALS:
            return
        if _collapse(page):
            refused = 0
            time.sleep(PAUSE)
        else:
            refused += 1


def _regions() -> Iterator[Region]:
    for start, end, kilobytes in _REGION.findall(Path("/proc/self/smaps").read_bytes()):
        yield Region(int(start, 16), int(end, 16), int(kilobytes) * 1024)


def _in_use(region: Region) -> Iterator[int]:
    """The beginnings of large pages that are in memory nearly as a whole."""
    first = -(-region.start // LARGE) * LARGE
    count = (region.end - first) // LARGE
    if count <= 0:
        return
    small = LARGE // mmap.PAGESIZE
    resident = (ctypes.c_ubyte * (count * small))()
    if _libc.mincore(ctypes.c_void_p(first), ctypes.c_size_t(count * LARGE), resident) != 0:
        return  # it was given back meanwhile
    found = bytes(resident)
    if region.resident < USED * found.count(1) * mmap.PAGESIZE:
        return  # much was read and never written: that takes no memory
    for number in range(count):
        if found.count(1, number * small, (number + 1) * small) >= USED * small:
            yield first + number * LARGE


def _collapse(page: int) -> bool:
    return bool(_libc.madvise(ctypes.c_void_p(page), ctypes.c_size_t(LARGE), _MADV_COLLAPSE) == 0)
