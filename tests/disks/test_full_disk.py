"""The disk is full: a node says so by its own error, keeps what it acknowledged, and comes back when there is room."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from rayraft.errors import DiskFull
from rayraft.raft.types import SnapshotMeta
from rayraft.ray.node import Node
from rayraft.ray.spec import NodeState
from rayraft.storage.space import check_room, room
from tests.disks.support import Order, fill, node_on, numbers_of, small_disk, solo

MIB = 1 << 20


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_node_on_a_full_disk_stops_and_comes_back_by_itself(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 160 * MIB) as mount:
        order = Order(directory=str(mount / "node-1"), padding=200_000)
        with solo(order) as running:
            running.wait_for(10)
            ballast = fill(mount, leave=2 * MIB)
            errors = running.wait()  # as soon as the log has used up what it had reserved
            assert running.process.returncode == 1
        acknowledged = running.acknowledged
        assert f"the disk of {order.directory}/log is full" in errors, errors
        assert running.refusals
        assert all("is full" in refusal and "Make room" in refusal for refusal in running.refusals), running.refusals
        again = Order(directory=order.directory, prefix="b", count=5)
        with solo(again) as running:
            running.read(lambda: bool(running.states))
            assert "failed DiskFull" in running.states[0], "it does not even try to open the log"
            before, began = cpu_seconds(running.process.pid), time.monotonic()
            while time.monotonic() < began + 1.0:  # what is measured is what it does while it waits
                os.sched_yield()
            assert cpu_seconds(running.process.pid) - before < 0.5
            ballast.unlink()
            running.wait_for(5)
            running.end()
        with node_on(order) as node:
            found = numbers_of(node)
        assert [number for number in found if number.startswith("b")] == running.acknowledged
        assert found[: len(acknowledged)] == acknowledged


def test_a_snapshot_leaves_room_for_the_log(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 160 * MIB) as mount:
        order = Order(directory=str(mount / "node-1"), padding=100_000, count=20)
        with solo(order) as running:
            running.wait_for(20)
            running.end()
        with node_on(order) as node:
            loop = node._running()
            node.campaign()
            ballast = fill(mount, leave=room(mount)[1] - MIB)
            node.take_snapshot()
            wait_for(lambda: "is full" in status(node).snapshot_error, "the snapshot's error")
            assert not list((mount / "node-1" / "snapshots").iterdir()), "nothing is left of the attempt"
            assert node._watch is not None
            node._watch.look()
            report = node.report()
            assert report.state is NodeState.RUNNING, "a snapshot that finds no room ends nothing"
            assert isinstance(report.error, DiskFull), "its operator is warned"
            ballast.unlink()
            loop.run(lambda replica: replica.raft.propose([b""]))
            wait_for(lambda: status(node).applied > 0, "the next entry")
            node.take_snapshot()
            wait_for(lambda: status(node).snapshot > 0, "the next snapshot")
            node._watch.look()
            assert node.report().error is None


def test_what_is_half_received_does_not_keep_a_node_from_coming_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = Order(directory=str(tmp_path / "node-1"))
    with node_on(order) as node:
        node.format("c1", (1,))
        node.seal()
        snapshots = node._running().snapshots
    snapshots.receive(SnapshotMeta(1000, 1), 0, b"half")
    (part,) = tmp_path.rglob("*.part")
    monkeypatch.setattr("rayraft.storage.space.room", lambda directory: (0, 1) if part.exists() else (2, 1))
    with node_on(order) as node:
        assert node.report().state is NodeState.RUNNING, node.report().error


def test_a_leader_whose_disk_is_nearly_full_hands_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = Order(directory=str(tmp_path / "node-1"))
    with node_on(order) as node:
        node.format("c1", (1,))
        node.seal()
        handed: list[int] = []
        node._running().run(
            lambda replica: monkeypatch.setattr(replica.raft, "hand_over", lambda: handed.append(1) or 2)
        )
        assert node._watch is not None
        node._watch.look()
        assert not handed
        monkeypatch.setattr("rayraft.storage.space.MAX_RESERVE", 1 << 62)
        monkeypatch.setattr("rayraft.storage.space.RESERVE_PART", 1)
        node._watch.look()
        node._watch.look()
        assert len(handed) == 1, "and not again at every look"


def test_the_error_names_the_directory_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DiskFull, match="Make room there") as caught:
        check_room(tmp_path / "not" / "there", 1 << 60)
    assert caught.value.directory == str(tmp_path / "not" / "there")


def status(node: Node):  # type: ignore[no-untyped-def]
    replica = node.report().replica
    assert replica is not None, node.report().error
    return replica


def wait_for(condition, what: str) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)
