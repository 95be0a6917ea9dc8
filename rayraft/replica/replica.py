"""One node of a group: joins the core with its storage, its machine and its transport.

No thread, no clock, no Ray: the caller feeds requests and messages, then calls `turn`. The same code runs in a Ray
actor on RocksDB and in the simulator.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Protocol

from rayraft.errors import DiskFull
from rayraft.machine.determinism import Evidence
from rayraft.machine.replicated import ReplicatedMachine
from rayraft.machine.requests import CommandBatch, Status, encode_batch, not_leader, reply
from rayraft.raft.raft import Raft
from rayraft.raft.ready import Ready
from rayraft.raft.types import (
    AnyMessage,
    Entry,
    EntryKind,
    HardState,
    InstallSnapshot,
    InstallSnapshotResponse,
    SnapshotMeta,
    SnapshotRequest,
    StateDigest,
)
from rayraft.replica.administration import Administration
from rayraft.replica.admission import Admission, Answer
from rayraft.replica.compaction import Compaction
from rayraft.replica.config import ReplicaConfig
from rayraft.replica.digester import Digester, InlineDigester
from rayraft.replica.divergence import StateCheck
from rayraft.replica.reading import Reading
from rayraft.replica.rebuild import Rebuild
from rayraft.replica.snapshotter import Snapshotter
from rayraft.replica.status import Counters, ReplicaStatus
from rayraft.replica.transfer import SnapshotReceiver, SnapshotSender
from rayraft.replica.watchdog import Watchdog
from rayraft.storage.protocol import LogStore, SnapshotStore

MAX_EVIDENCE = 256 << 20  # bytes of the snapshot, and of the log behind it, that are searched for a bad command


class Transport(Protocol):
    def send(self, messages: list[AnyMessage]) -> None:
        """Try to deliver; losing, repeating and reordering is allowed, blocking is not."""
        ...


class Replica:
    """Invariants (beyond those of `Raft`):

    1. Effects of a `Ready` happen in its order; what admits a term, vote or entry leaves after the write of it.
    2. Entries are applied in order, each once in the life of this object; ``applied`` starts at the snapshot's index.
    3. Every request, read and order that was taken in is answered exactly once.
    4. After `DiskFailed` leaves `turn`, the object is not used again.
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
        self._rebuild: Rebuild | None = None
        self._on_divergence = on_divergence
        self._investigated = 0  # the index of the divergence that was last looked into
        restored = store.snapshot()
        self.state_check = StateCheck(
            self.raft, machine, digester or InlineDigester(), every=config.digest_entries, snapshot_index=restored.index
        )
        self.compaction = Compaction(
            config, self.raft, machine, store, snapshots, snapshotter, self.state_check, self._sender, self.counters
        )
        if restored.index:
            machine.restore(snapshots.load(restored))
        snapshots.discard_except(restored)

    # --- what comes in ------------------------------------------------------------------------------------------------

    @property
    def next_deadline(self) -> float:
        """When the next `turn` is due even if nothing comes in (same clock as its ``now``)."""
        deadline = self.raft.next_deadline
        if self._sender.active or self.compaction.busy or self.state_check.busy:
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
            saving=self.compaction.saving,
            snapshot_error=self.compaction.error,
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
        """Take in encoded queries; they say how consistent the answer must be. It may come before this returns."""
        at_once = self.answer_at_once(queries)
        if at_once is None:
            self._reading.take(queries, answer)
        else:
            answer(at_once)

    def answer_at_once(self, queries: bytes) -> bytes | None:
        """The answer to queries that need no turn: the lease holds, or the state is fresh enough. None: `query` it."""
        return None if self.diverged else self._reading.at_once(queries, max(self._now, self._clock()))

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
            self.compaction.applied(entry.size)
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
            check.propose(self.compaction.unchecked)

    def _tell_digest(self) -> None:
        report = self.state_check.report()
        if report is not None:
            self._transport.send([report])

    def _on_verdict(self, against: int) -> None:
        """The state of this node is wrong, by the verdict at index ``against``, or (0) nothing says so."""
        if against:
            self._rebuild = Rebuild(self.raft, self._store, self._snapshots, against)
            self.compaction.diverged()
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
        self.compaction.replaced(snapshot.index)
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
        if self.compaction.record_for(message.index):
            self._admission.prune()
        snapshot = self._store.snapshot()
        if snapshot.index >= message.index:
            self._sender.start(InstallSnapshot(raft.term, raft.id, message.src, snapshot))
        elif raft.log.applied >= message.index and not self.compaction.unchecked:
            self.compaction.order()

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
        if self.compaction.tend():
            self._admission.prune()
        if self._sender.active:
            chunks, given_up = self._sender.tick(self._now)
            self._transport.send(list(chunks))
            for node in given_up:
                self.raft.report_snapshot(node, delivered=False)

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
        self.compaction.installed()
        self._rebuilt(snapshot)
        self.counters.snapshots_installed += 1

    def _begin_transfer(self, order: InstallSnapshot) -> None:
        """The core orders whole snapshots; they leave in chunks at the end of the turn."""
        progress = self.raft.progress.get(order.dst)
        if progress is None:  # this node leads no more since the order was given
            return
        if progress.witness:  # it needs to know where the log begins, and no more
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
            try:
                held, whole = self._receiver.on_chunk(message)
            except DiskFull as error:  # it can wait, the log can not: without an answer it is sent anew some time later
                self.compaction.error = f"the snapshot at index {message.snapshot.index} can not be received: {error}"
                return
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
        self.compaction.close()
        self.state_check.close()
        self._store.close()
