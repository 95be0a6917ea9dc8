"""Python objects that survive: a plain class, replicated by Raft as actors in a Ray cluster, durable on a majority."""

from rayraft.client.client import ClientConfig
from rayraft.client.handle import Batch, Handle
from rayraft.client.results import Result
from rayraft.errors import (
    BadCall,
    BadConfiguration,
    BadHistory,
    ClientClosed,
    CommandFailed,
    CommandTimeout,
    DamagedLog,
    DamagedSnapshot,
    DirectoryInUse,
    DiskFailed,
    GroupExists,
    LostDisk,
    MembershipRefused,
    NodeRemoved,
    NoQuorum,
    NoSuchGroup,
    NotEnoughMachines,
    Overloaded,
    RayraftError,
    SessionExpired,
    StateDiverged,
    StorageError,
    TooStale,
    WrongDirectory,
)
from rayraft.machine.determinism import check_determinism
from rayraft.machine.keyvalue import KeyValue
from rayraft.machine.objects import command, query
from rayraft.ray.cluster import Cluster, Settings, connect
from rayraft.ray.placement import Placement
from rayraft.ray.starting import start

__version__ = "0.1.0"

__all__ = [
    "BadCall",
    "BadConfiguration",
    "BadHistory",
    "Batch",
    "ClientClosed",
    "ClientConfig",
    "Cluster",
    "CommandFailed",
    "CommandTimeout",
    "DamagedLog",
    "DamagedSnapshot",
    "DirectoryInUse",
    "DiskFailed",
    "GroupExists",
    "Handle",
    "KeyValue",
    "LostDisk",
    "MembershipRefused",
    "NoQuorum",
    "NoSuchGroup",
    "NodeRemoved",
    "NotEnoughMachines",
    "Overloaded",
    "Placement",
    "RayraftError",
    "Result",
    "SessionExpired",
    "Settings",
    "StateDiverged",
    "StorageError",
    "TooStale",
    "WrongDirectory",
    "check_determinism",
    "command",
    "connect",
    "query",
    "start",
]
