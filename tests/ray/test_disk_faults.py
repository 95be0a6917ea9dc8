"""Disks of a minority fail under load: the group goes on, and the supervisor rebuilds the node under a new id.

Only a damaged disk is replaced here (`replace_after=None`): a node that comes back by itself keeps its place.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import rayraft
from rayraft.chaos import sync_errors
from rayraft.chaos.damage import Part, flip
from rayraft.ray import actors
from rayraft.ray.names import find_nodes
from rayraft.storage.identity import read_identity
from tests.ray.support import Ledger, Marker, assert_equal_states, report, signal_node, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
Start = Callable[..., rayraft.Handle]
NAME = "disks"
SNAPSHOT_ENTRIES = 100
SETTINGS = rayraft.Settings(
    replace_after=None,
    rebuild_after=1.0,
    snapshot_entries=SNAPSHOT_ENTRIES,
    snapshot_trailing=20,
    digest_entries=SNAPSHOT_ENTRIES,
)


@pytest.fixture
def ledger(start_group: Start) -> Iterator[rayraft.Handle]:
    handle = start_group(Ledger, NAME, settings=SETTINGS, supervise=True, timeout_s=60)
    yield handle
    handle.close()


@pytest.fixture
def disks(tmp_path: Path) -> Path:
    return tmp_path / NAME


def some_follower(ledger: rayraft.Handle) -> int:
    leader = ledger.cluster.leader()
    return next(node for node in ledger.cluster.configuration().voters if node != leader)


def wait_until_rebuilt(ledger: rayraft.Handle, *lost: int) -> None:
    """Every node of ``lost`` has given its place to a new one, and none of its actors is left."""
    size = len(ledger.cluster.configuration().voters)

    def rebuilt() -> bool:
        configuration = ledger.cluster.configuration()
        return (
            not set(lost) & set(configuration.members())
            and len(configuration.voters) == size
            and not configuration.learners
            and sorted(find_nodes(NAME)) == sorted(configuration.voters)
        )

    try:
        wait_until(rebuilt, 120.0, f"the end of nodes {lost}")
    except AssertionError as error:
        raise AssertionError(f"{error}; {ledger.cluster.supervision()}; {ledger.cluster.reports()}") from None


def assert_nothing_lost(marker: Marker) -> None:
    marker.assert_exactly_once()
    assert_equal_states(rayraft.connect(NAME))


@pytest.mark.parametrize("part", Part)
def test_flipped_bits_are_found_at_open(ledger: rayraft.Handle, disks: Path, part: Part) -> None:
    with Marker(ledger, "m") as marker:
        marker.wait_for_more(2 * SNAPSHOT_ENTRIES)
        node = some_follower(ledger)
        damaged = flip(disks / f"node-{node}", part)
        content = damaged.read_bytes()
        signal_node(ledger, node)
        wait_until_rebuilt(ledger, node)
        marker.wait_for_more(SNAPSHOT_ENTRIES)
    if part is not Part.SNAPSHOT:
        assert damaged.read_bytes().startswith(content), "what lies behind the damage is not cut off"
    identity = read_identity(disks / f"node-{node}")
    assert identity is not None
    assert identity.removed, "the damaged disk never votes again"
    assert_nothing_lost(marker)


@pytest.mark.parametrize("role", ["follower", "leader"])
def test_a_directory_is_deleted_under_a_running_node(ledger: rayraft.Handle, disks: Path, role: str) -> None:
    with Marker(ledger, "m") as marker:
        marker.wait_for_more(SNAPSHOT_ENTRIES)
        node = ledger.cluster.leader() if role == "leader" else some_follower(ledger)
        shutil.rmtree(disks / f"node-{node}", ignore_errors=True)
        wait_until_rebuilt(ledger, node)
        marker.wait_for_more(SNAPSHOT_ENTRIES)
    assert_nothing_lost(marker)


def test_a_damaged_snapshot_is_found_when_another_node_needs_it(start_group: Start, tmp_path: Path) -> None:
    """The leader finds what it sends refused, reads its own disk, and is rebuilt; the next leader sends its own."""
    settings = dataclasses.replace(SETTINGS, snapshot_entries=1_000_000)
    ledger = start_group(Ledger, NAME, settings=settings, supervise=True, timeout_s=60)
    with Marker(ledger, "m") as marker:
        marker.wait_for_more(2 * SNAPSHOT_ENTRIES)
        ledger.cluster.take_snapshot()
        wait_until(lambda: all(has_snapshot(ledger, node) for node in ledger.cluster.nodes), what="snapshots")
        leader = ledger.cluster.leader()
        flip(tmp_path / NAME / f"node-{leader}", Part.SNAPSHOT)
        assert ledger.cluster.add_node() == 4
        wait_until_rebuilt(ledger, leader)
        marker.wait_for_more(SNAPSHOT_ENTRIES)
    assert len(ledger.cluster.configuration().voters) == 4
    assert_nothing_lost(marker)
    ledger.close()


def has_snapshot(ledger: rayraft.Handle, node: int) -> bool:
    found = report(ledger, node)
    return found is not None and found.replica is not None and found.replica.snapshot > 0


@pytest.mark.parametrize("role", ["follower", "leader"])
def test_a_sync_fails(start_group: Start, tmp_path: Path, role: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The node ends without another sync, reads its disk from the beginning, and has its place again."""
    if reason := sync_errors.why_not():
        pytest.skip(reason)
    pipes = tmp_path / "fiu"
    monkeypatch.setattr(actors, "NODE_ENVIRONMENT", {**actors.NODE_ENVIRONMENT, **sync_errors.environment(pipes)})
    ledger = start_group(Ledger, NAME, settings=SETTINGS, supervise=True, timeout_s=60)
    with Marker(ledger, "m") as marker:
        marker.wait_for_more(SNAPSHOT_ENTRIES)
        node = ledger.cluster.leader() if role == "leader" else some_follower(ledger)
        before = wait_until(lambda: report(ledger, node))
        sync_errors.fail_next_sync(pipes, before.pid)
        errors: set[str] = set()

        def back() -> bool:
            found = report(ledger, node)
            errors.add(str(found.error) if found is not None else "")
            return found is not None and found.pid != before.pid and found.replica is not None

        wait_until(back, what="its return")
        marker.wait_for_more(SNAPSHOT_ENTRIES)
    assert any("sync failed" in error for error in errors), errors
    assert ledger.cluster.configuration().voters == (1, 2, 3)
    assert_nothing_lost(marker)
    ledger.close()


def test_a_minority_of_two_disks_is_damaged_at_once(start_group: Start, tmp_path: Path) -> None:
    ledger = start_group(Ledger, NAME, nodes=5, settings=SETTINGS, supervise=True, timeout_s=60)
    with Marker(ledger, "m") as marker:
        marker.wait_for_more(2 * SNAPSHOT_ENTRIES)
        leader = ledger.cluster.leader()
        one, two = [node for node in ledger.cluster.nodes if node != leader][:2]
        flip(tmp_path / NAME / f"node-{one}", Part.LOG)
        flip(tmp_path / NAME / f"node-{two}", Part.HARD_STATE)
        signal_node(ledger, one)
        signal_node(ledger, two)
        wait_until_rebuilt(ledger, one, two)
        marker.wait_for_more(SNAPSHOT_ENTRIES)
    assert_nothing_lost(marker)
    ledger.close()
