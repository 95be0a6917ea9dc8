"""Whose disk this is. A data directory says so itself, so that no node ever votes from another one's, or an empty one.

Founding a group takes two steps, because no step can reach every machine at once: first every node writes an
unsealed identity, then every one is sealed. A node takes part only when sealed. As soon as one node of a group is
sealed, all had their identity; a node whose directory is blank then has lost its disk.
"""

from __future__ import annotations

import os
import secrets
import zlib
from pathlib import Path

import msgspec

from rayraft.errors import DamagedLog, StorageError, WrongDirectory
from rayraft.raft.types import Configuration, NodeId
from rayraft.storage.files import TEMPORARY, make_directory, write_file
from rayraft.storage.space import disk_failed

FORMAT = 1
IDENTITY_FILE = "identity"


class FoundingClass(msgspec.Struct, frozen=True):
    """The class that the log begins with, as far as it takes to recognise it."""

    name: str
    commands: tuple[str, ...]
    queries: tuple[str, ...]
    code: str  # a hash, of which only the same version of Python makes the same; empty: not known
    python: tuple[int, int]


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Written once, then only sealed. On disk a line of JSON and a line with its checksum: a person can read it.

    ``disk_id`` is random: of two directories that claim to be the same node, it tells which one the group knows.
    """

    group: str
    cluster_id: str
    node_id: NodeId
    disk_id: str
    voters: tuple[NodeId, ...]  # the group's first ones; none for a node that joined later
    witnesses: tuple[NodeId, ...] = ()
    sealed: bool = False
    removed: bool = False  # the node has left its group for good
    awaiting: bool = False  # the state of a backup has to be put here before it may be sealed
    founding: FoundingClass | None = None  # None: an older version of rayraft sealed it, or with an upgraded state
    recovered_from: str = ""  # the ``cluster_id`` before the last recovery of a lost majority
    format: int = FORMAT

    @property
    def configuration(self) -> Configuration:
        """The configuration the group was founded with."""
        return Configuration(voters=self.voters, witnesses=self.witnesses)


def read_identity(directory: str | Path) -> Identity | None:
    """The identity of ``directory``; None when that is missing or empty.

    Raises WrongDirectory when it holds other data and no identity, DamagedLog when the identity is damaged, DiskFailed
    when it can not be read.
    """
    path = Path(directory) / IDENTITY_FILE
    try:
        names = set(os.listdir(directory))
        content = path.read_bytes() if IDENTITY_FILE in names else None
    except FileNotFoundError:
        return None
    except OSError as error:
        raise disk_failed(directory, error, "reading it") from error
    if content is not None:
        return _decode(content, path)
    if strangers := sorted(name for name in names if not _is_harmless(name)):
        shown = ", ".join(strangers[:5])
        raise WrongDirectory(
            f"{directory} holds other data ({shown}) and no identity of a node; use an empty directory"
        )
    return None


def _is_harmless(name: str) -> bool:
    """A fresh file system has the one, a crash while founding leaves the other."""
    return name == "lost+found" or (name.startswith(IDENTITY_FILE + ".") and name.endswith(TEMPORARY))


def create_identity(
    directory: str | Path,
    *,
    group: str,
    cluster_id: str,
    node_id: NodeId,
    voters: tuple[NodeId, ...],
    witnesses: tuple[NodeId, ...] = (),
    awaiting: bool = False,
) -> Identity:
    """Give an empty or missing ``directory`` an unsealed identity, durably, and return it.

    Raises WrongDirectory when it has one already or holds other data, DiskFailed when it can not be written.
    """
    if (found := read_identity(directory)) is not None:
        raise WrongDirectory(f"{directory} belongs to node {found.node_id} of group {found.group!r} already")
    identity = Identity(
        group=group,
        cluster_id=cluster_id,
        node_id=node_id,
        disk_id=secrets.token_hex(16),
        voters=tuple(voters),
        witnesses=tuple(witnesses),
        awaiting=awaiting,
    )
    _write(Path(directory), identity)
    return identity


def seal(directory: str | Path, founding: FoundingClass | None = None) -> Identity:
    """Seal the identity of ``directory``, durably, and return it; sealing again changes nothing.

    From now on the log may begin with a command of the class ``founding``.

    Raises WrongDirectory when there is none, DamagedLog when it is damaged, DiskFailed when it can not be written.
    """
    identity = read_identity(directory)
    if identity is None:
        raise WrongDirectory(f"{directory} has no identity to seal")
    if identity.awaiting:
        raise WrongDirectory(
            f"{directory} was to get the state of a backup, and that was interrupted: empty the directories of the "
            "group, and restore it again"
        )
    if not identity.sealed:
        identity = msgspec.structs.replace(identity, sealed=True, founding=founding)
        _write(Path(directory), identity)
    return identity


def settle(directory: str | Path) -> Identity:
    """The state of a backup was put into ``directory``, durably: it may be sealed."""
    identity = read_identity(directory)
    if identity is None:
        raise WrongDirectory(f"{directory} has no identity")
    identity = msgspec.structs.replace(identity, awaiting=False)
    _write(Path(directory), identity)
    return identity


def retire(directory: str | Path) -> Identity:
    """Mark the node of ``directory`` as removed from its group, durably: it does not come up again."""
    identity = read_identity(directory)
    if identity is None:
        raise WrongDirectory(f"{directory} has no identity to retire")
    if not identity.removed:
        identity = msgspec.structs.replace(identity, removed=True)
        _write(Path(directory), identity)
    return identity


def rewrite_identity(directory: str | Path, identity: Identity) -> None:
    """For the recovery of a lost majority: the directory belongs to another cluster from now on. Raises DiskFailed."""
    _write(Path(directory), identity)


def check_identity(
    identity: Identity, *, directory: str | Path, group: str, cluster_id: str | None, node_id: NodeId
) -> None:
    """Raise WrongDirectory unless ``identity``, found in ``directory``, is that of this node.

    A ``cluster_id`` of None matches any.
    """
    expected = {"group": group, "node_id": node_id} | ({"cluster_id": cluster_id} if cluster_id is not None else {})
    wrong = [
        f"{name} is {found!r}, expected {wanted!r}"
        for name, wanted in expected.items()
        if (found := getattr(identity, name)) != wanted
    ]
    if wrong:
        raise WrongDirectory(
            f"{directory} belongs to another node: {'; '.join(wrong)}; give each node its own directory"
        )


def _write(directory: Path, identity: Identity) -> None:
    line = msgspec.json.encode(identity)
    try:
        make_directory(directory)
        write_file(directory / IDENTITY_FILE, b"%s\n%08x\n" % (line, zlib.crc32(line)))
    except OSError as error:
        raise disk_failed(directory / IDENTITY_FILE, error, "writing it") from error


def _decode(content: bytes, path: Path) -> Identity:
    line, _, rest = content.partition(b"\n")
    if rest != b"%08x\n" % zlib.crc32(line):
        raise DamagedLog(
            f"{path} is damaged: it fails its checksum, so nothing beside it can be trusted. Replace the node",
            directory=str(path.parent),
        )
    try:
        identity = msgspec.json.decode(line, type=Identity)
    except msgspec.DecodeError as error:
        raise StorageError(f"{path} can not be understood: {error}") from error
    if identity.format != FORMAT:
        raise StorageError(f"{path} has format {identity.format}; this version of rayraft reads {FORMAT}")
    return identity
