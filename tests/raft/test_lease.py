"""Reads on the word of a clock (thesis §6.4.1), and how old a follower's state can be.

`Laws` checks in every story that no read misses what was acknowledged before it, and that no node claims to be fresher
than it is.
"""

from __future__ import annotations

import pytest

from rayraft.raft.lease import Freshness
from rayraft.raft.membership import Change, ChangeKind
from rayraft.raft.quorum import UNBOUNDED
from rayraft.raft.raft import Raft
from rayraft.raft.types import (
    AppendEntries,
    AppendResponse,
    Heartbeat,
    HeartbeatResponse,
    RequestVote,
    TimeoutNow,
    VoteResponse,
)
from tests.harness import Clock, Group

DRIFT = 0.1


def led_by_1(size: int = 3, **settings: object) -> Group:
    """A group that trusts clocks; its leader is node 1, which holds a lease that begins now."""
    group = Group(size, **({"max_clock_drift": DRIFT} | settings))  # type: ignore[arg-type]
    group.elect(1)
    group.run(0.02)
    renew(group)
    return group


def renew(group: Group) -> None:
    """A round of heartbeats, all answered at once."""
    group.tick(0.1)
    group.settle()


def lease_read(group: Group, token: object, at: int = 1) -> bool:
    """Whether the read was answered at once."""
    group.read(token, at, Raft.lease_read)
    return any(token in state.tokens for state in group.nodes[at].reads)


# --- reads by lease ---------------------------------------------------------------------------------------------------


def test_a_read_by_lease_sends_nothing() -> None:
    group = led_by_1()
    group.commit(b"x")
    before = len(group.sent)
    assert lease_read(group, "r")
    assert group.nodes[1].reads[-1].index == group[1].log.commit
    assert len(group.sent) == before


def test_without_a_bound_on_clocks_such_a_read_asks_a_quorum() -> None:
    group = led_by_1(max_clock_drift=None)
    assert not lease_read(group, "r")
    assert group.pick(Heartbeat)
    group.settle()
    assert group.nodes[1].reads[-1].tokens == ["r"]


def test_the_lease_counts_from_when_the_heartbeats_left_and_is_shorter_than_the_promise() -> None:
    group = led_by_1()
    group.isolate(1)
    group.tick(0.89)
    assert lease_read(group, "within")
    group.tick(0.02)
    assert not lease_read(group, "after")
    group.heal()
    group.settle()
    group.run(0.3)
    assert group.nodes[1].reads[-1].tokens == ["after"], "a quorum round answers it"
    assert lease_read(group, "again")


def test_a_read_that_waits_for_no_turn_is_judged_by_the_time_at_which_it_came() -> None:
    """The core may have looked at its clock last long before."""
    group = led_by_1()
    assert group[1].may_read(group.now + 0.89)
    assert not group[1].may_read(group.now + 0.91)
    assert not group[2].may_read(group.now), "only a leader has a lease"


def test_a_read_waits_for_what_is_committed_and_not_applied() -> None:
    group = led_by_1()
    group[1].apply_limit = group[1].log.applied
    group.commit(b"x")
    assert not group[1].may_read(group.now)
    group[1].apply_limit = UNBOUNDED
    group.turn(1)
    assert group[1].may_read(group.now)


def test_one_answer_of_five_is_no_lease() -> None:
    group = led_by_1(5)
    group.drop()
    group.tick(0.85)
    group.deliver(Heartbeat)
    group.deliver(HeartbeatResponse, src=2)
    group.tick(0.1)
    assert not lease_read(group, "r")
    group.deliver(HeartbeatResponse, src=3)
    assert lease_read(group, "s")


def test_a_late_answer_renews_the_lease_as_of_its_heartbeat_only() -> None:
    group = led_by_1()
    group.tick(0.1)
    group.deliver(Heartbeat)
    late = group._take(HeartbeatResponse, {})
    group.tick(0.85)
    group.drop()
    for message in late:
        group.receive(message)
        group.receive(message)
    group.drop()
    assert lease_read(group, "within")
    group.tick(0.06)
    assert not lease_read(group, "after")


