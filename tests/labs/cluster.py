"""Nodes of a lab: real replicas on disks that outlive them, on a simulated clock and network."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import msgspec

from rayraft.errors import DiskFailed
from rayraft.raft.ready import NotLeader, RaftConfig
from rayraft.raft.types import AnyMessage, Configuration, NodeId
from rayraft.replica import Replica, ReplicaConfig
from rayraft.replica.snapshotter import InlineSnapshotter
from rayraft.storage.memory import MemoryLogStore, MemorySnapshotStore
from tests.labs.clock import Clock, Process
from tests.labs.machines import Ledger, LogMachine, WatchedMachine
from tests.labs.network import Network

ELECTION_TIMEOUT = 1.0  # what the labs take for an upper bound of it: their pauses are multiples of this
AGREEMENT_TIMEOUT = 10.0  # within this a connected majority must have agreed on a command

_encode = msgspec.msgpack.Encoder().encode


class Node:
    """One server: the process, when there is one, and its disk."""

    def __init__(self, id: NodeId, lab: Cluster) -> None:
        self.id = id
        self.log = MemoryLogStore(Configuration(voters=tuple(lab.ids)))
        self.snapshots = MemorySnapshotStore()
        self.machine: WatchedMachine
        self.replica: Replica | None = None
        self._lab = lab
        self._wake_at = float("inf")

    def start(self) -> None:
        """A new process on the disk."""
        lab = self._lab
        self.machine = lab.machine(lab.ledger)
        self.replica = Replica(
            ReplicaConfig(RaftConfig(self.id, **lab.raft_settings), **lab.settings),
            self.log,
            self.snapshots,
            InlineSnapshotter(self.snapshots),
            self.machine,
            self,
            rng=random.Random(lab.rng.getrandbits(32)),
            now=lab.clock.now,
            wall_clock=lambda: lab.clock.now,
            clock=lambda: lab.clock.now,
        )
        self._wake_at = float("inf")
        self.turn()

    def crash(self) -> None:
        """The process ends; the disk loses what was not synced."""
        self.replica = None
        self.log.crash()
        self.snapshots.crash()

    def turn(self) -> None:
        replica = self.replica
        if replica is None:
            return
        try:
            replica.turn(self._lab.clock.now)
        except DiskFailed:
            self.crash()
            return
        if replica.raft.is_leader:
            self._lab.leads(self.id, replica.raft.term)
        if replica.next_deadline < self._wake_at:
            self._wake_at = replica.next_deadline
            self._lab.clock.at(self._wake_at, lambda: self._wake(replica))

    def _wake(self, replica: Replica) -> None:
        if replica is self.replica and self._lab.clock.now >= self._wake_at:
            self._wake_at = float("inf")
            self.turn()

    def send(self, messages: list[AnyMessage]) -> None:
        """The replica's transport."""
        for message in messages:
            self._lab.network.send(message, self._lab[message.dst].receive)

    def receive(self, message: AnyMessage) -> None:
        if self.replica is not None:
            self.replica.receive(message)
            self.turn()

    @property
    def leads(self) -> bool:
        return self.replica is not None and self.replica.raft.is_leader

    @property
    def term(self) -> int:
        return 0 if self.replica is None else self.replica.raft.term

    @property
    def log_bytes(self) -> int:
        """The size of the log on disk."""
        first, last = self.log.first_index(), self.log.last_index()
        return sum(len(_encode(entry)) for entry in self.log.entries(first, last + 1, 1 << 60))


