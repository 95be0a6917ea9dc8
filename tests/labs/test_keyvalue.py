"""The labs of the fault-tolerant key-value service: sessions, reads, snapshots, and a checked history."""

from __future__ import annotations

from typing import Any

import pytest

from rayraft.raft.types import NodeId
from tests.labs.clerk import Clerk
from tests.labs.clock import Process
from tests.labs.cluster import ELECTION_TIMEOUT, Cluster
from tests.labs.history import Operation, linearizable
from tests.labs.machines import WatchedMachine

KEYS = 100
MAX_STATE = 1000  # bytes of log after which a snapshot is due, where there are snapshots
THINK = 0.2  # seconds between two calls of a client, at most
BRISK = {"election_timeout": 0.3, "heartbeat_interval": 0.05}  # a partition of a second leaves time for work


def service(servers: int, seed: int, *, unreliable: bool = False, snapshots: bool = False) -> Cluster:
    settings: dict[str, Any] = {"snapshot_bytes": MAX_STATE, "snapshot_trailing": 0} if snapshots else {}
    return Cluster(servers, seed, unreliable=unreliable, machine=WatchedMachine, raft=BRISK, **settings)


def check_appends(value: str, client: int, count: int) -> None:
    """Each thing that the client appended is there, once, in order."""
    places = [value.find(piece) for piece in (f"x {client} {j} y" for j in range(count))]
    assert -1 not in places, f"client {client} misses append {places.index(-1)}"
    assert places == sorted(places), f"client {client}: appends out of order"
    assert value.count(f"x {client} ") == count, f"client {client}: an append was applied twice"


def run_service(
    seed: int,
    *,
    clients: int = 5,
    servers: int = 5,
    unreliable: bool = False,
    crash: bool = False,
    partitions: bool = False,
    snapshots: bool = False,
    one_key: bool = False,
    random_keys: bool = False,
    rounds: int = 3,
    seconds: float = 5.0,
) -> None:
    """Rounds of work by all clients, with faults between and beside; then all that was acknowledged is there once.

    With ``random_keys`` the clients also overwrite each other's keys. Every history must be linearizable.
    """
    lab = service(servers, seed, unreliable=unreliable, snapshots=snapshots)
    history: list[Operation] = []
    clerks = [Clerk(lab, history) for _ in range(clients)]
    appended = [0] * clients
    stop = False

    def client(number: int) -> Process:
        clerk, rng = clerks[number], lab.rng
        while not stop:
            key = f"k{rng.randrange(KEYS)}" if random_keys else "k" if one_key else f"k{number}"
            piece = f"x {number} {appended[number]} y"
            if rng.random() < 0.5:
                appended[number] += 1
                yield from clerk.append(key, piece)
            elif random_keys and rng.random() < 0.2:
                appended[number] += 1
                yield from clerk.put(key, piece)
            else:
                yield from clerk.get(key)
            yield rng.uniform(0, THINK)

    def partitioner() -> Process:
        while not stop:
            left = {id for id in lab.ids if lab.rng.random() < 0.5}
            lab.network.partition(left, set(lab.ids) - left)
            yield ELECTION_TIMEOUT + lab.rng.uniform(0, 0.2)

    for _ in range(rounds):
        stop = False
        tasks = [lab.clock.spawn(client(number)) for number in range(clients)]
        if partitions:
            lab.clock.spawn(partitioner())
        lab.run(seconds)
        stop = True
        if partitions:
            lab.run(ELECTION_TIMEOUT)
            lab.network.heal()
        if crash:
            lab.crash(*lab.ids)
            lab.run(ELECTION_TIMEOUT)  # those who wait for an answer notice
            lab.restart(*lab.ids)
        assert lab.clock.until(lambda tasks=tasks: all(task.done for task in tasks), 60.0), "clients are stuck"  # type: ignore[misc]
        if not random_keys:
            for number in range(clients):
                value = lab.clock.finish(clerks[0].get("k" if one_key else f"k{number}"))
                check_appends(value, number, appended[number])
        if snapshots:
            sizes = {id: lab[id].log_bytes for id in lab.ids}
            assert max(sizes.values()) <= 8 * MAX_STATE, f"bytes of log: {sizes}"
    assert len(history) > 2 * clients * rounds, f"only {len(history)} operations"
    assert linearizable(history), "the history is not linearizable"
    lab.check()


VARIANTS: dict[str, dict[str, Any]] = {
    "basic, one client": {"clients": 1},
    "concurrent": {},
    "unreliable": {"unreliable": True},
    "unreliable, one key": {"servers": 3, "unreliable": True, "one_key": True, "rounds": 2},
    "partitions, one client": {"clients": 1, "partitions": True},
    "partitions": {"partitions": True},
    "restarts, one client": {"clients": 1, "crash": True},
    "restarts": {"crash": True},
    "unreliable, restarts": {"unreliable": True, "crash": True},
    "restarts, partitions": {"crash": True, "partitions": True},
    "unreliable, restarts, partitions": {"unreliable": True, "crash": True, "partitions": True},
    "random keys": {
        "clients": 15,
        "servers": 7,
        "unreliable": True,
        "crash": True,
        "partitions": True,
        "random_keys": True,
    },
    "snapshots, restarts, one client": {"clients": 1, "crash": True, "snapshots": True},
    "snapshots, restarts": {"crash": True, "snapshots": True},
    "snapshots, unreliable": {"unreliable": True, "snapshots": True},
    "snapshots, unreliable, restarts": {"unreliable": True, "crash": True, "snapshots": True},
    "snapshots, unreliable, restarts, partitions": {
        "unreliable": True,
        "crash": True,
        "partitions": True,
        "snapshots": True,
    },
    "snapshots, random keys": {
        "clients": 15,
        "servers": 7,
        "unreliable": True,
        "crash": True,
        "partitions": True,
        "snapshots": True,
        "random_keys": True,
    },
}


