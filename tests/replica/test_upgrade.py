"""The class is upgraded on replicas that crash, lag, restart from the log or from a snapshot: they stay equal."""

from __future__ import annotations

import random
from typing import Any, BinaryIO

import cloudpickle
import pytest

from rayraft.errors import ClassNotLoadable, UpgradeFailed
from rayraft.machine import objects
from rayraft.machine.calls import encode_call
from rayraft.machine.classes import Upgraded, pack_class
from rayraft.machine.determinism import first_difference
from rayraft.machine.objects import UPGRADE, ObjectMachine, command, object_state
from rayraft.machine.requests import Status, encode_request
from rayraft.replica import Replica
from tests.machine.test_upgrade import Clumsy, Purse, Wallet
from tests.replica.support import NODES, Caller, Group, ask, result_of, status_of


def machine_of(replica: Replica) -> ObjectMachine:
    machine = replica.machine.machine
    assert isinstance(machine, ObjectMachine)
    return machine


def a_group(**settings: Any) -> tuple[Group, Replica, Caller]:
    """Two coins are in the purse."""
    group = Group(Purse, **settings)
    leader = group.elect()
    caller = Caller(group, leader)
    for coin in (5, 7):
        caller.run(leader, "put", coin)
    return group, leader, caller


def assert_all_upgraded(group: Group, total: int) -> None:
    group.until(group.all_equal)
    for replica in group.replicas.values():
        machine = machine_of(replica)
        assert (machine.version, machine.cls, object_state(machine._object)) == (1, Wallet, {"total": total})


def test_every_replica_upgrades_at_the_same_index() -> None:
    group, leader, caller = a_group()
    assert caller.run(leader, UPGRADE, 0, pack_class(Wallet)) == 1
    assert caller.run(leader, "put", 1) == 13
    assert_all_upgraded(group, 13)


def test_a_retry_of_the_upgrade_does_it_once() -> None:
    group, leader, caller = a_group()
    assert caller.run(leader, UPGRADE, 0, pack_class(Wallet)) == 1
    again = caller.repeat(leader, caller.number)
    group.until(lambda: again)
    assert result_of(again) == 1
    assert_all_upgraded(group, 12)


def test_an_upgrade_that_fails_fails_everywhere_and_work_goes_on() -> None:
    group, leader, caller = a_group()
    with pytest.raises(UpgradeFailed, match="butterfingers"):
        caller.run(leader, UPGRADE, 0, pack_class(Clumsy))
    assert caller.run(leader, "put", 1) == 3
    group.until(group.all_equal)
    assert {machine_of(replica).version for replica in group.replicas.values()} == {0}


@pytest.mark.parametrize("snapshot", ["none", "before", "after", "both"])
def test_nodes_that_restart_around_the_upgrade(snapshot: str) -> None:
    """From the log they run the old class up to the upgrade; from a snapshot behind it they begin with the new one."""
    group, leader, caller = a_group(snapshot_trailing=0)

    def save() -> None:
        for replica in group.replicas.values():
            replica.compaction.take()
        group.step()

    group.until(group.all_equal)
    if snapshot in ("before", "both"):
        save()
    caller.run(leader, "put", 1)
    caller.run(leader, UPGRADE, 0, pack_class(Wallet))
    group.until(group.all_equal)
    if snapshot in ("after", "both"):
        save()
    caller.run(leader, "put", 2)
    assert_all_upgraded(group, 15)
    for node in NODES:
        group.kill(node)
        group.start(node)
        group.elect()
        assert_all_upgraded(group, 15)
    assert caller.run(group.elect(), "put", 10) == 25
    assert_all_upgraded(group, 25)


def test_the_leader_dies_before_it_could_tell() -> None:
    """The client repeats its upgrade at the next leader: it is done once."""
    group, leader, caller = a_group()
    group.until(group.all_equal)
    answers = caller.submit(leader, UPGRADE, 0, pack_class(Wallet))
    leader.turn(group.now)
    group.wire = [message for message in group.wire if message.dst == min(group.followers(), key=_id).raft.id]
    group.settle()
    group.kill(leader.raft.id)
    new = group.elect()
    answers = caller.repeat(new, caller.number)
    group.until(lambda: answers)
    assert result_of(answers) == 1
    group.start(leader.raft.id)
    assert_all_upgraded(group, 12)


def _id(replica: Replica) -> int:
    return replica.raft.id


def check_a_lagging_follower_gets_the_snapshot(group: Group, leader: Replica, caller: Caller) -> None:
    """It never sees the entry of the upgrade."""
    group.until(group.all_equal)
    late = group.followers()[0]
    group.cut = {late.raft.id}
    caller.run(leader, UPGRADE, 0, pack_class(Wallet))
    caller.run(leader, "put", 3)
    leader.compaction.take()
    group.step()
    assert leader.raft.log.first_index() > late.raft.log.last_index() + 1, "the log still has the upgrade"
    group.cut = set()
    group.until(lambda: late.counters.snapshots_installed == 1)
    caller.run(leader, "put", 4)
    assert_all_upgraded(group, 19)


def test_a_lagging_follower_gets_the_snapshot() -> None:
    check_a_lagging_follower_gets_the_snapshot(*a_group(snapshot_trailing=0))


def test_a_snapshot_that_does_not_carry_the_class_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def save(self: ObjectMachine, stream: Any) -> None:
        cloudpickle.dump(object_state(self._object), stream)

    monkeypatch.setattr(ObjectMachine, "save", save)
    with pytest.raises(AssertionError):
        check_a_lagging_follower_gets_the_snapshot(*a_group(snapshot_trailing=0))


