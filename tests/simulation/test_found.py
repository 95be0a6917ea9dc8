"""What the simulator has found in the code as it was, each as a story: these were bugs of our own."""

from __future__ import annotations

import random

import msgspec

from rayraft.machine.calls import encode_call
from rayraft.machine.objects import ObjectMachine
from rayraft.machine.replicated import ReplicatedMachine
from rayraft.machine.requests import Consistency, Status, encode_queries, pack
from rayraft.raft.membership import Change, ChangeKind, encode_configuration
from rayraft.raft.ready import RaftConfig
from rayraft.raft.types import (
    AnyMessage,
    AppendEntries,
    Configuration,
    Entry,
    EntryKind,
    Heartbeat,
    InstallSnapshot,
    ReadIndexRequest,
    ReadIndexResponse,
    SnapshotMeta,
    StateDigest,
)
from rayraft.replica import Replica, ReplicaConfig
from rayraft.replica.divergence import Verdict
from rayraft.replica.snapshotter import InlineSnapshotter
from rayraft.simulation.model import Notebook
from rayraft.simulation.run import simulate
from rayraft.storage.memory import MemoryLogStore, MemorySnapshotStore
from tests.harness import Group, entries_of
from tests.replica.support import Group as Replicas

WITH_WITNESS = Configuration((1, 2, 3), witnesses=(3,), highest_id=3)


class Sent:
    def __init__(self) -> None:
        self.messages: list[AnyMessage] = []

    def send(self, messages: list[AnyMessage]) -> None:
        self.messages += messages


class Process:
    """Node 3 on an empty disk, and what it sends and answers."""

    def __init__(self, founders: Configuration, **settings: int) -> None:
        self.wire, self.answers = Sent(), list[bytes]()
        snapshots = MemorySnapshotStore()
        self.replica = Replica(
            ReplicaConfig(RaftConfig(3), **settings),
            MemoryLogStore(founders),
            snapshots,
            InlineSnapshotter(snapshots),
            ReplicatedMachine(ObjectMachine(Notebook)),
            self.wire,
            rng=random.Random(1),
            now=0.0,
            wall_clock=lambda: 0.0,
            clock=lambda: 0.0,
        )

    def get(self, *messages: AnyMessage) -> None:
        for message in messages:
            self.replica.receive(message)
        self.replica.turn(0.0)

    def query(self, consistency: Consistency, max_age: float = 0.0) -> None:
        queries = encode_queries(pack([encode_call("get", ("x",), {})]), consistency, max_age)
        self.replica.query(queries, self.answers.append)
        self.replica.turn(0.0)


def heartbeat(process: Process, commit: int) -> Heartbeat:
    return Heartbeat(1, 1, 3, commit, 0, 0.0, process.replica.raft.stamp(), 0.0, commit)


def test_a_witness_answers_no_stale_read() -> None:
    """Seed 8: its machine is empty for ever, and it knows well how fresh its log is."""
    witness = Process(WITH_WITNESS)
    witness.get(AppendEntries(1, 1, 3, 0, 0, 0, (Entry(1, 1, EntryKind.COMMAND),)), heartbeat(witness, 1))
    witness.query(Consistency.STALE, max_age=60.0)
    assert [answer[0] for answer in witness.answers] == [Status.FAILED]


def test_a_witness_that_does_not_know_yet_that_it_is_one_answers_no_follower_read() -> None:
    """Seed 57: the read waits while the news comes, with a snapshot that has no data."""
    witness = Process(Configuration())
    witness.get(Heartbeat(1, 1, 3, 0))
    witness.query(Consistency.FOLLOWER)
    (request,) = [message for message in witness.wire.messages if isinstance(message, ReadIndexRequest)]
    witness.get(InstallSnapshot(1, 1, 3, SnapshotMeta(5, 1, WITH_WITNESS)), ReadIndexResponse(1, 1, 3, request.id, 5))
    assert witness.replica.raft.log.applied == 5
    assert [answer[0] for answer in witness.answers] == [Status.FAILED]


def test_a_new_witness_takes_a_snapshot_that_is_older_than_its_membership() -> None:
    """It says nothing of this witness, and comes without data all the same."""
    witness = Process(Configuration())
    witness.get(InstallSnapshot(1, 1, 3, SnapshotMeta(5, 1, Configuration((1, 2)))))
    change = Entry(6, 1, EntryKind.CONFIGURATION, encode_configuration(WITH_WITNESS))
    witness.get(AppendEntries(1, 1, 3, 5, 1, 6, (change,)))
    assert witness.replica.raft.log.applied == 6
    assert witness.replica.raft.is_witness


