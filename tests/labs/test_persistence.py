"""The labs of persistence: crashes and restarts, and the churn that figure 8 is about."""

from __future__ import annotations

import pytest

from tests.labs.clock import Process
from tests.labs.cluster import ELECTION_TIMEOUT, Cluster
from tests.labs.network import UNRELIABLE_LATENCY

seeds = pytest.mark.parametrize("seed", range(3))
# One entry in a message, so that those of an old term can reach a quorum without the new leader's first one, and
# elections in quick succession, so that many leaders crash.
CLOSE_TO_FIGURE_8 = {
    "max_append_bytes": 1,
    "max_inflight_messages": 1,
    "election_timeout": 0.15,
    "heartbeat_interval": 0.03,
}


@seeds
def test_persist_1(seed: int) -> None:
    """The log survives the restart of all, of a leader, and of a follower that was down meanwhile."""
    lab = Cluster(3, seed)
    lab.agree(b"11", 3)
    lab.restart(*lab.ids)
    lab.agree(b"12", 3)
    lab.restart(lab.one_leader())
    lab.agree(b"13", 3)

    leader = lab.one_leader()
    lab.crash(leader)
    index = lab.agree(b"14", 2)
    lab.restart(leader)
    lab.wait_for(index, 3)

    follower = lab.after(lab.one_leader(), 1)
    lab.crash(follower)
    lab.agree(b"15", 2)
    lab.restart(follower)
    lab.agree(b"16", 3)


@seeds
def test_persist_2(seed: int) -> None:
    """Of five nodes other three are up each time, and never all."""
    lab = Cluster(5, seed)
    for step in range(5):
        lab.agree(b"%d" % (10 + 3 * step), 5)
        ring = [lab.after(lab.one_leader(), i) for i in range(5)]
        lab.crash(*ring[1:3])
        lab.agree(b"%d" % (11 + 3 * step), 3)
        lab.crash(ring[0], *ring[3:])
        lab.restart(*ring[1:3])
        lab.run(ELECTION_TIMEOUT)
        lab.restart(ring[3])
        lab.agree(b"%d" % (12 + 3 * step), 3)
        lab.restart(ring[4], ring[0])
    lab.agree(b"1000", 5)


@seeds
def test_persist_3(seed: int) -> None:
    """Leader and one follower crash; the leader comes back to the one that had been cut off."""
    lab = Cluster(3, seed)
    lab.agree(b"101", 3)
    leader = lab.one_leader()
    ring = [lab.after(leader, i) for i in range(3)]
    lab.disconnect(ring[2])
    lab.agree(b"102", 2)
    lab.crash(*ring[:2])
    lab.connect(ring[2])
    lab.restart(ring[0])
    lab.agree(b"103", 2)
    lab.restart(ring[1])
    lab.agree(b"104", 3)


def run_figure_8(seed: int, rounds: int) -> None:
    """Leaders crash soon after they have taken a command, and what they left is never undone once it was applied.

    Three times the labs' rounds, on a network with a delay: so the mistake that this lab is about is found.
    """
    lab = Cluster(5, seed, raft=CLOSE_TO_FIGURE_8)
    lab.network.latency = UNRELIABLE_LATENCY
    lab.agree(lab.command(), 1)
    up = set(lab.ids)
    for _ in range(rounds):
        # As in the labs, the one with the highest number that thinks so; there may be an old one besides.
        leader = max([id for id in up if lab.propose(id, lab.command()) is not None], default=None)
        slow = lab.rng.random() < 0.1
        lab.run(lab.rng.uniform(0, ELECTION_TIMEOUT / 2 if slow else 0.013))
        if leader is not None:
            lab.crash(leader)
            up.discard(leader)
        down = sorted(set(lab.ids) - up)
        if len(up) < 3 and (back := lab.rng.choice([*down, 0])):
            lab.restart(back)
            up.add(back)
    lab.restart(*sorted(set(lab.ids) - up))
    lab.agree(lab.command(), 5)
    lab.check()


