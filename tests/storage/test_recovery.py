"""The last resort after the loss of a majority: what is kept, what is refused, and that the lost ones stay away."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from rayraft.errors import BadConfiguration, DirectoryInUse
from rayraft.raft.membership import check, decode_configuration, encode_configuration
from rayraft.raft.types import Configuration, Entry, EntryKind, HardState
from rayraft.storage import recovery
from rayraft.storage.identity import Identity, create_identity, read_identity, rewrite_identity, seal
from rayraft.storage.recovery import plan_recovery, recover
from rayraft.storage.rocks import RocksLogStore

VOTERS = (1, 2, 3, 4, 5)


def disk(
    root: Path,
    node: int,
    terms: list[int],
    commit: int = 0,
    witnesses: tuple[int, ...] = (),
    cluster: str = "c",
    changed: Configuration | None = None,
) -> Path:
    """The directory of a node whose log has entries of these terms, the last one of the members of ``changed``."""
    directory = root / f"node-{node}"
    identity = create_identity(
        directory, group="g", cluster_id=cluster, node_id=node, voters=VOTERS, witnesses=witnesses
    )
    store = RocksLogStore(directory / "log", identity.configuration, owner=identity.disk_id)
    entries = [Entry(i, term, EntryKind.COMMAND, b"%d" % i) for i, term in enumerate(terms, 1)]
    if changed is not None:
        entries[-1] = Entry(len(terms), terms[-1], EntryKind.CONFIGURATION, encode_configuration(changed))
    store.write(HardState(max(terms, default=0), 0, commit), entries)
    store.sync()
    store.close()
    seal(directory)
    return directory


def reopen(directory: Path) -> RocksLogStore:
    identity = read_identity(directory)
    assert identity is not None
    return RocksLogStore(directory / "log", Configuration(), owner=identity.disk_id, create=False)


def test_the_most_advanced_log_becomes_the_truth(tmp_path: Path) -> None:
    long, newer = disk(tmp_path, 1, [1, 1, 1, 1]), disk(tmp_path, 4, [1, 1, 2], commit=2)
    plan = plan_recovery([long, newer])
    assert (plan.best.node, plan.lost) == (4, [2, 3, 5])
    assert "ends at index 3" in plan.explain()
    assert "first 2 entries are known to be committed" in plan.explain()
    assert f"USED: {long}, {newer}. Every disk that is left has to be named in this one call" in plan.explain()
    recover(plan)
    store = reopen(newer)
    last = store.entries(4, 5, 0)[0]
    assert (last.kind, last.term) == (EntryKind.CONFIGURATION, 3)
    assert decode_configuration(last.data) == Configuration(voters=(1, 4), highest_id=5)
    assert store.hard_state() == HardState(3, 0, 4)
    store.close()


def test_the_lost_nodes_can_not_come_back(tmp_path: Path) -> None:
    survivor = disk(tmp_path, 1, [1])
    found_later = disk(tmp_path, 2, [1, 1])
    shutil.move(found_later, tmp_path / "away")
    recover(plan_recovery([survivor]))
    ours, theirs = read_identity(survivor), read_identity(tmp_path / "away")
    assert ours is not None
    assert theirs is not None
    assert ours.cluster_id != theirs.cluster_id
    assert ours.voters == (1,)


def test_a_disk_that_can_not_be_read_is_named_and_retired(tmp_path: Path) -> None:
    good, bad = disk(tmp_path, 1, [1]), disk(tmp_path, 2, [1])
    (bad / "log" / "acknowledged").write_bytes(b"nonsense")
    plan = plan_recovery([good, bad])
    assert list(plan.unreadable) == [bad]
    recover(plan)
    identity = read_identity(bad)
    assert identity is not None
    assert identity.removed


def test_it_is_refused_while_a_majority_is_there(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match="start the group as usual"):
        plan_recovery([disk(tmp_path, node, [1]) for node in (1, 2, 3)])


def test_between_two_sets_of_voters_it_is_refused_exactly_while_both_can_elect(tmp_path: Path) -> None:
    """Not while a majority of all of them is there, which neither set may have, and each may have without that."""
    joint = Configuration(voters=(4, 5, 6), outgoing=(1, 2, 3), highest_id=6)
    assert plan_recovery([disk(tmp_path / "a", node, [1], changed=joint) for node in (1, 2, 3, 4)]).lost == [5, 6]
    overlapping = Configuration(voters=(1, 2, 4), outgoing=(1, 2, 3), highest_id=4)
    with pytest.raises(BadConfiguration, match="start the group as usual"):
        plan_recovery([disk(tmp_path / "b", node, [1], changed=overlapping) for node in (1, 2)])


def test_it_is_refused_while_a_part_of_the_group_runs(tmp_path: Path) -> None:
    stale, *running = [disk(tmp_path, node, [1] * node) for node in (1, 2, 3)]
    stores = [reopen(directory) for directory in running]
    with pytest.raises(DirectoryInUse, match="is running"):
        plan_recovery([stale, *running])
    for store in stores:
        store.close()


@pytest.mark.parametrize("who", ["a survivor", "one that could not be read"])
def test_nothing_is_written_when_a_node_was_started_after_the_plan(tmp_path: Path, who: str) -> None:
    survivor, other = disk(tmp_path, 1, [1, 1]), disk(tmp_path, 2, [1])
    mark = other / "log" / "acknowledged"
    content = mark.read_bytes()
    mark.write_bytes(b"nonsense")
    plan = plan_recovery([survivor, other])
    mark.write_bytes(content)
    store = reopen(survivor if who == "a survivor" else other)
    with pytest.raises(DirectoryInUse, match="is running"):
        recover(plan)
    store.close()
    assert_untouched(survivor, other)


def test_nothing_is_written_when_a_node_ran_after_the_plan(tmp_path: Path) -> None:
    survivor, other = disk(tmp_path, 1, [1, 1]), disk(tmp_path, 2, [1])
    plan = plan_recovery([survivor, other])
    store = reopen(other)
    store.write(HardState(2, 0, 0), [Entry(2, 2, EntryKind.COMMAND, b"acknowledged")])
    store.sync()
    store.close()
    with pytest.raises(BadConfiguration, match="has changed"):
        recover(plan)
    assert_untouched(survivor, other)


def assert_untouched(*directories: Path) -> None:
    for directory in directories:
        identity = read_identity(directory)
        assert identity is not None
        assert (identity.cluster_id, identity.removed) == ("c", False)


def test_disks_of_two_groups_of_one_name_are_refused(tmp_path: Path) -> None:
    ours, leftover = disk(tmp_path, 1, [1, 1]), disk(tmp_path, 2, [1], cluster="older")
    with pytest.raises(BadConfiguration, match="several groups") as refused:
        plan_recovery([ours, leftover])
    assert f"{ours}: 'g', cluster c; {leftover}: 'g', cluster older" in str(refused.value)


def test_a_directory_that_is_named_twice_counts_once(tmp_path: Path) -> None:
    directory = disk(tmp_path, 1, [1, 1])
    (tmp_path / "link").symlink_to(directory)
    plan = plan_recovery([directory, tmp_path / "node-2" / ".." / "node-1", tmp_path / "link"])
    assert plan.configuration.voters == (1,)
    assert plan.lost == [2, 3, 4, 5]


def test_a_copy_of_a_disk_is_no_second_voter(tmp_path: Path) -> None:
    directory = disk(tmp_path, 1, [1, 1])
    shutil.copytree(directory, tmp_path / "copy")
    with pytest.raises(BadConfiguration, match=r"of node 1: .*node-1 ends at index 2 .*copy ends at index 2"):
        plan_recovery([directory, tmp_path / "copy"])


def test_what_was_recovered_apart_is_not_merged(tmp_path: Path) -> None:
    one, two = disk(tmp_path, 1, [1, 1]), disk(tmp_path, 2, [1])
    recover(plan_recovery([one]))
    with pytest.raises(BadConfiguration, match="several groups"):
        plan_recovery([one, two])  # the second is of the nodes that were given up
    recover(plan_recovery([two]))
    with pytest.raises(BadConfiguration, match="several groups"):
        plan_recovery([one, two])


def test_a_witness_alone_has_nothing_to_recover_from(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match="no disk that stores data"):
        plan_recovery([disk(tmp_path, 5, [1, 1], witnesses=(5,))])


@pytest.mark.parametrize("steps", range(9))
def test_an_interrupted_recovery_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    directories = [disk(tmp_path, 1, [1, 1]), disk(tmp_path, 2, [1])]
    for done in (steps % 3, steps // 3):  # identities that are rewritten before the power goes, in each of two attempts
        attempt = plan_recovery(directories)
        with monkeypatch.context() as patch:
            lose_power_after(done, patch)
            with pytest.raises(KeyboardInterrupt):
                recover(attempt)
    recover(plan_recovery(directories))
    identities = [read_identity(directory) for directory in directories]
    assert [identity and identity.voters for identity in identities] == [(1, 2), (1, 2)]
    assert len({identity and identity.cluster_id for identity in identities}) == 1
    with pytest.raises(BadConfiguration, match="start the group as usual"):
        plan_recovery(directories)


def lose_power_after(steps: int, patch: pytest.MonkeyPatch) -> None:
    rewritten: list[Path] = []

    def out_of_power(*_: object) -> None:
        raise KeyboardInterrupt

    def rewrite(directory: Path, identity: Identity) -> None:
        if len(rewritten) == steps:
            raise KeyboardInterrupt
        rewritten.append(directory)
        rewrite_identity(directory, identity)

    patch.setattr(recovery, "rewrite_identity", rewrite)
    patch.setattr(RocksLogStore, "write", out_of_power)


# --- who votes afterwards ---------------------------------------------------------------------------------------------


def test_only_members_vote_and_the_others_have_left(tmp_path: Path) -> None:
    """One was removed while it was away, the other was to join: neither is in the log that becomes the truth."""
    members = Configuration(voters=(1, 3, 4), learners=(6,), highest_id=6)
    best, learner = (disk(tmp_path, node, [1, 1], changed=members) for node in (1, 6))
    away, joining = disk(tmp_path, 2, [1]), disk(tmp_path, 7, [2, 2, 2], changed=members)
    plan = plan_recovery([best, learner, away, joining])
    assert plan.best.node == 1
    assert plan.configuration == Configuration(voters=(1, 6), highest_id=7)
    assert "nodes [2, 7]" in plan.explain()
    assert f"USED: {best}, {learner}. " in plan.explain()
    recover(plan)
    for directory, is_removed in ((best, False), (learner, False), (away, True), (joining, True)):
        identity = read_identity(directory)
        assert identity is not None
        assert identity.removed is is_removed


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_those_who_are_left_out_do_not_hinder_a_recovery_that_is_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    members = Configuration(voters=(1, 3, 4), learners=(6,), highest_id=6)
    directories = [disk(tmp_path, node, [1, 1], changed=members) for node in (1, 6)]
    directories += [disk(tmp_path, 2, [1]), disk(tmp_path, 7, [2, 2, 2], changed=members)]
    with monkeypatch.context() as patch:
        lose_power_after(steps, patch)
        with pytest.raises(KeyboardInterrupt):
            recover(plan_recovery(directories))
    plan = plan_recovery(directories)
    assert plan.configuration.voters == (1, 6)
    recover(plan)
    identities = [read_identity(directory) for directory in directories]
    assert len({identity and identity.cluster_id for identity in identities[:2]}) == 1
    assert [identity and identity.removed for identity in identities] == [False, False, True, True]


def test_witnesses_are_no_majority_afterwards(tmp_path: Path) -> None:
    members = Configuration(voters=(1, 2, 3, 4, 5, 6), witnesses=(4, 5), highest_id=6)
    directories = [disk(tmp_path, node, [1], changed=members) for node in (3, 4, 5)]
    plan = plan_recovery(directories)
    assert plan.configuration == Configuration(voters=(3, 4), witnesses=(4,), highest_id=6)
    check(plan.configuration)
    assert "nodes [5]" in plan.explain()
    recover(plan)
    identities = [read_identity(directory) for directory in directories]
    assert [identity and identity.removed for identity in identities] == [False, False, True]
