"""One node of a group: joins the core with its storage, its machine and its transport.

No thread, no clock, no Ray: the caller feeds requests and messages, then calls `turn`. The same code runs in a Ray
actor on RocksDB and in the simulator.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from rayraft.errors import BadConfiguration
from rayraft.machine.determinism import Evidence
from rayraft.machine.replicated import ReplicatedMachine
from rayraft.machine.requests import CommandBatch, Status, encode_batch, not_leader, reply
from rayraft.raft.raft import Raft
from rayraft.raft.ready import RaftConfig, Ready
from rayraft.raft.types import (
    AnyMessage,
    Configuration,
    Entry,
    EntryKind,
    HardState,
    InstallSnapshot,
    InstallSnapshotResponse,
    NodeId,
    SnapshotMeta,
    SnapshotRequest,
    StateDigest,
)
from rayraft.replica.administration import Administration
from rayraft.replica.admission import Admission, Answer
from rayraft.replica.digester import Digester, InlineDigester
from rayraft.replica.divergence import Divergence, StateCheck
from rayraft.replica.reading import Reading
from rayraft.replica.rebuild import Rebuild
from rayraft.replica.snapshotter import SnapshotNotSaved, Snapshotter
from rayraft.replica.trail import Trail
from rayraft.replica.transfer import SnapshotReceiver, SnapshotSender
from rayraft.replica.watchdog import Watchdog
from rayraft.storage.protocol import LogStore, SnapshotStore

MAX_EVIDENCE = 256 << 20  # bytes of the snapshot, and of the log behind it, that are searched for a bad command


class Transport(Protocol):
    def send(self, messages: list[AnyMessage]) -> None:
        """Try to deliver; losing, repeating and reordering is allowed, blocking is not."""
        ...


@dataclass(frozen=True, slots=True)
class ReplicaConfig:
    """One node's settings. Sizes in bytes, times in seconds."""

    raft: RaftConfig
    # A snapshot is taken after this much was applied since the last one, whichever comes first. Rarer costs a longer
    # replay at a restart and more disk; more often costs a pass over the whole state.
    snapshot_entries: int = 100_000
    snapshot_bytes: int = 256 << 20
    # Entries kept behind a snapshot, so that a follower a little behind needs no snapshot; whichever is less.
    snapshot_trailing: int = 1_000
    snapshot_trailing_bytes: int = 64 << 20
    # What the snapshots on their way to all followers together may take of the network, bytes per second; 0: no limit.
    snapshot_bytes_per_second: int = 128 << 20
    # Replicas compare digests of their states after this many entries, and before a snapshot is taken for good (so the
    # log is cut a little later); 0: never. A digest is a pass over the whole state in a forked process, which takes
    # longer than pickling it: more often finds a command that is not deterministic sooner, and costs that much more.
    digest_entries: int = 0
    # A leader that takes longer than this part of an election timeout for a turn, three times within ten of them, hands
    # over to another node. Smaller reacts to a failing disk sooner; too small takes a large command for one.
    slow_turn: float = 0.3
    # The requests that wait when a turn begins become entries of at most this size.
    max_entry_bytes: int = 1 << 20

    def __post_init__(self) -> None:
        for name in ("snapshot_entries", "snapshot_bytes", "max_entry_bytes"):
            if getattr(self, name) < 1:
                raise BadConfiguration(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("snapshot_trailing", "snapshot_trailing_bytes", "snapshot_bytes_per_second", "digest_entries"):
            if getattr(self, name) < 0:
                raise BadConfiguration(f"{name} must not be negative: {getattr(self, name)}")


@dataclass(slots=True)
class Counters:
    """What this process has done since it started."""

    requests: int = 0
    reads: int = 0
    entries: int = 0
    syncs: int = 0
    snapshots: int = 0
    snapshots_installed: int = 0
    snapshots_refused: int = 0  # by followers, to whom this node sent something damaged
    digests: int = 0  # digests of the state, to be compared with those of the others
    rebuilt: int = 0  # states replaced because they had diverged
    handed_over: int = 0  # leaderships given up because this node's disk or machine stalled


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """Where a replica stands; indexes of the log, and what a leader knows that each follower holds."""

    role: str
    term: int
    leader: NodeId
    serves: bool  # it leads, and has applied all that was committed before its term
    first_index: int
    last_index: int
    commit: int
    applied: int
    snapshot: int
    match: dict[NodeId, int]
    sessions: int
    counters: Counters
    configuration: Configuration  # the newest in the log
    configuration_committed: bool
    removed: bool  # it was a member and is none any longer, for good
    saving: bool = False  # a snapshot is being written
    snapshot_error: str = ""  # why the last snapshot could not be saved
    diverged: bool = False  # its state is wrong: it does not serve until that was rebuilt
    divergence: Divergence | None = None  # the last time that states differed
    checked: int = 0  # the last index at which its state was compared with the others, and was right
    answering: tuple[NodeId, ...] = ()  # whom a leader has heard within an election timeout


class Replica:
    """Invariants (beyond those of `Raft`):

    1. Effects of a `Ready` happen in its order; what admits a term, vote or entry leaves after the write of it.
    2. Entries are applied in order, each once in the life of this object; ``applied`` starts at the snapshot's index.
    3. Every request, read and order that was taken in is answered exactly once.
    4. After `DiskFailed` leaves `turn`, the object is not used again.
    5. Where states are compared, a snapshot is recorded, and so sent to others, only after a comparison at its index or
       later spoke for this node (`StateCheck.checked`): a wrong state does not spread, a restart begins from a right
       one, and the log has everything since. The exception: the next snapshot is due and there was no verdict yet.
    """

    def __init__(
        self,
        config: ReplicaConfig,
        store: LogStore,
        snapshots: SnapshotStore,
        snapshotter: Snapshotter,
        machine: ReplicatedMachine,
        transport: Transport,
        *,
        rng: random.Random,
        now: float,
        wall_clock: Callable[[], float],
        clock: Callable[[], float],
        digester: Digester | None = None,
        on_divergence: Callable[[Evidence], None] | None = None,
    ) -> None:
        """``clock`` is the one that ``now`` is taken from: it tells how long the work of a turn takes.

        ``on_divergence`` gets what it takes to find the command that is not deterministic; `name_culprit` takes it.
        """
        self.config = config
        self.raft = Raft(config.raft, store, rng, now)
        self.machine = machine
        self.counters = Counters()
        self._store = store
        self._snapshots = snapshots
        self._snapshotter = snapshotter
        self._transport = transport
        self._wall_clock = wall_clock
        self._clock = clock
        self._now = now
        self._requests: list[tuple[bytes, Answer]] = []  # what arrived for the next turn
        self._admission = Admission(machine.sessions)
        self._reading = Reading(self.raft, machine)
        self._administration = Administration(self.raft)
        timeout = config.raft.election_timeout
        self._watchdog = Watchdog(slow=config.slow_turn * timeout, window=10 * timeout)
        self._sender = SnapshotSender(snapshots, bytes_per_second=config.snapshot_bytes_per_second)
        self._receiver = SnapshotReceiver(snapshots)
        self._bare_snapshot: SnapshotMeta | None = None  # the last that came without its data
        self._was_leader = False
        self._snapshot_entries, self._bytes_since_snapshot = self._in_turn()
        self._trail = Trail(config.snapshot_trailing, config.snapshot_trailing_bytes)
        self._keep_from = 0  # where the log will begin once the snapshot that is being saved is durable
        self._snapshot_ordered = False
        self._snapshot_error = ""
        self._candidate: SnapshotMeta | None = None  # durable, and not recorded before it is checked
        self._rebuild: Rebuild | None = None
        self._on_divergence = on_divergence
        self._investigated = 0  # the index of the divergence that was last looked into
        restored = store.snapshot()
        self._snapshot_tried = restored.index  # where the state was saved last, or the attempt failed, or it came from
        self.state_check = StateCheck(
            self.raft, machine, digester or InlineDigester(), every=config.digest_entries, snapshot_index=restored.index
        )
        if restored.index:
            machine.restore(snapshots.load(restored))
        snapshots.discard_except(restored)

    # --- what comes in ------------------------------------------------------------------------------------------------

    @property
    def next_deadline(self) -> float:
        """When the next `turn` is due even if nothing comes in (same clock as its ``now``)."""
        deadline = self.raft.next_deadline
        if self._sender.active or self._snapshotter.busy or self.state_check.busy or self._wants_snapshot():
            deadline = min(deadline, self._now + 0.02, self._sender.next_chunk)
        return self._now if self._rebuild is not None and self._rebuild.catching_up else deadline

    def status(self) -> ReplicaStatus:
        raft, counters = self.raft, self.counters
        counters.reads, counters.digests = self._reading.answered, self.state_check.count
        return ReplicaStatus(
            role=raft.role.value,
            term=raft.term,
            leader=raft.leader,
            serves=raft.serves and not self.diverged,
            first_index=raft.log.first_index(),
            last_index=raft.log.last_index(),
            commit=raft.log.commit,
            applied=raft.log.applied,
            snapshot=self._store.snapshot().index,
            match={node: progress.match for node, progress in raft.progress.items()},
            sessions=len(self.machine.sessions),
            counters=counters,
            configuration=raft.configuration,
            configuration_committed=raft.log.configurations.newest_index <= raft.log.commit,
            removed=raft.removed,
            saving=self._snapshotter.busy or self._snapshot_ordered,
            snapshot_error=self._snapshot_error,
            diverged=self.diverged,
            divergence=self.state_check.found,
            checked=self.state_check.checked,
            answering=raft.answering,
        )

    @property
    def recorded_snapshot(self) -> SnapshotMeta:
        """What a restart begins from; index 0 when there is none yet."""
        return self._store.snapshot()

    def submit(self, request: bytes, answer: Answer) -> None:
        """Take in an encoded request (`rayraft.machine.requests`); ``answer`` gets the reply in a later `turn`."""
        self._requests.append((request, answer))

    def query(self, queries: bytes, answer: Answer) -> None:
        """Take in encoded queries; they say how consistent the answer must be."""
        self._reading.take(queries, answer)

    def order(self, order: bytes, answer: Answer) -> None:
        """Take in an operator's order (`rayraft.replica.administration`)."""
        self._administration.take(order, answer)

    def receive(self, message: AnyMessage) -> None:
        """Take in a message from another node."""
        if isinstance(message, InstallSnapshot):
            self._on_snapshot_chunk(message)
        elif isinstance(message, InstallSnapshotResponse):
            self._on_snapshot_response(message)
        elif isinstance(message, StateDigest):
            self.state_check.on_report(message)
        elif isinstance(message, SnapshotRequest):
            self._on_snapshot_request(message)
        else:
            self.raft.step(message)

    # --- the turn -----------------------------------------------------------------------------------------------------

    def turn(self, now: float) -> None:
        """Do everything there is to do: propose, persist, send, apply, answer. Raises DiskFailed."""
        if now > self._now:
            self._now = now
        self.raft.tick(self._now)
        self._compare_states()
        while True:
            if self._requests:
                self._take_requests()
            self._reading.begin()
            ready = self.raft.ready()
            if ready is None:
                break
            self._process(ready)
        self._administration.tend()
        self._follow_role()
        self.state_check.take_turn()
        self._tell_digest()
        self._tend_rebuild()
        self._tend_snapshots()
        self._watch_over_itself()

    def _process(self, ready: Ready) -> None:
        self._send(ready.messages)
        if ready.snapshot is not None:
            self._install(ready)
        if ready.hard_state is not None or ready.entries:
            self._store.write(ready.hard_state, ready.entries)
            if ready.must_sync:
                self._store.sync()
                self.counters.syncs += 1
        self._send(ready.messages_after)
        if ready.committed:
            self._apply(ready.committed)
        self.raft.advance(ready)
        self._reading.confirmed(ready.reads)
        self._reading.answer_ready()
        if ready.refused_reads:
            self._reading.refused(ready.refused_reads)

    def _send(self, messages: list[AnyMessage]) -> None:
        if not messages:
            return
        orders = [message for message in messages if type(message) is InstallSnapshot]
        if orders:
            for order in orders:
                self._begin_transfer(order)
            messages = [message for message in messages if type(message) is not InstallSnapshot]
        if messages:
            self._transport.send(messages)

    # --- requests -----------------------------------------------------------------------------------------------------

    def _take_requests(self) -> None:
        if self._holding():
            return
        requests, self._requests = self._requests, []
        if self.raft.is_leader and self.diverged:
            for _, answer in requests:
                answer(reply(Status.BUSY))
            return
        if not self.raft.is_leader:
            refusal = not_leader(self.raft.leader, self.raft.term)
            for _, answer in requests:
                answer(refusal)
            return
        if self.raft.uncommitted_full:
            for _, answer in requests:
                answer(reply(Status.BUSY))
            return
        admitted: list[bytes] = []
        for request, answer in requests:
            admitted.extend(self._admission.admit(request, answer))
        if admitted:
            self.raft.propose(self._batches(admitted))

    def _holding(self) -> bool:
        """A new leader does not know what its predecessor left in the log until its no-op is applied (§8).

        One that hands over proposes nothing more (thesis §3.10): the next leader gets what waits, or this one again.
        """
        return self.raft.is_leader and (not self.raft.serves or self.raft.transferring)

    def _batches(self, requests: list[bytes]) -> list[bytes]:
        """All that waits goes into as few entries as the size allows."""
        time = int(self._wall_clock() * 1000)
        batches: list[bytes] = []
        batch: list[bytes] = []
        size = 0
        for request in requests:
            if batch and size + len(request) > self.config.max_entry_bytes:
                batches.append(encode_batch(CommandBatch(time, batch)))
                batch, size = [], 0
            batch.append(request)
            size += len(request)
        batches.append(encode_batch(CommandBatch(time, batch)))
        return batches

    def _apply(self, entries: list[Entry]) -> None:
        for entry in entries:
            replies = [] if self.diverged else self.machine.apply(entry)
            if entry.kind is EntryKind.DIGEST:
                self._on_verdict(self.state_check.on_entry(entry))
            for key, data in replies:
                self._admission.answered(key, data)
            self.counters.requests += len(replies)
            self._bytes_since_snapshot += entry.size
            self._trail.add(entry.size)
        self.counters.entries += len(entries)

    # --- divergence ---------------------------------------------------------------------------------------------------

    @property
    def diverged(self) -> bool:
        """Whether this node's state is known to be wrong: nothing is answered from it."""
        return self._rebuild is not None

    def _compare_states(self) -> None:
        check = self.state_check
        against = check.poll()
        if against or check.found is not None:
            self._on_verdict(against)
        if self._rebuild is not None:
            self._reading.refuse_all(self._refusal())
        elif self.raft.leading is not None:
            check.propose(self._candidate.index if self._candidate is not None else 0)

    def _tell_digest(self) -> None:
        report = self.state_check.report()
        if report is not None:
            self._transport.send([report])

    def _on_verdict(self, against: int) -> None:
        """The state of this node is wrong, by the verdict at index ``against``, or (0) nothing says so."""
        if against:
            self._rebuild = Rebuild(self.raft, self._store, self._snapshots, against)
            self._candidate, self._snapshot_ordered = None, False
            self.refuse_all(self._refusal())
        found = self.state_check.found
        if found is None or found.index == self._investigated or self._on_divergence is None:
            return
        if against or (not found.by_majority and self.raft.is_leader and not found.culprit):
            self._investigated = found.index
            evidence = self._evidence(found.index)
            if evidence is None:
                self.name_culprit("the state is too large to look for the command")
            else:
                self._on_divergence(evidence)

    def _refusal(self) -> bytes:
        return reply(Status.FAILED, f"node {self.raft.id} is being rebuilt: {self.state_check.found}".encode())

    def _evidence(self, index: int) -> Evidence | None:
        """The last state that was checked, and what was applied to it up to ``index``; as far as that is not too much.

        Read at once, for the rebuilding replaces both.
        """
        snapshot, entries, size = self._store.snapshot(), list[Entry](), 0
        if snapshot.index and self._snapshots.size(snapshot) > MAX_EVIDENCE:
            return None
        low = snapshot.index + 1
        while low <= index and size < MAX_EVIDENCE:
            entries += self.raft.log.entries(low, self.config.raft.max_apply_bytes, index + 1)
            size, low = size + sum(entry.size for entry in entries[low - snapshot.index - 1 :]), entries[-1].index + 1
        return Evidence(self._snapshots.load(snapshot).read() if snapshot.index else b"", entries)

    def name_culprit(self, culprit: str) -> None:
        """Say in the status which command it was."""
        self.state_check.name(culprit)

    def _tend_rebuild(self) -> None:
        rebuild = self._rebuild
        if rebuild is None:
            return
        if self.raft.is_leader:
            self._make_way()
        request = rebuild.request()
        if request is not None:
            self._transport.send([request])
        if rebuild.go_on(self.machine, self.config.snapshot_trailing, self.config.raft.max_apply_bytes):
            assert rebuild.source is not None
            self._rebuilt(rebuild.source)

    def _rebuilt(self, snapshot: SnapshotMeta) -> None:
        """The state is that of ``snapshot``, which others have checked, and of the log behind it."""
        self.state_check.forget(snapshot.index)
        self._snapshot_tried = max(self._snapshot_tried, snapshot.index)
        if self._rebuild is not None:
            self._rebuild = None
            self.counters.rebuilt += 1

    def _make_way(self) -> None:
        """A leader with a wrong state has a healthy node lead; its log is right, so until then it may go on."""
        raft, found = self.raft, self.state_check.found
        wrong = found.nodes if found is not None else ()
        recently = raft.now - raft.config.election_timeout
        healthy = [
            progress
            for node, progress in raft.progress.items()
            if node not in wrong and raft.may_lead(node) and progress.last_response >= recently
        ]
        if healthy and not raft.transferring:
            raft.transfer_leadership(max(healthy, key=lambda progress: (progress.match, -progress.node)).node)

    def _on_snapshot_request(self, message: SnapshotRequest) -> None:
        """A node whose state is wrong asks for one that is newer than the verdict."""
        raft = self.raft
        if self.diverged or message.src not in raft.progress or self._sender.sends_to(message.src):
            return
        if self._candidate is not None and message.index <= self._candidate.index <= self.state_check.settled:
            self._record_candidate()  # too few can say whether it is right, but this node was not found wrong
        snapshot = self._store.snapshot()
        if snapshot.index >= message.index:
            self._sender.start(InstallSnapshot(raft.term, raft.id, message.src, snapshot))
        elif raft.log.applied >= message.index and self._candidate is None:
            self.order_snapshot()

    # --- leadership ---------------------------------------------------------------------------------------------------

    def _follow_role(self) -> None:
        """On losing leadership nobody may wait here any longer: what was logged may still commit, or be rolled back."""
        leads = self.raft.is_leader
        if self._was_leader and not leads:
            self.refuse_all(not_leader(self.raft.leader, self.raft.term))
            self._sender.stop_all()
        self._was_leader = leads

    def _watch_over_itself(self) -> None:
        """A leader that finds its own disk or machine too slow makes room for another one."""
        now = self._clock()
        self._watchdog.turned(now, now - self._now)
        if self._was_leader and self._watchdog.unfit(now) and self.raft.hand_over():
            self._watchdog.handed_over()
            self.counters.handed_over += 1

    def refuse_all(self, data: bytes) -> None:
        """Answer everyone who waits with ``data``."""
        self._admission.refuse_all(data)
        self._administration.refuse_all(data)
        self._reading.refuse_all(data)
        requests, self._requests = self._requests, []
        for _, answer in requests:
            answer(data)

    # --- snapshots ----------------------------------------------------------------------------------------------------

    def _tend_snapshots(self) -> None:
        try:
            if self._snapshotter.busy or self._candidate is not None:
                self._cut_log()
            if self._wants_snapshot() and self._may_save():
                if self._snapshot_due():
                    self._record_candidate()  # there was no verdict for so long: the log must not grow for ever
                self.take_snapshot()
        except SnapshotNotSaved as error:  # the log is whole without it; the next attempt is a snapshot's distance away
            self._snapshot_error = str(error)
        if self._sender.active:
            chunks, given_up = self._sender.tick(self._now)
            self._transport.send(list(chunks))
            for node in given_up:
                self.raft.report_snapshot(node, delivered=False)

    def _cut_log(self) -> None:
        """Once a snapshot is durable, and the state that it is of was checked, the log behind it can go."""
        done = self._snapshotter.poll() if self._snapshotter.busy else None
        if done is not None and not self.diverged:
            self._candidate = done
        if self._candidate is not None and (
            not self.state_check.enabled or self._candidate.index <= self.state_check.checked
        ):
            self._record_candidate()

    def _record_candidate(self) -> None:
        done, self._candidate = self._candidate, None
        if done is not None and done.index > self._store.snapshot().index:
            self._store.compact(done, max(self._store.first_index(), min(self._keep_from, done.index + 1)))
            if not self._sender.active:  # else a slow follower would never get to the end of one
                self._snapshots.discard_except(done)
            self._admission.prune()
            self.counters.snapshots += 1
            self._snapshot_error = ""

    def _in_turn(self) -> tuple[int, int]:
        """After how many entries the first snapshot is due, and the bytes that count for it as applied already.

        Each member begins at another point of the distance, so that they do not all save their states at one moment.
        """
        members = sorted(self.raft.configuration.members())
        if self.raft.id not in members:
            return self.config.snapshot_entries, 0
        share = members.index(self.raft.id) / len(members)
        return max(1, round((1 - share) * self.config.snapshot_entries)), int(share * self.config.snapshot_bytes)

    def _snapshot_due(self) -> bool:
        applied = self.raft.log.applied - self._snapshot_tried
        return applied >= self._snapshot_entries or (
            applied > 0 and self._bytes_since_snapshot >= self.config.snapshot_bytes
        )

    def _wants_snapshot(self) -> bool:
        return not self.diverged and (self._snapshot_ordered or self._snapshot_due())

    def _may_save(self) -> bool:
        """All wait while the leader is copied, so it prepares for that."""
        free = not self._snapshotter.busy and not self.state_check.waits
        return free and (not self.raft.is_leader or self._snapshotter.prepare())

    def order_snapshot(self) -> None:
        """Have a snapshot taken as soon as that is prepared."""
        self._snapshot_ordered = not self.diverged

    def take_snapshot(self) -> None:
        """Begin to save the state as it is; the log is cut once that is durable. One at a time.

        Raises SnapshotNotSaved.
        """
        self._snapshot_ordered = False
        index = self.raft.log.applied
        term = self.raft.log.term(index)
        members = self.raft.log.configurations.at(index)
        if self._snapshotter.busy or self.diverged or term is None or index <= self._store.snapshot().index:
            return
        if self._candidate is not None and self._candidate.index == index:
            return
        if not members.voters:  # a node that joined has to learn from the log who they are
            return
        self._bytes_since_snapshot, self._snapshot_tried = 0, index
        self._snapshot_entries = self.config.snapshot_entries
        self._keep_from = index + 1 - len(self._trail)
        self._snapshotter.begin(SnapshotMeta(index, term, members), self.machine.save)

    def _install(self, ready: Ready) -> None:
        snapshot, hard_state = ready.snapshot, ready.hard_state
        assert snapshot is not None
        assert hard_state is not None
        bare = snapshot == self._bare_snapshot
        if bare:
            self._snapshots.save(snapshot, self.machine.save)  # of nothing; a restart looks for it
        # Entries behind the snapshot may be committed already, but they are only written after it: until then the disk
        # must not claim them.
        self._store.install(snapshot, HardState(hard_state.term, hard_state.vote, snapshot.index))
        if not bare:
            self.machine.restore(self._snapshots.load(snapshot))
        self._snapshots.discard_except(snapshot)
        self._candidate = None
        self._rebuilt(snapshot)
        self._bytes_since_snapshot = 0
        self._trail.clear()
        self.counters.snapshots_installed += 1

    def _begin_transfer(self, order: InstallSnapshot) -> None:
        """The core orders whole snapshots; they leave in chunks at the end of the turn."""
        if self.raft.progress[order.dst].witness:  # it needs to know where the log begins, and no more
            self._transport.send([order])
            self.raft.report_snapshot(order.dst, delivered=True)
        elif not self._sender.start(order):
            self.raft.report_snapshot(order.dst, delivered=False)

    def _on_snapshot_chunk(self, message: InstallSnapshot) -> None:
        wanted = self._rebuild is not None and self._rebuild.wants(message.snapshot)
        known = message.snapshot.index <= self.raft.log.commit and not wanted
        held, whole = message.total, message.snapshot if known else None
        if whole is None and message.total == 0:  # only a witness gets one bare, and may not know that it is one
            self._bare_snapshot = whole = message.snapshot
        if message.term >= self.raft.term and whole is None:
            held, whole = self._receiver.on_chunk(message)
        self.raft.snapshot_chunk_received(message, held)
        if whole is not None:
            if wanted and self._rebuild is not None:
                self._rebuild.source = whole
            self.raft.step(message)

    def _on_snapshot_response(self, message: InstallSnapshotResponse) -> None:
        self.raft.step(message)
        if not self.raft.is_leader:
            return
        delivered = self._sender.on_response(message)
        if delivered is not None:
            self.counters.snapshots_refused += not delivered
            self.raft.report_snapshot(message.src, delivered=delivered)

    def close(self) -> None:
        """Stop what runs beside the turns and let go of the disk."""
        self._snapshotter.close()
        self.state_check.close()
        self._store.close()