@seeds
def test_figure_8(seed: int) -> None:
    run_figure_8(seed, 3000)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 130))
def test_figure_8_many_seeds(seed: int) -> None:
    run_figure_8(seed, 3000)


def run_figure_8_unreliable(seed: int, rounds: int) -> None:
    """As figure 8, with leaders cut off and answers that come two seconds late."""
    lab = Cluster(5, seed, unreliable=True)
    lab.agree(lab.command(), 1)
    for step in range(rounds):
        if step == rounds // 5:
            lab.network.long_reordering = True
        connected = lab.network.connected
        leader = max(
            [id for id in lab.ids if lab.propose(id, lab.command()) is not None and id in connected], default=0
        )
        slow = lab.rng.random() < 0.1
        lab.run(lab.rng.uniform(0, ELECTION_TIMEOUT / 2 if slow else 0.013))
        if leader and lab.rng.random() < 0.5:
            lab.disconnect(leader)
        away = sorted(set(lab.ids) - lab.network.connected)
        if len(away) > 2 and (back := lab.rng.choice([*away, 0])):
            lab.connect(back)
    lab.connect(*lab.ids)
    lab.agree(lab.command(), 5)
    lab.check()


@seeds
def test_figure_8_unreliable(seed: int) -> None:
    run_figure_8_unreliable(seed, 1000)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 120))
def test_figure_8_unreliable_many_seeds(seed: int) -> None:
    run_figure_8_unreliable(seed, 1000)


def run_churn(seed: int, steps: int, *, unreliable: bool) -> None:
    """Nodes crash, restart and are cut off while three clients propose; what a client saw committed stays."""
    lab = Cluster(5, seed, unreliable=unreliable)
    stop = False
    seen: list[bytes] = []

    def client(number: int) -> Process:
        while not stop:
            command = lab.command()
            index = None
            for id in lab.ids:
                if (taken := lab.propose(id, command)) is not None:
                    index = taken
            if index is None:
                yield 0.079 + 0.017 * number
                continue
            for pause in (0.01, 0.02, 0.05, 0.1, 0.2):
                count, found = lab.committed(index)
                if count:
                    if found == command:
                        seen.append(command)
                    break
                yield pause

    clients = [lab.clock.spawn(client(number)) for number in range(3)]
    for _ in range(steps):
        dice = lab.rng.random
        if dice() < 0.2:
            lab.disconnect(lab.rng.choice(lab.ids))
        if dice() < 0.5:
            id = lab.rng.choice(lab.ids)
            if lab[id].replica is None:
                lab.restart(id)
            lab.connect(id)
        if dice() < 0.2:
            lab.crash(lab.rng.choice(lab.ids))
        # Long enough that work goes on, short enough that not every trouble is settled.
        lab.run(0.7 * ELECTION_TIMEOUT)

    lab.run(ELECTION_TIMEOUT)
    lab.network.unreliable = False
    lab.restart(*[id for id in lab.ids if lab[id].replica is None])
    lab.connect(*lab.ids)
    stop = True
    assert lab.clock.until(lambda: all(task.done for task in clients), 30.0)
    lab.run(ELECTION_TIMEOUT)
    last = lab.agree(lab.command(), 5)
    final = [lab.wait_for(index, 5) for index in range(1, last + 1)]
    assert len(seen) > 20, f"only {len(seen)} commands were seen to commit"
    assert set(seen) <= set(final), "a command that was committed is gone"
    lab.check()


@seeds
def test_reliable_churn(seed: int) -> None:
    run_churn(seed, 20, unreliable=False)


@seeds
def test_unreliable_churn(seed: int) -> None:
    run_churn(seed, 20, unreliable=True)


@pytest.mark.slow
@pytest.mark.parametrize("unreliable", [False, True])
@pytest.mark.parametrize("seed", range(100, 120))
def test_long_churn(seed: int, unreliable: bool) -> None:
    run_churn(seed, 100, unreliable=unreliable)
