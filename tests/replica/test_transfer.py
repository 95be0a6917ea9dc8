"""A snapshot on its way, chunk by chunk, over a network that loses, doubles, delays and reorders."""

from __future__ import annotations

import random
from typing import BinaryIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayraft.raft.types import AppendEntries, InstallSnapshot, InstallSnapshotResponse, SnapshotMeta
from rayraft.replica.transfer import GIVE_UP_AFTER, RESEND_AFTER, SnapshotReceiver, SnapshotSender
from rayraft.storage.memory import MemorySnapshotStore
from tests.replica.support import Caller, Group

META = SnapshotMeta(7, 2)
CHUNK = 10


def store_with(content: bytes, meta: SnapshotMeta = META) -> MemorySnapshotStore:
    def write(stream: BinaryIO) -> None:
        stream.write(content)

    store = MemorySnapshotStore()
    store.save(meta, write)
    return store


def order(meta: SnapshotMeta = META, *, term: int = 2, src: int = 1) -> InstallSnapshot:
    return InstallSnapshot(term, src, 2, meta)


def response(chunk: InstallSnapshot, held: int) -> InstallSnapshotResponse:
    return InstallSnapshotResponse(chunk.term, chunk.dst, chunk.src, chunk.snapshot.index, held)


class Journey:
    """One sender, one receiver, and what is between them."""

    def __init__(self, content: bytes = bytes(range(95))) -> None:
        self.content = content
        self.source = store_with(content)
        self.target = MemorySnapshotStore()
        self.sender = SnapshotSender(self.source, CHUNK)
        self.receiver = SnapshotReceiver(self.target)
        self.now = 0.0
        self.arrived: SnapshotMeta | None = None
        self.wire: list[InstallSnapshot | InstallSnapshotResponse] = []

    def begin(self) -> None:
        first = self.sender.start(order(), self.now)
        assert first is not None
        self.wire.append(first)

    def deliver(self, message: InstallSnapshot | InstallSnapshotResponse) -> None:
        if isinstance(message, InstallSnapshot):
            held, whole = self.receiver.on_chunk(message)
            self.arrived = self.arrived or whole
            self.wire.append(response(message, held))
        else:
            chunk, _ = self.sender.on_response(message, self.now)
            self.wire += [] if chunk is None else [chunk]

    def wait(self) -> None:
        """Long enough for the sender to try again."""
        self.now += RESEND_AFTER
        again, given_up = self.sender.tick(self.now)
        assert given_up == []
        self.wire += again

    def be_patient(self) -> None:
        """Giving up is another story."""
        for outgoing in self.sender._outgoing.values():
            outgoing.resends = 0

    def finish(self) -> None:
        """On a network that has recovered."""
        for _ in range(1000):
            if self.wire:
                self.deliver(self.wire.pop(0))
            elif self.sender.active:
                self.wait()
        assert self.arrived == META
        assert self.target.load(META).read() == self.content


def test_chunks_arrive_one_after_another_and_make_the_whole() -> None:
    journey = Journey()
    journey.begin()
    journey.finish()
    assert journey.now == 0.0, "nothing had to be sent again"


def test_chunks_that_come_twice_or_too_late_are_put_in_place_once() -> None:
    journey = Journey()
    journey.begin()
    for _ in range(6):
        earlier = list(journey.wire)
        journey.deliver(journey.wire.pop(0))
        journey.wire += earlier
    journey.finish()


@settings(max_examples=80, deadline=None)
@given(st.integers(0), st.lists(st.sampled_from(["deliver", "lose", "double", "shuffle", "wait"]), max_size=40))
def test_whatever_the_network_does_the_snapshot_arrives_whole(seed: int, events: list[str]) -> None:
    rng = random.Random(seed)
    journey = Journey()
    journey.begin()
    for event in events:
        wire = journey.wire
        if event == "wait" and journey.sender.active:
            journey.be_patient()
            journey.wait()
        elif event == "shuffle":
            rng.shuffle(wire)
        elif wire and event == "lose":
            wire.pop(rng.randrange(len(wire)))
        elif wire and event == "double":
            wire.append(rng.choice(wire))
        elif wire:
            journey.deliver(wire.pop(0))
        assert len(journey.wire) <= 60, "doubled messages must not multiply"
    journey.be_patient()
    journey.finish()


def test_a_follower_that_does_not_answer_is_given_up() -> None:
    journey = Journey()
    journey.begin()
    for _ in range(GIVE_UP_AFTER):
        journey.wait()
    again, given_up = journey.sender.tick(journey.now + RESEND_AFTER)
    assert (again, given_up) == ([], [2])
    assert not journey.sender.active


