"""A snapshot on its way, chunk by chunk, over a network that loses, doubles, delays and reorders."""

from __future__ import annotations

import random
from typing import BinaryIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayraft.raft.types import AnyMessage, AppendEntries, InstallSnapshot, InstallSnapshotResponse, SnapshotMeta
from rayraft.replica.transfer import BURST, GIVE_UP_AFTER, REFUSALS, RESEND_AFTER, SnapshotReceiver, SnapshotSender
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
        assert self.sender.start(order())
        self.send()

    def send(self) -> None:
        chunks, given_up = self.sender.tick(self.now)
        assert given_up == []
        self.wire += chunks

    def deliver(self, message: InstallSnapshot | InstallSnapshotResponse) -> None:
        if isinstance(message, InstallSnapshot):
            held, whole = self.receiver.on_chunk(message)
            self.arrived = self.arrived or whole
            self.wire.append(response(message, held))
        else:
            self.sender.on_response(message)
            self.send()

    def wait(self) -> None:
        """Long enough for the sender to try again."""
        self.now += RESEND_AFTER
        self.send()

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
    answer = journey.wire.pop()
    assert isinstance(answer, InstallSnapshotResponse)
    journey.sender.on_response(answer)
    assert journey.sender.tick(0.0) == ([], [2])
    assert not journey.sender.start(order())


@pytest.mark.parametrize("size", [3, CHUNK, 95])
def test_a_snapshot_that_is_damaged_at_its_source_is_refused_and_not_sent_for_ever(size: int) -> None:
    journey = Journey(bytes(size))
    name = (META.index, META.term)
    data = journey.source._saved[name]
    journey.source._saved[name] = data[:-1] + b"\x01"
    assert journey.sender.start(order())
    answers: list[bool | None] = []
    for _ in range(100):
        for chunk in journey.sender.tick(0.0)[0]:
            held, whole = journey.receiver.on_chunk(chunk)
            assert whole is None
            answers.append(journey.sender.on_response(response(chunk, held)))
    assert answers[-1] is False
    assert not any(answers), "it never arrives"
    assert not journey.sender.active
    assert len(answers) == len(range(0, len(data), CHUNK)) * REFUSALS, "it goes again once"


def test_answers_about_another_snapshot_or_from_a_stranger_change_nothing() -> None:
    journey = Journey()
    journey.begin()
    for stranger in (InstallSnapshotResponse(2, 3, 1, META.index, 50), InstallSnapshotResponse(2, 2, 1, 6, 50)):
        assert not journey.sender.on_response(stranger)
        assert journey.sender.tick(0.0) == ([], [])
    journey.finish()


def test_chunks_of_two_leaders_that_saved_the_same_index_are_not_mixed() -> None:
    """Equal states may be pickled into other bytes, of another length."""
    for other in (bytes(95), bytes(40), bytes(200)):
        target = MemorySnapshotStore()
        receiver = SnapshotReceiver(target)
        first = SnapshotSender(store_with(bytes(range(95))), CHUNK)
        second = SnapshotSender(store_with(other), CHUNK)
        assert first.start(order())
        for _ in range(5):
            ([chunk], _) = first.tick(0.0)
            first.on_response(response(chunk, receiver.on_chunk(chunk)[0]))
        assert second.start(order(term=3, src=3))
        whole = None
        for _ in range(100):
            for chunk in second.tick(0.0)[0]:
                held, whole = receiver.on_chunk(chunk)
                second.on_response(response(chunk, held))
        assert whole == META
        assert target.load(META).read() == other


def test_a_chunk_that_comes_after_the_end_changes_nothing() -> None:
    journey = Journey()
    journey.begin()
    first = journey.wire[0]
    journey.finish()
    assert isinstance(first, InstallSnapshot)
    assert journey.receiver.on_chunk(first) == (first.total, META)


# --- at a pace --------------------------------------------------------------------------------------------------------


def check_transfers_keep_to_the_pace_and_take_turns() -> None:
    """Three followers that answer at once, 100 bytes per second for all of them."""
    content, rate, now = bytes(range(200)), 100, 50.0
    sender = SnapshotSender(store_with(content), CHUNK, rate)
    total = store_with(content).size(META)
    targets = {node: SnapshotReceiver(MemorySnapshotStore()) for node in (2, 3, 4)}
    held = dict.fromkeys(targets, 0)
    for node in targets:
        assert sender.start(InstallSnapshot(2, 1, node, META))
    turns = 0
    while sender.active:
        chunks, given_up = sender.tick(now)
        assert given_up == []
        for chunk in chunks:
            held[chunk.dst], _ = targets[chunk.dst].on_chunk(chunk)
            sender.on_response(response(chunk, held[chunk.dst]))
        assert max(held.values()) - min(held.values()) <= CHUNK, "one is served before another"
        assert sum(held.values()) <= rate * (now - 50.0 + BURST) + CHUNK, "too fast"
        assert not sender.active or sender.next_chunk > now, "a turn is missed"
        turns += 1
        now = max(now + 0.004, min(sender.next_chunk, now + 1.0))
    assert set(held.values()) == {total}
    assert now - 50.0 <= 3 * total / rate + 1, "too slow"
    assert turns > 3 * total / CHUNK / 2


