"""Handing over leadership (thesis §3.10), told as stories."""

from __future__ import annotations

import pytest

from rayraft.raft.membership import Change, ChangeKind, ChangeRefused
from rayraft.raft.raft import Raft
from rayraft.raft.ready import NotLeader, Role, TransferInProgress
from rayraft.raft.types import AppendEntries, Configuration, Heartbeat, RequestVote, TimeoutNow
from tests.harness import Group

SETTINGS = [
    {"check_quorum": quorum, "pre_vote": pre, "max_clock_drift": drift}
    for quorum in (True, False)
    for pre in (True, False)
    for drift in ((None, 0.1) if quorum else (None,))
]


def led_by_1(size: int = 3, **settings: object) -> Group:
    group = Group(size, **settings)  # type: ignore[arg-type]
    group.elect(1)
    group.run(0.02)
    return group


def lagging(**settings: object) -> Group:
    """Node 3 has missed an entry, and its leader is to hand over to it."""
    group = led_by_1(**settings)
    group.isolate(3)
    group.commit(b"x")
    group.heal()
    group.transfer(3)
    return group


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_leadership_goes_where_it_is_sent_in_one_election_and_at_once(settings: dict[str, object]) -> None:
    """Neither what the voters heard of the leader nor what they promised it stands against it."""
    group = led_by_1(5, **settings)
    group.tick(0.1)
    group.settle()
    group.transfer(4)
    group.settle()
    assert group.leader == 4
    assert group[4].term == 2
    group.commit(b"x")
    assert group.data(1) == [b"x"]


def test_the_target_catches_up_first() -> None:
    group = lagging()
    assert not group.count_sent(TimeoutNow)
    group.drop()
    group.run(0.3)
    assert group.count_sent(TimeoutNow) == 1
    assert group.leader == 3
    assert group.data(3) == [b"x"]


def test_meanwhile_proposals_are_refused() -> None:
    group = lagging()
    assert group[1].transferring
    with pytest.raises(TransferInProgress) as refused:
        group.propose(b"y")
    assert refused.value.target == 3
    with pytest.raises(TransferInProgress):
        group.change(Change(ChangeKind.REMOVE, 2))
    with pytest.raises(TransferInProgress):
        group.transfer(2)
    group.transfer(3)  # once more the same: nothing new
    group.settle()
    group.run(0.3)
    assert group.leader == 3
    assert not group[1].transferring


@pytest.mark.parametrize("target", [3])
def test_a_transfer_to_a_dead_node_is_given_up_after_an_election_timeout(target: int) -> None:
    group = led_by_1()
    group.crash(target)
    group.transfer(target)
    group.run(0.99)
    assert group[1].transferring
    group.run(0.02)
    assert not group[1].transferring
    group.commit(b"x")
    assert group.data(2) == [b"x"]
    assert group[1].term == 1


def test_a_lost_order_to_campaign_is_given_up() -> None:
    group = led_by_1()
    group.transfer(2)
    group.drop(TimeoutNow)
    group.run(1.01)
    assert group.leader == 1
    group.transfer(2)
    group.settle()
    assert group.leader == 2


def test_only_a_voter_that_keeps_the_log_can_be_the_target() -> None:
    group = Group(configuration=Configuration((1, 2, 3), learners=(4,), witnesses=(3,)))
    group.elect(1)
    group.run(0.1)
    for target in (3, 4, 9):
        with pytest.raises(ChangeRefused, match=f"node {target} can not lead"):
            group.transfer(target)
    assert not group[1].transferring


def test_a_transfer_to_itself_is_nothing() -> None:
    group = led_by_1()
    group.transfer(1)
    assert not group[1].transferring
    group.commit(b"x")
    assert group.data(1) == [b"x"]


def test_only_the_leader_hands_over() -> None:
    group = led_by_1()
    with pytest.raises(NotLeader):
        group.transfer(3, at=2)
    assert group[2].hand_over() == 0


def test_an_unfit_leader_hands_over_to_the_live_node_that_has_most() -> None:
    group = led_by_1(5)
    group.isolate(2, 3)
    group.commit(b"x")
    group.heal()
    assert group[1].hand_over() == 4
    assert group[1].hand_over() == 0, "that is under way already"
    group.turn(1)
    group.settle()
    assert group.leader == 4


def test_an_unfit_leader_without_a_live_follower_hands_over_to_nobody() -> None:
    group = led_by_1(check_quorum=False)
    group.isolate(1)
    group.run(1.5)
    assert group[1].hand_over() == 0
    assert not group[1].transferring


# --- orders that come late, twice, or to nobody -----------------------------------------------------------------------


def test_a_repeated_order_makes_one_election() -> None:
    group = led_by_1()
    group.transfer(2)
    [order] = group.pick(TimeoutNow)
    group.settle()
    group.receive(order)
    group.settle()
    assert (group.leader, group[2].term) == (2, 2)


def test_an_order_of_an_old_term_is_ignored() -> None:
    group = led_by_1()
    group.elect(2)
    group.receive(TimeoutNow(1, 1, 3))
    assert group[3].role is Role.FOLLOWER
    assert group[3].term == 2


