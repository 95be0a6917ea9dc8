"""After a crash that is known of: who asks again, and how soon."""

from __future__ import annotations

from typing import Any

from rayraft.raft.hunt import ELECTION_PATIENCE, MOST_DOUBLINGS, Hunt
from rayraft.raft.ready import Role
from rayraft.raft.types import NO_NODE, AppendResponse, InstallSnapshot, RequestVote, VoteResponse
from tests.harness import Group


def test_each_pre_vote_that_led_nowhere_doubles_the_wait() -> None:
    hunt = Hunt(gone=1, term=1, until=1.0)
    waits = []
    for _ in range(MOST_DOUBLINGS + 3):
        hunt.asked += 1
        waits.append(hunt.patience(term=1))
    assert waits == [1, 2, 4, 8, 16, 32, 32, 32]


def test_an_election_of_a_newer_term_is_given_time() -> None:
    hunt = Hunt(gone=1, term=1, until=1.0, asked=1)
    assert hunt.patience(term=2) == ELECTION_PATIENCE


def led_by_1(size: int, **config: Any) -> Group:
    group = Group(size, election_timeout=1.0, crash_stagger=0.015, **config)
    group.elect(1)
    group.run(0.2)
    return group


def test_a_survivor_whose_questions_lead_nowhere_asks_less_and_less() -> None:
    """The others may be slow to answer each other: it must not fill their inboxes meanwhile."""
    group = led_by_1(5)
    group.crash(1)
    group.isolate(2)
    before = group.count_sent(RequestVote, src=2)
    group.report_down(2, 1)
    group.run(0.9)
    rounds = (group.count_sent(RequestVote, src=2) - before) / 4
    assert 3 <= rounds <= 6


def test_a_voter_waits_for_its_slow_candidate() -> None:
    """Its vote is given; the word of the new leader may take many staggers, and a further term would spoil it."""
    group = led_by_1(3)
    group.crash_noticed(1)
    group.tick()
    group.deliver(RequestVote)
    group.deliver(VoteResponse)
    group.deliver(RequestVote)
    voter = group[3]
    assert (voter.vote, voter.leader) == (2, NO_NODE)
    assert voter.next_deadline - group.time(3) >= ELECTION_PATIENCE * 0.015


def test_the_stagger_counts_from_the_news_and_not_from_the_last_turn() -> None:
    """A node that was idle before has an old notion of now: all would campaign at once."""
    group = led_by_1(5)
    group.crash(1)
    before = group.count_sent(RequestVote)
    for id in (2, 3, 4, 5):
        group[id].now -= 0.08  # nothing came since
        group.report_down(id, 1)
    group.tick()
    assert group.count_sent(RequestVote) - before == 3, "only the first in rank asks"


def test_nobody_asks_the_one_that_is_gone() -> None:
    group = led_by_1(5)
    group.crash_noticed(1)
    group.run(0.2)
    assert group.leader == 2
    assert group.count_sent(RequestVote, dst=1) == 0


def test_the_first_in_rank_is_offered_what_it_would_ask_for() -> None:
    """A round of questions less: who knows of the crash says so to the one whose turn it is."""
    group = led_by_1(5)
    group.crash(1)
    for id in (5, 4, 3):
        group.report_down(id, 1)
    group.settle()
    group.report_down(2, 1)
    group.tick()
    assert group.count_sent(RequestVote, src=2, pre_vote=True) == 0
    group.deliver(RequestVote, src=2)
    group.deliver(VoteResponse)
    assert group.leader == 2


def test_offers_that_come_later_count_too() -> None:
    group = led_by_1(5)
    group.crash(1)
    group.report_down(2, 1)
    group.tick()
    group.drop(RequestVote)
    for id in (3, 4):
        group.report_down(id, 1)
    group.settle()
    assert group.leader == 2


def test_an_offer_of_a_node_with_more_is_no_vote() -> None:
    """It did not know whose log it is for: the real vote would be refused, and a term lost."""
    group = led_by_1(3)
    group.cut(1, 2)
    group.propose(b"x")
    group.settle()
    group.crash(1)
    group.report_down(3, 1)
    group.settle()
    group.report_down(2, 1)
    group.tick()
    assert group.count_sent(RequestVote, src=2, pre_vote=False) == 0
    group.run(0.2)
    assert (group.leader, group[3].term) == (3, 2)


def test_offers_for_a_leader_that_lives_are_forgotten() -> None:
    """Two false alarms, a while apart, are no crash."""
    group = led_by_1(5)
    for id in (3, 4):
        group.report_down(id, 1)
    group.run(0.5)
    group.report_down(2, 1)
    group.run(3.0)
    assert (group.leader, group[1].term) == (1, 1)


def test_an_offer_of_an_older_term_is_void() -> None:
    group = led_by_1(3)
    group.elect(2)
    group.elect(1)
    group.crash(1)
    group[2].step(VoteResponse(2, 3, 2, granted=True, pre_vote=True, last_index=1, last_term=1))
    group.report_down(2, 1)
    group.tick()
    assert (group[2].role, group[2].term) == (Role.PRE_CANDIDATE, 3)


def test_a_node_bound_by_a_promise_offers_nothing() -> None:
    group = led_by_1(3, max_clock_drift=0.01)
    group.crash_noticed(1)
    assert group.count_sent(VoteResponse, src=3, dst=2, pre_vote=True) == 0
    group.run(1.5)
    assert group.leader


def test_a_node_that_came_back_is_asked_when_the_hunt_is_over() -> None:
    """Its vote may be needed: a second one is away."""
    group = led_by_1(3)
    group.crash(3)
    group.crash_noticed(1)
    group.restart(1)
    group.run(0.95)
    assert group.count_sent(RequestVote, src=2, dst=1) == 0
    group.tick(0.1)
    group.campaign(2)
    assert group.pick(RequestVote, src=2, dst=1)


def test_the_new_leader_goes_on_where_the_voters_logs_end() -> None:
    """Node 3 lacks an entry: without its word it would refuse what comes behind it, which costs another way."""
    group = led_by_1(5)
    group.cut(1, 3)
    group.propose(b"x")
    group.settle()
    group.crash_noticed(1)
    group.run(0.1)
    assert group.leader == 2
    assert group.data(3) == [b"x"]
    assert group.count_sent(AppendResponse, src=3, success=False) == 0


def test_what_a_rival_said_of_its_log_may_be_old() -> None:
    """A hint to an entry that this log has not, or of another term, is no hint."""
    group = led_by_1(5)
    group.crash_noticed(1)
    group.tick()
    group.deliver(RequestVote)
    group.deliver(VoteResponse)
    group.deliver(RequestVote)
    group.deliver(VoteResponse, src=3)
    assert not group.leader
    group[2].step(RequestVote(2, 3, 2, last_index=90, last_term=1, pre_vote=True))
    group.run(0.2)
    assert group.leader == 2
    assert group.count_sent(InstallSnapshot) == 0
    group.commit(b"a")
    group.run(0.2)
    assert group.data(2) == group.data(3) == [b"a"]
