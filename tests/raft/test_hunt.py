"""After a crash that is known of: who asks again, and how soon."""

from __future__ import annotations

from rayraft.raft.hunt import ELECTION_PATIENCE, MOST_DOUBLINGS, Hunt
from rayraft.raft.types import NO_NODE, InstallSnapshot, RequestVote, VoteResponse
from tests.harness import Group


def test_each_pre_vote_that_led_nowhere_doubles_the_wait() -> None:
    hunt = Hunt(term=1, until=1.0)
    waits = []
    for _ in range(MOST_DOUBLINGS + 3):
        hunt.asked += 1
        waits.append(hunt.patience(term=1))
    assert waits == [1, 2, 4, 8, 16, 32, 32, 32]


def test_an_election_of_a_newer_term_is_given_time() -> None:
    hunt = Hunt(term=1, until=1.0, asked=1)
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
    group[2].report_down(1)
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


def test_what_a_rival_said_of_its_log_may_be_old() -> None:
    """A hint to an entry that this log has not, or of another term, is no hint."""
    group = led_by_1(3)
    group.crash_noticed(1)
    group.tick()
    group.deliver(RequestVote)
    group.deliver(VoteResponse)
    group.deliver(RequestVote)
    group[2].step(RequestVote(2, 3, 2, last_index=90, last_term=1, pre_vote=True))
    group.run(0.2)
    assert group.leader == 2
    assert group.count_sent(InstallSnapshot) == 0
    group.commit(b"a")
    group.run(0.2)
    assert group.data(2) == group.data(3) == [b"a"]
