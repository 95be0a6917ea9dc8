"""A node stands still while it is copied for a digest: the nodes take turns, and a majority goes on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from rayraft.raft.quorum import UNBOUNDED, majority
from rayraft.raft.types import Configuration, NodeId
from rayraft.replica import Replica
from rayraft.replica.divergence import FAR_BEHIND, STAGGER
from tests.replica.support import Caller, Group, ask, result_of
from tests.replica.test_divergence import compare, healthy, write

FIVE = (1, 2, 3, 4, 5)


def digesting(group: Group) -> list[tuple[float, NodeId]]:
    """When which node began with a digest."""
    begun = []
    for node, replica in group.replicas.items():
        digester = replica.state_check._digester

        def begin(index: int, digest: Callable[[], bytes], node: NodeId = node, really: Any = digester.begin) -> None:
            begun.append((group.now, node))
            really(index, digest)

        vars(digester)["begin"] = begin
    return begun


def one_waits(**settings: Any) -> tuple[Group, Caller, Replica]:
    """A group where the leader had its turn at a new mark, and the node whose turn is the last one."""
    group = Group(digest_entries=1000, **settings)
    caller = Caller(group, group.elect())
    write(group, caller, 3)
    mark = group.elect().raft.propose_digest()
    group.until(lambda: all(replica.state_check.marked == mark for replica in group.replicas.values()))
    last = max(group.replicas.values(), key=lambda replica: replica.state_check._digest_at or 0.0)
    assert last.state_check._digest_at is not None
    assert last.state_check._digest_at > group.now
    return group, caller, last


@pytest.mark.parametrize("voters", [(1, 2, 3), FIVE])
def test_a_majority_is_never_copied_at_one_moment_and_the_leader_comes_first(voters: tuple[NodeId, ...]) -> None:
    check_turns(voters)


def check_turns(voters: tuple[NodeId, ...] = FIVE) -> None:
    group = Group(digest_entries=1000, voters=voters)
    write(group, Caller(group, group.elect()), 3)
    leader, begun = group.elect().raft.id, digesting(group)
    compare(group)
    group.rest()
    assert sorted(node for _, node in begun) == list(voters)
    assert min(begun)[1] == leader
    assert max(Counter(moment for moment, _ in begun).values()) == len(voters) - majority(len(voters))
    moments = sorted({moment for moment, _ in begun})
    assert all(later - earlier > STAGGER / 2 for earlier, later in pairwise(moments))
    assert healthy(group)


def test_with_a_witness_and_in_a_group_of_two_everyone_has_a_turn() -> None:
    for voters, witnesses in (((1, 2, 3), (3,)), ((1, 2), ())):
        group = Group(digest_entries=1000, voters=voters, witnesses=witnesses)
        write(group, Caller(group, group.elect()), 3)
        begun = digesting(group)
        compare(group)
        assert sorted(node for _, node in begun) == [1, 2]


@pytest.mark.parametrize(
    ("configuration", "places"),
    [
        (Configuration(voters=(1, 2, 3)), {1: 0, 2: 1, 3: 2}),
        (Configuration(voters=(1, 2, 3), witnesses=(2,)), {3: 1}),
        (Configuration(voters=(1, 2, 3), learners=(4,)), {2: 1, 3: 2, 4: 1}),
        (Configuration(voters=(1, 2)), {2: 1}),
        (Configuration(voters=(1, 2, 3, 4)), {2: 1, 3: 2, 4: 3}),
        (Configuration(voters=FIVE), {2: 1, 3: 1, 4: 2, 5: 2}),
        (Configuration(voters=(1, 2, 3), outgoing=(1, 4, 5, 6, 7)), {2: 1, 3: 2, 4: 3, 5: 4, 6: 5, 7: 6}),
        (Configuration(), {2: 0}),  # it has not learned yet who they are
    ],
)
def test_each_half_of_a_joint_configuration_keeps_a_majority(
    configuration: Configuration, places: dict[NodeId, int]
) -> None:
    group = Group(digest_entries=1000)
    group.elect()
    check = group[2].state_check
    raft = SimpleNamespace(id=2, leader=1, configuration=configuration, log=group[2].raft.log)
    vars(check)["_raft"] = raft
    for raft.id, place in places.items():
        assert check._place() == place


def check_commits_go_on() -> None:
    group, caller, node = one_waits()
    mark = node.state_check.marked
    write(group, caller, 5, "behind")
    assert node.raft.log.commit > mark
    assert node.raft.log.applied == mark
    group.cut = {other.raft.id for other in group.followers()} - {node.raft.id}  # it is needed, and acknowledges
    write(group, caller, 1, "needed")
    group.cut = set()
    group.until(lambda: node.raft.log.applied > mark)
    group.until(lambda: healthy(group) and all(replica.status().checked == mark for replica in group.replicas.values()))


def test_who_waits_for_its_turn_acknowledges_entries_and_applies_none() -> None:
    check_commits_go_on()


def check_a_new_leader_does_not_wait() -> None:
    group, _, node = one_waits(election_timeout=0.1, heartbeat_interval=0.02)
    node.state_check._digest_at = group.now + 1000.0
    node.raft.report_down(group.elect().raft.id, node.raft.now)
    group.cut = {group.elect().raft.id}
    group.elect(node.raft.id)
    assert node.raft.apply_limit == UNBOUNDED
    answers = ask(node, "get", "k0")
    group.until(lambda: answers)
    assert result_of(answers) == 0


def test_a_new_leader_does_not_wait_for_its_turn() -> None:
    check_a_new_leader_does_not_wait()


def check_a_snapshot_ends_the_turn() -> None:
    group, caller, node = one_waits(snapshot_entries=10, snapshot_trailing=0)
    node.state_check._digest_at = group.now + 1000.0
    group.cut = {node.raft.id}
    for _ in range(8):
        write(group, caller, 10)
        group.rest()
    group.cut = set()
    group.until(lambda: node.counters.snapshots_installed)
    group.until(group.all_equal)


def test_a_snapshot_from_the_leader_ends_the_turn() -> None:
    check_a_snapshot_ends_the_turn()


def check_nobody_waits_at_old_marks() -> None:
    group = Group(digest_entries=2 * FAR_BEHIND)
    caller = Caller(group, group.elect())
    node = group.followers()[0].raft.id
    group.cut = {node}
    for _ in range(2):
        write(group, caller, 2 * FAR_BEHIND)
        group.rest(2.0)
    assert group.elect().status().counters.digests >= 2
    write(group, caller, FAR_BEHIND + FAR_BEHIND // 2)
    group.cut = set()
    group.until(lambda: group[node].raft.log.commit > 5 * FAR_BEHIND)
    back = group.now
    group.until(group.all_equal)
    assert group.now - back < STAGGER


def test_nobody_waits_at_marks_of_the_past() -> None:
    check_nobody_waits_at_old_marks()
