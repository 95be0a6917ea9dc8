"""Python objects that survive: a plain class, replicated by Raft as actors in a Ray cluster, durable on a majority."""

from rayraft.client.config import ClientConfig
from rayraft.client.handle import Batch, Handle
from rayraft.client.results import Result
from rayraft.errors import (
    BadCall,
    BadConfiguration,
    BadHistory,
    ClassNotLoadable,
    ClientClosed,
    CommandFailed,
    CommandTimeout,
    DamagedBackup,
    DamagedLog,
    DamagedSnapshot,
    DirectoryInUse,
    DiskFailed,
    DiskFull,
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
    UpgradeFailed,
    WrongDirectory,
    WrongVersion,
)
from rayraft.machine.determinism import check_determinism
from rayraft.machine.keyvalue import KeyValue
from rayraft.machine.objects import command, query
from rayraft.ray.cluster import Cluster, connect
from rayraft.ray.placement import Placement
from rayraft.ray.restore import restore
from rayraft.ray.settings import Settings
from rayraft.ray.starting import start
from rayraft.storage.backup import BackupHeader

__version__ = "0.1.0"

__all__ = [
    "BackupHeader",
    "BadCall",
    "BadConfiguration",
    "BadHistory",
    "Batch",
    "ClassNotLoadable",
    "ClientClosed",
    "ClientConfig",
    "Cluster",
    "CommandFailed",
    "CommandTimeout",
    "DamagedBackup",
    "DamagedLog",
    "DamagedSnapshot",
    "DirectoryInUse",
    "DiskFailed",
    "DiskFull",
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
    "UpgradeFailed",
    "WrongDirectory",
    "WrongVersion",
    "check_determinism",
    "command",
    "connect",
    "query",
    "restore",
    "start",
]