@pytest.mark.parametrize("name", VARIANTS)
def test_service(name: str) -> None:
    run_service(0, **VARIANTS[name])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 106))
@pytest.mark.parametrize("name", VARIANTS)
def test_service_many_seeds(name: str, seed: int) -> None:
    run_service(seed, **VARIANTS[name])


@pytest.mark.parametrize("snapshots", [False, True])
def test_speed(snapshots: bool) -> None:
    """300 commands one after another, three in a heartbeat interval of 100 ms at least (simulated time)."""
    lab = service(3, 0, snapshots=snapshots)
    clerk = Clerk(lab, [])
    lab.clock.finish(clerk.put("k", ""))
    start, count = lab.clock.now, 300
    for j in range(count):
        lab.clock.finish(clerk.append("k", f"x 0 {j} y"))
    assert (lab.clock.now - start) / count < 0.1 / 3
    check_appends(lab.clock.finish(clerk.get("k")), 0, count)


@pytest.mark.parametrize("seed", range(3))
def test_one_partition(seed: int) -> None:
    """The larger side serves; the smaller one neither writes nor reads; what waited there is done after the heal."""
    lab = service(5, seed)
    history: list[Operation] = []
    everywhere = Clerk(lab, history)
    lab.clock.finish(everywhere.put("1", "13"))
    leader = lab.one_leader()
    small: set[NodeId] = {leader, lab.after(leader, 1)}
    large = set(lab.ids) - small
    lab.network.partition(large, small)

    inside, outside, outside_too = (Clerk(lab, history) for _ in range(3))
    inside.reach, outside.reach, outside_too.reach = large, small, small
    reading = lab.clock.spawn(outside_too.get("1"))
    lab.clock.finish(inside.put("1", "14"))
    assert lab.clock.finish(inside.get("1")) == "14"
    writing = lab.clock.spawn(outside.put("1", "15"))
    lab.run(5.0)
    assert not writing.done, "a write went through without a quorum"
    assert not reading.done, "a read went through without a quorum"
    lab.clock.finish(inside.put("1", "16"))
    assert lab.clock.finish(inside.get("1")) == "16"

    lab.network.heal()
    outside.reach = outside_too.reach = set(lab.ids)
    assert lab.clock.until(lambda: writing.done and reading.done, 10.0), "no progress after the heal"
    assert lab.clock.finish(inside.get("1")) == "15"
    assert linearizable(history)


def test_snapshot_rpc() -> None:
    """A server that was away while the others cut their logs gets a snapshot, and then makes a quorum with one."""
    lab = service(3, 0, snapshots=True)
    history: list[Operation] = []
    clerk = Clerk(lab, history)
    lab.clock.finish(clerk.put("a", "A"))
    lab.network.partition({1, 2}, {3})
    for i in range(50):
        lab.clock.finish(clerk.put(str(i), str(i)))
    lab.run(ELECTION_TIMEOUT)
    lab.clock.finish(clerk.put("b", "B"))
    assert max(lab[id].log_bytes for id in (1, 2)) <= 8 * MAX_STATE

    lab.network.partition({1, 3}, {2})
    clerk.reach = {1, 3}
    lab.clock.finish(clerk.put("c", "C"))
    lab.clock.finish(clerk.put("d", "D"))
    assert [lab.clock.finish(clerk.get(key)) for key in ("a", "b", "1", "49", "c")] == ["A", "B", "1", "49", "C"]
    replica = lab[3].replica
    assert replica is not None
    assert replica.counters.snapshots_installed >= 1

    lab.network.heal()
    clerk.reach = set(lab.ids)
    lab.clock.finish(clerk.put("e", "E"))
    assert [lab.clock.finish(clerk.get(key)) for key in ("c", "d", "e", "1")] == ["C", "D", "E", "1"]
    assert linearizable(history)


def test_snapshot_size() -> None:
    """However often a small state is overwritten, its snapshot stays small: at most 500 bytes."""
    lab = service(3, 0, snapshots=True)
    clerk = Clerk(lab, [])
    for _ in range(100):
        lab.clock.finish(clerk.put("x", "0"))
        assert lab.clock.finish(clerk.get("x")) == "0"
        lab.clock.finish(clerk.put("x", "1"))
        assert lab.clock.finish(clerk.get("x")) == "1"
    lab.run(ELECTION_TIMEOUT)
    for id in lab.ids:
        assert lab[id].log_bytes <= 8 * MAX_STATE
        assert lab[id].log.snapshot().index
        assert lab[id].snapshots.size(lab[id].log.snapshot()) <= 500
