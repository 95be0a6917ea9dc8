"""The last resort: a group that lost a majority of its disks for good goes on from the disks that are left.

Raft can not do this by itself, and must not: nobody can tell a lost majority from one that is only cut off. An operator
who knows that the other disks will never come back says so here. The most advanced log among the survivors becomes the
truth, with them as the only voters. What was acknowledged after the end of that log is lost.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from rayraft.errors import BadConfiguration, StorageError
from rayraft.raft.configurations import Configurations
from rayraft.raft.membership import encode_configuration
from rayraft.raft.quorum import VoteResult, vote_result
from rayraft.raft.types import NO_NODE, Configuration, Entry, EntryKind, HardState, NodeId
from rayraft.storage.identity import Identity, read_identity, retire, rewrite_identity
from rayraft.storage.rocks import RocksLogStore


@dataclass(frozen=True, slots=True)
class Survivor:
    """What one disk holds."""

    node: NodeId
    directory: Path
    identity: Identity
    hard_state: HardState
    last_index: int
    last_term: int
    configuration: Configuration

    @property
    def stores_data(self) -> bool:
        """As a member by its own log, which a node that has left or was to join is not."""
        return self.configuration.has_member(self.node) and self.node not in self.configuration.witnesses


@dataclass(frozen=True, slots=True)
class RecoveryPlan:
    """What `recover` would do, and what that may cost. ``unreadable`` says why other directories do not count."""

    survivors: Sequence[Survivor]
    unreadable: Mapping[Path, str]
    best: Survivor
    lost: Sequence[NodeId]  # voters without a readable disk

    @property
    def configuration(self) -> Configuration:
        """The survivors that are members as the only voters, without witnesses that would be a majority of them."""
        old, nodes = self.best.configuration, {survivor.node for survivor in self.survivors}
        members = nodes & set(old.members())
        with_data = members - set(old.witnesses)
        witnesses = tuple(sorted(members - with_data))[: len(with_data)]
        voters = tuple(sorted(with_data.union(witnesses)))
        highest = max(old.highest_id, *old.members(), *nodes)
        return Configuration(voters=voters, witnesses=witnesses, highest_id=highest)

    @property
    def left_out(self) -> Sequence[Survivor]:
        """Those whose disks can be read, and who will have left the group all the same."""
        return [survivor for survivor in self.survivors if survivor.node not in self.configuration.voters]

    def explain(self) -> str:
        """What will be kept, and what may be lost, for a person to decide."""
        best = self.best
        left_out = [survivor.node for survivor in self.left_out]
        not_used = f"NOT USED: nodes {left_out}: no members by that log, or more witnesses than nodes with data.\n"
        return (
            f"The log of node {best.node} is the most advanced one that is left: it ends at index {best.last_index} "
            f"(term {best.last_term}), of which the first {best.hard_state.commit} entries are known to be committed.\n"
            f"KEPT: every entry of that log, also those that were never acknowledged.\n"
            f"MAY BE LOST: every command that was acknowledged by the lost nodes {list(self.lost)} alone, which is any "
            f"command after index {best.last_index}. How many there were can not be told.\n"
            f"{not_used if left_out else ''}"
            f"The voters will be {list(self.configuration.voters)}; the lost nodes can never come back, even if their "
            "disks are found: their directories will be refused."
        )


def plan_recovery(directories: Sequence[Path]) -> RecoveryPlan:
    """Read every disk that is left; changes nothing. The group must not be running.

    Raises BadConfiguration when there is nothing to recover from or no need to, DirectoryInUse while a node runs.
    """
    survivors: list[Survivor] = []
    unreadable: dict[Path, str] = {}
    for directory in directories:
        try:
            survivors.append(_read(directory))
        except StorageError as error:
            unreadable[directory] = str(error)
    data = [survivor for survivor in survivors if survivor.stores_data]
    if not data:
        raise BadConfiguration(f"no disk that stores data can be read: {unreadable}")
    if len({survivor.identity.group for survivor in survivors}) > 1:
        raise BadConfiguration(f"the directories belong to several groups: {[s.identity.group for s in survivors]}")
    best = max(data, key=lambda survivor: (survivor.last_term, survivor.last_index, -survivor.node))
    here = {survivor.node for survivor in survivors}
    voters = best.configuration.all_voters()
    lost = sorted(voters - here)
    if vote_result(best.configuration, {voter: voter in here for voter in voters}) is VoteResult.WON:
        raise BadConfiguration(
            f"{len(voters) - len(lost)} of {len(voters)} voters have their disks: start the group as usual, and "
            f"replace the others ({lost}) with replace_node"
        )
    return RecoveryPlan(survivors, unreadable, best, lost)


def recover(plan: RecoveryPlan) -> None:
    """Carry ``plan`` out; it may be repeated when it was interrupted. Raises StorageError, DiskFailed."""
    cluster_id = secrets.token_hex(8)  # the disks of the lost nodes are of another cluster from now on
    left_out = plan.left_out
    for directory in [*plan.unreadable, *(survivor.directory for survivor in left_out)]:
        _retire_if_possible(directory)
    for survivor in plan.survivors:
        if survivor in left_out:
            continue
        changed = msgspec.structs.replace(
            survivor.identity, cluster_id=cluster_id, voters=plan.configuration.voters,
            witnesses=plan.configuration.witnesses,
        )  # fmt: skip
        rewrite_identity(survivor.directory, changed)
    # Last, for a log that names only survivors as voters needs no recovery: after an interruption all is repeated.
    best = plan.best
    term = max(survivor.hard_state.term for survivor in plan.survivors) + 1
    store = RocksLogStore(best.directory / "log", Configuration(), owner=best.identity.disk_id, create=False)
    try:
        index = best.last_index + 1
        entry = Entry(index, term, EntryKind.CONFIGURATION, encode_configuration(plan.configuration))
        store.write(HardState(term, NO_NODE, index), [entry])
        store.sync()
    finally:
        store.close()


def _read(directory: Path) -> Survivor:
    identity = read_identity(directory)
    if identity is None or not identity.sealed:
        raise StorageError(f"{directory} is empty, or its node never took part")
    if identity.removed:
        raise StorageError(f"node {identity.node_id} had been removed from the group")
    store = RocksLogStore(directory / "log", Configuration(), owner=identity.disk_id, create=False)
    try:
        last = store.last_index()
        entries = [store.entries(index, index + 1, 0)[0] for index in store.configuration_indexes()]
        configurations = Configurations(store.snapshot().index, store.snapshot().configuration, entries)
        return Survivor(
            node=identity.node_id,
            directory=directory,
            identity=identity,
            hard_state=store.hard_state(),
            last_index=last,
            last_term=store.term(last),
            configuration=configurations.newest,
        )
    finally:
        store.close()


def _retire_if_possible(directory: Path) -> None:
    with contextlib.suppress(StorageError):  # then nothing is there that could come up again
        retire(directory)