def test_answers_to_appends_renew_no_lease() -> None:
    """They do not say when the entries left."""
    group = led_by_1()
    for _ in range(12):
        group.now += 0.1
        group.propose(b"x")
        group[1].tick(group.now)
        group.drop(Heartbeat)
        group.deliver()
        group.deliver(AppendResponse)
    assert group.leader == 1
    assert not lease_read(group, "r")


def test_a_new_leader_has_no_lease_before_its_noop() -> None:
    group = led_by_1()
    group.commit(b"x")
    group.tick(1.1)
    group.drop()
    group.campaign(2)
    while not group[2].is_leader:
        group.deliver()
    group.tick(0.1)
    group.deliver(Heartbeat)
    group.deliver(HeartbeatResponse)
    assert not lease_read(group, "r", at=2)
    group.settle()
    assert [state.tokens for state in group.nodes[2].reads] == [["r"]]


def test_a_leader_alone_always_holds_its_lease() -> None:
    group = Group(1, max_clock_drift=DRIFT)
    group.elect(1)
    group.tick(50.0)
    assert lease_read(group, "r")


def test_the_members_of_a_lease_are_those_in_force() -> None:
    """Who was added has promised nothing yet; a leader that was removed does not count itself."""
    group = led_by_1(2)
    group.cut(1, 2)
    group.join(3)
    group.change(Change(ChangeKind.ADD_VOTER, 3), careful=False)
    group.tick(0.95)
    assert not lease_read(group, "s")
    group.settle()
    group.tick(0.2)
    group.settle()
    assert lease_read(group, "t")


def test_a_leader_that_slept_looks_at_its_clock_before_it_reads() -> None:
    group = led_by_1()
    group.commit(b"old")
    group.pause(1)
    group.run(4.0)
    assert group.leader in (2, 3)
    group.commit(b"new")
    group[1].tick(group.time(1))  # as the replica does, whatever woke it
    if group[1].is_leader:
        group.read("r", 1, Raft.lease_read)
    assert not group.nodes[1].reads
    group.resume(1)
    group.run(1.0)
    assert group.nodes[1].refused in ([], ["r"])
    assert group.data(1) == [b"old", b"new"]


def depose_by_lease(rate_of_voters: float, rate_of_leader: float, *, within: bool = True) -> Group:
    """Node 1 leads and is cut off; the others elect as soon as their clocks let them, and it reads at that moment."""
    voter = Clock(rate_of_voters, start=5.0)
    clocks = {1: Clock(rate_of_leader), **dict.fromkeys((2, 3), voter)}
    group = led_by_1(clocks=clocks, crash_stagger=0.001)
    group.laws.trust_clocks = within
    group.isolate(1)
    for id in (2, 3):
        group.report_down(id, 1)
    for _ in range(1000):
        group.run(0.005)
        if group.leader != 1:
            break
    group.commit(b"new")
    if group[1].is_leader:
        lease_read(group, "r")
    return group


@pytest.mark.parametrize(("voters", "leader"), [(1.0, 1.0), (1.0, 0.92), (1.05, 0.96), (0.9, 1.0), (1.1, 1.0)])
def test_clocks_within_the_bound_give_no_stale_read(voters: float, leader: float) -> None:
    group = depose_by_lease(voters, leader)
    assert group.leader in (2, 3)
    assert not group.nodes[1].reads


def test_clocks_beyond_the_bound_may_give_a_stale_read() -> None:
    """So it is the bound that the promise rests on: this is what an operator is told."""
    with pytest.raises(AssertionError, match="misses an acknowledged write"):
        depose_by_lease(1.2, 0.8, within=False)


# --- the promise ------------------------------------------------------------------------------------------------------


def test_a_promise_holds_when_the_term_was_raised_by_somebody_else() -> None:
    """A late answer tells the voter of the candidate's term, so it finds nothing new in the request for its vote."""
    group = led_by_1(5)
    group.receive(VoteResponse(2, 5, 2, granted=False))
    assert group[2].term == 2
    group.receive(RequestVote(2, 5, 2, last_index=9, last_term=1))
    assert not group.pick(VoteResponse, src=2, granted=True)


