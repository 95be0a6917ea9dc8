"""Changes of the members (§6, thesis chapter 4), told as stories. The pure functions are in `test_membership`.

`Laws` checks in every story that the newest configuration in the log is in force, that commits and leaders have its
quorums, that one change is pending at a time and never before the leader's no-op, and that consecutive quorums overlap.
"""

from __future__ import annotations

import pytest

from rayraft.raft.membership import Change, ChangeKind, ChangeRefused
from rayraft.raft.ready import Joint, NotLeader
from rayraft.raft.types import (
    AppendEntries,
    AppendResponse,
    Configuration,
    EntryKind,
    Heartbeat,
    HeartbeatResponse,
    Message,
    Removed,
    RequestVote,
    TimeoutNow,
    VoteResponse,
)
from tests.harness import Group, entries_of


def add(node: int) -> Change:
    return Change(ChangeKind.ADD_VOTER, node)


def learn(node: int) -> Change:
    return Change(ChangeKind.ADD_LEARNER, node)


def remove(node: int) -> Change:
    return Change(ChangeKind.REMOVE, node)


def led_by_1(size: int = 3, **settings: object) -> Group:
    group = Group(size, **settings)  # type: ignore[arg-type]
    group.elect(1)
    group.run(0.02)
    return group


def with_learner(size: int = 3, **settings: object) -> Group:
    """The next node after ``size`` has joined as a learner and caught up."""
    group = led_by_1(size, **settings)
    group.commit(b"old")
    group.join(size + 1)
    group.change(learn(size + 1))
    group.run(0.2)
    return group


def voters(group: Group, id: int) -> tuple[int, ...]:
    return group[id].configuration.voters


def change_and_settle(group: Group, *changes: Change, **how: object) -> None:
    group.change(*changes, **how)
    group.run(0.3)


# --- one at a time (thesis §4.1, §4.2) --------------------------------------------------------------------------------


def test_a_node_joins_as_a_learner_and_becomes_a_voter() -> None:
    group = with_learner()
    assert group.data(4) == [b"old"]
    change_and_settle(group, add(4))
    assert all(voters(group, id) == (1, 2, 3, 4) for id in group.nodes)
    group.isolate(2)
    group.commit(b"three of four")
    assert group.data(4) == [b"old", b"three of four"]


def test_a_configuration_is_in_force_as_soon_as_it_is_in_the_log() -> None:
    group = with_learner()
    group.change(add(4))
    assert voters(group, 1) == (1, 2, 3, 4)
    assert voters(group, 2) == (1, 2, 3)
    group.deliver(AppendEntries, dst=2)
    assert voters(group, 2) == (1, 2, 3, 4)
    assert group[2].log.commit < group[2].log.last_index()


def test_a_configuration_counts_for_its_own_entry() -> None:
    """Four voters need three: that two of the old three hold it is not enough."""
    group = with_learner()
    index = group.change(add(4))
    group.deliver(AppendEntries, dst=2)
    group.deliver(AppendResponse, src=2)
    assert group[1].log.commit < index
    group.deliver(AppendEntries, dst=4)
    group.deliver(AppendResponse, src=4)
    assert group[1].log.commit == index


def test_a_removed_voter_is_not_needed_for_its_removal() -> None:
    group = led_by_1()
    group.isolate(3)
    index = group.change(remove(3))
    group.settle()
    assert group[1].log.commit == index
    assert voters(group, 2) == (1, 2)


def test_a_configuration_that_is_truncated_is_not_in_force_any_longer() -> None:
    group = with_learner(4)
    group.isolate(1, 5)
    group.change(add(5), careful=False)
    group.run(0.2)
    assert voters(group, 1) == voters(group, 5) == (1, 2, 3, 4, 5)
    group.elect(2)
    group.commit(b"else")
    group.heal()
    group.run(2.0)
    assert voters(group, 1) == (1, 2, 3, 4)
    assert voters(group, 5) == (1, 2, 3, 4)
    assert group[5].configuration.learners == (5,)
    assert group.data(1) == group.data(2)


