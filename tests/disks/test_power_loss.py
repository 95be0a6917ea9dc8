"""The power fails: what was not synced is gone. On exactly the path that a node uses: unsynced writes and one sync of
the log, the guard file, snapshots, the identity."""

from __future__ import annotations

from pathlib import Path

import pytest

from rayraft.storage.identity import read_identity
from rayraft.storage.snapshots import FileSnapshotStore
from tests.disks.support import LoopDisk, Order, Solo, assert_kept, loop_disk, node_on, numbers_of, solo

pytestmark = pytest.mark.xdist_group("mounts")


def run_until_power_loss(disk: LoopDisk, order: Order, count: int, *, snapshot: bool = False) -> Solo:
    """Everything that was acknowledged by then; the disk is there again afterwards."""
    with solo(order) as running:
        running.wait_for(count)
        if snapshot:
            running.read(lambda: running.snapshot > 0)
            running.wait_for(len(running.acknowledged) + 20)
        disk.lose_power()  # in the middle of its writes
        running.end()
    assert disk.mount_again() == ""
    return running


def test_a_power_loss_takes_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    with loop_disk(tmp_path) as disk:
        order = Order(directory=str(disk.mount_point / "node-1"), snapshot_every=40)
        first = run_until_power_loss(disk, order, 100, snapshot=True)
        identity = read_identity(order.directory)
        assert identity is not None
        assert identity.sealed
        acknowledged = first.acknowledged
        with node_on(order) as node:
            replica = node.report().replica
            assert replica is not None, node.report().error
            assert replica.snapshot >= first.snapshot > 0, "a snapshot that was called durable is there"
            assert numbers_of(node)[: len(acknowledged)] == acknowledged
            snapshots = FileSnapshotStore(Path(order.directory) / "snapshots")
            meta = node._running().run(lambda replica: replica.recorded_snapshot)
            snapshots.verify(meta)


@pytest.mark.slow
def test_ten_power_losses_one_after_the_other(tmp_path: Path) -> None:
    with loop_disk(tmp_path) as disk:
        acknowledged: list[str] = []
        for turn in range(10):
            order = Order(
                directory=str(disk.mount_point / "node-1"),
                prefix=f"{turn}-",
                snapshot_every=30,
                padding=100 * 7**turn % 50_000,
            )
            acknowledged += run_until_power_loss(disk, order, 20 + 17 * turn).acknowledged
            with node_on(order) as node:
                found = numbers_of(node)
            lost = [number for number in acknowledged if number not in set(found)]
            assert not lost, f"turn {turn}: {lost[:5]}"
            assert len(found) <= len(acknowledged) + turn + 1, "at most the one under way at each power loss besides"
            acknowledged = found


def test_without_syncs_the_test_finds_the_loss(tmp_path: Path) -> None:
    """The mutation: a node that acknowledges before the sync."""
    with loop_disk(tmp_path) as disk:
        order = Order(directory=str(disk.mount_point / "node-1"), fsync=False)
        running = run_until_power_loss(disk, order, 100)
        with pytest.raises(AssertionError):
            assert_kept(order, running.acknowledged)
