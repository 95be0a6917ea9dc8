"""Disks that can be pulled out, filled and broken, and a node to run on them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cloudpickle
import msgspec
import pytest

import rayraft
from rayraft.chaos import disks, sync_errors
from rayraft.chaos.disks import LoopDisk
from rayraft.machine.calls import decode_results, encode_call, unwrap
from rayraft.machine.requests import Status, encode_queries, pack
from rayraft.raft.ready import RaftConfig
from rayraft.ray.node import Node
from rayraft.ray.spec import NodeSpec, NodeState
from rayraft.replica import ReplicaConfig


class Tally:
    """Remembers every number in the order of arrival."""

    def __init__(self) -> None:
        self.numbers: list[str] = []
        self.padding = b""

    @rayraft.command
    def add(self, number: str, padding: bytes) -> int:
        self.numbers.append(number)
        self.padding = padding
        return len(self.numbers)

    @rayraft.query
    def all(self) -> list[str]:
        return list(self.numbers)


class Order(msgspec.Struct, kw_only=True):
    """What a `Solo` does."""

    directory: str
    prefix: str = "a"
    count: int = 0  # 0: for ever
    padding: int = 100
    fsync: bool = True
    snapshot_every: int = 0
    fail_sync_after: int = 0


def solo_spec(order: Order) -> NodeSpec:
    raft = RaftConfig(node_id=1, election_timeout=0.3, heartbeat_interval=0.03)
    config = ReplicaConfig(raft, snapshot_entries=order.snapshot_every or 1_000_000, snapshot_trailing=5)
    return NodeSpec("solo", 1, order.directory, cloudpickle.dumps((Tally, (), {})), config, fsync=order.fsync)


class Solo:
    """A `tests.disks.solo` process, and what it has said so far."""

    def __init__(self, order: Order, environment: dict[str, str] | None = None) -> None:
        self.order = order
        self.acknowledged: list[str] = []
        self.refusals: list[str] = []
        self.states: list[str] = []
        self.snapshot = 0  # the last index that a status called durable
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.disks.solo", msgspec.json.encode(order).decode()],
            cwd=Path(__file__).parents[2],
            env=os.environ | (environment or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def read(self, until: Callable[[], bool]) -> None:
        """Follow what it says until that is so, or until it ends."""
        assert self.process.stdout is not None
        while not until():
            line = self.process.stdout.readline()
            if not line.endswith("\n"):
                return
            self._take(line)

    def _take(self, line: str) -> None:
        word, _, rest = line.strip().partition(" ")
        if word == "done":
            self.acknowledged.append(rest)
        elif word == "refused":
            self.refusals.append(rest)
        elif word == "snapshot":
            self.snapshot = int(rest)
        else:
            self.states.append(line.strip())

    def wait_for(self, count: int) -> None:
        """Until so many were acknowledged."""
        self.read(lambda: len(self.acknowledged) >= count)
        assert len(self.acknowledged) >= count, f"it ended: {self.states} {self.refusals[-1:]} {self.end()}"

    def end(self) -> str:
        """Kill it, and take in what it said last; its words on stderr."""
        self.process.kill()
        return self.wait()

    def wait(self) -> str:
        """Until it ends by itself; its words on stderr."""
        assert self.process.stderr is not None
        self.read(lambda: False)  # not `communicate`, which would lose what `readline` has read ahead
        errors = self.process.stderr.read()
        self.process.wait(timeout=120)
        return errors


@contextlib.contextmanager
def solo(order: Order, environment: dict[str, str] | None = None) -> Iterator[Solo]:
    running = Solo(order, environment)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.process.kill()
            running.process.communicate()


@contextlib.contextmanager
def node_on(order: Order) -> Iterator[Node]:
    """The node of that directory in this process, as Ray would start it."""
    node = Node(solo_spec(order))
    try:
        yield node
    finally:
        node.stop()


def numbers_of(node: Node) -> list[str]:
    """The state, by a linearizable query."""
    queries = encode_queries(pack([encode_call("all", (), {})]))
    node.campaign()
    deadline = time.monotonic() + 60
    while (answer := node.query(queries))[0] != Status.OK:
        assert time.monotonic() < deadline, answer
        time.sleep(0.02)
    (numbers,) = decode_results(answer[1:])
    return list(unwrap(numbers))


def assert_kept(order: Order, acknowledged: list[str]) -> None:
    """Everything acknowledged is on the disk, once, in order; at most the one that was under way besides."""
    with node_on(order) as node:
        report = node.report()
        assert report.state is NodeState.RUNNING, report.error
        found = numbers_of(node)
    assert found[: len(acknowledged)] == acknowledged
    assert len(found) <= len(acknowledged) + 1


# --- disks ------------------------------------------------------------------------------------------------------------


def _run(*command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=120)


@contextlib.contextmanager
def loop_disk(directory: Path, size: int = 160 << 20) -> Iterator[LoopDisk]:
    """Skips the test where this can not be done."""
    if os.geteuid() != 0 or disks.why_not():
        pytest.skip(disks.why_not() or "a power loss needs root")
    disk = LoopDisk(directory / "image", directory / "disk")
    if problem := disk.create(size):
        pytest.skip(f"no file system can be mounted from a file here: {problem}")
    try:
        yield disk
    finally:
        assert disk.unmount() == ""


@contextlib.contextmanager
def small_disk(mount: Path, size: int) -> Iterator[Path]:
    """A tmpfs of ``size`` bytes. Skips the test where this can not be done."""
    if os.geteuid() != 0:
        pytest.skip("a small disk needs root, to mount a tmpfs")
    mount.mkdir(parents=True, exist_ok=True)
    mounted = _run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", mount)
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    try:
        yield mount
    finally:
        _run("umount", "-l", mount)


def fill(mount: Path, leave: int) -> Path:
    """Take all room but ``leave`` bytes; returns the file that does."""
    ballast = mount / "ballast"
    with open(ballast, "wb") as file:
        while True:
            found = os.statvfs(mount)
            with contextlib.suppress(OSError):  # the node goes on writing meanwhile
                wanted = found.f_bavail * found.f_frsize - leave
                if wanted > 0:
                    os.posix_fallocate(file.fileno(), 0, wanted)
                return ballast


def fiu_environment() -> dict[str, str]:
    """For a process whose syncs can be made to fail. Skips the test where libfiu is not installed."""
    if reason := sync_errors.why_not():
        pytest.skip(reason)
    return sync_errors.preload()