def test_the_known_bug_of_single_server_changes() -> None:
    """Without a committed entry of its own term a leader could pass by its predecessor's change (Ongaro, 2015)."""
    group = led_by_1(4)
    group.isolate(1)
    group.change(remove(2), careful=False)
    group.elect(3)
    group.drop()
    group.crash(3)
    group.heal()
    group.isolate(1, 2)
    group.restart(3)
    group.tick(1.0)
    group.campaign(4)
    while not group[4].is_leader:
        group.heal()
        group.isolate(1)
        group.drop(dst=1)
        group.deliver(RequestVote)
        group.deliver(VoteResponse)
    with pytest.raises(ChangeRefused, match="entry of its term"):
        group.change(remove(3), at=4, careful=False)
    group.settle()
    change_and_settle(group, remove(3), at=4, careful=False)
    assert voters(group, 4) == (1, 2, 4)


def test_no_change_before_the_leaders_first_commit() -> None:
    group = led_by_1()
    group.tick(1.0)
    group.drop()
    group[2].tick(group.now)
    group.campaign(2)
    while not group[2].is_leader:
        group.deliver()
    with pytest.raises(ChangeRefused, match="entry of its term"):
        group.change(remove(3), at=2)
    group.settle()
    assert group.change(remove(3), at=2)


def test_one_change_at_a_time() -> None:
    group = with_learner()
    group.change(add(4))
    with pytest.raises(ChangeRefused, match="not committed yet"):
        group.change(remove(3))
    with pytest.raises(ChangeRefused, match="not committed yet"):
        group[1].propose_preferred([1])
    group.run(0.1)
    change_and_settle(group, remove(3))
    assert voters(group, 2) == (1, 2, 4)


def test_more_than_one_voter_at_a_time_goes_jointly_by_itself() -> None:
    group = with_learner()
    group.change(add(4), remove(3))
    assert group[1].configuration.is_joint
    group.run(0.3)
    assert group[1].configuration == Configuration(voters=(1, 2, 4), highest_id=4)


def test_only_the_leader_changes_the_members() -> None:
    with pytest.raises(NotLeader):
        led_by_1().change(remove(3), at=2)


# --- catching up (thesis §4.2.1) --------------------------------------------------------------------------------------


def test_a_learner_never_counts() -> None:
    """Neither for a commit, nor for an election, nor for the leader's authority, nor for a read."""
    group = with_learner(2)
    group.isolate(2)
    group.propose(b"x")
    group.read("r")
    group.run(0.3)
    assert group.data(3) == [b"old"]
    assert not group.nodes[1].reads
    group.run(2.0)
    assert not group[1].is_leader, "a learner is no quorum"
    group.run(5.0)
    assert not group.leader
    assert not [m for m in group.sent if isinstance(m, RequestVote) and m.src == 3 and m.term > 0]


def test_a_learner_does_not_campaign() -> None:
    group = with_learner()
    group.isolate(4)
    group.run(5.0)
    group.campaign(4)
    assert group[4].term == group[1].term
    assert not [m for m in group.sent if isinstance(m, RequestVote) and m.src == 4 and m.term > 0]


def test_a_learner_that_was_promoted_unawares_votes() -> None:
    """It does not know yet that it is a voter; the candidate does, and may need it (thesis §4.2.1)."""
    group = with_learner(2)
    group.change(add(3))
    group.deliver(AppendEntries, dst=2)
    group.crash(1)
    group.drop()
    group.run(5.0)
    assert group.leader == 2
    assert voters(group, 3) == (1, 2, 3)


def test_a_lagging_learner_is_not_promoted() -> None:
    group = with_learner(max_promotion_lag=3)
    group.isolate(4)
    for i in range(4):
        group.commit(b"%d" % i)
    with pytest.raises(ChangeRefused, match="node 4 is 4 entries behind"):
        group.change(add(4))
    group.heal()
    group.run(0.5)
    assert group.change(add(4))


def test_a_lagging_learner_is_promoted_if_one_insists() -> None:
    group = with_learner(max_promotion_lag=0)
    group.isolate(4)
    group.commit(b"x")
    change_and_settle(group, add(4), careful=False)
    assert voters(group, 2) == (1, 2, 3, 4)