def test_a_transfer_whose_snapshot_was_replaced_meanwhile_is_given_up() -> None:
    journey = Journey()
    journey.begin()
    journey.source.discard_except(SnapshotMeta(9, 2))
    journey.deliver(journey.wire.pop())
    journey.deliver(journey.wire.pop())
    assert journey.wire == []
    assert journey.sender.tick(RESEND_AFTER) == ([], [2])
    assert journey.sender.start(order(), 0.0) is None


def test_answers_about_another_snapshot_or_from_a_stranger_change_nothing() -> None:
    journey = Journey()
    journey.begin()
    for stranger in (InstallSnapshotResponse(2, 3, 1, META.index, 50), InstallSnapshotResponse(2, 2, 1, 6, 50)):
        assert journey.sender.on_response(stranger, 0.0) == (None, False)
    journey.finish()


def test_chunks_of_two_leaders_that_saved_the_same_index_are_not_mixed() -> None:
    """Equal states may be pickled into other bytes, of another length."""
    for other in (bytes(95), bytes(40), bytes(200)):
        target = MemorySnapshotStore()
        receiver = SnapshotReceiver(target)
        first = SnapshotSender(store_with(bytes(range(95))), CHUNK)
        second = SnapshotSender(store_with(other), CHUNK)
        chunk = first.start(order(), 0.0)
        for _ in range(5):
            assert chunk is not None
            chunk, _ = first.on_response(response(chunk, receiver.on_chunk(chunk)[0]), 0.0)
        chunk, whole = second.start(order(term=3, src=3), 0.0), None
        for _ in range(100):
            if chunk is None:
                break
            held, whole = receiver.on_chunk(chunk)
            chunk, _ = second.on_response(response(chunk, held), 0.0)
        assert whole == META
        assert target.load(META).read() == other


def test_a_chunk_that_comes_after_the_end_changes_nothing() -> None:
    journey = Journey()
    journey.begin()
    first = journey.wire[0]
    journey.finish()
    assert isinstance(first, InstallSnapshot)
    assert journey.receiver.on_chunk(first) == (first.total, META)


# --- in a group -------------------------------------------------------------------------------------------------------


def group_with_a_node_far_behind() -> tuple[Group, Caller, int]:
    group = Group(snapshot_entries=10, snapshot_trailing=0, chunk_bytes=50)
    leader = group.elect()
    caller = Caller(group, leader)
    behind = group.followers()[-1].raft.id
    group.cut = {behind}
    for n in range(25):
        caller.run(leader, "put", f"key-{n}", "v" * 20)
    return group, caller, behind


def stop_in_the_middle(group: Group, behind: int) -> None:
    """The first chunks get through, then no more."""
    passed = 0

    def lose(message: object) -> bool:
        nonlocal passed
        passed += isinstance(message, InstallSnapshot)
        return isinstance(message, InstallSnapshot) and passed > 3

    group.lose = lose
    group.cut = set()
    group.until(lambda: passed > 3)
    assert group[behind].status().counters.snapshots_installed == 0


def test_a_transfer_goes_on_with_another_leader() -> None:
    group, caller, behind = group_with_a_node_far_behind()
    stop_in_the_middle(group, behind)
    old = group.elect()
    group.cut = {old.raft.id}
    group.lose = lambda message: False
    new = group.elect()
    assert new.raft.id != behind
    caller.run(new, "put", "late", 1)
    group.cut = set()
    group.until(group.all_equal, seconds=60)
    assert group[behind].status().counters.snapshots_installed >= 1


def test_a_transfer_survives_that_the_leader_saves_a_newer_snapshot() -> None:
    group, caller, behind = group_with_a_node_far_behind()
    stop_in_the_middle(group, behind)
    leader = group.elect()
    before = leader.status().snapshot
    for n in range(15):
        caller.run(leader, "put", f"more-{n}", "v" * 20)
    assert leader.status().snapshot > before
    group.lose = lambda message: False
    group.until(group.all_equal, seconds=60)


def test_a_transfer_survives_that_the_follower_dies() -> None:
    group, _, behind = group_with_a_node_far_behind()
    stop_in_the_middle(group, behind)
    group.kill(behind)
    group.lose = lambda message: False
    for _ in range(20):
        group.step()
    group.start(behind)
    group.until(group.all_equal, seconds=60)


@pytest.mark.parametrize("seed", range(5))
def test_a_group_on_a_bad_network_brings_everyone_up_to_date(seed: int) -> None:
    rng = random.Random(seed)
    group, _, _ = group_with_a_node_far_behind()
    group.lose = lambda message: not isinstance(message, AppendEntries) and rng.random() < 0.3
    group.cut = set()
    group.until(group.all_equal, seconds=200)