def test_a_promise_counts_from_its_answer_not_from_the_last_look_at_the_clock() -> None:
    """A node that slept takes in what woke it before it looks at its clock: only `ready` knows how late it is."""
    group = led_by_1()
    group.now += 0.9
    group[2].step(Heartbeat(1, 1, 2, commit=0))
    group[2].tick(group.now)
    group.turn(2)
    group.now += 0.9
    group[2].tick(group.now)
    group.receive(RequestVote(2, 3, 2, last_index=9, last_term=1))
    assert not group.pick(VoteResponse, src=2, granted=True)


def asks_in_vain(group: Group, voter: int = 2) -> bool:
    """A candidate that nothing else speaks against gets no vote."""
    group.drop()
    group.receive(RequestVote(group[voter].term + 1, 3, voter, last_index=99, last_term=99))
    return not group.pick(VoteResponse, src=voter, granted=True)


def test_a_promise_holds_for_an_election_timeout_and_no_longer() -> None:
    group = led_by_1()
    group.isolate(1)
    group.tick(0.99)
    assert asks_in_vain(group)
    group.tick(0.01)
    assert not asks_in_vain(group)


def test_a_promise_survives_a_restart() -> None:
    """The node does not know what it promised, so it keeps still for as long as any promise lasts."""
    group = led_by_1()
    group.crash(2)
    group.now += 0.01
    group.restart(2)
    assert asks_in_vain(group)
    group.campaign(2)
    assert not group.pick(RequestVote)
    group.now += 1.0
    group[2].tick(group.now)
    assert not asks_in_vain(group)


def test_a_node_that_never_heard_of_a_term_has_promised_nothing() -> None:
    group = Group(3, max_clock_drift=DRIFT)
    assert not asks_in_vain(group)


def test_a_promise_survives_the_report_that_the_leader_is_down() -> None:
    """The leader's process may be there all the same, and read by its lease: so the election waits."""
    group = led_by_1()
    group.isolate(1)
    for id in (2, 3):
        group.report_down(id, 1)
    assert asks_in_vain(group)
    group.run(0.98)
    assert group[2].term == 1
    assert lease_read(group, "r") is False or group[1].now < 1.0
    group.run(0.12)
    assert group.leader in (2, 3), "it is answered as soon as the promise ends"


def test_a_node_that_was_told_of_a_crash_before_it_looked_at_its_clock_campaigns_in_time() -> None:
    group = led_by_1()
    group.now += 0.9
    group[2].step(Heartbeat(1, 1, 2, commit=0))
    group[2].report_down(1, group[2].now)
    group[2].tick(group.now)
    group.turn(2)
    assert group[2].next_deadline <= group.now + 2.0
    assert asks_in_vain(group)


def test_a_promise_does_not_outlive_the_leaders_own_order_to_campaign() -> None:
    group = led_by_1()
    group.transfer(3)
    group.settle()
    assert group.leader == 3


# --- stamps -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("now", [0.0, 0.1, 1 / 3, 86_400.7, 1.7e9 + 1 / 7])
def test_a_stamp_that_comes_back_names_no_later_moment_and_is_never_lost(now: float) -> None:
    for seed in range(50):
        group = Group(3, seed=seed, max_clock_drift=DRIFT, clocks={1: Clock(start=now)})
        raft = group[1]
        for moment in (now, now + 0.3, now + 1000 / 3):
            raft.tick(moment)
            assert raft.now - 1e-6 <= raft.time_of(raft.stamp()) <= raft.now


def test_a_stamp_of_an_earlier_process_names_no_moment() -> None:
    group = led_by_1()
    old = group[2].stamp()
    group.crash(2)
    group.restart(2)
    group.tick(0.5)
    assert group[2].time_of(old) == float("-inf")
    assert group[2].time_of(0.0) == float("-inf")


# --- how fresh a follower is ------------------------------------------------------------------------------------------


def test_a_follower_allows_for_a_leader_whose_clock_is_slow() -> None:
    """Node 1 has handed over and does not know it: what it says of its past, it says on a clock that lags."""
    group = led_by_1(5, clocks={1: Clock(rate=1 - DRIFT)}, heartbeat_interval=0.02)
    group.transfer(3)
    group.isolate(1, 2)
    group[3].step(TimeoutNow(1, 1, 3))
    group.turn(3)
    group.deliver(RequestVote)
    group.run(0.01)
    assert group.leader == 3
    group.commit(b"new")
    group.run(0.8)
    assert group[1].is_leader
    assert group.now - 1.1 < group[2].fresh_as_of < group.now - 0.8
    assert not group.data(2)