def test_a_change_to_voters_that_are_silent_is_refused() -> None:
    group = led_by_1()
    group.isolate(3)
    group.run(1.5)
    with pytest.raises(ChangeRefused, match=r"silent: \[3\]"):
        group.change(remove(2))
    group.change(remove(2), careful=False)
    group.run(0.1)
    assert group[1].log.commit < group[1].log.last_index()


def test_a_learner_that_never_answered_does_not_pass_for_alive() -> None:
    """Nothing was heard of it: that it was added a moment ago is no sign of life."""
    group = led_by_1(1)
    group.change(learn(2))
    group.settle()
    with pytest.raises(ChangeRefused, match=r"silent: \[2\]"):
        group.change(add(2))
    group.join(2)
    group.run(0.2)
    change_and_settle(group, add(2))
    assert voters(group, 2) == (1, 2)


def test_a_new_leader_does_not_take_the_dead_for_alive() -> None:
    group = led_by_1(3)
    group.crash(1)
    group.elect(2)
    with pytest.raises(ChangeRefused, match=r"silent: \[1\]"):
        group.change(remove(3))


def test_a_voter_that_is_demoted_learns_on() -> None:
    group = led_by_1()
    change_and_settle(group, learn(3))
    assert group[3].configuration == Configuration(voters=(1, 2), learners=(3,), highest_id=3)
    group.commit(b"x")
    assert group.data(3) == [b"x"]
    group.isolate(2)
    group.propose(b"y")
    group.run(0.3)
    assert group.data(3) == [b"x"]


# --- joint consensus (§6) ---------------------------------------------------------------------------------------------


def joined(size: int, *new: int, **settings: object) -> Group:
    """A group with these learners, who have caught up."""
    group = led_by_1(size, **settings)
    group.commit(b"old")
    for id in new:
        group.join(id)
    group.change(*(learn(id) for id in new))
    group.run(0.3)
    return group


SWAP = (add(4), add(5), remove(2), remove(3))


@pytest.mark.parametrize("cut", [(2, 3), (4, 5)])
def test_a_joint_phase_needs_both_halves(cut: tuple[int, ...]) -> None:
    """The old voters are 1, 2, 3 and the new ones 1, 4, 5: neither side alone decides."""
    group = joined(3, 4, 5)
    group.isolate(*cut)
    index = group.change(*SWAP)
    group.settle()
    assert group[1].log.commit < index
    group.heal()
    group.run(0.5)
    assert group[1].configuration == Configuration(voters=(1, 4, 5), highest_id=5)


@pytest.mark.parametrize("cut", [(2, 3), (4, 5)])
def test_a_leader_of_a_joint_phase_needs_the_votes_of_both_halves(cut: tuple[int, ...]) -> None:
    group = joined(3, 4, 5)
    group.change(*SWAP, joint=Joint.EXPLICIT)
    group.run(0.3)
    assert group[1].configuration.is_joint
    group.crash(1)
    group.isolate(*cut)
    group.run(6.0)
    assert not group.leader
    group.heal()
    group.run(6.0)
    assert group.leader


def test_the_joint_phase_ends_by_itself() -> None:
    group = joined(3, 4, 5)
    change_and_settle(group, *SWAP)
    assert voters(group, 1) == voters(group, 4) == voters(group, 5) == (1, 4, 5)
    assert not any(raft.configuration.is_joint for _, raft in group.up())


def test_an_explicit_joint_phase_lasts_until_somebody_leaves_it() -> None:
    group = joined(3, 4, 5)
    change_and_settle(group, *SWAP, joint=Joint.EXPLICIT)
    group.run(5.0)
    assert group[1].configuration.is_joint
    with pytest.raises(ChangeRefused, match="leave it first"):
        group.change(add(6))
    change_and_settle(group)
    assert group[4].configuration == Configuration(voters=(1, 4, 5), highest_id=5)


