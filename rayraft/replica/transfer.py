"""Snapshots on their way to followers and from the leader, in chunks that may be lost, late or doubled (§7)."""

from __future__ import annotations

from dataclasses import dataclass

from rayraft.errors import DamagedSnapshot
from rayraft.raft.types import InstallSnapshot, InstallSnapshotResponse, NodeId, SnapshotMeta
from rayraft.storage.protocol import SnapshotStore

CHUNK_BYTES = 512 << 10
RESEND_AFTER = 1.0  # seconds without an answer
GIVE_UP_AFTER = 10  # resends without headway


@dataclass(slots=True)
class Outgoing:
    order: InstallSnapshot
    total: int
    offset: int = 0
    sent_at: float = 0.0
    resends: int = 0


class SnapshotSender:
    """The leader's transfers, at most one per follower, one chunk in flight each: they can not crowd out the log."""

    def __init__(self, store: SnapshotStore, chunk_bytes: int = CHUNK_BYTES) -> None:
        self._store = store
        self._chunk_bytes = chunk_bytes
        self._outgoing: dict[NodeId, Outgoing] = {}

    def start(self, order: InstallSnapshot, now: float) -> InstallSnapshot | None:
        """Begin to send what the core ordered: the first chunk, or None when the snapshot is not there (any more)."""
        try:
            total = self._store.size(order.snapshot)
        except KeyError:
            return None
        outgoing = self._outgoing[order.dst] = Outgoing(order, total)
        return self._chunk(outgoing, now)

    def on_response(self, message: InstallSnapshotResponse, now: float) -> tuple[InstallSnapshot | None, bool]:
        """The next chunk to send, if there is one, and whether the follower has it all now."""
        outgoing = self._outgoing.get(message.src)
        if outgoing is None or outgoing.order.snapshot.index != message.index:
            return None, False
        if message.offset >= outgoing.total:
            del self._outgoing[message.src]
            return None, True
        if message.offset == outgoing.offset and message.offset:
            return None, False  # a repeated answer
        outgoing.offset, outgoing.resends = message.offset, 0
        return self._chunk(outgoing, now), False

    def tick(self, now: float) -> tuple[list[InstallSnapshot], list[NodeId]]:
        """Chunks to send again, and the followers that do not answer: their transfers are given up."""
        again, given_up = [], []
        for node, outgoing in list(self._outgoing.items()):
            if now - outgoing.sent_at < RESEND_AFTER:
                continue
            outgoing.resends += 1
            chunk = self._chunk(outgoing, now) if outgoing.resends <= GIVE_UP_AFTER else None
            if chunk is None:
                del self._outgoing[node]
                given_up.append(node)
            else:
                again.append(chunk)
        return again, given_up

    def stop_all(self) -> None:
        self._outgoing.clear()

    @property
    def active(self) -> bool:
        return bool(self._outgoing)

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
        """How many bytes are held now, and the snapshot once it is whole, verified and durable."""
        held = self._store.receive(message.snapshot, message.offset, message.data)
        if held < message.total:
            return held, None
        try:
            self._store.finish(message.snapshot)
        except DamagedSnapshot:  # damaged on its way or at the source: from the start again
            return 0, None
        return message.total, message.snapshot
