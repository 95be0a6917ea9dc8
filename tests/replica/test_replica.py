"""Whole replicas, three of them: what a client may count on while leaders come and go."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from rayraft.errors import BadConfiguration, DiskFailed, DiskFull
from rayraft.machine.keyvalue import KeyValue
from rayraft.machine.objects import command
from rayraft.machine.requests import NEW_SESSION, Consistency, Status, decode_hint, encode_request
from rayraft.raft.ready import RaftConfig, Role
from rayraft.raft.types import AppendEntries, InstallSnapshot, SnapshotMeta
from rayraft.replica import ReplicaConfig
from rayraft.replica.transfer import GIVE_UP_AFTER, RESEND_AFTER
from rayraft.storage.memory import MemoryLogStore, MemorySnapshotStore
from tests.replica.support import NODES, Caller, Group, ask, result_of, status_of

NOTHING_SENT_BACK: list[bytes] = []


# --- commands and queries ---------------------------------------------------------------------------------------------


def test_commands_are_applied_everywhere_and_read_back() -> None:
    group = Group()
    leader = group.elect()
    caller = Caller(group, leader)
    assert [caller.run(leader, "increment", "n") for _ in range(3)] == [1, 2, 3]
    read = ask(leader, "get", "n")
    group.until(lambda: read)
    assert result_of(read) == 3
    group.until(group.all_equal)
    assert leader.status().counters.requests == 4


def test_a_follower_sends_requests_and_reads_to_the_leader() -> None:
    group = Group()
    leader = group.elect()
    caller = Caller(group, leader)
    follower = group.followers()[0]
    answers = [caller.submit(follower, "put", "k", 1), ask(follower, "get", "k")]
    group.step()
    for each in answers:
        assert status_of(each) is Status.NOT_LEADER
        assert decode_hint(each[0][1:]) == (leader.raft.id, leader.raft.term)


def test_reads_that_wait_for_nothing_are_answered_without_a_turn() -> None:
    group = Group(max_clock_drift=0.01)
    leader = group.elect()
    Caller(group, leader).run(leader, "put", "k", 1)
    follower = group.followers()[0]
    group.rest()
    at_once = [
        ask(leader, "get", "k", reads=Consistency.LEASE),
        ask(leader, "get", "k", reads=Consistency.STALE, max_age=0.5),
        ask(follower, "get", "k", reads=Consistency.STALE, max_age=0.5),
    ]
    assert [result_of(answers) for answers in at_once] == [1, 1, 1]
    later = [
        ask(leader, "get", "k"),
        ask(leader, "get", "k", reads=Consistency.FOLLOWER),
        ask(follower, "get", "k", reads=Consistency.STALE, max_age=0.0),
        ask(follower, "get", "k", reads=Consistency.LEASE),
    ]
    assert not any(later)
    group.step()
    assert [status_of(answers) for answers in later] == [Status.OK, Status.OK, Status.TOO_STALE, Status.NOT_LEADER]


def test_a_lease_that_ran_out_since_the_last_turn_answers_nothing() -> None:
    group = Group(max_clock_drift=0.01)
    leader = group.elect()
    group.rest()
    group.now += 1.0  # the process was busy or stood still
    assert not ask(leader, "get", "k", reads=Consistency.LEASE)


@pytest.mark.parametrize("queries", [b"", bytes([Consistency.LEASE]), bytes([Consistency.STALE]), b"\xff" * 20])
def test_malformed_queries_are_refused(queries: bytes) -> None:
    group = Group(max_clock_drift=0.01)
    leader = group.elect()
    group.rest()
    answers: list[bytes] = []
    leader.query(queries, answers.append)
    leader.turn(group.now)
    assert status_of(answers) is Status.FAILED


def test_what_arrives_together_becomes_few_entries_in_the_order_of_arrival() -> None:
    group = Group()
    leader = group.elect()
    caller = Caller(group, leader)
    before = leader.raft.log.last_index()
    answers = [caller.submit(leader, "increment", "n") for _ in range(50)]
    group.until(lambda: all(answers))
    assert [result_of(each) for each in answers] == list(range(1, 51))
    assert leader.raft.log.last_index() == before + 1


def test_entries_are_split_at_the_size_that_is_set() -> None:
    group = Group(max_entry_bytes=300)
    leader = group.elect()
    caller = Caller(group, leader)
    before = leader.raft.log.last_index()
    answers = [caller.submit(leader, "put", f"key-{n}", "v" * 60) for n in range(10)]
    group.until(lambda: all(answers))
    assert 2 < leader.raft.log.last_index() - before < 10


def test_bytes_that_are_no_request_are_refused_and_hurt_nobody() -> None:
    group = Group()
    leader = group.elect()
    caller = Caller(group, leader)
    answers: list[list[bytes]] = [[], [], []]
    leader.submit(b"short", answers[0].append)
    leader.submit(encode_request(caller.session, 1, 0, [])[:24] + b"\xff", answers[1].append)
    leader.query(b"\xff", answers[2].append)
    group.until(lambda: all(answers))
    assert [status_of(each) for each in answers] == [Status.FAILED] * 3
    caller.number = 1
    assert caller.run(leader, "increment", "n") == 1
    group.until(group.all_equal)


# --- a change of leader -----------------------------------------------------------------------------------------------


def test_a_request_that_is_repeated_at_the_next_leader_is_applied_once() -> None:
    group = Group()
    first = group.elect()
    caller = Caller(group, first)
    caller.run(first, "increment", "n")
    group.until(group.all_equal)
    group.kill(first.raft.id)
    second = group.elect()
    answers = caller.repeat(second, 1)
    group.until(lambda: answers)
    assert result_of(answers) == 1
    assert caller.run(second, "increment", "n") == 2


def test_a_leader_that_is_cut_off_refuses_what_it_took_in() -> None:
    """Nobody may wait for ever at a node that can not commit; what it logged is rolled back or not, later."""
    group = Group()
    old = group.elect()
    caller = Caller(group, old)
    group.isolate_leader()
    written, early, read = caller.submit(old, "put", "k", 1), caller.submit(old, "put", "k", 2), ask(old, "get", "k")
    group.step()
    assert written == early == read == NOTHING_SENT_BACK
    group.until(lambda: old.raft.role is not Role.LEADER)
    group.step()
    assert {status_of(each) for each in (written, early, read)} == {Status.NOT_LEADER}


def check_a_deposed_leader_serves_no_reads(group: Group) -> None:
    """A read at the old leader is never answered from a state that a newer leader has left behind."""
    old = group.elect()
    caller = Caller(group, old)
    caller.run(old, "put", "k", "old")
    group.isolate_leader()
    read_before = ask(old, "get", "k")
    new = group.elect()
    assert caller.run(new, "put", "k", "new") is None
    read_after = ask(old, "get", "k")
    for _ in range(5):
        group.step()
    group.cut = set()
    group.until(lambda: read_before and read_after)
    for read in (read_before, read_after):
        assert status_of(read) is Status.NOT_LEADER, f"a stale read: {result_of(read)}"


def test_a_deposed_leader_serves_no_reads() -> None:
    check_a_deposed_leader_serves_no_reads(Group(check_quorum=False))
    check_a_deposed_leader_serves_no_reads(Group())


def test_a_deposed_leader_does_not_tell_a_client_that_its_new_session_is_gone() -> None:
    group = Group(check_quorum=False)
    old = group.isolate_leader()
    new = group.elect()
    caller = Caller(group, new)
    answers = caller.submit(old, "increment", "n")
    group.step()
    group.cut = set()
    group.until(lambda: answers)
    assert status_of(answers) is Status.NOT_LEADER
    answers = caller.repeat(new, 1)
    group.until(lambda: answers)
    assert result_of(answers) == 1
    group.until(group.all_equal)


def test_a_session_that_is_gone_is_reported_by_the_log() -> None:
    group = Group()
    leader = group.elect()
    caller = Caller(group, leader)
    caller.session += 1
    answers = [caller.submit(leader, "increment", "n") for _ in range(3)]
    group.until(lambda: all(answers))
    assert {status_of(each) for each in answers} == {Status.SESSION_EXPIRED}


def test_a_new_leader_holds_requests_until_it_knows_what_was_committed_before() -> None:
    group = Group()
    first = group.elect()
    caller = Caller(group, first)
    caller.run(first, "increment", "n")
    group.until(group.all_equal)
    group.kill(first.raft.id)
    group.lose = lambda message: isinstance(message, AppendEntries)
    group.until(lambda: any(replica.raft.is_leader for replica in group.replicas.values()))
    [second] = [replica for replica in group.replicas.values() if replica.raft.is_leader]
    answers, read = caller.repeat(second, 1), ask(second, "get", "n")
    for _ in range(5):
        group.step()
    assert not second.status().serves
    assert answers == read == NOTHING_SENT_BACK
    group.lose = lambda message: False
    group.until(lambda: answers and read)
    assert [result_of(answers), result_of(read)] == [1, 1]


def test_everything_is_found_again_after_all_nodes_were_killed() -> None:
    group = Group(snapshot_entries=5, snapshot_trailing=2)
    leader = group.elect()
    caller = Caller(group, leader)
    for _ in range(12):
        caller.run(leader, "increment", "n")
    for node in (1, 2, 3):
        group.kill(node)
    for node in (1, 2, 3):
        group.start(node)
    leader = group.elect()
    answers = caller.repeat(leader, 12)
    group.until(lambda: answers)
    assert result_of(answers) == 12
    assert caller.run(leader, "increment", "n") == 13
    group.until(group.all_equal)


# --- limits -----------------------------------------------------------------------------------------------------------


def test_without_a_quorum_the_leader_says_busy_instead_of_growing() -> None:
    group = Group(max_uncommitted_bytes=1000, check_quorum=False)
    leader = group.elect()
    caller = Caller(group, leader)
    group.isolate_leader()
    answers: list[list[bytes]] = []
    while not any(answers):
        answers.append(caller.submit(leader, "put", "k", "v" * 100))
        group.step()
        assert len(answers) < 50
    assert status_of(answers[-1]) is Status.BUSY
    assert not any(answers[:-1])
    group.cut = set()
    group.until(lambda: all(answers))
    assert {status_of(each) for each in answers} <= {Status.OK, Status.BUSY, Status.NOT_LEADER}


def test_a_request_sent_back_as_busy_goes_through_when_it_is_sent_again() -> None:
    group = Group(max_uncommitted_bytes=1)
    leader = group.elect()
    caller = Caller(group, leader)
    first = caller.submit(leader, "increment", "n")
    leader.turn(group.now)  # logged, on its way
    second = caller.submit(leader, "increment", "n")
    leader.turn(group.now)
    assert status_of(second) is Status.BUSY
    group.until(lambda: first)
    again = caller.repeat(leader, 2)
    group.until(lambda: again)
    assert [result_of(first), result_of(again)] == [1, 2]


@pytest.mark.parametrize(
    "wrong",
    [
        {"snapshot_entries": 0},
        {"max_entry_bytes": 0},
        {"snapshot_trailing": -1},
        {"snapshot_trailing_bytes": -1},
        {"snapshot_bytes_per_second": -1},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(BadConfiguration, match=next(iter(wrong))):
        ReplicaConfig(RaftConfig(1), **wrong)


# --- the end ----------------------------------------------------------------------------------------------------------


def test_when_a_node_stops_everyone_who_waits_is_told_once() -> None:
    """Also those whose read the core still has, and even if an answer to it comes after all."""
    group = Group(check_quorum=False)
    leader = group.elect()
    caller = Caller(group, leader)
    group.isolate_leader()
    logged, early = caller.submit(leader, "put", "k", 1), caller.submit(leader, "put", "k", 2)
    asked = ask(leader, "get", "k")
    group.step()
    in_the_inbox, read_in_the_inbox = caller.submit(leader, "put", "k", 3), ask(leader, "get", "k")
    gone = bytes([Status.FAILED])
    leader.refuse_all(gone)
    everyone = (logged, early, asked, in_the_inbox, read_in_the_inbox)
    assert [list(each) for each in everyone] == [[gone]] * 5
    group.cut = set()
    for _ in range(200):
        group.step()
    assert [list(each) for each in everyone] == [[gone]] * 5


def test_when_the_disk_fails_everyone_who_waits_can_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    group = Group()
    leader = group.elect()
    caller = Caller(group, leader)
    waiting = [caller.submit(leader, "put", "k", 1), ask(leader, "get", "k")]

    def fail(self: MemoryLogStore) -> None:
        raise DiskFailed("no space left")

    monkeypatch.setattr(MemoryLogStore, "sync", fail)
    with pytest.raises(DiskFailed):
        leader.turn(group.now)
    leader.refuse_all(bytes([Status.FAILED]))
    assert [status_of(each) for each in waiting] == [Status.FAILED] * 2


# --- snapshots --------------------------------------------------------------------------------------------------------


def test_a_node_that_is_far_behind_gets_a_snapshot_in_chunks() -> None:
    group = Group(snapshot_entries=10, snapshot_trailing=2, chunk_bytes=64)
    leader = group.elect()
    caller = Caller(group, leader)
    behind = group.followers()[0].raft.id
    group.cut = {behind}
    for n in range(30):
        caller.run(leader, "put", f"key-{n}", n)
    assert leader.status().first_index > 20
    group.cut = set()
    group.until(group.all_equal)
    assert group[behind].status().counters.snapshots_installed == 1
    assert len(group[behind].machine.sessions) == 1
    group.kill(behind)
    group.start(behind)
    group.until(group.all_equal)


class Full(MemorySnapshotStore):
    """Of a node on whose disk there is room for the log only, until it is made."""

    full = True
    asked = 0

    def receive(self, meta: SnapshotMeta, offset: int, data: bytes, total: int = 0) -> int:
        self.asked += 1
        if self.full:
            self._parts.clear()
            raise DiskFull("no room")
        return super().receive(meta, offset, data, total)


def test_a_node_without_room_for_a_snapshot_goes_on_voting_and_takes_it_when_there_is() -> None:
    group = Group(snapshot_entries=10, snapshot_trailing=2, chunk_bytes=64)
    leader = group.elect()
    caller = Caller(group, leader)
    behind = group.followers()[0].raft.id
    group.kill(behind)
    group.snapshots[behind] = store = Full()
    for n in range(30):
        caller.run(leader, "put", f"key-{n}", n)
    group.start(behind)
    group.until(lambda: store.asked)
    before = store.asked
    group.rest(3 * GIVE_UP_AFTER * RESEND_AFTER)
    assert before < store.asked < 4 * GIVE_UP_AFTER, "it is asked again, and not all the time"
    assert "index" in group[behind].status().snapshot_error
    group.cut = {node for node in NODES if node not in (leader.raft.id, behind)}
    group.kill(leader.raft.id)
    group.start(leader.raft.id)
    group.until(lambda: group[leader.raft.id].raft.is_leader)  # which takes its vote
    group.cut = set()
    store.full = False
    group.until(group.all_equal)
    assert group[behind].status().counters.snapshots_installed == 1
    assert group[behind].status().snapshot_error == ""


def test_a_snapshot_that_was_ordered_before_its_leader_was_deposed_is_not_sent() -> None:
    """Seed 94 of 20 s: an answer asked for one, and the next turn found that no quorum had answered for too long."""
    group = Group()
    leader = group.elect()
    Caller(group, leader).run(leader, "put", "k", 1)
    leading = leader.raft.leading
    assert leading is not None
    leading._send_snapshot(leader.raft.progress[group.followers()[0].raft.id])
    group.now += 10.0
    leader.turn(group.now)
    assert not leader.raft.is_leader
    assert not any(type(message) is InstallSnapshot for message in group.wire)


class Hoards:
    """Comes to hold what no snapshot can, and lets go of it again."""

    def __init__(self) -> None:
        self.held: Any = None
        self.times = 0

    @command
    def hold(self, lock: bool) -> int:
        self.held = threading.Lock() if lock else None
        self.times += 1
        return self.times


def test_the_members_do_not_all_save_their_states_at_one_moment() -> None:
    group = Group(snapshot_entries=30, snapshot_trailing=0)
    leader = group.elect()
    caller = Caller(group, leader)
    saved: dict[int, list[int]] = {node: [] for node in group.replicas}
    for _ in range(100):
        caller.run(leader, "increment", "n")
        for node, replica in group.replicas.items():
            if replica.status().snapshot not in (0, *saved[node][-1:]):
                saved[node].append(replica.status().snapshot)
    for node, indexes in saved.items():
        assert len(indexes) >= 3, "each as often as it should"
        others = [index for other in saved if other != node for index in saved[other]]
        assert all(abs(index - other) >= 5 for index in indexes for other in others)


def test_a_state_that_can_not_be_saved_does_not_end_the_node(caplog: pytest.LogCaptureFixture) -> None:
    group = Group(Hoards, snapshot_entries=4, snapshot_trailing=0)
    leader = group.elect()
    caller = Caller(group, leader)
    attempts = []
    assert caller.run(leader, "hold", True) == 1
    saved = leader.status().counters.snapshots
    for times in range(2, 22):
        assert caller.run(leader, "hold", True) == times
        attempts.append(leader.status().snapshot_error)
    assert leader.status().counters.snapshots == saved
    assert "lock" in attempts[-1]
    assert len(set(attempts) - {""}) <= 6, "an attempt in every turn would stop all other work"
    said = [
        record.getMessage() for record in caplog.records if f"node {leader.raft.id}: the state" in record.getMessage()
    ]
    assert len(said) == 1, "once is enough, until one was saved again"
    for _ in range(5):
        caller.run(leader, "hold", False)
    group.step()
    assert leader.status().counters.snapshots == saved + 1
    assert leader.status().snapshot_error == ""
    assert leader.status().first_index > 1


def test_closing_stops_what_saves_a_snapshot_and_then_lets_go_of_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    group = Group()
    leader = group.elect()
    closed: list[str] = []
    for name, part in (("snapshotter", leader.compaction._snapshotter), ("store", leader._store)):
        monkeypatch.setattr(part, "close", lambda name=name: closed.append(name))
    leader.close()
    assert closed == ["snapshotter", "store"]


def check_the_log_behind_a_snapshot_is_bounded_in_bytes() -> None:
    """Entries may be large: a number of them alone bounds nothing."""
    group = Group(KeyValue, snapshot_entries=10, snapshot_trailing=8, snapshot_trailing_bytes=2_500)
    leader = group.elect()
    caller = Caller(group, leader)
    for size, kept in ((10, 8), (1_000, 2), (3_000, 0)):
        before = leader.status().counters.snapshots
        while leader.status().counters.snapshots < before + 2:
            caller.run(leader, "put", "key", "v" * size)
        status = leader.status()
        assert status.snapshot + 1 - status.first_index == kept
        leader.compaction._trail.check()
    group.until(group.all_equal)


def test_the_log_behind_a_snapshot_is_bounded_in_bytes() -> None:
    check_the_log_behind_a_snapshot_is_bounded_in_bytes()


def test_a_node_keeps_no_entry_behind_a_snapshot_that_it_has_not_applied_itself() -> None:
    """After a restart it knows the sizes of those alone; the others may be large."""
    group = Group(KeyValue, snapshot_entries=10, snapshot_trailing=100)
    caller = Caller(group, group.elect())
    for n in range(25):
        caller.run(group.elect(), "put", f"key-{n}", n)
    group.until(group.all_equal)
    follower = group.followers()[0].raft.id
    old = group[follower].status().snapshot
    group.kill(follower)
    group.start(follower)
    for n in range(12):
        caller.run(group.elect(), "put", f"more-{n}", n)
    group.until(group.all_equal)
    assert group[follower].status().first_index == old + 1 < group[follower].status().snapshot


def test_a_node_that_was_killed_takes_up_its_state_from_the_snapshot() -> None:
    group = Group(KeyValue, snapshot_entries=5, snapshot_trailing=0)
    leader = group.elect()
    caller = Caller(group, leader)
    for n in range(11):
        caller.run(leader, "put", f"key-{n}", n)
    group.until(group.all_equal)
    digest = leader.machine.digest()
    group.kill(leader.raft.id)
    group.start(leader.raft.id)
    revived = group[leader.raft.id]
    assert revived.status().applied == revived.status().snapshot >= 10
    group.elect()
    group.until(group.all_equal)
    assert revived.machine.digest() == digest


def test_a_session_is_opened_at_most_once_while_its_request_is_under_way() -> None:
    group = Group()
    leader = group.elect()
    answers: list[bytes] = []
    for _ in range(3):
        leader.submit(encode_request(NEW_SESSION, 5, 0, []), answers.append)
    group.until(lambda: len(answers) == 3)
    assert len(set(answers)) == 1
    assert len(leader.machine.sessions) == 1
