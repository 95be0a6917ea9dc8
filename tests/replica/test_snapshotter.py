"""Saving the state beside the work: what the child does must never harm its parent."""

from __future__ import annotations

import fcntl
import io
import os
import select
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from rayraft.raft.types import SnapshotMeta
from rayraft.replica import snapshotter
from rayraft.replica.forked import LONGEST_WAIT
from rayraft.replica.snapshotter import ForkSnapshotter, InlineSnapshotter, Save, SnapshotNotSaved, Snapshotter
from rayraft.storage.memory import MemorySnapshotStore
from rayraft.storage.snapshots import FileSnapshotStore
from tests.storage.helpers import join_threads, open_files

META = SnapshotMeta(7, 2)

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def writes(content: bytes) -> Save:
    def save(stream: BinaryIO) -> None:
        stream.write(content)

    return save


def cannot_be_pickled(stream: BinaryIO) -> None:
    stream.write(b"half")
    raise TypeError("cannot pickle '_thread.lock' object")


@pytest.fixture
def store(tmp_path: Path) -> FileSnapshotStore:
    return FileSnapshotStore(tmp_path)


@pytest.fixture
def forking(store: FileSnapshotStore) -> Iterator[ForkSnapshotter]:
    snapshotter = ForkSnapshotter(store)
    yield snapshotter
    snapshotter.close()


def wait_for_child(snapshotter: ForkSnapshotter) -> None:
    """Until the child has said how it went, or has ended."""
    child = snapshotter._child
    assert child is not None
    assert select.select([child.copy.pipe], [], [], 30)[0], "the child did not end"


def outcome(snapshotter: Snapshotter) -> SnapshotMeta | None:
    if isinstance(snapshotter, ForkSnapshotter) and snapshotter._child is not None:
        wait_for_child(snapshotter)
    return snapshotter.poll()


def poll_until_it_ends(snapshotter: Snapshotter) -> None:
    while snapshotter.poll() is None:
        pass


def content(store: FileSnapshotStore, meta: SnapshotMeta = META) -> bytes:
    with store.load(meta) as stream:
        return stream.read()


def test_a_child_saves_the_state_as_it_was_when_it_began(store: FileSnapshotStore, forking: ForkSnapshotter) -> None:
    state = {"value": b"before"}
    forking.begin(META, lambda stream: writes(state["value"])(stream))
    state["value"] = b"after"
    assert forking.busy
    assert outcome(forking) == META
    assert not forking.busy
    assert forking.poll() is None
    assert content(store) == b"before"


def test_a_large_state_is_saved_whole(store: FileSnapshotStore, forking: ForkSnapshotter) -> None:
    large = os.urandom(3 << 20)
    forking.begin(META, writes(large))
    assert outcome(forking) == META
    assert content(store) == large


def test_a_state_that_can_not_be_saved_is_reported_with_its_reason_and_leaves_nothing(
    store: FileSnapshotStore, forking: ForkSnapshotter, tmp_path: Path
) -> None:
    forking.begin(META, cannot_be_pickled)
    with pytest.raises(SnapshotNotSaved, match=r"index 7 .*cannot pickle '_thread.lock' object"):
        outcome(forking)
    assert not forking.busy
    assert list(tmp_path.iterdir()) == []
    forking.begin(META, writes(b"better"))
    assert outcome(forking) == META


def test_whatever_the_child_raises_ends_only_the_child(forking: ForkSnapshotter) -> None:
    class NoWords(BaseException):
        def __str__(self) -> str:
            raise SystemExit(0)

    def fail(stream: BinaryIO) -> None:
        raise NoWords

    forking.begin(META, fail)
    with pytest.raises(SnapshotNotSaved, match="without a word"):
        outcome(forking)


def test_a_very_long_reason_is_cut(forking: ForkSnapshotter) -> None:
    def fail(stream: BinaryIO) -> None:
        raise ValueError("x" * (1 << 20))

    forking.begin(META, fail)
    with pytest.raises(SnapshotNotSaved, match="ValueError: xxx"):
        outcome(forking)


def test_a_child_that_is_killed_is_noticed_and_the_next_attempt_is_a_child_again(
    store: FileSnapshotStore, forking: ForkSnapshotter
) -> None:
    forking.begin(META, lambda stream: signal.pause())
    assert forking.poll() is None
    assert forking._child is not None
    os.kill(forking._child.copy.pid, signal.SIGKILL)
    with pytest.raises(SnapshotNotSaved, match="killed"):
        outcome(forking)
    forking.begin(META, writes(b"state"))
    assert forking._child is not None
    assert outcome(forking) == META


class Clock:
    """In the place of ``time``."""

    now = 0.0
    step = 0.0  # whenever somebody looks

    def monotonic(self) -> float:
        self.now += self.step
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(snapshotter, "time", clock)
    return clock


