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
from pathlib import Path

import pytest

from rayraft.replica import forked

SECONDS = 30.0

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

# A node whose copy hangs; it says which process that is. The copy ignores what could be ignored.
NODE = """
import os, signal, sys, time
from rayraft.replica.forked import fork

def hang(pipe_end):
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    os.write(pipe_end, b"!")
    time.sleep(600)

pid, pipe = fork(hang)
os.read(pipe, 1)
print(pid, flush=True)
time.sleep(600)
"""


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


def check_that_a_copy_holds_no_connection() -> None:
    """The other end learns that this process has closed its own, although the copy lives."""
    ours, theirs = socket.socketpair()

    def hang(pipe_end: int) -> None:
        os.write(pipe_end, b"!")
        time.sleep(600)

    pid, pipe = forked.fork(hang)
    try:
        assert os.read(pipe, 1) == b"!"
        ours.close()
        assert select.select([theirs], [], [], 1.0)[0], "the copy keeps the connection up"
        assert theirs.recv(1) == b""
    finally:
        forked.end(pid)
        os.close(pipe)
        theirs.close()


@pytest.mark.skipif(forked._prctl is None, reason="only Linux ends a child with its parent")
def test_a_copy_ends_with_its_node() -> None:
    check_that_a_copy_ends_with_its_node()


def test_a_copy_holds_no_connection() -> None:
    check_that_a_copy_holds_no_connection()


def test_a_copy_that_keeps_what_was_open_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forked, "_close_all_but", lambda kept: None)
    with pytest.raises(AssertionError, match="keeps the connection up"):
        check_that_a_copy_holds_no_connection()


def test_the_standard_streams_and_the_pipe_stay_open() -> None:
    def look(pipe_end: int) -> None:
        found = [os.fstat(number) for number in (0, 1, 2, pipe_end)]
        os.write(pipe_end, str(len(found)).encode())

    pid, pipe = forked.fork(look)
    assert os.read(pipe, 8) == b"4"
    os.close(pipe)
    assert os.waitpid(pid, 0)[1] == 0
