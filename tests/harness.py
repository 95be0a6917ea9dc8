"""A Raft group on a table: every message lies open, time moves by hand, any node can lose power.

Real `Raft` cores over real `MemoryLogStore` disks; only the network and the clock are ours. After every turn of a node
`Laws` checks what must never happen (the list in the design), so a story needs to assert only what it is about.
"""

from __future__ import annotations

import itertools
import random
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rayraft.raft.leader import without_data
from rayraft.raft.membership import Change, decode_configuration
from rayraft.raft.quorum import VoteResult, vote_result
from rayraft.raft.raft import Raft
from rayraft.raft.reads import ReadState
from rayraft.raft.ready import RaftConfig, Ready
from rayraft.raft.types import (
    AppendResponse,
    Configuration,
    Entry,
    EntryKind,
    HardState,
    InstallSnapshot,
    Message,
    NodeId,
    RequestVote,
    SnapshotMeta,
    VoteResponse,
)
from rayraft.storage.memory import MemoryLogStore

EVERYTHING = 1 << 60
FOREVER = float("inf")


def entry(index: int, term: int) -> Entry:
    """The entry that a seeded log has at ``index`` in ``term``."""
    return Entry(index, term, EntryKind.COMMAND, b"%d.%d" % (index, term))


def store_with(terms: Sequence[int], configuration: Configuration = Configuration(), term: int = 0) -> MemoryLogStore:  # noqa: B008
    """A disk whose log has entries of these terms, and a hard state of ``term`` (or of the last entry's)."""
    store = MemoryLogStore(configuration)
    store.write(HardState(max(term, *terms, 0) if terms else term), [entry(i, t) for i, t in enumerate(terms, 1)])
    store.sync()
    return store


def entries_of(raft: Raft) -> list[Entry]:
    """The whole log of a node, from the store and from memory."""
    found: list[Entry] = []
    low = raft.log.first_index()
    while low <= raft.log.last_index():
        found += raft.log.entries(low, EVERYTHING)
        low = found[-1].index + 1
    return found


@dataclass
class Clock:
    """A node's own clock: what it shows when the true time is ``t`` is ``start + rate * t``."""

    rate: float = 1.0
    start: float = 0.0

    def shows(self, t: float) -> float:
        return self.start + self.rate * t

    def when(self, shown: float) -> float:
        return (shown - self.start) / self.rate


@dataclass
class Node:
    store: MemoryLogStore
    clock: Clock = field(default_factory=Clock)
    paused: bool = False  # its process stands still; what is sent to it waits
    waiting: list[Message] = field(default_factory=list)
    raft: Raft | None = None  # None while it is down
    applied: list[Entry] = field(default_factory=list)  # the state machine: lost in a crash, but for the snapshot
    reads: list[ReadState] = field(default_factory=list)
    refused: list[Any] = field(default_factory=list)
    disk_held: bool = False
    unfinished: Ready | None = None  # what a held disk has not written yet