def test_a_new_witness_judges_no_state_before_it_knows_that_it_is_one() -> None:
    """Seeds 1531 and 2266: its machine is empty, and a mark and a verdict are older than its membership."""
    witness = Process(Configuration())
    verdict = msgspec.msgpack.encode(Verdict(6, (1, 2), {1: b"right", 2: b"right"}))
    mark, judged = Entry(6, 1, EntryKind.DIGEST), Entry(7, 1, EntryKind.DIGEST, verdict)
    witness.get(
        InstallSnapshot(1, 1, 3, SnapshotMeta(5, 1, Configuration((1, 2)))), AppendEntries(1, 1, 3, 5, 1, 6, (mark,))
    )
    witness.get(AppendEntries(1, 1, 3, 6, 1, 7, (judged,)))
    assert witness.replica.raft.log.applied == 7
    assert not witness.replica.diverged


def test_what_a_new_witness_tells_of_its_state_is_not_counted() -> None:
    """Seeds 1531 and 2266: the leader knows better than the witness itself."""
    group = Replicas(digest_entries=1000, witnesses=(3,))
    leader = group.elect()
    index = leader.raft.propose_digest()
    group.lose = lambda message: isinstance(message, StateDigest)  # the verdict waits for that of node 2
    group.until(lambda: leader.state_check.marked == index)
    leader.receive(StateDigest(leader.raft.term, 3, leader.raft.id, index, b"of nothing"))
    group.lose = lambda message: False
    group.until(lambda: leader.state_check.settled >= index)
    assert leader.status().divergence is None


def test_a_witness_that_learns_by_a_snapshot_that_it_is_gone_answers_no_stale_read() -> None:
    """Seed 15865: the members after it are known at once, and the snapshot is installed a moment later."""
    witness = Process(WITH_WITNESS)
    witness.get(AppendEntries(1, 1, 3, 0, 0, 0, (Entry(1, 1, EntryKind.COMMAND),)), heartbeat(witness, 1))
    witness.replica.receive(InstallSnapshot(1, 1, 3, SnapshotMeta(5, 1, Configuration((1, 2), highest_id=3))))
    witness.query(Consistency.STALE, max_age=60.0)
    assert [answer[0] for answer in witness.answers] == [Status.FAILED]


def test_a_leader_that_dies_before_it_hears_what_time_it_is_may_serve_nothing() -> None:
    """The check of leases went by the core's clock, which stands still while the process is busy: a false alarm."""
    assert simulate(19367, seconds=15.0).commits


def test_a_node_that_starts_anew_may_have_forgotten_who_was_removed() -> None:
    """What is committed need not be on its disk as such. The check went by what it knew before: a false alarm."""
    assert simulate(17847, seconds=15.0).commits


def test_a_witness_that_leaves_gets_no_data() -> None:
    """Seed 50: the configuration in force does not name it any longer, but it is still sent entries."""
    group = Group(configuration=WITH_WITNESS)
    group.elect(1)
    group.settle()
    group.cut(1, 3)
    group.change(Change(ChangeKind.REMOVE, 3), at=1)
    group.settle()
    group.heal()
    group.propose(b"secret", at=1)
    group.run(0.5)
    assert group.count_sent(AppendEntries, dst=3) > 0
    assert all(not entry.data for entry in entries_of(group[3]) if entry.kind is EntryKind.COMMAND)
    assert all(not e.data for m in group.sent if isinstance(m, AppendEntries) and m.dst == 3 for e in m.entries
               if e.kind is EntryKind.COMMAND)  # fmt: skip


def test_a_node_that_joined_takes_no_snapshot_before_it_knows_the_members() -> None:
    """Seed 279 of 15 s: it replays the log from its first entry, and only a later one says who they are.

    A founder that is sent such a snapshot would forget that it is a voter.
    """
    node = Process(Configuration(), snapshot_entries=2, snapshot_trailing=0)
    node.get(AppendEntries(1, 1, 3, 0, 0, 4, tuple(Entry(i, 1, EntryKind.NOOP) for i in range(1, 5))))
    assert node.replica.raft.log.applied == 4
    assert node.replica.counters.snapshots == 0
    change = Entry(5, 1, EntryKind.CONFIGURATION, encode_configuration(Configuration((1, 2, 3))))
    node.get(AppendEntries(1, 1, 3, 4, 1, 5, (change,)))
    node.replica.turn(1.0)
    assert node.replica.counters.snapshots == 1
    assert node.replica._store.snapshot().configuration.voters == (1, 2, 3)


def test_whom_nobody_is_left_to_tell_is_not_waited_for() -> None:
    """The check was too strict: of the voters that a removed node knew, the only one that still was one had lost its
    disk, so nobody could tell it.
    """
    report = simulate(14_481)
    assert report.faults["lost disk"] >= 2
    assert report.recovery < 5.0


def test_what_a_leader_commits_before_it_leads_again_within_a_turn_is_of_its_earlier_term() -> None:
    """The check was too strict: after a stall one turn took in an acknowledgement, the removal of the only other voter
    and a later term, and won that node the next election with its own vote.
    """
    assert simulate(58_525).recovery < 5.0
