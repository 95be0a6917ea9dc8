"""The rules of the Raft paper (extended version, by section) and of Ongaro's dissertation, told as stories.

`Group` delivers nothing by itself; `Laws` in the harness checks safety after every turn, in every story.
"""

from __future__ import annotations

import random

import pytest

from rayraft.raft.progress import ProgressState
from rayraft.raft.ready import NotLeader, Role, TooMuchUncommitted
from rayraft.raft.types import (
    NO_NODE,
    AnyMessage,
    AppendEntries,
    AppendResponse,
    EntryKind,
    Heartbeat,
    HeartbeatResponse,
    InstallSnapshot,
    Message,
    RequestVote,
    SnapshotMeta,
    VoteResponse,
)
from tests.harness import Group, check_everywhere, entry


def led_by_1(size: int = 3, **settings: object) -> Group:
    """A group whose leader is node 1, with its no-op committed and known everywhere."""
    group = Group(size, **settings)  # type: ignore[arg-type]
    group.elect(1)
    group.run(0.02)
    return group


# --- §5.1 terms -------------------------------------------------------------------------------------------------------

FROM_TERM_9 = [
    RequestVote(9, 2, 1, last_index=0, last_term=0),
    VoteResponse(9, 2, 1, granted=False),
    AppendEntries(9, 2, 1, prev_index=0, prev_term=0, commit=0),
    AppendResponse(9, 2, 1, success=False, index=0),
    Heartbeat(9, 2, 1, commit=0),
    HeartbeatResponse(9, 2, 1),
    InstallSnapshot(9, 2, 1, SnapshotMeta()),
]


@pytest.mark.parametrize("message", FROM_TERM_9, ids=lambda m: type(m).__name__)
def test_a_higher_term_makes_a_leader_step_down(message: AnyMessage) -> None:
    group = led_by_1(check_quorum=False)  # which protects a leader from vote requests; see thesis §4.2.3 below
    group.receive(message)
    assert group[1].role is Role.FOLLOWER
    assert (group[1].term, group[1].vote) == (9, NO_NODE)


def test_a_stale_leader_is_refused_and_told() -> None:
    group = Group(logs={2: [1, 1]}, term=5)
    group.receive(AppendEntries(3, 1, 2, prev_index=1, prev_term=1, commit=2, entries=(entry(2, 3),)))
    assert group.terms(2) == [1, 1]
    assert group[2].log.commit == 0
    assert group.pick(AppendResponse) == [AppendResponse(5, 2, 1, success=False, index=0)]


def test_a_cut_off_leader_steps_down_when_it_hears_of_the_new_term() -> None:
    group = led_by_1(check_quorum=False)
    group.isolate(1)
    group.elect(2)
    assert group[1].is_leader
    group.heal()
    group.run(0.2)
    assert group[1].role is Role.FOLLOWER
    assert group[1].leader == 2


def test_a_stale_candidate_is_refused_and_told() -> None:
    group = Group(term=5)
    group.receive(RequestVote(3, 1, 2, last_index=9, last_term=3))
    assert group.pick() == [VoteResponse(5, 2, 1, granted=False)]


# --- §5.2 elections ---------------------------------------------------------------------------------------------------


def ask(candidate: int, voter: int, term: int = 1, last: tuple[int, int] = (0, 0), pre_vote: bool = False) -> Message:
    index, last_term = last
    return RequestVote(term, candidate, voter, last_index=index, last_term=last_term, pre_vote=pre_vote)


def answers(group: Group) -> dict[int, bool]:
    """Takes the vote responses off the wire: who was told what."""
    told = {message.dst: message.granted for message in group.pick(VoteResponse)}
    group.drop()
    return told


def test_one_vote_a_term_first_come_first_served() -> None:
    group = Group()
    group.receive(ask(1, voter=3))
    assert answers(group) == {1: True}
    group.receive(ask(2, voter=3))
    assert answers(group) == {2: False}
    group.receive(ask(1, voter=3))
    assert answers(group) == {1: True}, "a repeated request has the same answer"


def test_a_vote_survives_a_crash() -> None:
    group = Group()
    group.receive(ask(1, voter=3))
    group.crash(3)
    group.restart(3)
    group.drop()
    group.receive(ask(2, voter=3))
    assert answers(group) == {2: False}


def test_a_vote_leaves_only_after_its_write() -> None:
    group = Group()
    group.hold_disk(3)
    group.receive(ask(1, voter=3))
    assert not group.wire
    group.release_disk(3)
    assert answers(group) == {1: True}


def test_a_vote_that_was_never_written_was_never_given() -> None:
    group = Group()
    group.hold_disk(3)
    group.receive(ask(1, voter=3))
    group.crash(3)
    group.restart(3)
    group.receive(ask(2, voter=3))
    assert answers(group) == {2: True}


def test_a_candidate_votes_for_itself_durably_before_it_asks() -> None:
    group = Group(pre_vote=False)
    group.hold_disk(1)
    group.campaign(1)
    assert not group.wire
    group.release_disk(1)
    assert len(group.pick(RequestVote, term=1)) == 2
    group.crash(1)
    group.restart(1)
    group.receive(ask(2, voter=1))
    assert not group.pick(VoteResponse, granted=True)