def test_a_follower_is_as_fresh_as_the_last_heartbeats_say() -> None:
    group = led_by_1()
    group.run(1.0)
    for id in (2, 3):
        assert group.now - 0.35 < group[id].fresh_as_of <= group.now
    assert group[1].fresh_as_of >= group.now - 0.11


def test_a_node_that_was_told_nothing_claims_nothing() -> None:
    group = Group(3)
    assert group[1].fresh_as_of == float("-inf")
    group = led_by_1()
    group.crash(2)
    group.restart(2)
    assert group[2].fresh_as_of == float("-inf"), "its state is that of its snapshot"
    group.run(0.5)
    assert group[2].fresh_as_of > group.now - 0.35


def test_a_follower_that_is_cut_off_grows_old() -> None:
    group = led_by_1()
    group.run(0.5)
    group.isolate(3)
    before = group[3].fresh_as_of
    group.commit(b"x")
    group.run(2.0)
    assert group[3].fresh_as_of == before


def test_a_deposed_leader_makes_nobody_fresh() -> None:
    """Node 1 does not know that it was deposed, and goes on to show itself to node 2."""
    group = led_by_1(5, check_quorum=False, max_clock_drift=None)
    group.run(0.5)
    group.isolate(1, 2)
    cut_at = group.now
    group.elect(4)
    group.commit(b"new")
    group.run(5.0)
    assert group[1].is_leader
    assert group[2].leader == 1
    assert group[1].fresh_as_of <= cut_at + 0.11
    assert group[2].fresh_as_of <= cut_at + 0.11


def test_late_and_repeated_heartbeats_make_nobody_fresher_than_they_were() -> None:
    group = led_by_1()
    group.run(0.5)
    old = [m for m in group.sent if isinstance(m, Heartbeat) and m.dst == 2][-3:]
    group.cut(1, 2)
    group.commit(b"x")
    group.run(0.3)
    before = group[2].fresh_as_of
    for message in [*reversed(old), *old]:
        group[2].step(message)
        group.turn(2)
    assert group[2].fresh_as_of == before


def test_a_follower_that_lags_is_not_fresh_before_it_has_applied_what_a_heartbeat_vouches_for() -> None:
    group = led_by_1()
    group.run(0.5)
    group.propose(b"x")
    group.drop(AppendEntries, dst=3)
    group.settle()
    before = group[3].fresh_as_of
    group.tick(0.1)
    beat = group.pick(Heartbeat, dst=3)[-1]
    assert beat.commit < beat.newest == group[1].log.commit
    group.deliver(Heartbeat, dst=3)
    assert group[3].fresh_as_of == before
    heard = group.now
    group.run(0.05)
    assert group[3].log.applied < beat.newest, "what it lacks is sent again after a heartbeat's answer, not yet"
    group.run(0.3)
    assert group[3].log.applied >= beat.newest
    assert group[3].fresh_as_of > before
    assert group[3].fresh_as_of <= heard + 0.35


def test_a_follower_whose_machine_is_slow_is_as_fresh_as_what_it_applied() -> None:
    freshness = Freshness()
    freshness.heard(commit=5, moment=1.0, applied=5)
    freshness.heard(commit=9, moment=2.0, applied=5)
    freshness.heard(commit=12, moment=3.0, applied=7)
    assert freshness.as_of(8) == 1.0
    assert freshness.as_of(9) == 2.0
    freshness.heard(commit=12, moment=4.0, applied=9)
    assert freshness.as_of(11) == 2.0
    assert freshness.as_of(12) == 4.0
    freshness.heard(commit=12, moment=3.5, applied=12)
    assert freshness.as_of(12) == 4.0, "it never goes back"


@pytest.mark.parametrize("restarted", [1, 2])
def test_heartbeats_of_before_a_restart_make_nobody_fresh(restarted: int) -> None:
    group = led_by_1()
    group.run(0.5)
    old = [m for m in group.sent if isinstance(m, Heartbeat) and m.dst == 2][-5:]
    group.crash(restarted)
    group.restart(restarted)
    group.tick(0.2)
    before = group[2].fresh_as_of
    for message in old:
        group[2].step(message)
        group.turn(2)
    assert group[2].fresh_as_of == before
