"""After a crash that is known of: who asks again, and how soon."""

from __future__ import annotations

from rayraft.raft.hunt import ELECTION_PATIENCE, MOST_DOUBLINGS, Hunt
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


def led_by_1(size: int) -> Group:
    group = Group(size, election_timeout=1.0, crash_stagger=0.015)
    group.elect(1)
    group.run(0.2)
    return group


def test_a_survivor_whose_questions_lead_nowhere_asks_less_and_less() -> None:
    """The others may be slow to answer each other: it must not fill their inboxes meanwhile."""
    group = led_by_1(5)
    group.crash(1)
    group.isolate(2)
    before = group.count_sent(RequestVote, src=2)
    group[2].report_down(1, group.time(2))
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
        group[id].report_down(1, group.time(id))
    group.tick()
    assert group.count_sent(RequestVote) - before == 3, "only the first in rank asks"


def test_nobody_asks_the_one_that_is_gone() -> None:
    group = led_by_1(5)
    group.crash_noticed(1)
    group.run(0.2)
    assert group.leader == 2
    assert group.count_sent(RequestVote, dst=1) == 0


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