def test_a_majority_elects_and_less_does_not() -> None:
    group = Group(5, pre_vote=False)
    group.campaign(1)
    group.deliver(RequestVote, dst=2)
    group.deliver(VoteResponse)
    group.deliver(VoteResponse)
    assert group[1].role is Role.CANDIDATE
    group.deliver(RequestVote, dst=3)
    group.deliver(VoteResponse)
    assert group[1].is_leader


def test_one_voter_can_not_be_counted_twice() -> None:
    group = Group(5, pre_vote=False)
    group.campaign(1)
    group.deliver(RequestVote, dst=2)
    for message in group.pick(VoteResponse) * 3:
        group.receive(message)
    assert group[1].role is Role.CANDIDATE


def test_votes_of_an_earlier_term_do_not_count() -> None:
    group = Group(pre_vote=False)
    group.campaign(1)
    group.deliver(RequestVote, dst=2)
    late = group.pick(VoteResponse)
    group.campaign(1)
    for message in late:
        group.receive(message)
    assert group[1].role is Role.CANDIDATE


def test_a_split_vote_is_resolved_by_new_random_timeouts() -> None:
    group = Group(4, pre_vote=False)
    group.campaign(1)
    group.campaign(2)
    group.deliver(RequestVote, src=1, dst=3)
    group.deliver(RequestVote, src=2, dst=4)
    group.settle()
    assert not group.leader
    assert group[1].next_deadline != group[2].next_deadline
    group.run(10.0)
    assert group.leader


def test_election_timeouts_are_spread_over_one_to_two_times_the_setting() -> None:
    group = Group(1, election_timeout=1.0)
    timeouts = []
    for seed in range(500):
        group = Group(3, seed=seed, election_timeout=1.0) if seed % 50 == 0 else group
        group.receive(Heartbeat(1, 2, 1, commit=0))
        timeouts.append(group[1].next_deadline - group.now)
    assert all(1.0 <= timeout <= 2.0 for timeout in timeouts)
    assert {int(timeout * 10) for timeout in timeouts} >= set(range(10, 20)), "every tenth of the range is used"


def test_a_candidate_follows_a_leader_of_its_own_term() -> None:
    group = Group(pre_vote=False)
    group.campaign(1)
    group.receive(AppendEntries(1, 2, 1, prev_index=0, prev_term=0, commit=0))
    assert (group[1].role, group[1].leader, group[1].term) == (Role.FOLLOWER, 2, 1)


def test_a_vote_that_is_refused_does_not_delay_the_voter() -> None:
    group = Group(logs={3: [1, 1]})
    due = group[3].next_deadline
    group.tick(0.5)
    group.receive(ask(1, voter=3, term=2))
    assert answers(group) == {1: False}
    assert group[3].next_deadline == due


def test_a_vote_that_is_given_gives_the_candidate_time() -> None:
    group = Group()
    group.tick(0.5)
    group.receive(ask(1, voter=3))
    assert group[3].next_deadline >= group.now + 1.0


# --- §5.3 log replication ---------------------------------------------------------------------------------------------


def test_a_command_is_committed_by_a_majority_and_applied_by_all() -> None:
    group = led_by_1()
    group.commit(b"x", b"y")
    assert [group.data(id) for id in (1, 2, 3)] == [[b"x", b"y"]] * 3


def test_only_the_leader_takes_proposals_and_the_others_say_who_that_is() -> None:
    group = led_by_1()
    with pytest.raises(NotLeader) as refusal:
        group.propose(b"x", at=2)
    assert refusal.value.leader == 1


def test_entries_that_do_not_follow_the_log_are_refused() -> None:
    group = Group(logs={2: [1, 1]}, term=3)
    for prev_index, prev_term in ((5, 1), (2, 2)):
        group.receive(AppendEntries(3, 1, 2, prev_index, prev_term, commit=9, entries=(entry(prev_index + 1, 3),)))
    assert group.terms(2) == [1, 1]
    assert group[2].log.commit == 0
    assert [message.success for message in group.pick(AppendResponse)] == [False, False]


