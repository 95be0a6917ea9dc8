"""Digests beside the work: of the state as it was at the fork, and never a hindrance."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rayraft.machine.keyvalue import KeyValue
from rayraft.machine.objects import ObjectMachine
from rayraft.machine.replicated import ReplicatedMachine
from rayraft.replica.digester import Digester, ForkDigester, InlineDigester
from rayraft.replica.forked import LOOK_EVERY
from tests.storage.helpers import join_threads, open_files


@pytest.fixture
def forking() -> Iterator[ForkDigester]:
    digester = ForkDigester()
    yield digester
    digester.close()


def hang() -> bytes:
    signal.pause()
    return b"never"


def fail() -> bytes:
    raise ValueError("this state has no digest")


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[int]:
    lock = os.open(directory, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    yield lock
    os.close(lock)


def outcome(digester: ForkDigester) -> tuple[int, bytes] | None:
    child = digester._child
    assert child is not None
    select.select([child.copy.pipe], [], [], 30)  # until it has said something, or ended
    return digester.poll()


def test_the_digest_is_of_the_state_at_the_fork(forking: ForkDigester) -> None:
    machine = ReplicatedMachine(ObjectMachine(KeyValue))
    before = machine.digest()
    forking.begin(7, machine.digest)
    machine.machine._object.put("later", 1)  # type: ignore[attr-defined]
    assert outcome(forking) == (7, before)
    assert machine.digest() != before
    assert not forking.busy
    assert forking.poll() is None


def test_a_state_without_a_digest_gives_an_empty_one(forking: ForkDigester) -> None:
    forking.begin(7, fail)
    assert outcome(forking) == (7, b"")


def test_a_child_that_is_killed_gives_an_empty_one(forking: ForkDigester) -> None:
    forking.begin(7, hang)
    assert forking.poll() is None
    assert forking._child is not None
    os.kill(forking._child.copy.pid, signal.SIGKILL)
    assert outcome(forking) == (7, b"")


def test_where_the_kernel_reaps_children_digests_are_computed(forking: ForkDigester) -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        forking.begin(7, lambda: b"seven")
        assert outcome(forking) == (7, b"seven")
        forking.begin(8, fail)
        assert outcome(forking) == (8, b"")
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_a_child_that_hangs_is_ended() -> None:
    digester = ForkDigester(timeout=0.0)
    digester.begin(7, hang)
    assert digester._child is not None
    pid = digester._child.copy.pid
    assert digester.poll() == (7, b"")
    join_threads("rayraft-reap")
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_new_one_takes_the_place_of_an_older_one(forking: ForkDigester) -> None:
    forking.begin(7, hang)
    forking.begin(8, lambda: b"eight")
    assert outcome(forking) == (8, b"eight")


def test_a_process_that_can_not_fork_says_that_it_can_not_tell(
    forking: ForkDigester, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory() -> int:
        raise OSError("no memory")

    monkeypatch.setattr(os, "fork", no_memory)
    files = open_files()
    forking.begin(7, hang)
    assert forking.busy
    assert forking.poll() == (7, b"")
    assert open_files() <= files


@pytest.mark.parametrize("digester", [InlineDigester(), ForkDigester()])
def test_what_was_closed_says_nothing(digester: Digester) -> None:
    digester.begin(7, lambda: b"seven")
    assert digester.busy
    digester.close()
    assert not digester.busy
    assert digester.poll() is None


def test_one_child_at_a_time_works_on_a_machine(
    forking: ForkDigester, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with locked(tmp_path) as lock:
        forking.begin(7, lambda: b"seven")
        assert forking._child is not None
        assert select.select([forking._child.copy.pipe], [], [], 10 * LOOK_EVERY)[0] == []
        fcntl.flock(lock, fcntl.LOCK_UN)  # the child has inherited the file
    assert outcome(forking) == (7, b"seven")


def test_a_neighbour_that_hangs_does_not_stop_the_others(
    forking: ForkDigester, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("rayraft.replica.forked.LONGEST_WAIT", 0.0)
    with locked(tmp_path):
        forking.begin(7, lambda: b"seven")
        assert outcome(forking) == (7, b"seven")


def test_without_a_place_for_the_lock_a_child_works_all_the_same(
    forking: ForkDigester, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    forking.begin(7, lambda: b"seven")
    assert outcome(forking) == (7, b"seven")


def test_a_child_that_waits_ends_with_its_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    alive, inherited = os.pipe()
    with locked(tmp_path):
        node = os.fork()
        if node == 0:
            ForkDigester().begin(7, hang)
            os._exit(0)
        os.close(inherited)
        os.waitpid(node, 0)
        assert select.select([alive], [], [], 30)[0], "the child waits for its turn although nobody wants it"
        assert os.read(alive, 1) == b""
    os.close(alive)