def test_a_late_order_to_a_node_that_lags_costs_an_election_and_no_entry() -> None:
    """The target had everything when the order left; it can not win with less."""
    group = led_by_1()
    group.transfer(3)
    order = group._take(TimeoutNow, {})[0]
    group.run(1.1)
    group.isolate(3)
    group.commit(b"x")
    group.heal()
    group.receive(order)
    group.run(5.0)
    assert group.leader != 3
    assert group.data(3) == [b"x"]


def test_an_order_to_a_leader_a_learner_or_a_stranger_changes_nothing() -> None:
    group = Group(configuration=Configuration((1, 2), learners=(3,)))
    group.elect(1)
    group.run(0.1)
    group.join(4)
    for target in (1, 3, 4):
        group[target].step(TimeoutNow(1, 2, target))
        group.turn(target)
    assert not group.pick(RequestVote)
    assert group.leader == 1


def test_who_was_asked_to_campaign_and_lost_tries_again_as_anyone_does() -> None:
    group = led_by_1()
    group.transfer(2)
    group.deliver(TimeoutNow)
    assert group.pick(RequestVote, transfer=True)
    group.drop(RequestVote)
    group.run(0.5)
    term = group[2].term
    group.run(6.0)
    assert group.leader
    assert [m for m in group.sent if isinstance(m, RequestVote) and m.transfer and m.term > term] == []


def test_reads_go_on_during_a_transfer() -> None:
    group = lagging()
    group.read("r")
    group.settle()
    group.run(0.3)
    answered = [token for state in group.nodes[1].reads for token in state.tokens]
    assert answered + group.nodes[1].refused == ["r"]


def test_a_change_of_members_that_is_pending_does_not_stop_a_transfer() -> None:
    group = led_by_1(4)
    group.change(Change(ChangeKind.REMOVE, 4))
    group.transfer(2)
    group.settle()
    group.run(0.5)
    assert group.leader == 2
    assert group[2].configuration.voters == (1, 2, 3)


@pytest.mark.parametrize("lost", [False, True])
def test_a_joint_phase_does_not_end_during_a_transfer_but_after_it(lost: bool) -> None:
    """To leave it would be an entry that the target lacks, so that it could not win."""
    group = led_by_1(5)
    group.change(Change(ChangeKind.REMOVE, 4), Change(ChangeKind.REMOVE, 5))
    group.transfer(2)
    if lost:
        while not group.pick(TimeoutNow):
            group.deliver()
        group.drop(TimeoutNow)
    group.settle()
    assert lost or group.leader == 2
    group.run(2.0)
    leader = group.leader
    assert leader == (1 if lost else 2)
    assert group[leader].configuration.voters == (1, 2, 3)
    assert not group[leader].configuration.is_joint


# --- under lease ------------------------------------------------------------------------------------------------------


def test_a_leader_that_has_ordered_an_election_reads_by_no_lease_any_more() -> None:
    """The order may be late, the new leader be there already: also after the transfer was given up."""
    group = led_by_1(max_clock_drift=0.1)
    group.tick(0.1)
    group.settle()
    group.transfer(2)
    late = group._take(TimeoutNow, {})[0]
    group.cut(1, 2)
    group.cut(1, 3)
    group[2].step(late)
    group.turn(2)
    group.settle()
    assert group.leader == 2
    group.commit(b"new")
    group.read("r", at=1, how=Raft.lease_read)
    assert not group.nodes[1].reads
    assert not group[1].may_read(group.now)
    group.run(3.0)
    assert group.nodes[1].refused == ["r"]


def test_the_order_may_be_obeyed_after_the_transfer_was_given_up() -> None:
    group = led_by_1(max_clock_drift=0.1)
    group.transfer(2)
    late = group._take(TimeoutNow, {})[0]
    group.run(1.1)
    assert not group[1].transferring
    group.tick(0.1)
    group.deliver(Heartbeat)
    group.settle()
    group.isolate(1)
    group.receive(late)
    group.settle()
    group.commit(b"new")
    group.read("r", at=1, how=Raft.lease_read)
    assert not group.nodes[1].reads


def test_a_promise_to_the_leader_stands_against_everybody_else() -> None:
    group = led_by_1(max_clock_drift=0.1)
    group.tick(0.1)
    group.settle()
    group.receive(RequestVote(2, 3, 2, last_index=9, last_term=1))
    assert group[2].term == 1
    group.receive(RequestVote(2, 3, 2, last_index=9, last_term=1, transfer=True))
    assert group[2].vote == 3


def test_entries_that_the_target_lacks_are_replicated_although_its_disk_was_slow() -> None:
    group = led_by_1()
    group.hold_disk(3)
    group.propose(b"x")
    group.settle()
    group.transfer(3)
    assert not group.pick(TimeoutNow)
    group.settle()
    assert group.leader == 1
    group.release_disk(3)
    group.settle()
    assert group.leader == 3
    assert group.count_sent(AppendEntries, dst=3) >= 2
