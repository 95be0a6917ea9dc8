"""Memory is gathered into large pages before a process is copied: hardly more than there is, never beside a copy."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from rayraft.replica import forked, pages
from rayraft.replica.pages import LARGE, LargePages, gather

SIZE = 16 * LARGE
SECONDS = 60.0
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


class Memory:
    """Of this process alone, as the kernel counts it."""

    def __init__(self, touched: int) -> None:
        """Every ``touched``-th small page is in use."""
        self.map = mmap.mmap(-1, SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.start = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        for page in range(0, SIZE, touched * mmap.PAGESIZE):
            self.map[page] = 1

    def count(self, name: str) -> int:
        """Bytes in the mappings that have a part of it."""
        total, inside = 0, False
        with open("/proc/self/smaps") as smaps:
            for line in smaps:
                first, *rest = line.split()
                if "-" in first and not first.endswith(":"):
                    start, end = (int(address, 16) for address in first.split("-"))
                    inside = start < self.start + SIZE and self.start < end
                elif inside and first == f"{name}:":
                    total += int(rest[0]) * 1024
        return total


@pytest.fixture(scope="module", autouse=True)
def large_pages() -> None:
    memory = Memory(1)
    gather()
    if not memory.count("AnonHugePages"):
        pytest.skip("this kernel gathers no large pages (Linux 6.1, transparent_hugepage not 'never')")


@pytest.fixture
def copy() -> Iterator[int]:
    """A copy of this process that does nothing."""
    pid, pipe = forked.fork(lambda pipe_end: time.sleep(600))
    yield pid
    forked.end(pid)
    os.close(pipe)
    until(lambda: not forked.any_copy())


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def check_what_is_in_use_is_gathered() -> None:
    memory = Memory(1)
    before = memory.count("AnonHugePages")
    large = LargePages()
    assert not large.ready()
    until(large.ready)
    assert memory.count("AnonHugePages") - before >= SIZE - 2 * LARGE  # but for both ends
    assert bytes(memory.map[:: mmap.PAGESIZE]) == b"\1" * (SIZE // mmap.PAGESIZE)


def test_what_is_in_use_is_gathered_and_keeps_its_content() -> None:
    check_what_is_in_use_is_gathered()


def test_it_is_done_again_after_a_copy_was_made() -> None:
    large = LargePages()
    until(large.ready)
    assert large.ready()
    large.spent()
    memory = Memory(1)
    before = memory.count("AnonHugePages")
    until(large.ready)
    assert memory.count("AnonHugePages") > before


def check_no_memory_is_taken() -> None:
    memory = Memory(2)
    before = memory.count("Rss")
    gather()
    assert memory.count("Rss") - before < LARGE


def test_a_few_unused_pages_do_not_matter() -> None:
    memory = Memory(1)
    for page in range(0, SIZE, LARGE // 16):  # a part of which nothing is in use any more
        memory.map.madvise(mmap.MADV_DONTNEED, page, mmap.PAGESIZE)
    before = memory.count("AnonHugePages")
    gather()
    assert memory.count("AnonHugePages") - before >= SIZE - 2 * LARGE


def test_memory_that_is_half_in_use_is_left_alone() -> None:
    check_no_memory_is_taken()


def check_it_stays_shared() -> None:
    memory = Memory(1)
    pid, pipe = forked.fork(lambda pipe_end: time.sleep(600))
    try:
        before = memory.count("AnonHugePages")
        gather()
        assert memory.count("AnonHugePages") == before
    finally:
        forked.end(pid)
        os.close(pipe)
        until(lambda: not forked.any_copy())
    gather()
    assert memory.count("AnonHugePages") > before


def test_nothing_is_gathered_beside_a_copy() -> None:
    check_it_stays_shared()


def test_a_copy_that_was_killed_and_reaped_is_none(copy: int) -> None:
    assert forked.any_copy()
    os.kill(copy, signal.SIGSTOP)
    assert forked.any_copy()


def test_where_the_kernel_can_not_it_is_asked_once_and_the_rest_is_gathered(monkeypatch: pytest.MonkeyPatch) -> None:
    refused, others = 4 * LARGE, []

    def collapse(page: int) -> bool:
        others.append(page)
        return page != refused

    monkeypatch.setattr(pages, "_regions", lambda: [(refused, 2 * refused), (3 * refused, 3 * refused + 2 * LARGE)])
    monkeypatch.setattr(pages, "_in_use", lambda start, end: range(start, end, LARGE))
    monkeypatch.setattr(pages, "_collapse", collapse)
    gather()
    assert others == [refused, 3 * refused, 3 * refused + LARGE]


# --- bugs planted on purpose ------------------------------------------------------------------------------------------


def everything_is_gathered(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(pages, "_in_use", lambda start, end: range(-(-start // LARGE) * LARGE, end - LARGE + 1, LARGE))


def nothing_is_gathered(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(pages, "_in_use", lambda start, end: [])


def copies_are_not_looked_for(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(pages, "any_copy", lambda: False)


@pytest.mark.parametrize(
    ("plant", "story"),
    [
        (everything_is_gathered, check_no_memory_is_taken),
        (nothing_is_gathered, check_what_is_in_use_is_gathered),
        (copies_are_not_looked_for, check_it_stays_shared),
    ],
)
def test_is_caught(
    plant: Callable[[pytest.MonkeyPatch], None], story: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        story()