@pytest.mark.parametrize("known", [True, False])
def test_a_new_leader_ends_the_joint_phase(known: bool) -> None:
    """Whether it knows already that the joint configuration is committed, or finds that out with its no-op."""
    group = joined(3, 4, 5)
    joint = group.change(*SWAP)
    group.deliver(AppendEntries)
    if known:
        group.deliver(AppendResponse)
        assert group[1].log.commit == joint
        assert not group[1].configuration.is_joint, "the leave is appended at once"
    group.crash(1)
    group.drop()
    assert group[4].configuration.is_joint
    group.run(8.0)
    assert group.leader in (4, 5), "2 and 3 are out, and the new leader has let them go"
    assert voters(group, group.leader) == (1, 4, 5)
    assert not group[group.leader].configuration.is_joint


def test_a_joint_phase_is_rolled_back_by_a_leader_that_never_heard_of_it() -> None:
    group = joined(3, 4, 5)
    group.isolate(1)
    group.change(*SWAP, careful=False)
    group.elect(2)
    group.heal()
    group.run(1.0)
    assert all(voters(group, id) == (1, 2, 3) for id in group.nodes)
    assert not group[1].configuration.is_joint


def test_from_five_nodes_to_two_in_one_change() -> None:
    group = led_by_1(5)
    change_and_settle(group, remove(3), remove(4), remove(5))
    assert voters(group, 1) == voters(group, 2) == (1, 2)
    for id in (3, 4, 5):
        assert group[id].removed
        group.crash(id)
    group.commit(b"two are enough")
    assert group.data(2) == [b"two are enough"]


def test_from_one_node_to_five_in_one_change() -> None:
    group = joined(1, 2, 3, 4, 5)
    change_and_settle(group, add(2), add(3), add(4), add(5))
    group.crash(1)
    group.run(6.0)
    assert group.leader
    assert voters(group, group.leader) == (1, 2, 3, 4, 5)


def test_a_voter_that_is_demoted_votes_until_the_joint_phase_ends() -> None:
    group = joined(3, 4)
    change_and_settle(group, add(4), learn(3), joint=Joint.EXPLICIT)
    assert group[1].configuration.learners_next == (3,)
    group.isolate(2)
    group.commit(b"1, 3 and 4")
    assert group.data(4)[-1] == b"1, 3 and 4"
    group.heal()
    change_and_settle(group)
    assert group[3].configuration == Configuration(voters=(1, 2, 4), learners=(3,), highest_id=4)


# --- restarts, compaction, snapshots ----------------------------------------------------------------------------------


@pytest.mark.parametrize("compact", [False, True])
def test_the_members_survive_a_restart(compact: bool) -> None:
    group = joined(3, 4, 5)
    change_and_settle(group, *SWAP, joint=Joint.EXPLICIT)
    before = group[4].configuration
    if compact:
        group.compact(4)
        assert group.nodes[4].store.snapshot().configuration == before
    group.crash(4)
    group.restart(4)
    assert group[4].configuration == before
    assert before.is_joint


def test_a_change_that_is_not_committed_survives_a_restart_and_can_be_truncated_after_it() -> None:
    group = led_by_1()
    group.compact(1)
    group.isolate(1)
    group.change(remove(3), careful=False)
    group.crash(1)
    group.restart(1)
    assert voters(group, 1) == (1, 2)
    group.elect(2)
    group.heal()
    group.run(0.5)
    assert voters(group, 1) == (1, 2, 3)


def test_a_snapshot_brings_the_members() -> None:
    group = led_by_1()
    group.isolate(3)
    group.join(4)
    group.change(learn(4))
    group.run(0.2)
    change_and_settle(group, add(4))
    group.commit(b"x")
    for id in (1, 2, 4):
        group.compact(id)
    group.heal()
    group.run(0.5)
    assert voters(group, 3) == (1, 2, 3, 4)
    assert group.nodes[3].store.snapshot().configuration.voters == (1, 2, 3, 4)
    assert not [e for e in entries_of(group[3]) if e.kind is EntryKind.CONFIGURATION]


def test_a_new_node_joins_by_a_snapshot() -> None:
    group = led_by_1()
    group.commit(b"x")
    group.compact(1)
    group.join(4)
    group.change(learn(4))
    group.run(0.5)
    change_and_settle(group, add(4))
    assert group.data(4) == [b"x"]
    assert voters(group, 4) == (1, 2, 3, 4)


# --- removal (thesis §4.2.2, §4.2.3) ----------------------------------------------------------------------------------