FIGURE_7 = {
    1: [1, 1, 1, 4, 4, 5, 5, 6, 6, 6],
    2: [1, 1, 1, 4, 4, 5, 5, 6, 6],
    3: [1, 1, 1, 4],
    4: [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
    5: [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
    6: [1, 1, 1, 4, 4, 4, 4],
    7: [1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
}


@pytest.mark.parametrize("max_append_bytes", [1, 60, 1 << 20])
def test_every_log_of_figure_7_is_repaired(max_append_bytes: int) -> None:
    group = Group(7, logs=FIGURE_7, term=7, max_append_bytes=max_append_bytes)
    group.elect(1)
    group.run(0.2)
    for id in group.nodes:
        assert group.terms(id) == [*FIGURE_7[1], 8]
        assert group[id].log.commit == 11


def test_backing_off_takes_one_round_per_conflicting_term() -> None:
    group = Group(logs={1: [1] + [5] * 60, 2: [1] + [2] * 20 + [3] * 20 + [4] * 20, 3: [1] + [5] * 60})
    group.elect(1)
    assert group.terms(2) == [1] + [5] * 60 + [6]
    assert group.count_sent(AppendResponse, src=2, success=False) == 3


def test_the_followers_longer_term_is_kept_as_far_as_the_leader_has_it() -> None:
    group = Group(logs={1: [1] * 5 + [3] * 5, 2: [1] * 40, 3: [1] * 5 + [3] * 5}, term=3)
    group.elect(1)
    assert group.terms(2) == [1] * 5 + [3] * 5 + [4]
    assert group.count_sent(AppendResponse, src=2, success=False) == 1


def test_fifty_divergent_entries_cost_one_round() -> None:
    group = Group(logs={1: [1] + [3] * 50, 2: [1] + [2] * 50, 3: [1]})
    group.elect(1)
    check_everywhere(group, lambda raft: raft.log.last_index() == 52)
    assert group.count_sent(AppendResponse, src=2, success=False) == 1
    assert group.count_sent(AppendResponse, src=3, success=False) == 1


def test_leaders_that_come_and_go_leave_no_divergence() -> None:
    """Fifty entries on one side, fifty on the other, back and forth between cut-off leaders."""
    group = led_by_1(5, check_quorum=False)
    group.isolate(1, 2)
    group.propose(*[b"lost"] * 50, at=1)
    group.settle()
    group.elect(3)
    group.commit(*[b"kept"] * 50)
    group.heal()
    group.isolate(3, 1)
    group.propose(*[b"lost too"] * 50, at=3)
    group.settle()
    group.isolate(3)
    group.elect(4)
    group.heal()
    group.commit(b"end")
    group.run(0.2)
    assert all(group.data(id) == [b"kept"] * 50 + [b"end"] for id in group.nodes)


def test_a_late_short_append_erases_nothing() -> None:
    group = led_by_1(5)
    group.isolate(1, 2)  # so that nothing commits, which would protect the entries in another way
    group.propose(b"a")
    short = group.pick(AppendEntries, dst=2)
    group.settle()
    group.propose(b"b", b"c")
    group.settle()
    for message in short:
        group.receive(message)
    assert group[2].log.last_index() == 4
    group.heal()
    group.run(0.5)
    assert group.data(2) == [b"a", b"b", b"c"]


def test_appends_may_be_repeated_and_reordered() -> None:
    for seed in range(20):
        rng = random.Random(seed)
        group = led_by_1(max_append_bytes=1, max_inflight_messages=64)
        commands = [b"%d" % i for i in range(10)]
        for command in commands:
            group.propose(command)
        group.wire *= 3
        rng.shuffle(group.wire)
        group.settle()
        group.run(0.5)
        assert group.data(2) == group.data(3) == commands


def test_a_late_answer_does_not_take_back_what_is_known() -> None:
    group = led_by_1()
    group.propose(b"a")
    group.deliver(AppendEntries, dst=2)
    late = group.pick(AppendResponse, src=2)
    group.settle()
    group.propose(b"b")
    group.settle()
    for message in [*late, AppendResponse(1, 2, 1, success=False, index=2, conflict_index=1)]:
        group.receive(message)
    progress = group[1].progress[2]
    assert (progress.match, progress.next) == (3, 4)
    assert not group.wire, "and nothing is sent again"


def test_a_follower_withdraws_what_it_accepted_and_never_wrote() -> None:
    """Two leaders in one turn: entries of the first are replaced before the write, so they must not be admitted."""
    group = Group(logs={1: [1]}, term=1)
    group[1].step(AppendEntries(2, 2, 1, prev_index=1, prev_term=1, commit=0, entries=(entry(2, 2), entry(3, 2))))
    group[1].step(AppendEntries(3, 3, 1, prev_index=1, prev_term=1, commit=0, entries=(entry(2, 3),)))
    group.turn(1)
    assert group.terms(1) == [1, 3]
    assert [(answer.term, answer.index) for answer in group.pick(AppendResponse)] == [(3, 2)]


def test_an_acknowledgement_leaves_only_after_the_write() -> None:
    group = led_by_1()
    group.hold_disk(2)
    group.propose(b"x")
    group.deliver(AppendEntries, dst=2)
    assert not group.pick(AppendResponse)
    group.release_disk(2)
    assert group.pick(AppendResponse, src=2, success=True, index=2)


def test_a_leader_sends_before_its_own_write_and_counts_itself_after_it() -> None:
    group = led_by_1()
    group.isolate(3)
    group.hold_disk(1)
    group.propose(b"x")
    assert group.pick(AppendEntries, dst=2)
    group.settle()
    assert group[1].log.commit == 1, "one durable copy of three is no majority"
    group.release_disk(1)
    assert group[1].log.commit == 2


def test_a_majority_of_followers_commits_while_the_leaders_disk_hangs() -> None:
    group = led_by_1()
    group.hold_disk(1)
    group.propose(b"x")
    group.settle()
    assert group[1].log.commit == 2


def test_a_write_of_entries_that_were_replaced_meanwhile_vouches_for_nothing() -> None:
    """The disk of node 1 hangs over entries of a leader whose successor has others in their place."""
    group = Group(logs={1: [1]}, term=1)
    group.hold_disk(1)
    group.receive(AppendEntries(2, 2, 1, prev_index=1, prev_term=1, commit=0, entries=(entry(2, 2), entry(3, 2))))
    group[1].step(AppendEntries(3, 3, 1, prev_index=1, prev_term=1, commit=0, entries=(entry(2, 3), entry(3, 3))))
    group.nodes[1].disk_held = False
    ready, group.nodes[1].unfinished = group.nodes[1].unfinished, None
    assert ready is not None
    group._finish(1, group.nodes[1], group[1], ready)
    assert group[1].log.stable == 1
    group.turn(1)
    assert group[1].log.stable == 3
    assert group.terms(1) == [1, 3, 3]


# --- §5.4.1 election restriction --------------------------------------------------------------------------------------


@pytest.mark.parametrize("pre_vote", [False, True])
@pytest.mark.parametrize(
    ("voter", "candidate", "granted"),
    [
        ([], [], True),
        ([1], [1], True),
        ([1], [1, 1], True),
        ([1, 1], [1], False),
        ([1, 1, 1], [2], True),
        ([2], [1, 1, 1], False),
        ([1, 2], [1, 1, 1, 1], False),
        ([1, 2], [1, 3], True),
    ],
)
def test_votes_go_only_to_logs_that_are_up_to_date(
    voter: list[int], candidate: list[int], granted: bool, pre_vote: bool
) -> None:
    group = Group(logs={1: candidate, 3: voter}, term=3)
    last = (len(candidate), candidate[-1] if candidate else 0)
    group.receive(ask(1, voter=3, term=4, last=last, pre_vote=pre_vote))
    assert answers(group) == {1: granted}


def test_a_node_without_the_committed_entries_can_not_win() -> None:
    for pre_vote in (True, False):
        group = led_by_1(pre_vote=pre_vote)
        group.isolate(3)
        group.commit(b"x")
        group.crash(1)
        group.heal()
        with pytest.raises(AssertionError, match="lost the election"):
            group.elect(3)
        group.elect(2)
        group.run(0.2)
        assert group.data(3) == [b"x"]


# --- §5.4.2 committing entries of earlier terms -----------------------------------------------------------------------


def figure_8() -> Group:
    """The paper's moment (c): S1 leads term 4 and a majority has entry 2, of term 2; its own no-op went nowhere."""
    group = Group(5, logs={1: [1, 2], 2: [1], 3: [1], 4: [1], 5: [1, 3]}, term=3, max_append_bytes=1)
    group.isolate(5)
    group.campaign(1)
    while not group[1].is_leader:
        group.deliver()
    group.cut(1, 4)
    for id in (2, 3):
        while group.terms(id) != [1, 2]:
            group.deliver(AppendEntries, dst=id)
            group.deliver(AppendResponse, src=id)
    return group


def test_figure_8_an_entry_of_an_older_term_is_not_committed_by_counting() -> None:
    group = figure_8()
    group.deliver(AppendResponse)
    assert [group[1].progress[id].match for id in (2, 3)] == [2, 2]
    assert group[1].log.commit == 0


def test_figure_8_so_another_leader_may_still_replace_it() -> None:
    group = figure_8()
    group.deliver(AppendResponse)
    group.drop()
    group.crash(1)
    group.heal()
    group.elect(5)
    group.restart(1)
    group.run(0.5)
    check_everywhere(group, lambda raft: raft.log.term(2) == 3 and raft.log.commit == 3)


def test_figure_8_an_entry_of_the_own_term_commits_all_before_it() -> None:
    group = figure_8()
    group.settle()
    assert group.terms(2) == [1, 2, 4]
    assert group[1].log.commit == 3
    group.crash(1)
    group.heal()
    group.campaign(5)
    group.settle()
    assert group.leader != 5


# --- §5.3, §5.4.3 a follower's commit index ---------------------------------------------------------------------------


def test_a_follower_commits_no_more_than_it_has_verified() -> None:
    group = Group(logs={2: [1, 1, 1]}, term=1)
    group.receive(AppendEntries(2, 1, 2, prev_index=1, prev_term=1, commit=3))
    assert group[2].log.commit == 1, "entries 2 and 3 may not be what the leader has"


def test_a_cut_off_leaders_entries_are_not_committed_by_the_next_leaders_commit_index() -> None:
    """The same through the whole protocol: node 1 comes back with entries where others were committed."""
    group = led_by_1()
    group.isolate(1)
    group.propose(b"lost", b"lost", b"lost", at=1)
    group.settle()
    group.elect(2)
    group.commit(b"x", b"y")
    group.heal()
    group.run(0.5)
    assert group.data(1) == [b"x", b"y"]


def test_a_heartbeat_claims_no_more_than_the_follower_is_known_to_hold() -> None:
    group = led_by_1()
    group.cut(1, 3)
    group.commit(b"x")
    group.tick(0.1)
    assert [heartbeat.commit for heartbeat in group.pick(Heartbeat, dst=3)] == [1]
    assert [heartbeat.commit for heartbeat in group.pick(Heartbeat, dst=2)] == [2]


def test_news_of_a_commit_does_not_wait_for_the_next_command() -> None:
    group = led_by_1(heartbeat_interval=0.9, commit_notice_delay=0.01)
    group.propose(b"x")
    group.settle()
    assert group.data(2) == []
    group.run(0.011)
    assert group.data(2) == group.data(3) == [b"x"]


# --- §5.5, §5.6 crashes and timing ------------------------------------------------------------------------------------


def test_a_follower_that_was_down_catches_up() -> None:
    group = led_by_1()
    group.crash(3)
    for i in range(20):
        group.commit(b"%d" % i)
    group.restart(3)
    group.run(0.5)
    assert group.data(3) == [b"%d" % i for i in range(20)]


def test_the_group_survives_power_loss_everywhere() -> None:
    group = led_by_1()
    group.commit(b"x")
    for id in group.nodes:
        group.crash(id)
    for id in group.nodes:
        group.restart(id)
    group.run(5.0)
    group.commit(b"y")
    assert all(group.data(id) == [b"x", b"y"] for id in group.nodes)


def test_a_restarted_node_applies_from_its_snapshot_on() -> None:
    group = led_by_1()
    group.commit(b"a", b"b")
    group.compact(2)
    group.commit(b"c")
    group.crash(2)
    group.restart(2)
    assert group[2].log.applied == 3
    group.run(0.2)
    assert group.data(2) == [b"a", b"b", b"c"]


def test_a_living_leader_is_never_challenged() -> None:
    group = led_by_1(5)
    sent = group.count_sent(RequestVote)
    group.run(30.0)
    assert group.count_sent(RequestVote) == sent
    assert (group.leader, group[1].term) == (1, 1)


def test_an_idle_second_costs_few_messages() -> None:
    group = led_by_1()
    sent = len(group.sent)
    group.run(1.0)
    assert len(group.sent) - sent <= 60


# --- §7 snapshots -----------------------------------------------------------------------------------------------------


def behind_the_log() -> Group:
    """Node 3 was away while the leader dropped what it would need."""
    group = led_by_1()
    group.isolate(3)
    for i in range(10):
        group.commit(b"%d" % i)
    group.compact(1)
    group.drop()
    group.heal()
    return group


def test_a_follower_too_far_behind_gets_a_snapshot_and_goes_on_from_there() -> None:
    group = behind_the_log()
    group.run(0.5)
    assert group.count_sent(InstallSnapshot) == 1
    group.commit(b"end")
    assert group.data(3) == [b"%d" % i for i in range(10)] + [b"end"]
    assert group[1].progress[3].state is ProgressState.REPLICATE


def test_a_lost_snapshot_is_sent_again() -> None:
    group = behind_the_log()
    while not group.pick(InstallSnapshot):
        group.tick(0.1)
        group.deliver()
    group.drop(InstallSnapshot)
    group.run(0.5)
    assert group.data(3) == group.data(1)


@pytest.mark.parametrize("delivered", [True, False])
def test_a_lost_answer_to_a_snapshot_does_not_stop_replication(delivered: bool) -> None:
    group = behind_the_log()
    while not group.pick(InstallSnapshot):
        group.tick(0.1)
        group.deliver()
    group.deliver(InstallSnapshot)
    group.drop(AppendResponse, src=3)
    group[1].report_snapshot(3, delivered=delivered)
    group.run(0.5)
    group.commit(b"end")
    assert group.data(3) == group.data(1)


def test_a_stale_snapshot_is_ignored_and_answered() -> None:
    group = led_by_1()
    group.commit(b"a", b"b", b"c")
    group.receive(InstallSnapshot(1, 1, 2, SnapshotMeta(2, 1, group.configuration)))
    assert group.nodes[2].store.snapshot().index == 0
    assert group.pick(AppendResponse, src=2) == [AppendResponse(1, 2, 1, success=True, index=4)]


def test_a_snapshot_that_the_log_matches_only_commits() -> None:
    group = led_by_1()
    group.propose(b"a", b"b", b"c")
    group.deliver(AppendEntries, dst=2)
    assert group[2].log.commit == 1
    group.settle()
    group.receive(InstallSnapshot(1, 1, 2, SnapshotMeta(3, 1, group.configuration)))
    assert (group[2].log.commit, group[2].log.last_index()) == (3, 4), "entry 4 is kept"
    assert group.nodes[2].store.snapshot().index == 0
    assert group.data(2) == [b"a", b"b"]


def test_a_snapshot_replaces_a_log_that_conflicts_with_it() -> None:
    group = led_by_1()
    group.isolate(1)
    group.propose(*[b"lost"] * 5, at=1)
    group.settle()
    group.elect(2)
    for i in range(10):
        group.commit(b"%d" % i)
    group.compact(2)
    group.heal()
    group.run(0.5)
    assert group.count_sent(InstallSnapshot, dst=1) == 1
    group.commit(b"end")
    assert group.data(1) == [b"%d" % i for i in range(10)] + [b"end"]


def test_entries_may_follow_a_snapshot_before_the_disk_does() -> None:
    """Snapshot, entries behind it, an older append and a vote request, all in the same turn of the follower."""
    group = behind_the_log()
    while not (snapshots := group.pick(InstallSnapshot)):
        group.tick(0.1)
        group.deliver()
    index = snapshots[0].snapshot.index
    group.propose(b"x", b"y")
    tail = tuple(e for e in group[1].log.entries(index + 1, 1 << 20) if e.index > index)
    old = tuple(entry(i, 1) for i in range(3, 6))
    for message in (
        snapshots[0],
        AppendEntries(1, 1, 3, prev_index=index, prev_term=1, commit=index, entries=tail),
        AppendEntries(1, 1, 3, prev_index=2, prev_term=1, commit=index, entries=old),
        AppendEntries(1, 1, 3, prev_index=index + 9, prev_term=1, commit=index),
        ask(2, voter=3, term=1, last=(5, 1)),
    ):
        group[3].step(message)
    group.turn(3)
    assert group[3].log.last_index() == index + 2
    assert [(m.success, m.index) for m in group.pick(AppendResponse, src=3)] == [
        (True, index),
        (True, index + 2),
        (True, index),
        (False, index + 9),
    ]
    assert group.data(3) == [b"%d" % i for i in range(10)]


# --- §8, thesis §6.4 clients and reads --------------------------------------------------------------------------------


def test_a_new_leader_commits_a_noop_and_with_it_all_that_its_predecessors_left() -> None:
    group = Group(logs={1: [1, 2], 2: [1, 2], 3: [1]}, term=2)
    group.elect(1)
    assert group.terms(3) == [1, 2, 3]
    assert group[1].log.commit == 3
    assert group[1].log.entries(3, 0)[0].kind is EntryKind.NOOP


def reads_of(group: Group, id: int = 1) -> list[object]:
    return [token for state in group.nodes[id].reads for token in state.tokens]


def test_a_read_waits_for_a_quorum_to_confirm_the_leader() -> None:
    group = led_by_1(5)
    group.commit(b"x")
    group.read("r")
    assert not reads_of(group)
    group.deliver(Heartbeat)
    group.deliver(HeartbeatResponse, src=2)
    assert not reads_of(group), "two of five are no quorum"
    group.deliver(HeartbeatResponse, src=3)
    assert reads_of(group) == ["r"]
    assert group.nodes[1].reads[0].index == 2


def test_a_read_waits_for_the_noop_of_a_new_leader() -> None:
    """Before it a leader does not know what is committed: here entry 2, which its predecessor answered for."""
    group = led_by_1()
    group.propose(b"x")
    group.settle()
    group.crash(1)
    group.now += 1.0
    group.drop()
    for id in (2, 3):
        group[id].tick(group.now)
    group.campaign(2)
    while not group[2].is_leader:
        group.deliver()
    assert group[2].log.commit == 1
    group.read("r", at=2)
    group.deliver(Heartbeat)
    group.deliver(HeartbeatResponse)
    assert not reads_of(group, 2)
    group.settle()
    assert reads_of(group, 2) == ["r"]
    assert group.nodes[2].reads[0].index == 3


def test_a_cut_off_leader_answers_no_reads() -> None:
    group = led_by_1()
    group.isolate(1)
    group.elect(2)
    group.propose(b"new")
    group.settle()
    group.read("r", at=1)
    group.run(3.0)
    assert not reads_of(group)
    assert group.nodes[1].refused == ["r"]


def test_answers_to_older_heartbeats_do_not_confirm_a_read() -> None:
    group = led_by_1()
    group.tick(0.1)
    group.deliver(Heartbeat)
    group.read("r")
    old = group.pick(HeartbeatResponse, read_id=0)
    assert old
    for message in old:
        group.receive(message)
    assert not reads_of(group)


def test_a_round_for_one_read_does_not_confirm_a_later_one() -> None:
    group = led_by_1()
    group.read("first")
    group.deliver(Heartbeat)
    group.read("second")
    group.deliver(HeartbeatResponse)
    assert reads_of(group) == ["first"]
    group.settle()
    assert reads_of(group) == ["first", "second"]


def test_a_lost_round_delays_reads_and_never_hangs_them() -> None:
    group = led_by_1()
    group.read("r")
    group.drop()
    group.run(0.2)
    assert reads_of(group) == ["r"]


def test_reads_under_load_share_rounds() -> None:
    group = led_by_1()
    for i in range(50):
        group.read(i)
    assert group.count_sent(Heartbeat, read_id=3) == 0, "two rounds are open at most"
    group.settle()
    assert reads_of(group) == list(range(50))
    assert len(group.nodes[1].reads) == 3


def test_reads_of_a_deposed_leader_are_refused_at_once() -> None:
    group = led_by_1()
    group.isolate(1)
    group.read("r", at=1)
    group.elect(2)
    group.heal()
    group.run(0.3)
    assert group.nodes[1].refused == ["r"]
    with pytest.raises(NotLeader):
        group.read("s", at=1)


# --- thesis §6.2, §4.2.3 check-quorum ---------------------------------------------------------------------------------


def test_a_leader_without_a_quorum_steps_down_within_two_election_timeouts() -> None:
    for instant in (0.0, 0.35, 0.7, 0.99):
        group = led_by_1(election_timeout=1.0)
        group.run(1.0 + instant)
        group.isolate(1)
        group.run(2.1)
        assert not group[1].is_leader


def test_a_leader_with_a_bare_quorum_stays() -> None:
    group = led_by_1(5)
    group.isolate(4, 5)
    group.run(20.0)
    assert (group.leader, group[1].term) == (1, 1)


def test_who_hears_from_a_leader_ignores_candidates_and_their_terms() -> None:
    group = led_by_1()
    group.run(1.0)
    for id in (1, 2):
        group.receive(ask(3, voter=id, term=50, last=(99, 49)))
    assert not group.wire
    assert [group[id].term for id in (1, 2)] == [1, 1]


def test_who_has_not_heard_from_a_leader_for_an_election_timeout_votes() -> None:
    group = led_by_1(election_timeout=1.0)
    group.isolate(1)
    heard = group.now
    group[2].tick(heard + 0.85)
    group.receive(ask(3, voter=2, term=2, last=(9, 1)))
    assert not group.wire
    group[2].tick(heard + 1.01)
    group.receive(ask(3, voter=2, term=2, last=(9, 1)))
    assert answers(group) == {3: True}


# --- thesis §9.6 pre-vote ---------------------------------------------------------------------------------------------


def test_a_pre_vote_changes_nothing_at_the_voter() -> None:
    group = Group(term=4)
    due = group[3].next_deadline
    group.tick(0.5)
    group.receive(ask(1, voter=3, term=9, pre_vote=True))
    assert answers(group) == {1: True}
    assert (group[3].term, group[3].vote, group[3].next_deadline) == (4, NO_NODE, due)


def test_a_cut_off_node_does_not_raise_its_term() -> None:
    group = led_by_1()
    group.isolate(3)
    group.run(20.0)
    assert group[3].term == 1
    assert group.count_sent(RequestVote, src=3, pre_vote=False) == 0


def test_a_node_that_was_cut_off_comes_back_without_deposing_the_leader() -> None:
    group = led_by_1()
    group.isolate(3)
    group.run(20.0)
    group.commit(b"x")
    group.heal()
    group.run(5.0)
    assert (group.leader, group[1].term) == (1, 1)
    assert group.data(3) == [b"x"]


@pytest.mark.parametrize("pre_vote", [True, False])
def test_a_node_whose_term_ran_ahead_can_come_back(pre_vote: bool) -> None:
    """Its vote requests are ignored and the leader's messages are stale to it: its answer to them resolves that."""
    group = led_by_1(pre_vote=pre_vote)
    group.isolate(3)
    for _ in range(5):
        group[3].elections._become_candidate()
        group.turn(3)
    group.heal()
    group.drop()
    group.run(6.0)
    assert group[group.leader].term >= 6
    group.commit(b"x")
    assert group.data(3) == [b"x"]


def test_a_higher_term_with_a_shorter_log_does_not_block_elections() -> None:
    for dead in (None, 3):
        group = Group(logs={1: [1], 2: [1, 1, 1], 3: [1, 1, 1]}, term=1)
        for _ in range(7):
            group[1].elections._become_candidate()
            group.turn(1)
        group.drop()
        if dead:
            group.crash(dead)
        group.run(10.0)
        assert group.leader in (2, 3)
        assert group.terms(1)[:3] == [1, 1, 1]


def test_late_answers_to_a_pre_vote_are_no_votes() -> None:
    group = Group()
    group.campaign(1)
    group.deliver(RequestVote)
    pre_votes = group.pick(VoteResponse)
    group.deliver(VoteResponse)
    assert group[1].role is Role.CANDIDATE
    for message in pre_votes:
        group.receive(message)
    assert group[1].role is Role.CANDIDATE


# --- crashes that are reported ----------------------------------------------------------------------------------------


def test_a_reported_crash_leads_to_an_election_at_once() -> None:
    group = led_by_1()
    group.crash_noticed(1)
    group.tick()
    group.settle()
    assert group.leader == 2, "the first in rank does not wait"


def test_the_next_in_rank_waits_one_stagger() -> None:
    group = led_by_1(5, crash_stagger=0.015)
    group.crash(1)
    group.crash(2)
    for id in (3, 4, 5):
        group.report_down(id, 1)
    group.run(0.0151)
    assert group.leader == 3


def test_who_learns_of_the_crash_first_asks_again_until_the_others_know() -> None:
    group = led_by_1()
    group.crash(1)
    group.report_down(3, 1)
    group.run(0.05)
    assert not group.leader
    group.report_down(2, 1)
    group.run(0.05)
    assert group.leader


def test_the_first_in_rank_gives_way_to_a_survivor_that_has_more() -> None:
    """Node 2 lacks an entry and can not win; it must not stand in the way of node 3, which can."""
    group = led_by_1()
    group.cut(1, 2)
    group.propose(b"x")
    group.settle()
    group.crash_noticed(1)
    group.run(0.2)
    assert group.leader == 3
    assert [group.data(id) for id in (2, 3)] == [[b"x"]] * 2
    assert group.count_sent(AppendResponse, src=2, success=False) == 0, "it goes on where the log of its rival ends"


def test_a_false_alarm_does_not_depose_the_leader() -> None:
    group = led_by_1(5)
    group.run(0.55)
    group.report_down(2, 1)
    group.run(3.0)
    assert (group.leader, group[1].term) == (1, 1)
    assert group[2].leader == 1
    assert group[2].next_deadline - group.now > 0.5, "and its patience is back"


def test_hunting_ends_after_an_election_timeout() -> None:
    group = led_by_1()
    group.crash(1)
    group.crash(2)
    group.report_down(3, 1)
    group.run(2.0)
    asked = group.count_sent(RequestVote)
    group.run(4.0)
    assert group.count_sent(RequestVote) - asked <= 8


# --- what a deposed leader leaves behind ------------------------------------------------------------------------------


def test_uncommitted_entries_of_a_deposed_leader_are_rolled_back() -> None:
    group = led_by_1()
    group.isolate(1)
    group.propose(b"lost", at=1)
    group.run(3.0)
    group.commit(b"kept")
    group.heal()
    group.run(0.5)
    assert group.terms(1) == group.terms(2)
    assert [group.data(id) for id in (1, 2, 3)] == [[b"kept"]] * 3


def test_proposals_are_bounded_without_a_quorum() -> None:
    group = led_by_1(max_uncommitted_bytes=200)
    group.isolate(1)
    for _ in range(4):
        group.propose(b"x" * 34, at=1)  # 50 bytes each
    with pytest.raises(TooMuchUncommitted):
        group.propose(b"x", at=1)
    assert group[1].log.last_index() == 5, "the no-op and four more"
    assert group[1].log.commit == 1


def test_the_room_for_proposals_comes_back_with_commits_and_with_a_new_leadership() -> None:
    group = led_by_1(max_uncommitted_bytes=100)
    group.propose(b"x" * 100)
    group.settle()
    group.isolate(1)
    group.propose(b"y" * 100, at=1)
    with pytest.raises(TooMuchUncommitted):
        group.propose(b"z", at=1)
    group.elect(2)
    group.heal()
    group.run(0.5)
    group.elect(1)
    group.commit(b"z")
    assert group.data(1) == [b"x" * 100, b"z"]


# --- one node alone ---------------------------------------------------------------------------------------------------


def test_a_group_of_one_elects_commits_and_reads_alone() -> None:
    group = Group(1)
    group.run(2.5)
    assert group.leader == 1
    group.propose(b"x")
    assert group.data(1) == [b"x"]
    group.read("r")
    assert reads_of(group) == ["r"]
    group.run(5.0)
    assert group[1].is_leader
    assert not group.sent


def test_a_group_of_one_keeps_everything_in_a_crash() -> None:
    group = led_by_1(1)
    group.propose(b"x")
    group.crash(1)
    group.restart(1)
    group.run(2.5)
    assert group.data(1) == [b"x"]


# --- pipelining and flow control (thesis §10.2.1) ---------------------------------------------------------------------


def test_no_more_messages_are_in_flight_than_the_window_holds() -> None:
    group = led_by_1(max_inflight_messages=3)
    for _ in range(10):
        group.propose(b"x")
    assert len(group.pick(AppendEntries, dst=2)) == 3
    group.settle()
    assert group[2].log.last_index() == 11


def test_no_more_bytes_are_in_flight_than_the_window_holds() -> None:
    group = led_by_1(max_inflight_bytes=100)
    for _ in range(10):
        group.propose(b"x" * 34)  # 50 bytes each
    assert len(group.pick(AppendEntries, dst=2)) == 2
    group.settle()
    assert group[2].log.last_index() == 11


def test_what_waits_for_the_window_goes_together() -> None:
    group = led_by_1(max_inflight_messages=1)
    for _ in range(10):
        group.propose(b"x")
    group.settle()
    assert group.count_sent(AppendEntries, dst=2) <= 3 + 1


def test_a_follower_that_is_not_known_to_match_gets_one_message_at_a_time() -> None:
    group = Group()
    group.campaign(1)
    while not group[1].is_leader:
        group.deliver()
    for _ in range(5):
        group.propose(b"x")
    assert len(group.pick(AppendEntries, dst=2)) == 1


@pytest.mark.parametrize("lost", [AppendEntries, AppendResponse, HeartbeatResponse])
def test_a_lost_message_does_not_stop_replication(lost: type) -> None:
    group = led_by_1(max_inflight_messages=2)
    for i in range(5):
        group.propose(b"%d" % i)
    group.deliver(AppendEntries) if lost is not AppendEntries else None
    group.drop(lost)
    group.run(0.5)
    assert group.data(2) == group.data(3) == [b"%d" % i for i in range(5)]


def test_replication_survives_the_loss_of_every_second_message() -> None:
    group = led_by_1()
    for i in range(40):
        group.propose(b"%d" % i)
        del group.wire[i % 2 :: 2]
        group.deliver()
        group.tick(0.02)
    group.run(1.0)
    assert group.data(2) == group.data(3) == [b"%d" % i for i in range(40)]


def test_a_heartbeat_answer_says_nothing_about_entries_that_were_sent_after_it() -> None:
    """Entries under way must not be sent twice only because older heartbeats are answered, as reads make them be."""
    group = led_by_1()
    group.tick(0.1)
    group.read("r")
    group.deliver(Heartbeat)
    group.propose(b"x")
    group.deliver(HeartbeatResponse)
    assert len(group.pick(AppendEntries, dst=2)) == 1
    assert group[1].progress[2].state is ProgressState.REPLICATE


def test_a_lost_call_that_is_reported_is_repeated_at_once() -> None:
    group = led_by_1()
    group.propose(b"x")
    group.drop(AppendEntries, dst=2)
    group[1].report_unreachable(2)
    group.turn(1)
    group.settle()
    assert group[2].log.last_index() == 2


def test_a_follower_whose_disk_hangs_is_not_flooded_and_holds_up_nobody() -> None:
    group = led_by_1(max_inflight_messages=2, max_uncommitted_bytes=100)
    group.hold_disk(3)
    for i in range(50):
        group.commit(b"%d" % i)
    assert group[1].log.commit == 51
    assert group.data(2) == [b"%d" % i for i in range(50)]
    assert group.count_sent(AppendEntries, dst=3) <= 10, "and it is not flooded"
    group.release_disk(3)
    group.run(1.0)
    assert group.data(3) == group.data(2)
