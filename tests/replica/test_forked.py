"""A forked copy of a node must not outlive it, nor keep up its connections."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rayraft.replica import forked
from tests.storage.helpers import join_threads

SECONDS = 30.0

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

# A node whose copy hangs, and says which process it is. The copy ignores what could be ignored.
NODE = """
import os, signal, time
from rayraft.replica.forked import fork

def hang():
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    print(os.getpid(), flush=True)
    time.sleep(600)

copy = fork(hang)
time.sleep(600)
"""


def hang() -> bytes:
    time.sleep(600)
    return b""


def outcome(copy: forked.Copy) -> bytes | None:
    assert select.select([copy.pipe], [], [], SECONDS)[0], "the copy neither says anything nor ends"
    return copy.result()


@pytest.fixture
def unreaped() -> Iterator[None]:
    """The kernel reaps children, as where Ray has a raylet look after orphans."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGCHLD, before)


def ends(pid: int) -> bool:
    """Whether the process is gone in time; one that nobody has reaped is gone as well."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state in "ZX":
            return True
    return False


def check_that_a_copy_ends_with_its_node() -> None:
    node = subprocess.Popen([sys.executable, "-c", NODE], stdout=subprocess.PIPE, text=True)
    assert node.stdout is not None
    copy = int(node.stdout.readline())
    node.kill()
    node.wait()
    try:
        assert ends(copy), "the copy outlives its node"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(copy, signal.SIGKILL)


def check_that_a_copy_holds_no_connection(directory: Path) -> None:
    """The other end learns that this process has closed its own, although the copy lives."""
    ours, theirs = socket.socketpair()
    at_work = directory / "at work"
    os.mkfifo(at_work)

    def say_so_and_hang() -> bytes:
        at_work.write_bytes(b"!")
        return hang()

    copy = forked.fork(say_so_and_hang)
    try:
        assert at_work.read_bytes() == b"!"
        ours.close()
        assert select.select([theirs], [], [], 1.0)[0], "the copy keeps the connection up"
        assert theirs.recv(1) == b""
    finally:
        copy.end()
        theirs.close()


@pytest.mark.skipif(forked._prctl is None, reason="only Linux ends a child with its parent")
def test_a_copy_ends_with_its_node() -> None:
    check_that_a_copy_ends_with_its_node()


def test_a_copy_holds_no_connection(tmp_path: Path) -> None:
    check_that_a_copy_holds_no_connection(tmp_path)


def test_a_copy_that_keeps_what_was_open_is_caught(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(forked, "_close_all_but", lambda kept: None)
    with pytest.raises(AssertionError, match="keeps the connection up"):
        check_that_a_copy_holds_no_connection(tmp_path)


def test_the_standard_streams_stay_open() -> None:
    copy = forked.fork(lambda: str(len([os.fstat(number) for number in (0, 1, 2)])).encode())
    assert outcome(copy) == b"3"
    copy.end()


def test_a_result_of_nothing_is_one() -> None:
    copy = forked.fork(bytes)
    assert outcome(copy) == b""
    copy.end()


def test_a_copy_whose_pipe_another_process_has_inherited_is_noticed_when_it_ends() -> None:
    pipe, pipe_end = os.pipe()
    os.set_blocking(pipe, False)
    ended = subprocess.Popen(["true"])
    assert ended.wait() == 0
    copy = forked.Copy(ended.pid, pipe)
    with pytest.raises(forked.CopyFailed, match="without a word"):
        copy.result()
    copy.end()
    os.close(pipe_end)


# --- where the kernel reaps -------------------------------------------------------------------------------------------


@pytest.fixture(params=[True, False], ids=["by handle", "by number"])
def by_handle(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if not request.param:
        monkeypatch.delattr(os, "pidfd_open", raising=False)
    return bool(request.param)


@pytest.mark.usefixtures("unreaped", "by_handle")
def test_a_copy_that_nobody_can_wait_for_gives_its_result() -> None:
    copy = forked.fork(lambda: b"done")
    assert ends(copy.pid)
    assert copy.result() == b"done"
    copy.end()
    assert not forked.any_copy()


@pytest.mark.usefixtures("unreaped", "by_handle")
def test_a_copy_that_nobody_can_wait_for_is_ended() -> None:
    copy = forked.fork(hang)
    assert copy.result() is None
    copy.end()
    assert ends(copy.pid)
    join_threads("rayraft-reap")
    assert not forked.any_copy()


@pytest.mark.usefixtures("unreaped", "by_handle")
def test_a_copy_that_nobody_can_wait_for_is_not_mistaken_for_one_that_is_done_when_it_was_killed() -> None:
    copy = forked.fork(hang)
    os.kill(copy.pid, signal.SIGKILL)
    with pytest.raises(forked.CopyFailed):
        outcome(copy)
    copy.end()


@pytest.mark.usefixtures("unreaped")
@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="a process has no handle on this system")
def test_whoever_has_the_number_of_a_copy_now_is_not_killed() -> None:
    copy = forked.fork(bytes)
    assert ends(copy.pid)
    with subprocess.Popen(["sleep", "600"]) as other:
        copy.pid = other.pid
        copy.end()
        join_threads("rayraft-reap")
        try:
            assert other.poll() is None
        finally:
            other.kill()
