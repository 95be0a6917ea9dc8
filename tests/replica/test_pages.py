"""Memory is gathered into large pages before a process is copied: hardly more than there is, never beside a copy."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rayraft.replica import forked, pages
from rayraft.replica.pages import LARGE, REFUSALS, LargePages, Region, gather

SIZE = 16 * LARGE
SECONDS = 60.0
REGIONS = pages._regions
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def gather_in_a_thread() -> None:
    """As nodes do: it takes a lower priority for good, which the tests that follow in this process must not have."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(gather).result()


class Memory:
    """Of this process alone, as the kernel counts it."""

    def __init__(self, touched: int) -> None:
        """Every ``touched``-th small page is in use."""
        self.map = mmap.mmap(-1, SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.map.madvise(mmap.MADV_DONTDUMP)  # so that it is no part of a larger mapping, whose pages come and go
        self.start = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        for page in range(0, SIZE, touched * mmap.PAGESIZE):
            self.map[page] = 1

    def count(self, name: str) -> int:
        """Bytes of it."""
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
    if not pages.SETTING.exists() or "[madvise]" not in pages.SETTING.read_text():
        pytest.skip(f"only with 'madvise' in {pages.SETTING} it shows who gathered a page")
    memory = Memory(1)
    gather_in_a_thread()
    if not memory.count("AnonHugePages"):
        pytest.skip("this kernel gathers no large pages (Linux 6.1)")


@contextlib.contextmanager
def a_copy() -> Iterator[int]:
    """A copy of this process that does nothing; in the end it is gone."""

    def sleep() -> bytes:
        time.sleep(600)
        return b""

    copy = forked.fork(sleep)
    try:
        yield copy.pid
    finally:
        copy.end()
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
    assert not large.prepare()
    until(large.prepare)
    assert memory.count("AnonHugePages") - before >= SIZE - 2 * LARGE  # but for both ends
    assert bytes(memory.map[:: mmap.PAGESIZE]) == b"\1" * (SIZE // mmap.PAGESIZE)


def test_what_is_in_use_is_gathered_and_keeps_its_content() -> None:
    check_what_is_in_use_is_gathered()


def test_it_is_done_again_after_a_copy_was_made() -> None:
    large = LargePages()
    until(large.prepare)
    assert large.prepare()
    with a_copy():
        pass
    memory = Memory(1)
    before = memory.count("AnonHugePages")
    until(large.prepare)
    assert memory.count("AnonHugePages") > before


def check_no_memory_is_taken() -> None:
    memory = Memory(2)
    before = memory.count("Rss")
    gather_in_a_thread()
    assert memory.count("Rss") - before < LARGE


def test_a_few_unused_pages_do_not_matter() -> None:
    memory = Memory(1)
    for page in range(0, SIZE, LARGE // 16):  # a part of which nothing is in use any more
        memory.map.madvise(mmap.MADV_DONTNEED, page, mmap.PAGESIZE)
    before = memory.count("AnonHugePages")
    gather_in_a_thread()
    assert memory.count("AnonHugePages") - before >= SIZE - 2 * LARGE


def test_memory_that_is_half_in_use_is_left_alone() -> None:
    check_no_memory_is_taken()


def check_it_stays_shared() -> None:
    memory = Memory(1)
    with a_copy():
        before = memory.count("AnonHugePages")
        gather_in_a_thread()
        assert memory.count("AnonHugePages") == before
    gather_in_a_thread()
    assert memory.count("AnonHugePages") > before


def test_nothing_is_gathered_beside_a_copy() -> None:
    check_it_stays_shared()


def test_a_copy_that_stands_still_is_one() -> None:
    with a_copy() as copy:
        assert forked.any_copy()
        os.kill(copy, signal.SIGSTOP)
        assert forked.any_copy()


def test_a_copy_that_ended_is_none_whoever_has_its_number_now() -> None:
    end = subprocess.Popen(["true"])
    assert end.wait() == 0
    with a_copy() as copy:
        forked._copies.add(forked.Copy(end.pid, -1))  # reaped
        forked._copies.add(forked.Copy(os.getpid(), -1))  # alive, and no copy
        os.kill(copy, signal.SIGKILL)  # not reaped
        until(lambda: not forked.any_copy())


def test_nobody_who_asks_later_is_told_that_it_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    large = LargePages()
    until(large.prepare)
    monkeypatch.setattr(pages, "FRESH", 0.0)
    assert not large.prepare()
    until(lambda: large._thread is not None and not large._thread.is_alive())


def test_without_a_thread_to_be_had_it_goes_on_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    assert LargePages().prepare()


def check_what_was_only_read_is_left_alone() -> None:
    memory = Memory(touched=512)
    assert not any(memory.map[512 * mmap.PAGESIZE + 1 : 4 * LARGE : 512])
    for page in range(0, SIZE, mmap.PAGESIZE):
        memory.map[page]
    before = memory.count("Rss")
    gather_in_a_thread()
    assert memory.count("Rss") - before < LARGE


def test_what_was_read_and_never_written_takes_no_memory() -> None:
    check_what_was_only_read_is_left_alone()


def test_where_large_pages_are_forbidden_nothing_is_gathered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    setting = tmp_path / "enabled"
    setting.write_text("always madvise [never]\n")
    monkeypatch.setattr(pages, "SETTING", setting)
    asked: list[int] = []
    monkeypatch.setattr(pages, "_collapse", asked.append)
    gather_in_a_thread()
    assert not asked


def test_what_the_kernel_refuses_does_not_end_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, asked = Region(0, 40 * LARGE, 0), Region(50 * LARGE, 52 * LARGE, 0), []

    def collapse(page: int) -> bool:
        asked.append(page // LARGE)
        return page == 3 * LARGE

    monkeypatch.setattr(pages, "_regions", lambda: [first, second])
    monkeypatch.setattr(pages, "_in_use", lambda region: range(region.start, region.end, LARGE))
    monkeypatch.setattr(pages, "_collapse", collapse)
    gather_in_a_thread()
    assert asked == [*range(4 + REFUSALS), 50, 51]


# --- bugs planted on purpose ------------------------------------------------------------------------------------------


def everything_is_gathered(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        pages, "_in_use", lambda region: range(-(-region.start // LARGE) * LARGE, region.end - LARGE + 1, LARGE)
    )


def what_was_read_counts(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(pages, "_regions", lambda: [region._replace(resident=1 << 60) for region in REGIONS()])


def nothing_is_gathered(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(pages, "_in_use", lambda region: [])


def copies_are_not_looked_for(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(pages, "any_copy", lambda: False)


@pytest.mark.parametrize(
    ("plant", "story"),
    [
        (what_was_read_counts, check_what_was_only_read_is_left_alone),
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