class Group:
    """``size`` nodes, numbered from 1, that start with the given logs (lists of terms) in the given term.

    Messages lie on `wire` until a story delivers, drops or repeats them; nothing happens by itself.
    """

    def __init__(
        self,
        size: int = 3,
        *,
        logs: Mapping[NodeId, Sequence[int]] = {},
        term: int = 0,
        seed: int = 1,
        configuration: Configuration | None = None,
        clocks: Mapping[NodeId, Clock] = {},
        **settings: Any,
    ) -> None:
        """``configuration`` says who is there in place of ``size``. ``clocks`` are those that are not true."""
        self.now = 0.0
        self.wire: list[Message] = []
        self.sent: list[Message] = []  # every message that ever left a node
        self.severed: set[tuple[NodeId, NodeId]] = set()
        self.laws = Laws(self)
        self.rng = random.Random(seed)
        self._settings = settings
        self.configuration = configuration or Configuration(voters=tuple(range(1, size + 1)))
        self.nodes = {
            id: Node(store_with(logs.get(id, ()), self.configuration, term), clocks.get(id, Clock()))
            for id in self.configuration.members()
        }
        for id in self.nodes:
            self.restart(id)

    def __getitem__(self, id: NodeId) -> Raft:
        raft = self.nodes[id].raft
        assert raft is not None, f"node {id} is down"
        return raft

    # --- looking ------------------------------------------------------------------------------------------------------

    def up(self) -> Iterator[tuple[NodeId, Raft]]:
        yield from ((id, node.raft) for id, node in self.nodes.items() if node.raft is not None)

    @property
    def leader(self) -> NodeId:
        """The leader of the newest term, 0 when nobody leads."""
        return max(((raft.term, id) for id, raft in self.up() if raft.is_leader), default=(0, 0))[1]

    def terms(self, id: NodeId) -> list[int]:
        return [entry.term for entry in entries_of(self[id])]

    def data(self, id: NodeId) -> list[bytes]:
        """The commands that ``id`` has applied."""
        return [entry.data for entry in self.nodes[id].applied if entry.kind is EntryKind.COMMAND]

    def pick(self, kind: type = Message, **fields: Any) -> list[Any]:
        """The messages on the wire of this kind and with these fields, oldest first."""
        return [m for m in self.wire if matches(m, kind, fields)]

    def count_sent(self, kind: type = Message, **fields: Any) -> int:
        return sum(matches(m, kind, fields) for m in self.sent)

    # --- the network --------------------------------------------------------------------------------------------------

    def deliver(self, kind: type = Message, **fields: Any) -> None:
        """Each matching message that lies on the wire now arrives, once; the answers stay on the wire."""
        for message in self._take(kind, fields):
            self.receive(message)

    def drop(self, kind: type = Message, **fields: Any) -> None:
        for message in self._take(kind, fields):
            self._report(message, delivered=False)

    def _take(self, kind: type, fields: Mapping[str, Any]) -> list[Message]:
        taken = [m for m in self.wire if matches(m, kind, fields)]
        self.wire = [m for m in self.wire if not matches(m, kind, fields)]
        return taken

    def settle(self) -> None:
        """Deliver until nothing is left to say."""
        for _ in range(1000):
            if not self.wire:
                return self.laws.check_log_matching()
            self.deliver()
        raise AssertionError("the group talks without end")

    def receive(self, message: Message) -> None:
        """``message`` arrives, whether it lies on the wire or not: so a story repeats, delays or forges one."""
        node = self.nodes.get(message.dst)
        if node is None or node.raft is None or (message.src, message.dst) in self.severed:
            self._report(message, delivered=False)
            return
        if node.paused:
            node.waiting.append(message)
            return
        self.step(message)
        self.turn(message.dst)

    def step(self, message: Message) -> None:
        """A node takes ``message`` in, and does not yet act on it: `turn` does."""
        self[message.dst].step(message)  # type: ignore[arg-type]
        self.laws.check_node(message.dst)
        self._report(message, delivered=True)

    def _report(self, message: Message, *, delivered: bool) -> None:
        """A transport tells nobody of a lost message, but the sender of a snapshot learns how that ended."""
        sender = self.nodes.get(message.src)
        if isinstance(message, InstallSnapshot) and sender is not None and sender.raft is not None:
            sender.raft.report_snapshot(message.dst, delivered=delivered)

    def cut(self, a: NodeId, b: NodeId) -> None:
        self.severed |= {(a, b), (b, a)}

    def isolate(self, *ids: NodeId) -> None:
        """Cut these nodes off from all the others, but not from each other."""
        for id in ids:
            for other in self.nodes.keys() - set(ids):
                self.cut(id, other)

    def heal(self) -> None:
        self.severed.clear()

    # --- time ---------------------------------------------------------------------------------------------------------

    def tick(self, seconds: float = 0.0) -> None:
        """``seconds`` later every node looks at its clock. What that makes them say stays on the wire."""
        self.now += seconds
        for id, raft in list(self.up()):
            if not self.nodes[id].paused:
                raft.tick(self.time(id))
                self.turn(id)

    def time(self, id: NodeId) -> float:
        """What the clock of this node shows."""
        return self.nodes[id].clock.shows(self.now)

    def _next_deadline(self) -> float:
        return min(
            (self.nodes[id].clock.when(raft.next_deadline) for id, raft in self.up() if not self.nodes[id].paused),
            default=FOREVER,
        )

    def pause(self, id: NodeId) -> None:
        """The process of this node stands still: it takes in nothing, and does not see its clock go on."""
        self.nodes[id].paused = True

    def resume(self, id: NodeId) -> None:
        """It finds what came meanwhile first, and sees only then how late it is."""
        node = self.nodes[id]
        node.paused = False
        waiting, node.waiting = node.waiting, []
        for message in waiting:
            self.step(message)
        self[id].tick(self.time(id))
        self.turn(id)

    def run(self, seconds: float) -> None:
        """Let time pass while every message arrives at once."""
        end = self.now + seconds
        rounding = 1e-9 if any(node.clock != Clock() for node in self.nodes.values()) else 0.0
        self.settle()
        while (due := self._next_deadline()) < end:
            self.tick(max(rounding, due - self.now))
            self.settle()
        self.tick(end - self.now)
        self.settle()

    # --- nodes --------------------------------------------------------------------------------------------------------

    def restart(self, id: NodeId) -> None:
        """Start a node from its disk."""
        node = self.nodes[id]
        config = RaftConfig(node_id=id, **self._settings)
        node.raft = Raft(config, node.store, random.Random(self.rng.random()), self.time(id))
        node.applied = self.laws.committed_upto(node.store.snapshot().index)
        self.laws.restarted(id)

    def join(self, id: NodeId, clock: Clock | None = None) -> None:
        """A new node comes up: its disk is empty, and it knows of no other."""
        self.nodes[id] = Node(MemoryLogStore(), clock or Clock())
        self.restart(id)

    def crash(self, id: NodeId) -> None:
        """Power is lost: all that was not synced is gone, and so is all in memory."""
        node = self.nodes[id]
        node.store.crash()
        node.raft, node.unfinished, node.disk_held, node.applied = None, None, False, []
        node.paused, node.waiting = False, []

    def crash_noticed(self, id: NodeId) -> None:
        """Its process is gone, and the surroundings of all the others say so at once."""
        self.crash(id)
        for other, _ in list(self.up()):
            self.report_down(other, id)

    def report_down(self, id: NodeId, other: NodeId) -> None:
        """The surroundings of ``id`` say that the process of ``other`` is gone."""
        self[id].report_down(other, self.time(id))
        self.turn(id)

    def hold_disk(self, id: NodeId) -> None:
        """From now on writes of this node hang, and all that must wait for them."""
        self.nodes[id].disk_held = True

    def release_disk(self, id: NodeId) -> None:
        node = self.nodes[id]
        node.disk_held = False
        if node.raft is not None and node.unfinished is not None:
            ready, node.unfinished = node.unfinished, None
            self._finish(id, node, node.raft, ready)
        self.turn(id)

    def compact(self, id: NodeId, keep: int = 0) -> SnapshotMeta:
        """Take a snapshot of what the node has applied and drop the log behind it, but for ``keep`` entries."""
        raft, store = self[id], self.nodes[id].store
        index = raft.log.applied
        snapshot = SnapshotMeta(index, raft.log.term(index) or 0, raft.log.configurations.at(index))
        store.compact(snapshot, max(store.first_index(), index + 1 - keep))
        return snapshot

    def turn(self, id: NodeId) -> None:
        """A node's loop, as `Ready` prescribes it, until there is nothing more to do."""
        node = self.nodes[id]
        while (
            node.raft is not None
            and not node.paused
            and node.unfinished is None
            and (ready := node.raft.ready()) is not None
        ):
            self.laws.check_leader_log(id)
            self._send(id, ready.messages)
            if node.disk_held and (ready.must_sync or ready.snapshot):
                node.unfinished = ready
                return
            self._finish(id, node, node.raft, ready)

    def _finish(self, id: NodeId, node: Node, raft: Raft, ready: Ready) -> None:
        if ready.snapshot is not None:
            assert ready.hard_state is not None
            node.store.install(ready.snapshot, ready.hard_state)
            node.applied = self.laws.committed_upto(ready.snapshot.index)
        if ready.must_sync:
            node.store.write(ready.hard_state, ready.entries)
            node.store.sync()
        self._send(id, ready.messages_after)
        self.laws.check_node(id)  # before `applied` grows: what is applied must be known as committed
        for entry in ready.committed:
            self.laws.check_applied(node.applied, entry)
            node.applied.append(entry)
        for state in ready.reads:
            self.laws.check_read(state)
        node.reads += ready.reads
        node.refused += ready.refused_reads
        raft.advance(ready)
        self.laws.check_node(id)

    def _send(self, id: NodeId, messages: Sequence[Message]) -> None:
        for message in messages:
            assert message.src == id
            self.laws.check_durable(self.nodes[id].store, message)
        self.wire += messages
        self.sent += messages

    # --- what clients do ----------------------------------------------------------------------------------------------

    def elect(self, id: NodeId) -> None:
        """Let ``id`` win an election. Nobody else tries: their timers run out, but what they say is lost."""
        patience = self[id].config.election_timeout
        self.now += patience
        for other, raft in list(self.up()):
            if not raft.is_leader:
                raft.tick(self.time(other))
                self.turn(other)
        self.drop(RequestVote)
        for _ in range(2):  # the first time it may only learn of a newer term
            self.campaign(id)
            self.settle()
        assert self[id].is_leader, f"node {id} lost the election"

    def campaign(self, id: NodeId) -> None:
        self[id].campaign()
        self.turn(id)

    def propose(self, *data: bytes, at: NodeId = 0) -> int:
        """Propose at the leader; the messages stay on the wire. Returns the first index."""
        id = at or self.leader
        index = self[id].propose(data)
        self.turn(id)
        return index

    def commit(self, *data: bytes) -> None:
        """Propose, and let everybody who can be reached learn that it is committed."""
        self.propose(*data)
        self.settle()
        self.run(self[self.leader].config.commit_notice_delay * 1.01)

    def change(self, *changes: Change, at: NodeId = 0, **how: Any) -> int:
        """Propose a configuration at the leader; the messages stay on the wire. Returns its index."""
        id = at or self.leader
        index = self[id].propose_changes(changes, **how)
        self.turn(id)
        return index

    def transfer(self, target: NodeId, at: NodeId = 0) -> None:
        id = at or self.leader
        self[id].transfer_leadership(target)
        self.turn(id)

    def read(self, token: Any, at: NodeId = 0, how: Callable[[Raft, Any], None] = Raft.read_index) -> None:
        id = at or self.leader
        self.laws.read_began(token)
        how(self[id], token)
        self.turn(id)