def test_a_child_that_gets_on_is_left_in_peace_however_long_it_takes(
    store: FileSnapshotStore, forking: ForkSnapshotter, clock: Clock, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory, part = tmp_path_factory.mktemp("steps"), os.urandom(2 << 20)
    written, seen = directory / "written", directory / "seen"
    for path in (written, seen):
        os.mkfifo(path)

    def save(stream: BinaryIO) -> None:
        for _ in range(4):
            stream.write(part)
            written.write_bytes(b"!")
            seen.read_bytes()

    forking.begin(META, save)
    for _ in range(4):
        assert written.read_bytes() == b"!"
        clock.now += 299.0
        assert forking.poll() is None
        seen.write_bytes(b"!")
    assert outcome(forking) == META
    assert content(store) == 4 * part


def test_waiting_for_the_turn_of_a_copy_is_not_hanging(
    forking: ForkSnapshotter, clock: Clock, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = tmp_path_factory.mktemp("busy")
    monkeypatch.setattr(tempfile, "tempdir", str(busy))
    lock = os.open(busy, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    forking.begin(META, writes(b"state"))
    clock.now = 300.0 + LONGEST_WAIT
    assert forking.poll() is None
    fcntl.flock(lock, fcntl.LOCK_UN)  # which the child has inherited
    os.close(lock)
    assert outcome(forking) == META


def test_a_child_that_gets_on_no_more_leaves_nothing_and_the_parent_saves_only_once(
    store: FileSnapshotStore, forking: ForkSnapshotter, clock: Clock, tmp_path: Path
) -> None:
    def hang(stream: BinaryIO) -> None:
        stream.write(os.urandom(2 << 20))
        signal.pause()

    forking.begin(META, hang)
    assert forking._child is not None
    while not forking._child.saved:
        assert forking.poll() is None
    clock.step = 301.0
    with pytest.raises(SnapshotNotSaved, match="hung"):
        poll_until_it_ends(forking)
    join_threads("rayraft-discard")
    assert list(tmp_path.iterdir()) == []
    forking.begin(META, writes(b"state"))
    assert forking._child is None
    assert forking.poll() == META
    forking.begin(SnapshotMeta(8, 2), writes(b"newer"))
    assert forking._child is not None
    assert outcome(forking) == SnapshotMeta(8, 2)


def test_after_a_child_that_hung_the_state_is_saved_by_the_parent(
    store: FileSnapshotStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock that another thread held at the moment of the fork is never released in the child."""
    monkeypatch.setattr("rayraft.replica.snapshotter.LONGEST_WAIT", 0.0)
    hanging = ForkSnapshotter(store, timeout=0.0)
    lock = threading.Lock()

    def save(stream: BinaryIO) -> None:
        with lock:
            stream.write(b"state")

    with lock:
        hanging.begin(META, save)
        with pytest.raises(SnapshotNotSaved, match="hung"):
            poll_until_it_ends(hanging)
    assert not hanging.busy
    hanging.begin(META, save)
    assert hanging.poll() == META
    assert content(store) == b"state"


def test_where_the_kernel_reaps_children_snapshots_are_saved_and_failures_noticed(
    store: FileSnapshotStore, forking: ForkSnapshotter
) -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        forking.begin(META, writes(b"state"))
        assert outcome(forking) == META
        assert content(store) == b"state"
        forking.begin(SnapshotMeta(8, 2), cannot_be_pickled)
        with pytest.raises(SnapshotNotSaved, match="cannot pickle"):
            outcome(forking)
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_closing_ends_a_child_that_is_at_work(store: FileSnapshotStore) -> None:
    saving = ForkSnapshotter(store)
    saving.begin(META, lambda stream: signal.pause())
    assert saving._child is not None
    pid = saving._child.copy.pid
    saving.close()
    saving.close()
    join_threads("rayraft-reap")
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, 0)


def test_a_process_that_can_not_fork_goes_on_and_leaks_no_files(
    forking: ForkSnapshotter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory() -> int:
        raise OSError("cannot allocate memory")

    monkeypatch.setattr(os, "fork", no_memory)
    before = open_files()
    for _ in range(3):
        with pytest.raises(SnapshotNotSaved, match="allocate"):
            forking.begin(META, writes(b"state"))
    assert not forking.busy
    assert open_files() <= before


def test_finished_children_leak_no_files(forking: ForkSnapshotter) -> None:
    before = open_files()
    for index in range(1, 4):
        forking.begin(SnapshotMeta(index, 1), writes(b"state"))
        assert outcome(forking) == SnapshotMeta(index, 1)
    join_threads("rayraft-reap")
    assert open_files() <= before


def test_saving_in_the_process_itself_reports_alike() -> None:
    store = MemorySnapshotStore()
    inline = InlineSnapshotter(store)
    with pytest.raises(SnapshotNotSaved, match=r"index 7 .*cannot pickle"):
        inline.begin(META, cannot_be_pickled)
    assert not inline.busy
    inline.begin(META, writes(b"state"))
    assert inline.busy
    assert inline.poll() == META
    assert isinstance(store.load(META), io.BytesIO)
    assert inline.poll() is None
