"""What the storage tests share: a store on disk, entries to put there, and ways to end or damage it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from rocksdict import Options, Rdict

from rayraft.raft.types import Configuration, Entry, EntryKind
from rayraft.storage.rocks import RocksLogStore

THREE = Configuration(voters=(1, 2, 3))
ALL = 1 << 40  # bytes: no limit


def entry(index: int, term: int = 1, data: bytes | None = None) -> Entry:
    return Entry(index, term, EntryKind.COMMAND, f"command {index}".encode() * 20 if data is None else data)


def run(low: int, high: int, term: int = 1) -> list[Entry]:
    """The entries of ``[low, high)``."""
    return [entry(index, term) for index in range(low, high)]


@contextlib.contextmanager
def opened(path: Path, **settings: object) -> Iterator[RocksLogStore]:
    store = RocksLogStore(path, THREE, **settings)  # type: ignore[arg-type]
    try:
        yield store
    finally:
        store.close()


@contextlib.contextmanager
def raw(path: Path) -> Iterator[Rdict]:
    """The database of a store that is closed, to change what lies in it."""
    db = Rdict(str(path / "rocksdb"), Options(raw_mode=True))
    try:
        yield db
    finally:
        db.close()


def start(body: str, *arguments: object) -> subprocess.Popen[str]:
    """Run Python source in a process of its own; it finds ``store``, opened at its first argument."""
    head = (
        "import os, sys\n"
        "from tests.storage.helpers import *\n"
        "from rayraft.raft.types import HardState, SnapshotMeta\n"
        "path = Path(sys.argv[1])\n"
        "store = RocksLogStore(path, THREE)\n"
    )
    root = Path(__file__).parents[2]
    return subprocess.Popen(
        [sys.executable, "-c", head + body, *map(str, arguments)],
        cwd=root,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def killed(path: Path, body: str) -> str:
    """What the process printed that ran ``body`` on the store and was then killed, so that nothing was closed."""
    process = start(body + "\nsys.stdout.flush(); os.kill(os.getpid(), 9)\n", path)
    output, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL
    return output


def wal(path: Path) -> Path:
    """The newest file of the write-ahead log."""
    return max((path / "rocksdb").glob("*.log"))


def flip(path: Path, offset: int) -> None:
    """Change one bit."""
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))


def cut(path: Path, count: int) -> None:
    """Drop the last ``count`` bytes."""
    os.truncate(path, path.stat().st_size - count)


def finish_discarding() -> None:
    """Wait for the threads that remove old snapshots."""
    join_threads("rayraft-discard")


def join_threads(name: str) -> None:
    for thread in threading.enumerate():
        if thread.name == name:
            thread.join(10)


def open_files() -> set[tuple[int, str]]:
    """This process's file descriptors and what they are of. Look for new ones: others may close theirs meanwhile."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed since, as is the one that listed them
            found.add((int(name), os.readlink(f"/proc/self/fd/{name}")))
    return found
