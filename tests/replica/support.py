"""Three replicas on a table: an in-memory network, a clock that moves by hand, disks that outlive their owners."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from rayraft.machine.calls import decode_results, encode_call, unwrap
from rayraft.machine.keyvalue import KeyValue
from rayraft.machine.objects import ObjectMachine
from rayraft.machine.replicated import ReplicatedMachine
from rayraft.machine.requests import NEW_SESSION, Consistency, Status, encode_queries, encode_request, pack
from rayraft.raft.ready import RaftConfig
from rayraft.raft.types import AnyMessage, Configuration, InstallSnapshot, InstallSnapshotResponse, NodeId
from rayraft.replica import Replica, ReplicaConfig
from rayraft.replica.snapshotter import InlineSnapshotter, Snapshotter
from rayraft.storage.memory import MemoryLogStore, MemorySnapshotStore

NODES = (1, 2, 3)
STEP = 0.01
Lose = Callable[[AnyMessage], bool]


class Group:
    """Nodes 1 to 3, unless told otherwise. Messages arrive at once, unless `cut` or `lose` says otherwise."""

    def __init__(
        self,
        machine: type = KeyValue,
        *,
        chunk_bytes: int = 1 << 20,
        voters: tuple[NodeId, ...] = NODES,
        witnesses: tuple[NodeId, ...] = (),
        **settings: Any,
    ) -> None:
        raft_fields = {name: settings.pop(name) for name in list(settings) if name in RaftConfig.__dataclass_fields__}
        self.machine, self.chunk_bytes = machine, chunk_bytes
        self.raft_fields, self.settings = raft_fields, settings
        self.now = 0.0
        self.wire: list[AnyMessage] = []
        self.cut: set[NodeId] = set()
        self.lose: Lose = lambda message: False
        self.logs = {node: MemoryLogStore(Configuration(voters=voters, witnesses=witnesses)) for node in voters}
        self.snapshots = {node: MemorySnapshotStore() for node in voters}
        self.snapshotters: dict[NodeId, Snapshotter] = {}
        self.replicas: dict[NodeId, Replica] = {}
        for node in voters:
            self.start(node)

    def start(self, node: NodeId) -> None:
        """A process on the node's disk; an earlier one is gone."""
        self.snapshotters[node] = InlineSnapshotter(self.snapshots[node])
        self.replicas[node] = Replica(
            ReplicaConfig(RaftConfig(node, **self.raft_fields), **self.settings),
            self.logs[node],
            self.snapshots[node],
            self.snapshotters[node],
            ReplicatedMachine(ObjectMachine(self.machine)),
            self,
            rng=random.Random(node),
            now=self.now,
            wall_clock=lambda: self.now,
            clock=lambda: self.now,
        )
        self.replicas[node]._sender._chunk_bytes = self.chunk_bytes

    def kill(self, node: NodeId) -> None:
        self.logs[node].crash()
        self.snapshots[node].crash()
        del self.replicas[node]

    def __getitem__(self, node: NodeId) -> Replica:
        return self.replicas[node]

    # --- network and clock --------------------------------------------------------------------------------------------

    def send(self, messages: list[AnyMessage]) -> None:
        self.wire += messages

    def settle(self) -> None:
        """Deliver until nothing is under way."""
        while self.wire:
            message = self.wire.pop(0)
            lost = {message.src, message.dst} & self.cut or message.dst not in self.replicas or self.lose(message)
            if not lost:
                self.replicas[message.dst].receive(message)
                self.replicas[message.dst].turn(self.now)

    def step(self, seconds: float = STEP) -> None:
        self.now += seconds
        for replica in list(self.replicas.values()):
            replica.turn(self.now)
        self.settle()

    def until(self, condition: Callable[[], Any], seconds: float = 30.0) -> None:
        """Let time pass until ``condition`` holds."""
        deadline = self.now + seconds
        while not condition():
            assert self.now < deadline, "it did not come to pass"
            self.step()

    def rest(self, seconds: float = 0.5) -> None:
        """Let time pass: enough for everyone's turn at a digest."""
        until = self.now + seconds
        while self.now < until:
            self.step()

    # --- what a story asks for ----------------------------------------------------------------------------------------

    def leader_among(self, nodes: set[NodeId]) -> Replica | None:
        serving = [r for node, r in self.replicas.items() if node in nodes and r.status().serves]
        return max(serving, key=lambda replica: replica.raft.term, default=None)

    def elect(self, *nodes: NodeId) -> Replica:
        """The serving leader, once there is one (among these nodes)."""
        among = set(nodes or self.logs) - self.cut
        self.until(lambda: self.leader_among(among))
        leader = self.leader_among(among)
        assert leader is not None
        return leader

    def isolate_leader(self) -> Replica:
        """Cut the leader off; it does not know yet."""
        leader = self.elect()
        self.cut = {leader.raft.id}
        return leader

    def followers(self) -> list[Replica]:
        return [replica for replica in self.replicas.values() if not replica.raft.is_leader]

    def all_equal(self) -> bool:
        applied = {replica.raft.log.applied for replica in self.replicas.values()}
        return len(applied) == 1 and len({replica.machine.digest() for replica in self.replicas.values()}) == 1


class Caller:
    """A client in one session: numbers its requests, and keeps the answers to each."""

    def __init__(self, group: Group, replica: Replica) -> None:
        self.group = group
        self.number = 0
        self.requests: dict[int, bytes] = {}
        answers: list[bytes] = []
        replica.submit(encode_request(NEW_SESSION, 99, 0, []), answers.append)
        group.until(lambda: answers)
        assert answers[0][0] == Status.OK
        self.session = int.from_bytes(answers[0][1:], "little")

    def submit(self, replica: Replica, method: str, *args: Any) -> list[bytes]:
        """A new request; the list that its answers go to."""
        self.number += 1
        self.requests[self.number] = encode_request(self.session, self.number, 0, [encode_call(method, args, {})])
        return self.repeat(replica, self.number)

    def repeat(self, replica: Replica, number: int) -> list[bytes]:
        answers: list[bytes] = []
        replica.submit(self.requests[number], answers.append)
        return answers

    def run(self, replica: Replica, method: str, *args: Any) -> Any:
        """Submit and wait; the result."""
        answers = self.submit(replica, method, *args)
        self.group.until(lambda: answers)
        return result_of(answers)


def ask(
    replica: Replica, method: str, *args: Any, reads: Consistency = Consistency.LINEARIZABLE, max_age: float = 0.0
) -> list[bytes]:
    """A read; the list that its answers go to."""
    answers: list[bytes] = []
    replica.query(encode_queries(pack([encode_call(method, args, {})]), reads, max_age), answers.append)
    return answers


def status_of(answers: list[bytes]) -> Status:
    """How a request was answered: once."""
    assert len(answers) == 1, f"answered {len(answers)} times"
    return Status(answers[0][0])


def result_of(answers: list[bytes]) -> Any:
    assert status_of(answers) is Status.OK
    [result] = decode_results(answers[0][1:])
    return unwrap(result)


def is_transfer(message: AnyMessage) -> bool:
    return isinstance(message, (InstallSnapshot, InstallSnapshotResponse))
