"""Every error that rayraft raises on purpose; each message says what happened and what to do."""

from __future__ import annotations


class RayraftError(Exception):
    """The base of every error of this package."""


# --- the caller's side ------------------------------------------------------------------------------------------------


class CommandTimeout(RayraftError, TimeoutError):
    """The deadline passed. ``outcome_known`` is False when the command may still take effect, once, later."""

    def __init__(self, message: str, *, outcome_known: bool = False) -> None:
        super().__init__(message)
        self.outcome_known = outcome_known


class Overloaded(RayraftError):
    """Too many commands are open, and no room came free before the deadline. Nothing was sent."""


class SessionExpired(RayraftError):
    """The group has forgotten this client's session, so a retry could be applied twice. The outcome is unknown.

    What was certainly not applied is sent again in a new session, and does not raise this.
    """


class CommandFailed(RayraftError):
    """A command or query raised something that can not be sent to its caller as it is; the message shows it."""


class StateDiverged(RayraftError):
    """A command is not deterministic, or a node's memory is broken: replicas that applied the same log differ.

    The message says where, and which command as far as that is known. Such a command must be changed so that it depends
    on nothing but the state and its arguments; a node whose state is in the minority is rebuilt from another's.
    """


class ClientClosed(RayraftError):
    """The handle was closed, or the group was shut down, before the call had its answer."""


class BadCall(RayraftError, TypeError):
    """The call can not be made: no such command, or arguments that can not be serialised."""


class UpgradeFailed(RayraftError):
    """The machine's class could not be replaced; nothing was changed, on any node."""


class ClassNotLoadable(RayraftError):
    """A node can not load the class that its group has, for want of a module: it stops, so that it does not diverge."""


# --- starting and finding a group -------------------------------------------------------------------------------------


class NoSuchGroup(RayraftError):
    """No group of this name runs in this Ray cluster."""


class GroupExists(RayraftError):
    """A group of this name runs already, with other settings, or runs still although it was to be shut down."""


class BadConfiguration(RayraftError, ValueError):
    """A setting is out of its range or contradicts another one."""


class NotEnoughMachines(RayraftError):
    """Fewer machines are up than the group has nodes, and no two of its nodes may share one."""


class NoQuorum(RayraftError):
    """Fewer than a majority of the nodes can be reached, so nothing can be ordered."""


class MembershipRefused(RayraftError):
    """A change of the group's members or of its leader can not be made, or was not made in time."""


class TooStale(RayraftError):
    """No node could vouch for a state as fresh as the query asked for."""


class WrongVersion(RayraftError):
    """Nodes of one group must run versions of rayraft that do the same with each command; these do not."""


class NodeRemoved(RayraftError):
    """The node was removed from its group: it can not take part again, under this id or with this directory."""


# --- storage ----------------------------------------------------------------------------------------------------------


class StorageError(RayraftError):
    """Something is wrong with a node's data directory."""


class WrongDirectory(StorageError):
    """The data directory belongs to another group or another node."""


class LostDisk(StorageError):
    """The node is known, but its data directory is missing or empty: it must not vote again under its old id."""


class DirectoryInUse(StorageError):
    """Another process holds the data directory."""


class DamagedLog(StorageError):
    """Durable records are missing or fail their checksum. ``index`` is the first index that can not be trusted."""

    # The defaults are for pickle, which makes the error from its message and then restores the attributes.
    def __init__(self, message: str, *, directory: str = "", index: int = 0) -> None:
        super().__init__(message)
        self.directory = directory
        self.index = index


class DamagedSnapshot(StorageError):
    """A snapshot file is cut short or fails its checksum."""


class DiskFailed(StorageError):
    """A write or sync failed (a full or failing disk). Nothing written since the last sync may be assumed durable."""


class DiskFull(DiskFailed):
    """There is no room left on the disk of ``directory``. A node that says so comes back by itself when there is."""

    def __init__(self, message: str, *, directory: str = "") -> None:
        super().__init__(message)
        self.directory = directory


class DamagedBackup(StorageError):
    """A backup file is cut short, fails its checksum, or is no backup at all. Nothing was restored from it."""


# --- histories --------------------------------------------------------------------------------------------------------


class BadHistory(RayraftError, ValueError):
    """A history can not be read, or holds what its model does not know. ``line`` counts from 1, 0 is no line."""

    def __init__(self, message: str, *, line: int = 0) -> None:
        super().__init__(message)
        self.line = line
