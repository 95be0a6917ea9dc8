"""The vocabulary of the algorithm: entries, durable state, configurations and the messages between nodes.

Every record is an immutable, slotted ``msgspec.Struct``; ``array_like`` keeps the wire and disk form free of field
names, and the integer tag of a message is its type on the wire. Indexes and terms start at 1; 0 means "none".
"""

from __future__ import annotations

import enum
from typing import TypeAlias

import msgspec

NodeId: TypeAlias = int
NO_NODE: NodeId = 0


class EntryKind(enum.IntEnum):
    NOOP = 0  # the entry a new leader commits to learn its commit index (Raft §8)
    COMMAND = 1
    CONFIGURATION = 2
    DIGEST = 3  # replicas compare their states here; without data, or with what came of it (`replica.divergence`)


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One slot of the log. ``data`` is opaque here; one entry may carry a whole batch of commands."""

    index: int
    term: int
    kind: EntryKind
    data: bytes = b""

    @property
    def size(self) -> int:
        """Bytes this entry counts against limits: its data plus a small constant for the record."""
        return len(self.data) + 16

    @property
    def is_mark(self) -> bool:
        """Whether replicas digest their states right after this entry."""
        return self.kind is EntryKind.DIGEST and not self.data


class HardState(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a node must not forget (Raft figure 2). ``commit`` is kept too, so that it never goes back at a restart."""

    term: int = 0
    vote: NodeId = NO_NODE
    commit: int = 0


class Configuration(msgspec.Struct, frozen=True, array_like=True):
    """Who votes. ``outgoing`` is empty outside joint consensus; learners never count in a quorum.

    `membership` makes one configuration from another and states what holds of each.
    """

    voters: tuple[NodeId, ...] = ()
    outgoing: tuple[NodeId, ...] = ()
    learners: tuple[NodeId, ...] = ()
    learners_next: tuple[NodeId, ...] = ()  # voters of ``outgoing`` that become learners when it is left
    auto_leave: bool = False
    witnesses: tuple[NodeId, ...] = ()  # voters that store no data: they vote and acknowledge, and never lead
    highest_id: NodeId = 0  # the highest id that was ever a member; 0 until the first change
    preferred: tuple[NodeId, ...] = ()  # who should lead, most preferred first

    @property
    def is_joint(self) -> bool:
        return bool(self.outgoing)

    def all_voters(self) -> frozenset[NodeId]:
        return frozenset(self.voters) | frozenset(self.outgoing)

    def has_member(self, node: NodeId) -> bool:
        return node in self.voters or node in self.learners or node in self.outgoing or node in self.learners_next

    def members(self) -> list[NodeId]:
        """Every node that receives the log, in ascending order."""
        return sorted({*self.voters, *self.outgoing, *self.learners, *self.learners_next})


class SnapshotMeta(msgspec.Struct, frozen=True, array_like=True):
    """Names a snapshot: the state after ``index`` was applied, and the configuration in force there."""

    index: int = 0
    term: int = 0
    configuration: Configuration = Configuration()


class Message(msgspec.Struct, frozen=True, array_like=True):
    """What every message carries: the sender's term, the sender and the receiver."""

    term: int
    src: NodeId
    dst: NodeId


class RequestVote(Message, frozen=True, array_like=True, tag=1):
    """A candidate asks for a vote (§5.2); with ``pre_vote``, ``term`` is the one it would campaign in (thesis §9.6).

    With ``transfer`` the leader itself has asked for the election: no promise to it stands against the vote.
    """

    last_index: int
    last_term: int
    pre_vote: bool = False
    transfer: bool = False


class VoteResponse(Message, frozen=True, array_like=True, tag=2):
    """The voter's last index and term spare a new leader the question where their logs part."""

    granted: bool
    pre_vote: bool = False
    last_index: int = 0
    last_term: int = 0


class AppendEntries(Message, frozen=True, array_like=True, tag=3):
    """The leader replicates entries (§5.3). ``entries`` follow ``prev_index`` without a gap."""

    prev_index: int
    prev_term: int
    commit: int
    entries: tuple[Entry, ...] = ()


class AppendResponse(Message, frozen=True, array_like=True, tag=4):
    """On success ``index`` is the last index known to match; on a refusal it is the ``prev_index`` that was refused.

    A refusal says where to look next: ``conflict_index`` is the first index of ``conflict_term`` in the follower's
    log, or one past its last index with ``conflict_term`` 0 when the log is too short (§5.3, last paragraph).
    """

    success: bool
    index: int
    conflict_term: int = 0
    conflict_index: int = 0


class Heartbeat(Message, frozen=True, array_like=True, tag=5):
    """Authority without entries. ``commit`` never exceeds what the receiver is known to hold. ``read_id`` asks the
    receiver to confirm the leader for every linearizable read up to that number (thesis §6.4).

    ``stamp`` is the sender's clock in seconds, ``echo`` the newest stamp it has of the receiver (0: none). Where
    ``age`` is finite: ``age`` seconds before this was sent the sender was certainly the leader, and what is committed
    up to ``newest``, which the receiver may not hold yet, is all that was committed then (see `rayraft.raft.lease`).
    """

    commit: int
    read_id: int = 0
    stamp: float = 0.0
    echo: float = 0.0
    age: float = float("inf")
    newest: int = 0


class HeartbeatResponse(Message, frozen=True, array_like=True, tag=6):
    read_id: int = 0
    stamp: float = 0.0
    echo: float = 0.0


class InstallSnapshot(Message, frozen=True, array_like=True, tag=7):
    """A snapshot for a follower whose next entry is gone from the leader's log (§7).

    The core speaks of whole snapshots: ``total`` and ``data`` are 0 and empty there. The replica sends the bytes as
    a run of these messages, each a chunk at ``offset`` of ``total``.
    """

    snapshot: SnapshotMeta
    offset: int = 0
    total: int = 0
    data: bytes = b""


class InstallSnapshotResponse(Message, frozen=True, array_like=True, tag=8):
    """``offset`` is how many bytes of the snapshot at ``index`` the follower holds: where to go on."""

    index: int
    offset: int


class TimeoutNow(Message, frozen=True, array_like=True, tag=9):
    """The leader hands over: the receiver campaigns at once, without a pre-vote (thesis §3.10)."""


class ReadIndexRequest(Message, frozen=True, array_like=True, tag=10):
    """A follower asks for an index from which its own state may answer the reads it holds (thesis §6.4)."""

    id: int


class ReadIndexResponse(Message, frozen=True, array_like=True, tag=11):
    """The answer to the request ``id``, once a quorum has confirmed the leader."""

    id: int
    index: int


class Removed(Message, frozen=True, array_like=True, tag=12):
    """The receiver is no member any longer by a committed configuration. Ids are never used again: that is final."""


class StateDigest(Message, frozen=True, array_like=True, tag=13):
    """The sender's state right after entry ``index`` has this digest; an empty one: it can not tell.

    The algorithm knows nothing of it: replicas compare their states (`rayraft.replica.divergence`).
    """

    index: int
    digest: bytes


class SnapshotRequest(Message, frozen=True, array_like=True, tag=14):
    """The sender's state is not to be trusted: it asks the leader for a snapshot of ``index`` or later."""

    index: int


AnyMessage: TypeAlias = (
    RequestVote
    | VoteResponse
    | AppendEntries
    | AppendResponse
    | Heartbeat
    | HeartbeatResponse
    | InstallSnapshot
    | InstallSnapshotResponse
    | TimeoutNow
    | ReadIndexRequest
    | ReadIndexResponse
    | Removed
    | StateDigest
    | SnapshotRequest
)