class Cluster:
    """The stage of a lab: ``servers`` nodes, from 1, and what the labs do to them and ask of them.

    The seed decides everything. While time passes, every applied entry goes through the `Ledger`.
    """

    def __init__(
        self,
        servers: int,
        seed: int,
        *,
        unreliable: bool = False,
        machine: Callable[[Ledger], WatchedMachine] = LogMachine,
        raft: dict[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        self.ids = range(1, servers + 1)
        self.rng = random.Random(seed)
        self.clock = Clock()
        self.network = Network(self.clock, self.rng, self.ids)
        self.network.unreliable = unreliable
        self.ledger = Ledger()
        self.machine = machine
        self.raft_settings = raft or {}  # the defaults are those of the product
        self.settings = settings
        self._nodes = {id: Node(id, self) for id in self.ids}
        self._leader_of_term: dict[int, NodeId] = {}
        for node in self._nodes.values():
            node.start()

    def __getitem__(self, id: NodeId) -> Node:
        return self._nodes[id]

    def __len__(self) -> int:
        return len(self._nodes)

    # --- faults -------------------------------------------------------------------------------------------------------

    def disconnect(self, *ids: NodeId) -> None:
        self.network.connected -= set(ids)

    def connect(self, *ids: NodeId) -> None:
        self.network.connected |= set(ids)

    def crash(self, *ids: NodeId) -> None:
        for id in ids:
            self[id].crash()
            self.disconnect(id)

    def restart(self, *ids: NodeId) -> None:
        """End the process if it runs, and start one on the same disk, connected."""
        self.crash(*ids)
        self.connect(*ids)
        for id in ids:
            self[id].start()

    def after(self, id: NodeId, steps: int) -> NodeId:
        """The node ``steps`` further around the ring."""
        return (id - 1 + steps) % len(self) + 1

    # --- time and leaders ---------------------------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        self.clock.run(seconds)

    def leads(self, id: NodeId, term: int) -> None:
        """A node thinks it leads: one per term, now and ever (§5.2)."""
        known = self._leader_of_term.setdefault(term, id)
        assert known == id, f"term {term} had two leaders: {known} and {id}"

    def leaders(self) -> dict[int, NodeId]:
        """By term, the connected nodes that think they lead."""
        return {self[id].term: id for id in self.network.connected if self[id].leads}

    def one_leader(self) -> NodeId:
        """The leader of the newest term; the labs give an election some five seconds."""
        for _ in range(10):
            self.run(self.rng.uniform(0.45, 0.55))
            if leaders := self.leaders():
                return leaders[max(leaders)]
        raise AssertionError("no leader was elected within five seconds")

    def no_leader(self) -> None:
        assert not self.leaders(), f"without a quorum, these think they lead: {self.leaders()}"

    def term(self) -> int:
        """The term that all connected nodes agree on."""
        terms = {self[id].term for id in self.network.connected}
        assert len(terms) == 1, f"the nodes disagree about the term: {terms}"
        return terms.pop()

    # --- the log ------------------------------------------------------------------------------------------------------

    def command(self) -> bytes:
        """One that was never used before."""
        return b"%d" % self.rng.getrandbits(63)

    def propose(self, id: NodeId, command: bytes) -> int | None:
        """The index that the command will have if it ever commits; None when the node does not lead."""
        node = self[id]
        if node.replica is None:
            return None
        try:
            index = node.replica.raft.propose([command])
        except NotLeader:
            return None
        node.turn()
        return index

    def committed(self, index: int) -> tuple[int, bytes | None]:
        """How many running nodes have applied an entry at ``index``, and its command. The ledger makes it one."""
        found = [
            node.machine.commands[index - 1]
            for node in self._nodes.values()
            if node.replica is not None and isinstance(node.machine, LogMachine) and index <= node.machine.applied
        ]
        assert len(set(found)) <= 1, f"at {index} these were applied: {set(found)}"
        return len(found), found[0] if found else None

    def agree(self, command: bytes, servers: int, *, retry: bool = True) -> int:
        """Have a command committed by at least ``servers`` nodes; its index."""
        index: int = self.clock.finish(self.agreeing(command, servers, retry=retry))
        return index

    def agreeing(self, command: bytes, servers: int, *, retry: bool = True) -> Process:
        """As `agree`, as a process: whoever leads is asked, and another one if that does not help in two seconds."""
        deadline = self.clock.now + AGREEMENT_TIMEOUT
        asked = 0
        while self.clock.now < deadline:
            index = None
            for _ in self.ids:
                asked = self.after(asked or 1, 1)
                if asked in self.network.connected and (index := self.propose(asked, command)) is not None:
                    break
            else:
                yield 0.05
                continue
            patience = self.clock.now + 2.0
            while self.clock.now < patience:
                count, found = self.committed(index)
                if count >= servers and found == command:
                    return index
                yield 0.02
            assert retry, f"{command!r} was not committed by {servers} nodes"
        raise AssertionError(f"no agreement of {servers} nodes on {command!r} within {AGREEMENT_TIMEOUT} s")

    def wait_for(self, index: int, servers: int) -> bytes | None:
        """Wait until ``servers`` nodes have applied ``index``; its command."""
        assert self.clock.until(lambda: self.committed(index)[0] >= servers, 10.0), f"{index} did not commit"
        return self.committed(index)[1]

    def check(self) -> None:
        """The invariants that the running replicas can check themselves."""
        for node in self._nodes.values():
            if node.replica is not None:
                node.replica.raft.check()