def test_a_removed_node_learns_of_it() -> None:
    group = led_by_1()
    assert not group[3].removed
    change_and_settle(group, remove(3))
    assert group[3].removed
    assert not group[1].removed
    group.run(3.0)
    assert 3 not in group[1].progress, "it was served long enough"
    assert group.leader == 1
    assert group[3].term == group[1].term, "who is removed does not campaign"


def test_a_node_that_is_to_be_removed_is_served_until_that_is_committed() -> None:
    group = led_by_1()
    group.isolate(2)
    group.change(remove(3))
    group.run(0.9)
    assert not group[3].removed
    assert 3 in group[1].progress
    group.heal()
    group.run(0.3)
    assert group[3].removed


@pytest.mark.parametrize("pre_vote", [True, False])
def test_a_node_that_was_removed_while_it_was_away_is_told(pre_vote: bool) -> None:
    group = led_by_1(4, pre_vote=pre_vote)
    group.isolate(4)
    change_and_settle(group, remove(4))
    group.run(5.0)
    term = group[1].term
    group.heal()
    group.drop()
    group.run(5.0)
    assert group.count_sent(Removed, dst=4)
    assert group[4].removed
    assert group[1].is_leader
    assert group[1].term == term, "it disturbed nobody"


@pytest.mark.parametrize("silent", ["learner", "witness", "voter that has the change in its log"])
def test_a_node_that_may_not_campaign_is_told_too(silent: str) -> None:
    witness = Configuration((1, 2, 3, 4), witnesses=(4,))
    group = with_learner() if silent == "learner" else led_by_1(4, configuration=None if "voter" in silent else witness)
    if "voter" not in silent:
        group.isolate(4)
    group.change(remove(4))
    group.deliver(AppendEntries)
    group.isolate(4)
    group.run(5.0)
    assert not group[4].removed
    term = group[1].term
    group.heal()
    group.run(5.0)
    assert group[4].removed
    assert group[1].is_leader
    assert group[1].term == term


def test_who_asks_only_whether_it_was_removed_gets_no_vote_and_changes_nothing() -> None:
    group = with_learner()
    group.isolate(4)
    group.run(2.5)
    group.heal()
    group.drop()
    group.crash(1)
    group.run(1.9)
    term = max(raft.term for _, raft in group.up())
    group.campaign(4)
    asked = group.pick(RequestVote, src=4)
    assert asked
    assert not group[4].removed
    group.deliver(RequestVote, src=4)
    assert not group.pick(VoteResponse, dst=4, granted=True)
    assert max(raft.term for _, raft in group.up()) == term


def test_late_messages_of_a_removed_node_change_nothing() -> None:
    group = led_by_1()
    group.propose(b"x")
    group.deliver(AppendEntries)
    old = group.pick(Message, src=3)
    assert old
    group.wire = [m for m in group.wire if m.src != 3]
    group.settle()
    change_and_settle(group, remove(3))
    group.run(2.0)
    term = group[1].term
    for message in [*old, AppendResponse(term, 3, 1, True, 99), HeartbeatResponse(term, 3, 1, 99, 1.0, 1.0)]:
        group.receive(message)
    group.receive(RequestVote(term + 1, 3, 2, last_index=99, last_term=99))
    group.run(1.0)
    assert (group.leader, group[2].term) == (1, term)


def test_a_removed_node_gets_no_vote_and_gives_no_news_of_its_term() -> None:
    group = led_by_1(check_quorum=False, pre_vote=False)
    change_and_settle(group, remove(3))
    term = group[2].term
    group.receive(RequestVote(term + 7, 3, 2, last_index=99, last_term=99))
    assert group[2].term == term
    assert not group.pick(VoteResponse, dst=3)
    assert group.pick(Removed, dst=3)


def test_a_removed_node_disturbs_nobody_while_the_next_change_is_under_way() -> None:
    """Found by the simulator, seed 100906: what is not committed yet made its removal forgotten."""
    group = led_by_1(4, check_quorum=False, pre_vote=False)
    change_and_settle(group, remove(4))
    group.change(remove(3))
    group.deliver(AppendEntries, dst=2)
    assert group[2].log.configurations.newest_index > group[2].log.commit
    term = group[2].term
    group.receive(RequestVote(term + 7, 4, 2, last_index=99, last_term=99))
    assert group[2].term == term
    assert group.pick(Removed, dst=4)


