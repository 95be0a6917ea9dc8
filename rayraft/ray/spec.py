"""What a node is started with, and what it says of itself."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from rayraft.errors import RayraftError
from rayraft.raft.types import NO_NODE, NodeId
from rayraft.ray.placement import ANYWHERE, NOWHERE, Place, Placement
from rayraft.ray.priority import NICENESS
from rayraft.ray.wire import PROTOCOL_VERSION
from rayraft.replica import ReplicaConfig, ReplicaStatus
from rayraft.storage.identity import Identity


class NodeState(enum.Enum):
    BLANK = "blank"  # no identity on the disk yet
    FORMATTED = "formatted"  # an identity that is not sealed: the group is being founded
    RUNNING = "running"
    DIVERGED = "diverged"  # its state is wrong and being rebuilt: it votes and stores the log, and serves nobody
    REMOVED = "removed"  # it has left the group; its disk stays as it is
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """All that a node needs to come up, and to come up again after its process was killed."""

    group: str
    node_id: NodeId
    directory: str
    machine: bytes  # cloudpickle of (class, args, kwargs)
    config: ReplicaConfig
    fsync: bool = True
    niceness: int | None = NICENESS
    channels: bool = True
    protocol: int = PROTOCOL_VERSION
    home: Place = NOWHERE  # where it runs, and nowhere else
    placement: Placement = ANYWHERE  # where nodes that join later may live
    data_dir: str = ""  # above the directories of all nodes, as `rayraft.start` was given it
    replaces: NodeId = NO_NODE  # it was started in the place of this one
    ordered: bool = False  # by an operator, also if that one is well; else by the supervisor, because it was not
    keep_class: bool = False  # the group was upgraded: a new node, too, keeps the class that the log begins with


@dataclass(frozen=True, slots=True)
class NodeReport:
    """What a node says of itself."""

    node_id: NodeId
    state: NodeState
    error: RayraftError | None
    identity: Identity | None
    pid: int
    directory: str
    methods: dict[str, bool]  # name -> whether it is a command
    host: str
    rss_bytes: int
    disk_bytes: int
    replica: ReplicaStatus | None  # None unless it is running
    protocol: int = PROTOCOL_VERSION
    home: Place = NOWHERE
    places: Mapping[NodeId, Place] = field(default_factory=dict)  # where the group's nodes live, as it was told
    replaces: NodeId = NO_NODE
    machine: str = ""  # the class's name
    version: int = 0  # how many upgrades of the class this node has applied
    niceness: int = 0  # of the process, see `Settings.niceness`
    callers: int = 0  # other processes that can call it through channels, see `Settings.channels`
    # Seconds from opening its disk until all that was known there to be committed was applied again; None: not yet.
    recovery: float | None = None
    initial: bytes = b""  # while the group is being founded: the digest of the object that the log will begin with
