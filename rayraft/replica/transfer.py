"""Snapshots on their way to followers and from the leader, in chunks that may be lost, late or doubled (§7)."""

from __future__ import annotations

from dataclasses import dataclass

from rayraft.errors import DamagedSnapshot
from rayraft.raft.types import InstallSnapshot, InstallSnapshotResponse, NodeId, SnapshotMeta
from rayraft.storage.protocol import SnapshotStore

CHUNK_BYTES = 512 << 10
RESEND_AFTER = 1.0  # seconds without an answer
GIVE_UP_AFTER = 10  # resends without headway
REFUSALS = 2  # of the whole, by its checksum: the first may be of what another leader had sent before
BURST = 0.05  # seconds of the rate that may be made up for: turns do not come to the millisecond


class Pace:
    """At most ``bytes_per_second`` on average (0: no limit). No clock: told the time."""

    __slots__ = ("_rate", "free_at")

    def __init__(self, bytes_per_second: int) -> None:
        self._rate = bytes_per_second
        self.free_at = float("-inf")

    def spend(self, size: int, now: float) -> None:
        if self._rate:
            self.free_at = max(self.free_at, now - BURST) + size / self._rate


@dataclass(slots=True)
class Outgoing:
    order: InstallSnapshot
    total: int
    offset: int = 0
    sent_at: float = 0.0
    resends: int = 0
    refusals: int = 0


class SnapshotSender:
    """The leader's transfers, at most one per follower, one chunk in flight each: they can not crowd out the log.

    1. Every chunk leaves by `tick`, at the pace that is set for all followers together.
    2. Followers take turns: one whose chunk has left stands behind all others whose chunk is ready.
    """

    def __init__(self, store: SnapshotStore, chunk_bytes: int = CHUNK_BYTES, bytes_per_second: int = 0) -> None:
        self._store = store
        self._chunk_bytes = chunk_bytes
        self._pace = Pace(bytes_per_second)
        self._outgoing: dict[NodeId, Outgoing] = {}
        self._ready: dict[NodeId, None] = {}  # whose next chunk may leave, in order

    def start(self, order: InstallSnapshot) -> bool:
        """Begin to send what the core ordered; False when the snapshot is not there (any more)."""
        try:
            total = self._store.size(order.snapshot)
        except KeyError:
            return False
        self._outgoing[order.dst] = Outgoing(order, total)
        self._ready[order.dst] = None
        return True

    def on_response(self, message: InstallSnapshotResponse) -> bool | None:
        """Go on where the follower says. True: it has it all now; False: it had, and it is damaged; the end, both."""
        outgoing = self._outgoing.get(message.src)
        if outgoing is None or outgoing.order.snapshot.index != message.index:
            return None
        if message.offset >= outgoing.total:
            self._end(message.src)
            return True
        outgoing.refusals += not message.offset and outgoing.offset + self._chunk_bytes >= outgoing.total
        if outgoing.refusals >= REFUSALS:
            self._end(message.src)
            return False
        if message.offset != outgoing.offset or not message.offset:  # else a repeated answer
            outgoing.offset, outgoing.resends = message.offset, 0
            self._ready[message.src] = None
        return None

    def tick(self, now: float) -> tuple[list[InstallSnapshot], list[NodeId]]:
        """Chunks to send now, and the followers that do not answer: their transfers are given up."""
        chunks: list[InstallSnapshot] = []
        given_up = [node for node in list(self._outgoing) if not self._still_answers(node, now)]
        while self._ready and self._pace.free_at <= now:
            node = next(iter(self._ready))
            del self._ready[node]
            chunk = self._chunk(self._outgoing[node], now)
            if chunk is None:
                given_up.append(node)
            else:
                chunks.append(chunk)
                self._pace.spend(len(chunk.data), now)
        for node in given_up:
            self._end(node)
        return chunks, given_up

    def sends_to(self, node: NodeId) -> bool:
        return node in self._outgoing

    def stop_all(self) -> None:
        self._outgoing.clear()
        self._ready.clear()

    @property
    def active(self) -> bool:
        return bool(self._outgoing)

    @property
    def next_chunk(self) -> float:
        """When the next chunk that is ready may leave."""
        return self._pace.free_at if self._ready else float("inf")

    def _still_answers(self, node: NodeId, now: float) -> bool:
        """Line its chunk up again when no answer came in time; False after too many times."""
        outgoing = self._outgoing[node]
        if node in self._ready or now - outgoing.sent_at < RESEND_AFTER:
            return True
        outgoing.resends += 1
        if outgoing.resends > GIVE_UP_AFTER:
            return False
        self._ready[node] = None
        return True

    def _end(self, node: NodeId) -> None:
        del self._outgoing[node]
        self._ready.pop(node, None)

    def _chunk(self, outgoing: Outgoing, now: float) -> InstallSnapshot | None:
        order = outgoing.order
        try:
            data = self._store.read(order.snapshot, outgoing.offset, self._chunk_bytes)
        except KeyError:  # replaced by a newer one meanwhile: the core will order that
            return None
        outgoing.sent_at = now
        return InstallSnapshot(order.term, order.src, order.dst, order.snapshot, outgoing.offset, outgoing.total, data)


class SnapshotReceiver:
    """A follower's side: chunks are put where they belong, anything else changes nothing."""

    def __init__(self, store: SnapshotStore) -> None:
        self._store = store

    def on_chunk(self, message: InstallSnapshot) -> tuple[int, SnapshotMeta | None]:
        """How many bytes are held now, and the snapshot once it is whole, verified and durable.

        Raises DiskFull where there is no room for it now.
        """
        held = self._store.receive(message.snapshot, message.offset, message.data, message.total)
        if held < message.total:
            return held, None
        try:
            self._store.finish(message.snapshot)
        except DamagedSnapshot:  # damaged on its way or at the source: from the start again
            return 0, None
        return message.total, message.snapshot