def test_the_answer_of_a_removed_node_that_is_still_served_deposes_nobody() -> None:
    """Found by the simulator, seed 308: a node that was paused for long campaigns, and then hears of its removal."""
    group = led_by_1(4, pre_vote=False)
    group.isolate(4)
    group.change(remove(4))
    group.settle()
    group.campaign(4)
    term = group[4].term
    assert term > group[1].term
    assert 4 in group[1].progress
    group.heal()
    group.receive(AppendResponse(term, 4, 1, success=False, index=0))
    assert group[1].is_leader
    assert group.pick(Removed, dst=4)


def test_a_removal_that_is_not_committed_is_told_to_nobody() -> None:
    """It may be rolled back, and then the node is a member as before."""
    group = led_by_1()
    group.isolate(1)
    group.change(remove(3), careful=False)
    group.heal()
    group.drop()
    group.receive(RequestVote(1, 3, 1, last_index=0, last_term=0))
    assert not group.count_sent(Removed)
    group.elect(2)
    group.run(0.5)
    assert not group[3].removed
    assert voters(group, 1) == (1, 2, 3)


def test_ids_are_never_used_again() -> None:
    group = led_by_1()
    change_and_settle(group, remove(3))
    for change in (add(3), learn(3), Change(ChangeKind.ADD_WITNESS, 3)):
        with pytest.raises(ChangeRefused, match="take 4 or more"):
            group.change(change)
    group.compact(1)
    group.crash(1)
    group.restart(1)
    group.elect(1)
    group.run(0.1)
    with pytest.raises(ChangeRefused, match="take 4 or more"):
        group.change(learn(3), careful=False)


# --- removal of the leader (thesis §4.2.2) ----------------------------------------------------------------------------


def test_a_leader_that_is_removed_serves_the_change_and_hands_over() -> None:
    group = led_by_1()
    index = group.change(remove(1))
    assert group[1].is_leader
    group.settle()
    assert group[1].log.commit >= index
    assert group.count_sent(TimeoutNow, src=1) >= 1
    assert group.leader in (2, 3)
    group.run(3.0)
    assert group[1].removed
    assert not group[1].is_leader
    group.commit(b"x")
    assert group.data(2) == group.data(3) == [b"x"]
    assert group.data(1) == []


def test_a_leader_that_is_removed_does_not_count_itself() -> None:
    group = led_by_1()
    group.isolate(3)
    index = group.change(remove(1))
    group.settle()
    assert group[1].log.commit < index, "of the two new voters only one has it"
    group.heal()
    group.run(0.5)
    assert group[2].log.commit >= index


def test_a_leader_that_is_removed_steps_down_even_if_nobody_can_take_over() -> None:
    group = led_by_1()
    group.change(remove(1))
    group.deliver(AppendEntries)
    group.deliver(AppendResponse)
    group.drop(TimeoutNow)
    group.isolate(1)
    group.run(1.01)
    assert not group[1].is_leader


def test_a_leader_that_was_removed_during_a_transfer_steps_down_when_that_fails() -> None:
    group = led_by_1()
    group.change(remove(1))
    group.transfer(2)
    group.deliver(AppendEntries)
    group.deliver(AppendResponse)
    group.drop(TimeoutNow)
    assert group[1].is_leader
    for _ in range(12):
        group.tick(0.1)
        group.drop(TimeoutNow)
        group.deliver()
    assert not group[1].is_leader


@pytest.mark.parametrize("change", [remove(1), learn(1)])
def test_who_alone_has_the_entry_that_removes_it_still_brings_it_to_the_others(change: Change) -> None:
    """Node 2 needs the vote of node 1 by what it knows, and has less: only node 1 can win (thesis §4.2.2)."""
    group = led_by_1(2)
    group.change(change)
    group.drop()
    group.crash(1)
    group.restart(1)
    group.run(12.0)
    assert group.leader == 2
    assert voters(group, 2) == (2,)
    assert group[1].configuration == group[2].configuration


