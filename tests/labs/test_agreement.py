"""The labs of the log: agreement, and what it may cost."""

from __future__ import annotations

import pytest

from tests.labs.clock import Process
from tests.labs.cluster import ELECTION_TIMEOUT, Cluster

seeds = pytest.mark.parametrize("seed", range(3))


@seeds
def test_basic_agree(seed: int) -> None:
    """Nothing is committed before it is proposed; then command follows command."""
    lab = Cluster(3, seed)
    lab.one_leader()
    first = lab.agree(lab.command(), 3)
    for step in range(1, 4):
        assert lab.committed(first + step) == (0, None), "committed before it was proposed"
        assert lab.agree(lab.command(), 3) == first + step


@seeds
def test_rpc_bytes(seed: int) -> None:
    """10 commands of 5,000 bytes cost at most 3 x the bytes + 50,000: each goes to each node once.

    Counted are the encoded bytes of all messages, answers and heartbeats included, from the first command on.
    """
    lab = Cluster(3, seed)
    lab.one_leader()
    lab.agree(b"the first", 3)
    before = lab.network.traffic.bytes
    sent = 0
    for i in range(10):
        command = bytes([65 + i]) * 5000
        lab.agree(command, 3)
        sent += len(command)
    got = lab.network.traffic.bytes - before
    assert sent <= got <= 3 * sent + 50_000, f"{got} bytes for {sent}"


@seeds
def test_follower_failure(seed: int) -> None:
    """With one follower gone there is agreement; with both gone, none."""
    lab = Cluster(3, seed)
    lab.agree(b"101", 3)
    leader = lab.one_leader()
    lab.disconnect(lab.after(leader, 1))
    lab.agree(b"102", 2)
    lab.run(ELECTION_TIMEOUT)
    lab.agree(b"103", 2)
    leader = lab.one_leader()
    lab.disconnect(lab.after(leader, 1), lab.after(leader, 2))
    index = lab.propose(leader, b"104")
    assert index is not None
    lab.run(2 * ELECTION_TIMEOUT)
    assert lab.committed(index)[0] == 0, "committed without a quorum"


@seeds
def test_leader_failure(seed: int) -> None:
    """A second leader goes on; when it is cut off as well, nothing commits."""
    lab = Cluster(3, seed)
    lab.agree(b"101", 3)
    lab.disconnect(lab.one_leader())
    lab.agree(b"102", 2)
    lab.run(ELECTION_TIMEOUT)
    lab.agree(b"103", 2)
    second = lab.one_leader()
    lab.disconnect(second)
    indexes = [index for id in lab.ids if (index := lab.propose(id, b"104")) is not None]
    assert indexes, "the one that was cut off still thinks it leads"
    lab.run(2 * ELECTION_TIMEOUT)
    assert all(lab.committed(index)[1] != b"104" for index in indexes), "committed without a quorum"


@seeds
def test_fail_agree(seed: int) -> None:
    """A follower that was away catches up and takes part again."""
    lab = Cluster(3, seed)
    lab.agree(b"101", 3)
    away = lab.after(lab.one_leader(), 1)
    lab.disconnect(away)
    for command in (b"102", b"103"):
        lab.agree(command, 2)
    lab.run(ELECTION_TIMEOUT)
    for command in (b"104", b"105"):
        lab.agree(command, 2)
    lab.connect(away)
    lab.agree(b"106", 3)
    lab.run(ELECTION_TIMEOUT)
    lab.agree(b"107", 3)


@seeds
def test_fail_no_agree(seed: int) -> None:
    """With three of five cut off nothing commits; after they are back, work goes on."""
    lab = Cluster(5, seed)
    lab.agree(b"10", 5)
    leader = lab.one_leader()
    cut = [lab.after(leader, step) for step in (1, 2, 3)]
    lab.disconnect(*cut)
    index = lab.propose(leader, b"20")
    assert index is not None
    lab.run(2 * ELECTION_TIMEOUT)
    assert lab.committed(index)[0] == 0, "committed without a quorum"
    lab.connect(*cut)
    again = lab.propose(lab.one_leader(), b"30")
    assert again is not None
    assert index <= again <= index + 2, "20 is kept or replaced, with a no-op of the new leader at most"
    lab.agree(b"1000", 5)


