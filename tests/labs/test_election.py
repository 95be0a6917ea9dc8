"""The labs of leader election."""

from __future__ import annotations

import pytest

from tests.labs.cluster import ELECTION_TIMEOUT, Cluster

seeds = pytest.mark.parametrize("seed", range(3))


@seeds
def test_initial_election(seed: int) -> None:
    """A leader is elected, all agree on its term, and without a failure both stay."""
    lab = Cluster(3, seed)
    leader = lab.one_leader()
    lab.run(0.05)
    term = lab.term()
    assert term >= 1
    lab.run(2 * ELECTION_TIMEOUT)
    assert (lab.term(), lab.one_leader()) == (term, leader)


@seeds
def test_re_election(seed: int) -> None:
    """Leaders come and go with the network; without a quorum there is none, and an old one disturbs nobody."""
    lab = Cluster(3, seed)
    first = lab.one_leader()
    lab.disconnect(first)
    second = lab.one_leader()
    assert second != first
    lab.connect(first)
    second = lab.one_leader()

    lab.disconnect(second, lab.after(second, 1))
    lab.run(2 * ELECTION_TIMEOUT)
    lab.no_leader()
    lab.connect(lab.after(second, 1))
    lab.one_leader()
    lab.connect(second)
    lab.one_leader()


@seeds
def test_many_elections(seed: int) -> None:
    """Of seven nodes three are cut off, again and again: the rest has a leader, or gets one."""
    lab = Cluster(7, seed)
    lab.one_leader()
    for _ in range(10):
        cut = lab.rng.sample(lab.ids, 3)
        lab.disconnect(*cut)
        lab.one_leader()
        lab.connect(*cut)
    lab.one_leader()
    lab.check()