def test_a_leader_that_leaves_by_joint_consensus() -> None:
    group = joined(3, 4, 5)
    change_and_settle(group, add(4), add(5), remove(1), remove(2))
    group.run(3.0)
    assert group.leader in (3, 4, 5)
    assert voters(group, group.leader) == (3, 4, 5)
    assert group[1].removed
    assert group[2].removed


def test_a_leader_that_is_demoted_hands_over_and_learns_on() -> None:
    group = led_by_1()
    change_and_settle(group, learn(1))
    assert group.leader in (2, 3)
    assert not group[1].removed
    group.commit(b"x")
    assert group.data(1) == [b"x"]


# --- witnesses --------------------------------------------------------------------------------------------------------

TWO_AND_A_WITNESS = Configuration(voters=(1, 2, 3), witnesses=(3,))


def with_witness(**settings: object) -> Group:
    return led_by_1(configuration=TWO_AND_A_WITNESS, **settings)


def test_a_witness_acknowledges_and_keeps_no_data() -> None:
    group = with_witness()
    group.isolate(2)
    group.commit(b"x")
    assert group.data(1) == [b"x"]
    assert [e.data for e in entries_of(group[3])] == [b"", b""]
    assert [e.kind for e in entries_of(group[3])] == [EntryKind.NOOP, EntryKind.COMMAND]


def test_a_witness_keeps_the_members() -> None:
    group = with_witness()
    group.join(4)
    change_and_settle(group, learn(4))
    change_and_settle(group, add(4))
    group.crash(3)
    group.restart(3)
    assert group[3].configuration == group[1].configuration
    assert group[3].is_witness


def test_two_full_nodes_and_a_witness_survive_the_loss_of_one_full_node() -> None:
    group = with_witness()
    group.commit(b"x")
    group.crash(1)
    group.run(5.0)
    assert group.leader == 2
    group.commit(b"y")
    assert group.data(2) == [b"x", b"y"]


def test_a_witness_never_campaigns() -> None:
    group = with_witness()
    group.crash(1)
    group.crash(2)
    group.report_down(3, 1)
    group.run(5.0)
    group.campaign(3)
    group.receive(TimeoutNow(group[3].term, 1, 3))
    assert group[3].term == 1
    assert not [m for m in group.sent if isinstance(m, RequestVote) and m.src == 3 and m.term > 0]


def test_a_full_node_without_what_the_witness_acknowledged_can_not_win() -> None:
    group = with_witness()
    group.isolate(2)
    group.commit(b"x")
    group.crash(1)
    group.heal()
    group.run(6.0)
    assert not group.leader
    group.restart(1)
    group.run(6.0)
    assert group.leader == 1
    assert group.data(2) == [b"x"]


def test_a_witness_gets_nothing_that_its_leader_may_still_lose() -> None:
    """Else node 1, the only full node left, could never win again: the witness would have more than it, and no data."""
    group = with_witness()
    group.isolate(2)
    group.hold_disk(1)
    group.propose(b"x")
    group.settle()
    group.crash(1)
    group.restart(1)
    group.run(6.0)
    assert group.leader == 1
    group.commit(b"y")
    assert group.data(1) == [b"y"]


def test_a_witness_gets_an_entry_as_soon_as_its_leader_has_written_it() -> None:
    group = with_witness()
    group.isolate(2)
    group.hold_disk(1)
    group.propose(b"x")
    assert not [m for m in group.pick(AppendEntries, dst=3) if m.entries]
    group.release_disk(1)
    group.settle()
    assert group.data(1) == [b"x"]


def test_a_witness_joins_and_goes() -> None:
    group = led_by_1(2)
    group.commit(b"x")
    group.join(3)
    change_and_settle(group, Change(ChangeKind.ADD_WITNESS, 3))
    assert group[3].is_witness
    assert group[3].log.applied == group[1].log.applied
    group.crash(2)
    group.commit(b"y")
    assert all(e.data == b"" for e in entries_of(group[3]) if e.kind is EntryKind.COMMAND)
    group.restart(2)
    group.run(0.3)
    change_and_settle(group, remove(3))
    assert group[3].removed
    group.commit(b"z")
    assert group.data(2) == [b"x", b"y", b"z"]