def test_a_node_that_can_not_load_the_class_stops_and_comes_back_when_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    group, leader, caller = a_group()
    group.until(group.all_equal)
    poor = group.followers()[0]
    load_class = objects.load_class

    def load(packed: bytes, stand_in: type) -> Any:
        if turning and turning[-1] is poor:
            raise ClassNotLoadable("no such module")
        return load_class(packed, stand_in)

    turning: list[Replica] = []
    turn = Replica.turn

    def noted(self: Replica, now: float) -> None:
        turning.append(self)
        turn(self, now)

    monkeypatch.setattr(objects, "load_class", load)
    monkeypatch.setattr(Replica, "turn", noted)
    caller.submit(leader, UPGRADE, 0, pack_class(Wallet))
    with pytest.raises(ClassNotLoadable):
        group.until(lambda: machine_of(poor).version)
    group.kill(poor.raft.id)
    assert caller.run(group.elect(), "put", 1) == 13
    group.start(poor.raft.id)  # the module is there now
    assert_all_upgraded(group, 13)


class Dicey(Wallet):
    """Migrates to something else on every node."""

    @classmethod
    def __rayraft_migrate__(cls, old: Purse) -> Dicey:
        new = cls()
        new.total = id(old)
        return new


def test_a_hook_that_is_not_deterministic_is_found_and_named() -> None:
    found: list[Any] = []
    group, leader, caller = a_group(digest_entries=3)
    for node in NODES:
        group[node]._on_divergence = found.append
    caller.run(leader, UPGRADE, 0, pack_class(Dicey))
    for coin in range(8):
        caller.run(leader, "put", coin)
        group.rest()
    group.until(lambda: found)
    difference = first_difference(cloudpickle.dumps((Purse, (), {})), found[0])
    assert difference is not None
    assert "the upgrade to tests.replica.test_upgrade.Dicey" in str(difference)


def test_the_comparison_of_states_goes_on_over_an_upgrade() -> None:
    group, leader, caller = a_group(digest_entries=3)
    caller.run(leader, UPGRADE, 0, pack_class(Wallet))
    for coin in range(8):
        caller.run(leader, "put", coin)
        group.rest()
    group.until(lambda: all(replica.status().checked > 5 for replica in group.replicas.values()))
    assert all(replica.status().divergence is None for replica in group.replicas.values())
    assert result_of_read(group, leader) == 12 + sum(range(8))


def result_of_read(group: Group, leader: Replica) -> Any:
    answers = ask(leader, "count")
    group.until(lambda: answers)
    return result_of(answers)


# --- by chance --------------------------------------------------------------------------------------------------------


class Odd(Purse):
    """A purse that counts otherwise, so that a command run by the wrong class shows."""

    @command
    def put(self, coin: int) -> int:
        self.coins.append(-coin)
        return len(self.coins)


class Story:
    """Commands and upgrades to and fro, while nodes die, lag, come back and save their state."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.group, leader, self.caller = a_group(
            snapshot_trailing=self.random.choice((0, 2)), digest_entries=self.random.choice((0, 4))
        )
        self.coins, self.odd, self.version = [5, 7], False, 0
        assert leader.raft.is_leader

    def tell(self, steps: int) -> None:
        for _ in range(steps):
            self.random.choice([self.put, self.put, self.upgrade, self.save, self.crash, self.cut])()
            for _ in range(self.random.randrange(3)):
                self.group.step()
        self.group.cut = set()
        for node in NODES:
            if node not in self.group.replicas:
                self.group.start(node)
        self.run("put", 1)
        self.coins.append(-1 if self.odd else 1)
        self.group.until(self.group.all_equal)

    def run(self, method: str, *args: Any) -> None:
        """At whoever leads, again and again, as a client does."""
        self.caller.number += 1
        call = encode_call(method, args, {})
        self.caller.requests[self.caller.number] = encode_request(self.caller.session, self.caller.number, 0, [call])
        while True:
            answers = self.caller.repeat(self.group.elect(), self.caller.number)
            self.group.until(lambda answers=answers: answers)
            if status_of(answers) is Status.OK:
                result_of(answers)
                return

    def put(self) -> None:
        coin = self.random.randrange(1, 100)
        self.run("put", coin)
        self.coins.append(-coin if self.odd else coin)

    def upgrade(self) -> None:
        self.run(UPGRADE, self.version, pack_class(Purse if self.odd else Odd))
        self.version, self.odd = self.version + 1, not self.odd

    def save(self) -> None:
        for node, replica in self.group.replicas.items():
            if node not in self.group.cut and self.random.random() < 0.5:
                replica.compaction.take()

    def crash(self) -> None:
        """One node at most is away."""
        for node in NODES:
            if node not in self.group.replicas:
                self.group.start(node)
                return
        if not self.group.cut:
            self.group.kill(self.random.choice(NODES))

    def cut(self) -> None:
        self.group.cut = set() if self.group.cut or len(self.group.replicas) < 3 else {self.random.choice(NODES)}


def check_stories(seeds: range) -> None:
    for seed in seeds:
        story = Story(seed)
        story.tell(30)
        for replica in story.group.replicas.values():
            machine = machine_of(replica)
            found = object_state(machine._object)["coins"], machine.version
            assert found == (story.coins, story.version), f"seed {seed}, node {replica.raft.id}"
            assert replica.status().divergence is None, f"seed {seed}"


def test_every_command_runs_on_the_class_of_its_place_in_the_log() -> None:
    check_stories(range(25))


def test_a_class_that_a_restart_forgets_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ObjectMachine, "restore", lambda self, stream: self._replace(_state_in(stream)))
    with pytest.raises((AssertionError, UpgradeFailed)):
        check_stories(range(25))


def _state_in(stream: BinaryIO) -> Any:
    first = cloudpickle.load(stream)
    return cloudpickle.load(stream) if isinstance(first, Upgraded) else first
