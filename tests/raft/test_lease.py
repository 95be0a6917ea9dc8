"""Reads on the word of a clock (thesis §6.4.1), and how old a follower's state can be.

`Laws` checks in every story that no read misses what was acknowledged before it, and that no node claims to be fresher
than it is.
"""

from __future__ import annotations

import pytest

from rayraft.raft.raft import Raft
from rayraft.raft.types import (
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


# --- the promise ------------------------------------------------------------------------------------------------------


def test_a_promise_holds_when_the_term_was_raised_by_somebody_else() -> None:
    """A late answer tells the voter of the candidate's term, and so it finds nothing new in the request for its vote."""
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