def test_a_crash_is_answered_at_once_by_the_full_nodes_only() -> None:
    """The witness has no rank among those who campaign after a reported crash."""
    group = Group(configuration=Configuration(voters=(1, 2, 3), witnesses=(1,)))
    group.elect(2)
    group.run(0.1)
    group.crash(2)
    group.report_down(1, 2)
    group.report_down(3, 2)
    group.run(0.01)
    assert group.leader == 3


# --- preferred leaders ------------------------------------------------------------------------------------------------


def prefer(group: Group, *nodes: int) -> None:
    group[group.leader].propose_preferred(nodes)
    group.turn(group.leader)
    group.run(0.1)


def test_leadership_moves_to_the_preferred_node() -> None:
    group = led_by_1()
    prefer(group, 3, 2)
    group.run(6.0)
    assert group.leader == 3
    term = group[3].term
    group.run(30.0)
    assert (group.leader, group[3].term) == (3, term), "it does not flap"


def test_leadership_moves_to_the_preferred_node_also_while_reads_never_pause() -> None:
    """Every round of reads is a heartbeat ahead of time, so that none falls due."""
    group = led_by_1()
    prefer(group, 3)
    for number in range(120):
        group.read(number)
        group.run(0.05)
    assert group.leader == 3


def test_leadership_moves_to_the_next_preferred_node_while_the_first_is_down_and_then_to_the_first() -> None:
    group = led_by_1()
    prefer(group, 3, 2)
    group.crash(3)
    group.run(10.0)
    assert group.leader == 2
    group.restart(3)
    group.run(10.0)
    assert group.leader == 3


def test_leadership_does_not_move_to_a_preferred_node_that_lags() -> None:
    group = led_by_1(max_promotion_lag=0)
    prefer(group, 3)
    group.commit(b"x")
    for _ in range(100):
        group.drop(AppendEntries, dst=3)
        group.propose(b"y")
        group.drop(AppendEntries, dst=3)
        group.settle()
        group.tick(0.1)
        group.drop(AppendEntries, dst=3)
        group.settle()
    assert group.leader == 1
    assert group.count_sent(TimeoutNow) == 0


def test_a_transfer_to_the_preferred_node_that_fails_is_not_repeated_at_once() -> None:
    group = led_by_1()
    prefer(group, 3)
    for _ in range(120):
        group.tick(0.1)
        group.drop(TimeoutNow)
        group.settle()
    assert group.leader == 1
    assert group.count_sent(TimeoutNow) <= 3


def test_a_learner_or_witness_is_never_made_leader_by_preference() -> None:
    group = with_learner(configuration=TWO_AND_A_WITNESS)
    with pytest.raises(ChangeRefused, match="witness"):
        prefer(group, 3)
    with pytest.raises(ChangeRefused, match="not a member"):
        prefer(group, 9)
    prefer(group, 4)
    group.run(12.0)
    assert group.leader == 1
    change_and_settle(group, add(4))
    group.run(12.0)
    assert group.leader == 4, "a preference waits for the learner to become a voter"


def test_a_preferred_node_that_is_removed_is_preferred_no_longer() -> None:
    group = led_by_1()
    prefer(group, 3, 2)
    change_and_settle(group, remove(3))
    assert group[1].configuration.preferred == (2,)
    group.run(6.0)
    assert group.leader == 2
    assert isinstance(group.sent[-1], (Heartbeat, HeartbeatResponse))


# --- reads ------------------------------------------------------------------------------------------------------------


def test_a_read_that_the_new_quorum_has_confirmed_is_answered() -> None:
    """Seed 51200 of 20 s: the last confirmation that it needed had come already, and would not come again."""
    group = led_by_1(4)
    group.cut(1, 3)
    group.cut(1, 4)
    for token in ("first", "second", "third"):
        group.read(token, at=1)
        group.settle()
    assert not group.nodes[1].reads, "one of three others has confirmed it"
    group.change(remove(4), at=1)
    group.run(0.2)
    assert voters(group, 1) == (1, 2, 3)
    assert [token for state in group.nodes[1].reads for token in state.tokens] == ["first", "second", "third"]
