"""Disks of a minority fail under load: the group goes on, and the supervisor rebuilds the node under a new id.

Only a damaged disk is replaced here (`replace_after=None`): a node that comes back by itself keeps its place.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import rayraft
from rayraft.chaos.damage import Part, flip
from rayraft.ray.names import find_nodes
from rayraft.storage.identity import read_identity
from tests.ray.support import Ledger, Marker, assert_equal_states, signal_node, wait_until

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