@seeds
def test_concurrent_starts(seed: int) -> None:
    """Five commands proposed at one moment in one term are all committed."""
    for attempt in range(5):
        lab = Cluster(3, seed + 100 * attempt)
        leader = lab.one_leader()
        term = lab.term()
        commands = [b"%d" % (100 + i) for i in range(5)]
        indexes = [lab.propose(leader, command) for command in commands]
        done = [lab.wait_for(index, 3) for index in indexes if index is not None]
        if any(lab[id].term != term for id in lab.ids):
            continue  # another leader may have replaced them
        assert done == commands
        return
    raise AssertionError("the term changed too often")


@seeds
def test_rejoin(seed: int) -> None:
    """A leader that was cut off with entries of its own comes back, while the next one is cut off."""
    lab = Cluster(3, seed)
    lab.agree(b"101", 3)
    first = lab.one_leader()
    lab.disconnect(first)
    for command in (b"102", b"103", b"104"):
        assert lab.propose(first, command) is not None
    lab.agree(b"103", 2)
    lab.disconnect(lab.one_leader())
    lab.connect(first)
    lab.agree(b"104", 2)
    lab.connect(*lab.ids)
    lab.agree(b"105", 3)
    lab.check()


@seeds
def test_backup(seed: int) -> None:
    """Leaders and followers back up quickly over logs that differ in 50 entries and more (§5.3, last paragraph).

    Our own limit on top: a refusal skips a whole term, so a few of them in all settle every difference.
    """
    lab = Cluster(5, seed)
    lab.agree(lab.command(), 5)
    leader = lab.one_leader()
    ring = [lab.after(leader, step) for step in range(5)]

    lab.disconnect(*ring[2:])
    for _ in range(50):
        assert lab.propose(leader, lab.command()) is not None
    lab.run(ELECTION_TIMEOUT / 2)
    lab.disconnect(*ring[:2])
    lab.connect(*ring[2:])
    for _ in range(50):
        lab.agree(lab.command(), 3)

    second = lab.one_leader()
    other = next(id for id in ring[2:] if id != second)
    lab.disconnect(other)
    for _ in range(50):
        assert lab.propose(second, lab.command()) is not None
    lab.run(ELECTION_TIMEOUT / 2)
    lab.disconnect(*lab.ids)
    lab.connect(*ring[:2], other)
    for _ in range(50):
        lab.agree(lab.command(), 3)

    lab.connect(*lab.ids)
    lab.agree(lab.command(), 5)
    assert lab.network.traffic.refusals <= 20, f"{lab.network.traffic.refusals} refused AppendEntries"


@seeds
def test_count(seed: int) -> None:
    """At most 30 RPCs to elect, 42 for 10 entries, 60 in an idle second.

    Counted are the requests between nodes: RequestVote (pre-votes too), AppendEntries and Heartbeat. Our messages are
    one way, so their answers are not counted, as those of an RPC are not.
    """
    lab = Cluster(3, seed)
    traffic = lab.network.traffic
    leader = lab.one_leader()
    assert 1 <= traffic.requests <= 30, f"{traffic.requests} RPCs to elect"

    before, term = traffic.requests, lab.term()
    commands = [lab.command() for _ in range(10)]
    indexes = [lab.propose(leader, command) for command in commands]
    assert [lab.wait_for(index or 0, 3) for index in indexes] == commands
    assert lab.term() == term
    assert traffic.requests - before <= (10 + 1 + 3) * 3, f"{traffic.requests - before} RPCs for 10 entries"

    before = traffic.requests
    lab.run(1.0)
    assert traffic.requests - before <= 3 * 20, f"{traffic.requests - before} RPCs in an idle second"


@seeds
def test_unreliable_agree(seed: int) -> None:
    """Five commands at a time, fifty times, while messages are late and lost."""
    lab = Cluster(5, seed, unreliable=True)
    tasks = []

    def rounds() -> Process:
        for i in range(1, 50):
            for j in range(4):
                tasks.append(lab.clock.spawn(lab.agreeing(b"%d" % (100 * i + j), 1)))
            yield from lab.agreeing(b"%d" % i, 1)

    lab.clock.finish(rounds())
    lab.network.unreliable = False
    assert lab.clock.until(lambda: all(task.done for task in tasks), 30.0)
    lab.agree(b"the last", 5)
    lab.check()