def matches(message: Message, kind: type, fields: Mapping[str, Any]) -> bool:
    return isinstance(message, kind) and all(getattr(message, name) == value for name, value in fields.items())


class Laws:
    """What must never happen in a group, each checked where it would first show. A broken one is an AssertionError."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self._committed: list[Entry] = []  # entry of index i + 1, as the first node to commit it had it
        self._committed_in: list[int] = []  # the term in which that was
        self._committed_at: list[float] = []  # the true time of it
        self.trust_clocks = True  # they are within the bound, so what rests on it is checked
        self._leader_logs: dict[int, tuple[NodeId, dict[int, int]]] = {}  # term -> leader, {index: term of the entry}
        self._seen: dict[NodeId, tuple[int, int]] = {}  # term and commit index of each node when last looked at
        self._configurations_seen: dict[NodeId, tuple[int, int, int, Configuration]] = {}
        self._admitted: dict[NodeId, int] = {}  # the newest term in which each node has spoken
        self._read_floors: list[tuple[Any, int]] = []

    def committed_upto(self, index: int) -> list[Entry]:
        assert index <= len(self._committed), "a snapshot holds what was never committed"
        return self._committed[:index]

    def restarted(self, id: NodeId) -> None:
        """The term that others know never goes back; the commit index is volatile in Raft."""
        raft = self._group[id]
        assert raft.term >= self._admitted.get(id, 0), "a term that was admitted was forgotten in a crash"
        self._seen[id] = (raft.term, raft.log.commit)

    def check_node(self, id: NodeId) -> None:
        raft, node = self._group[id], self._group.nodes[id]
        raft.check()
        node.store.check()
        if raft._snapshot or (node.unfinished and node.unfinished.snapshot):
            return  # the disk does not follow the log until that is installed
        term, commit = self._seen[id]
        assert raft.term >= term, f"the term of {id} went back from {term} to {raft.term}"
        assert raft.log.commit >= commit, f"the commit index of {id} went back from {commit} to {raft.log.commit}"
        self._seen[id] = (raft.term, raft.log.commit)
        self.check_leader_log(id)
        if raft.is_leader and raft.log.commit > commit:
            self._check_commit_rule(raft)
        self._check_committed(raft, commit)
        self._check_configuration(id)
        self._check_freshness(id)
        self._check_leases()

    def check_leader_log(self, id: NodeId) -> None:
        """One leader in a term; it only appends; it has all that was committed up to its term."""
        raft = self._group[id]
        if not raft.is_leader:
            return
        leader, known = self._leader_logs.setdefault(raft.term, (id, {}))
        assert leader == id, f"two leaders in term {raft.term}: {leader} and {id}"
        log = {entry.index: entry.term for entry in entries_of(raft)}
        first = raft.log.first_index()
        for index, term in known.items():
            assert index < first or log.get(index) == term, f"leader {id} changed its own entry {index}"
        if log.keys() - known.keys():
            self._check_new_entries(raft, known)
        known.update(log)
        for entry, committed_in in zip(self._committed, self._committed_in, strict=True):
            if entry.index >= first and committed_in <= raft.term:
                assert log.get(entry.index) == entry.term, f"leader {id} lacks the committed entry {entry.index}"

    def _check_commit_rule(self, raft: Raft) -> None:
        """A leader advances its commit index only to an entry of its term that a quorum holds durably."""
        index = raft.log.commit
        assert raft.log.term(index) == raft.term, f"entry {index} of an older term was committed by counting"
        holders = {id: True for id, node in self._group.nodes.items() if holds(node.store, index, raft.term)}
        decided = vote_result(raft.configuration, holders) is VoteResult.WON
        assert decided, f"entry {index} is committed on the disks of {sorted(holders)} only, of {raft.configuration}"

    def _check_new_entries(self, raft: Raft, known: Mapping[int, int]) -> None:
        """A leader changes the members only after it has committed an entry of its term, and one step at a time."""
        before: Entry | None = None
        for entry in entries_of(raft):
            if entry.kind is not EntryKind.CONFIGURATION:
                continue
            if entry.index not in known and entry.term == raft.term:
                established = raft.log.term(raft.log.commit) == raft.term
                assert established, f"leader {raft.id} changes the members before its no-op is committed"
                assert before is None or before.index <= raft.log.commit, "two changes are pending at once"
                old = raft.store.snapshot().configuration if before is None else decode_configuration(before.data)
                assert overlap(old, decode_configuration(entry.data)), f"disjoint quorums at {entry.index}"
            before = entry

    def _check_configuration(self, id: NodeId) -> None:
        """The configuration in force is the newest in the log, committed or not (§6)."""
        raft = self._group[id]
        start, newest = raft.store.snapshot(), raft.configuration
        seen = (raft.log.last_index(), raft.log.last_term(), start.index, newest)  # names all that is looked at
        if self._configurations_seen.get(id) == seen:
            return
        self._configurations_seen[id] = seen
        changes = [e for e in entries_of(raft) if e.kind is EntryKind.CONFIGURATION and e.index > start.index]
        in_log = decode_configuration(changes[-1].data) if changes else start.configuration
        assert newest == in_log, f"node {id} goes by another configuration than the newest in its log"

    def _check_freshness(self, id: NodeId) -> None:
        """All that was acknowledged before the moment that a node names is applied there."""
        raft = self._group[id]
        moment = self._group.nodes[id].clock.when(raft.fresh_as_of)
        must_have = bisect_left(self._committed_at, moment - 1e-6) if self.trust_clocks else 0
        assert raft.log.applied >= must_have, f"node {id} is not as fresh as it says"

    def _check_leases(self) -> None:
        """While a leader may read by its lease, no leader of a later term exists."""
        leaders = {id: raft for id, raft in self._group.up() if raft.is_leader and self.trust_clocks}
        newest = max((raft.term for raft in leaders.values()), default=0)
        for id, raft in leaders.items():
            if raft.term < newest and raft.leading is not None and not raft.leading.lease_void:
                end = raft.leading.lease_start() + raft.config.lease_duration
                held = raft.config.lease_duration and raft.leading.established and self._group.time(id) < end
                assert not held, f"leader {id} holds a lease in term {raft.term}, and term {newest} has a leader"

    def _check_committed(self, raft: Raft, commit: int) -> None:
        for index in range(min(commit, len(self._committed)) + 1, raft.log.commit + 1):
            if index < raft.log.first_index():
                continue  # it came with a snapshot
            entry = raft.log.entries(index, 0)[0]
            if index > len(self._committed):
                self._committed.append(entry)
                self._committed_in.append(raft.term)
                self._committed_at.append(self._group.now)
            assert same(self._committed[index - 1], entry), f"entry {index} was committed twice, differently"

    def check_applied(self, applied: Sequence[Entry], entry: Entry) -> None:
        assert entry.index == len(applied) + 1, f"{entry.index} was applied after {len(applied)}"
        assert same(self._committed[entry.index - 1], entry), f"two nodes apply different commands at {entry.index}"

    def check_durable(self, store: MemoryLogStore, message: Message) -> None:
        """What a message admits is on the disk before it leaves."""
        assert store.unsynced == 0
        hard_state = store.hard_state()
        if getattr(message, "pre_vote", False):
            return  # it speaks of a term that may never come
        assert hard_state.term >= message.term, "a term was admitted before it was durable"
        self._admitted[message.src] = max(message.term, self._admitted.get(message.src, 0))
        if isinstance(message, VoteResponse) and message.granted:
            assert hard_state.term > message.term or hard_state.vote == message.dst, "a vote left before its write"
        if isinstance(message, AppendResponse) and message.success:
            _, leader_log = self._leader_logs.get(message.term, (0, {}))
            term = leader_log.get(message.index)
            assert holds(store, message.index, term), f"entry {message.index} was acknowledged and is not on the disk"

    def check_log_matching(self) -> None:
        """Same index and term in two logs, then the same entry and the same prefix (§5.3)."""
        logs = [{entry.index: entry for entry in entries_of(raft)} for _, raft in self._group.up()]
        for position, log in enumerate(logs):
            for other in logs[:position]:
                shared = sorted(log.keys() & other.keys())
                agreed = [same(log[index], other[index]) for index in shared]
                assert agreed == sorted(agreed, reverse=True), "two logs agree behind an index where they differ"
                same_name = [log[index].term == other[index].term for index in shared]
                assert agreed == same_name, "two entries share index and term and differ"

    def read_began(self, token: Any) -> None:
        self._read_floors.append((token, len(self._committed)))

    def check_read(self, state: ReadState) -> None:
        for token, floor in self._read_floors:
            assert token not in state.tokens or state.index >= floor, f"read {token!r} misses an acknowledged write"


def holds(store: MemoryLogStore, index: int, term: int | None) -> bool:
    """Whether a disk has the entry of this term (None: any), or a snapshot that covers it."""
    if index <= store.snapshot().index:
        return True
    return index <= store.last_index() and term in (None, store.term(index))


def same(one: Entry, other: Entry) -> bool:
    """Whether two nodes hold the same entry, of which a witness keeps no data."""
    return one == other or (without_data(one) == without_data(other) and b"" in (one.data, other.data))


def overlap(one: Configuration, other: Configuration) -> bool:
    """Whether every quorum of the one shares a node with every quorum of the other, by trying all."""
    everybody = sorted(one.all_voters() | other.all_voters())
    for chosen in itertools.product((True, False), repeat=len(everybody)):
        votes = dict(zip(everybody, chosen, strict=True))
        others = {node: not vote for node, vote in votes.items()}
        if vote_result(one, votes) is VoteResult.WON and vote_result(other, others) is VoteResult.WON:
            return False
    return True


def check_everywhere(group: Group, check: Callable[[Raft], Any]) -> None:
    """Assert ``check`` on every node that is up; the message names the node."""
    for id, raft in group.up():
        assert check(raft), f"not so on node {id}"
