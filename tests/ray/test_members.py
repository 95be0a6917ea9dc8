"""Members come and go while the group serves: nothing acknowledged is lost, nothing applied twice."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import rayraft
from rayraft.cli import app
from rayraft.raft.membership import ChangeKind
from rayraft.ray.members import Members
from rayraft.ray.names import find_nodes
from rayraft.storage.identity import create_identity, read_identity, seal
from rayraft.storage.rocks import RocksLogStore
from tests.ray.recorded import Recorded
from tests.ray.support import Ledger, Marker, assert_equal_states, report, signal_node, wait_until

pytestmark = pytest.mark.cluster
Start = Callable[..., rayraft.Handle]


@pytest.fixture
def ledger(start_group: Start) -> Iterator[rayraft.Handle]:
    handle = start_group(Ledger, "members", timeout_s=60)
    yield handle
    handle.close()


def test_a_group_grows_and_shrinks_under_load(ledger: rayraft.Handle) -> None:
    cluster = ledger.cluster
    with Marker(ledger, "m") as marker:
        marker.wait_for_more(20)
        added = [cluster.add_node(), cluster.add_node()]
        marker.wait_for_more(20)
        assert added == [4, 5]
        assert cluster.configuration().voters == (1, 2, 3, 4, 5)
        cluster.remove_node(1)
        cluster.remove_node(2)
        marker.wait_for_more(20)
    assert cluster.configuration().voters == (3, 4, 5)
    assert sorted(find_nodes("members")) == [3, 4, 5]
    marker.assert_exactly_once()
    assert_equal_states(ledger)


@pytest.mark.slow
def test_the_leader_can_be_removed(ledger: rayraft.Handle, tmp_path: Path) -> None:
    cluster = ledger.cluster
    leader = cluster.leader()
    with Marker(ledger, "m") as marker:
        marker.wait_for_more(20)
        cluster.remove_node(leader)
        marker.wait_for_more(20)
    assert cluster.leader() != leader
    identity = read_identity(tmp_path / "members" / f"node-{leader}")
    assert identity is not None
    assert identity.removed
    marker.assert_exactly_once()


@pytest.mark.slow
def test_every_first_node_is_replaced_and_an_old_handle_finds_the_new_ones(ledger: rayraft.Handle) -> None:
    cluster = ledger.cluster
    with Marker(ledger, "m") as marker:
        marker.wait_for_more(20)
        assert [cluster.replace_node(node) for node in (1, 2, 3)] == [4, 5, 6]
        marker.wait_for_more(20)
        signal_node(ledger, cluster.leader())
        marker.wait_for_more(20)
    assert cluster.configuration().voters == (4, 5, 6)
    marker.assert_exactly_once()


def test_leadership_goes_where_it_is_sent_and_to_the_preferred_node(ledger: rayraft.Handle) -> None:
    cluster = ledger.cluster
    with Marker(ledger, "m") as marker:
        for target in (1, 2, 3):
            cluster.transfer_leadership(target)
            assert cluster.leader() == target
            marker.wait_for_more(5)
        cluster.prefer_leader(2, 1)
        wait_until(lambda: cluster.leader() == 2, what="the preferred leader")
    marker.assert_exactly_once()


@pytest.mark.slow
def test_a_group_that_was_changed_resumes_with_its_members(start_group: Start, ledger: rayraft.Handle) -> None:
    bank = Recorded(ledger)
    bank.deposit("ann", 1)
    ledger.cluster.remove_node(2)
    assert ledger.cluster.add_node() == 4
    ledger.cluster.shutdown()
    again = start_group(Ledger, "members")
    assert again.cluster.nodes == [1, 3, 4]
    assert again.cluster.configuration().voters == (1, 3, 4)
    bank = bank.through(again)
    assert bank.balance_of("ann") == 1
    bank.assert_linearizable(at_least=2)
    again.close()


def test_two_full_copies_and_a_witness(start_group: Start) -> None:
    handle = start_group(Ledger, "frugal", witnesses=1, timeout_s=60)
    cluster = handle.cluster
    with Marker(handle, "m") as marker:
        marker.wait_for_more(20)
        signal_node(handle, cluster.leader())
        marker.wait_for_more(50)
    marker.assert_exactly_once()
    assert cluster.leader() in (1, 2)
    with pytest.raises(rayraft.MembershipRefused, match="can not lead"):
        cluster.transfer_leadership(3)
    disks = {node: found.disk_bytes for node in (1, 2, 3) if (found := report(handle, node))}
    assert disks[3] < max(disks[1], disks[2])
    handle.close()


def test_what_can_not_be_done_is_refused_and_leaves_nothing_behind(ledger: rayraft.Handle, tmp_path: Path) -> None:
    cluster, bank = ledger.cluster, Recorded(ledger)
    bank.deposit("ann", 1)
    with pytest.raises(rayraft.MembershipRefused, match="no member"):
        cluster.remove_node(9)
    with pytest.raises(rayraft.MembershipRefused, match="start them with"):
        cluster.set_members([1, 2, 7])
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letters.txt").write_text("dear all")
    with pytest.raises(rayraft.WrongDirectory):
        cluster.add_node(directory=tmp_path / "other")
    assert cluster.nodes == [1, 2, 3]
    wait_until(lambda: sorted(find_nodes("members")) == [1, 2, 3], what="the end of the actor that was refused")
    assert cluster.add_node(learner=True) == 4
    assert cluster.configuration().learners == (4,)
    cluster.set_members([1, 4])
    assert cluster.configuration().voters == (1, 4)
    assert bank.deposit("ann", 1) == bank.balance_of("ann") == 2
    bank.assert_linearizable(at_least=3)


@pytest.mark.parametrize("step", ["_change", "tell_places"])
def test_a_node_whose_joining_was_interrupted_leaves_a_marked_disk_and_a_used_id(
    ledger: rayraft.Handle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    real = getattr(Members, step)

    def interrupted(members: Members, what: Any, *rest: Any, **how: Any) -> None:
        if isinstance(what, list) and what[0].kind is ChangeKind.REMOVE:
            return real(members, what, *rest, **how)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Members, step, interrupted)
        with pytest.raises(KeyboardInterrupt):
            ledger.cluster.add_node(learner=True)
    assert is_marked(tmp_path / "members" / "node-4")
    assert ledger.cluster.add_node(learner=True, directory=tmp_path / "elsewhere") == 5


def test_what_interrupted_joinings_left_does_not_vote_after_a_cold_start(start_group: Start, tmp_path: Path) -> None:
    start_group(Ledger, "left").cluster.shutdown()
    root = tmp_path / "left"
    founder = read_identity(root / "node-1")
    assert founder is not None
    for node in (4, 5):
        create_identity(root / f"node-{node}", group="left", cluster_id=founder.cluster_id, node_id=node, voters=())
    sealed = seal(root / "node-5")
    RocksLogStore(root / "node-5" / "log", sealed.configuration, owner=sealed.disk_id).close()
    again = start_group(Ledger, "left")
    assert again.cluster.nodes == [1, 2, 3]
    assert again.cluster.found.unfinished == {4: str(root / "node-4")}
    unsealed = read_identity(root / "node-4")
    assert unsealed is not None
    assert not unsealed.sealed
    assert is_marked(root / "node-5")


def test_nodes_with_a_directory_elsewhere_are_found_by_a_cold_start(start_group: Start, tmp_path: Path) -> None:
    handle = start_group(Ledger, "far", timeout_s=60)
    handle.deposit("ann", 7)
    for node, new in ((2, 4), (3, 5)):
        assert handle.cluster.replace_node(node, directory=tmp_path / f"ssd-{new}") == new
    handle.cluster.shutdown()
    again = start_group(Ledger, "far", timeout_s=60)
    assert again.cluster.found.lost == {}
    assert again.cluster.nodes == [1, 4, 5]
    assert again.balance_of("ann") == 7
    again.cluster.shutdown()

    root = tmp_path / "far"
    (root / "node-5").unlink()
    for places in (root / "node-1" / "places", root / "node-4" / "places"):  # nobody knows where it lives
        places.unlink()
    without = start_group(Ledger, "far", timeout_s=60)
    assert "no directory of it under data_dir" in without.cluster.found.lost.pop(5)
    assert without.cluster.found.lost == {}
    assert without.balance_of("ann") == 7
    without.cluster.shutdown()
    (root / "node-4").unlink()
    with pytest.raises(rayraft.RayraftError, match=r"node 5: no directory of it under data_dir"):
        start_group(Ledger, "far")


def is_marked(directory: Path) -> bool:
    identity = read_identity(directory)
    return identity is not None and identity.removed


@pytest.mark.slow
def test_a_group_goes_on_from_one_disk_after_the_loss_of_the_others(start_group: Start, tmp_path: Path) -> None:
    handle = start_group(Ledger, "last", timeout_s=60)
    bank = Recorded(handle)
    bank.deposit("ann", 7)
    handle.cluster.shutdown()
    for node in (1, 2):
        shutil.rmtree(tmp_path / "last" / f"node-{node}")
    with pytest.raises(rayraft.LostDisk):
        start_group(Ledger, "last")
    done = CliRunner().invoke(app, ["recover", "--yes", str(tmp_path / "last")])
    assert done.exit_code == 0, done.output
    assert "MAY BE LOST" in done.output
    again = start_group(Ledger, "last", nodes=1, timeout_s=60)
    bank = bank.through(again)
    assert bank.balance_of("ann") == 7
    assert again.cluster.add_node(directory=tmp_path / "last" / "node-4") == 4
    bank.deposit("ann", 1)
    bank.assert_linearizable(at_least=3)
    assert_equal_states(again)
    again.close()
