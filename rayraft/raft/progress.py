"""What a leader knows of each follower, and how much it may send to it now."""

from __future__ import annotations

import enum
from collections import deque

from rayraft.raft.types import NodeId


class ProgressState(enum.Enum):
    PROBE = "probe"  # the follower's log is not known to match: one message at a time
    REPLICATE = "replicate"  # it matches: entries are pipelined, several messages in flight
    SNAPSHOT = "snapshot"  # its next entry is compacted away: a snapshot is under way


PROBE, REPLICATE, SNAPSHOT = ProgressState  # at hand: looking a member up in its class takes Python 3.11 a call


class Inflights:
    """What was sent and not yet confirmed, in order, bounded in messages and in bytes.

    1. At most ``max_messages`` are open, and a new one is allowed only while fewer than ``max_bytes`` are open.
    2. Last indexes are ascending, so an answer for an index frees every message up to it: a lost answer leaks nothing.
    """

    __slots__ = ("_bytes", "_max_bytes", "_max_messages", "_open")

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._open: deque[tuple[int, int]] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._open)

    @property
    def full(self) -> bool:
        return len(self._open) >= self._max_messages or self._bytes >= self._max_bytes

    def add(self, last_index: int, size: int) -> None:
        self._open.append((last_index, size))
        self._bytes += size

    def free_to(self, index: int) -> None:
        """An answer confirmed everything up to ``index``."""
        opened = self._open
        while opened and opened[0][0] <= index:
            self._bytes -= opened.popleft()[1]

    def clear(self) -> None:
        self._open.clear()
        self._bytes = 0

    def check(self) -> None:
        indexes = [index for index, _ in self._open]
        assert indexes == sorted(indexes), "2: ascending"
        assert self._bytes == sum(size for _, size in self._open), "1: bytes are counted"
        assert len(self._open) <= self._max_messages, "1: bounded in messages"


class Progress:
    """One follower in the eyes of the leader.

    1. ``match < next``; ``match`` never goes back within a term.
    2. PROBE sends at most one message until an answer or a heartbeat answer comes.
    3. REPLICATE advances ``next`` when it sends; a refusal or a lost call falls back to PROBE at ``match + 1``.
    4. SNAPSHOT sends no entries; it ends when the follower acknowledges the snapshot, or the sending failed.
    """

    __slots__ = (
        "acked_read",
        "commit_sent",
        "confirmed_at",
        "inflights",
        "last_response",
        "match",
        "next",
        "node",
        "probe_sent",
        "snapshot_index",
        "stalled_at",
        "stalled_since",
        "stamp",
        "state",
        "witness",
    )

    def __init__(
        self, node: NodeId, next_index: int, inflights: Inflights, now: float, *, witness: bool = False
    ) -> None:
        self.node = node
        self.witness = witness  # for good, also while it is still told of its removal
        self.match = 0
        self.next = next_index
        self.state = PROBE
        self.probe_sent = False
        self.inflights = inflights
        self.snapshot_index = 0
        self.commit_sent = 0
        self.acked_read = 0  # the newest read round this follower has confirmed
        self.confirmed_at = float("-inf")  # when the newest heartbeat left that it has answered (the leader's clock)
        self.stamp = 0.0  # the follower's clock in its newest answer
        self.last_response = now
        self.stalled_at = -1  # `match` when a heartbeat answer first found entries under way beyond it; -1: none were
        self.stalled_since = now

    @property
    def paused(self) -> bool:
        """Whether no entries may be sent now."""
        if self.state is PROBE:
            return self.probe_sent
        if self.state is REPLICATE:
            return self.inflights.full
        return True

    def become_probe(self) -> None:
        # After a snapshot the follower holds at least what the snapshot held.
        after_snapshot = self.snapshot_index + 1 if self.state is SNAPSHOT else 0
        self.next = max(self.match + 1, after_snapshot)
        self._enter(PROBE)

    def become_replicate(self) -> None:
        self.next = self.match + 1
        self._enter(REPLICATE)

    def become_snapshot(self, index: int) -> None:
        self._enter(SNAPSHOT)
        self.snapshot_index = index

    def _enter(self, state: ProgressState) -> None:
        self.state = state
        self.probe_sent = False
        self.snapshot_index = 0
        self.inflights.clear()

    def sent(self, last_index: int, count: int, size: int) -> None:
        """``count`` entries up to ``last_index`` are on their way."""
        if self.state is PROBE:
            self.probe_sent = True
        elif count:
            self.next = last_index + 1
            self.inflights.add(last_index, size)

    def acknowledge(self, index: int) -> bool:
        """The follower holds everything up to ``index``; True when that is news. A late answer changes nothing."""
        self.next = max(self.next, index + 1)
        if index <= self.match:
            return False
        self.match = index
        return True

    def heartbeat_answered(self, now: float, patience: float) -> None:
        """It is alive, so an unanswered probe was lost, and so was a pipeline without headway for ``patience``.

        One answer tells nothing of entries that left after its heartbeat, and reads make answers frequent.
        """
        self.probe_sent = False
        if self.state is not REPLICATE or self.next == self.match + 1:
            self.stalled_at = -1
        elif self.stalled_at != self.match:
            self.stalled_at, self.stalled_since = self.match, now
        elif now - self.stalled_since >= patience:
            self.become_probe()

    def refuse(self, rejected: int, next_index: int) -> bool:
        """The follower refused entries after ``rejected``; False when the refusal is stale."""
        if self.state is REPLICATE:
            if rejected <= self.match:
                return False
            self.next = self.match + 1
            return True
        if self.state is SNAPSHOT or self.next - 1 != rejected:
            return False
        self.next = max(min(rejected, next_index), self.match + 1)
        self.probe_sent = False
        return True

    def check(self) -> None:
        assert self.match < self.next, "1: match < next"
        self.inflights.check()