def test_transfers_to_several_followers_keep_to_the_pace_and_take_turns() -> None:
    check_transfers_keep_to_the_pace_and_take_turns()


def test_a_follower_that_waits_for_its_turn_is_not_taken_for_one_that_does_not_answer() -> None:
    sender = SnapshotSender(store_with(bytes(95)), CHUNK, bytes_per_second=1)
    for node in (2, 3):
        assert sender.start(InstallSnapshot(2, 1, node, META))
    ([first], _) = sender.tick(0.0)
    sender.on_response(response(first, CHUNK))
    left = []
    for second in range(1, 60):
        chunks, given_up = sender.tick(float(second))
        left += [(chunk.dst, chunk.offset) for chunk in chunks]
        assert given_up == []
        for chunk in chunks:
            sender.on_response(response(chunk, chunk.offset + len(chunk.data)))
    assert left[:4] == [(3, 0), (2, CHUNK), (3, CHUNK), (2, 2 * CHUNK)]


def test_without_a_limit_nothing_waits() -> None:
    sender = SnapshotSender(store_with(bytes(95)), CHUNK)
    for node in (2, 3, 4):
        assert sender.start(InstallSnapshot(2, 1, node, META))
    chunks, _ = sender.tick(0.0)
    assert [chunk.dst for chunk in chunks] == [2, 3, 4]


# --- in a group -------------------------------------------------------------------------------------------------------


def group_with_a_node_far_behind(**settings: int) -> tuple[Group, Caller, int]:
    group = Group(snapshot_entries=10, snapshot_trailing=0, chunk_bytes=50, **settings)
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


def check_a_newer_snapshot_does_not_end_a_transfer() -> None:
    """What is being sent stays until it has arrived, or a slow follower would never get to the end of one."""
    group, caller, behind = group_with_a_node_far_behind()
    stop_in_the_middle(group, behind)
    leader = group.elect()
    store, old = group.snapshots[leader.raft.id], leader._store.snapshot()
    while leader.status().snapshot == old.index:
        caller.run(leader, "put", "more", "v" * 20)
    assert store.size(old) > 0
    offsets: list[int] = []

    def watch(message: AnyMessage) -> bool:
        if isinstance(message, InstallSnapshot) and message.data and message.snapshot == old:
            offsets.append(message.offset)
        return False

    group.lose = watch
    group.until(lambda: group[behind].status().counters.snapshots_installed, seconds=60)
    assert offsets, "the old one was not sent to its end"
    assert 0 not in offsets, "it began anew"
    group.until(group.all_equal, seconds=60)
    newer = leader.status().snapshot
    while leader.status().snapshot == newer:
        caller.run(leader, "put", "more", "v" * 20)
    with pytest.raises(KeyError):
        store.size(old)


def test_a_newer_snapshot_does_not_end_a_transfer() -> None:
    check_a_newer_snapshot_does_not_end_a_transfer()


def test_a_transfer_in_a_group_keeps_to_the_pace() -> None:
    group, _, behind = group_with_a_node_far_behind(snapshot_bytes_per_second=200)
    leader = group.elect()
    size, begin = group.snapshots[leader.raft.id].size(leader._store.snapshot()), group.now
    group.cut = set()
    group.until(group.all_equal, seconds=60)
    assert group[behind].status().counters.snapshots_installed == 1
    assert group.now - begin >= (size - 50) / 200 - BURST


def test_a_transfer_survives_that_the_follower_dies() -> None:
    group, _, behind = group_with_a_node_far_behind()
    stop_in_the_middle(group, behind)
    group.kill(behind)
    group.lose = lambda message: False
    for _ in range(20):
        group.step()
    group.start(behind)
    group.until(group.all_equal, seconds=60)


def check_a_transfer_goes_on_where_a_follower_that_started_anew_has_got_to() -> None:
    group, _, behind = group_with_a_node_far_behind()
    stop_in_the_middle(group, behind)
    meta = group.elect()._store.snapshot()
    held = group.snapshots[behind].receive(meta, -1, b"")
    assert held >= CHUNK
    del group.replicas[behind]  # its process ends, its disk stays
    group.start(behind)
    answers: list[int] = []

    def watch(message: AnyMessage) -> bool:
        if isinstance(message, InstallSnapshotResponse) and message.index == meta.index:
            answers.append(message.offset)
        return False

    group.lose = watch
    group.until(group.all_equal, seconds=60)
    assert min(answers) >= held
    assert group[behind].status().counters.snapshots_installed >= 1


def test_a_transfer_goes_on_where_a_follower_that_started_anew_has_got_to() -> None:
    check_a_transfer_goes_on_where_a_follower_that_started_anew_has_got_to()


@pytest.mark.parametrize("seed", range(5))
def test_a_group_on_a_bad_network_brings_everyone_up_to_date(seed: int) -> None:
    rng = random.Random(seed)
    group, _, _ = group_with_a_node_far_behind()
    group.lose = lambda message: not isinstance(message, AppendEntries) and rng.random() < 0.3
    group.cut = set()
    group.until(group.all_equal, seconds=200)
