"""The last resort: a group that lost a majority of its disks for good goes on from the disks that are left.

Raft can not do this by itself, and must not: nobody can tell a lost majority from one that is only cut off. An operator
who knows that the other disks will never come back says so here. The most advanced log among the survivors becomes the
truth, with them as the only voters. What was acknowledged after the end of that log is lost.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from rayraft.errors import BadConfiguration, DirectoryInUse, StorageError
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
        best, used = self.best, ", ".join(str(s.directory) for s in self.survivors if s not in self.left_out)
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
            "disks are found: their directories will be refused.\n"
            f"USED: {used}. Every disk that is left has to be named in this one call, those of other machines through "
            "a mount or as a copy that is carried back afterwards: recovering them one by one makes a group of each, "
            "and these can never be joined again."
        )


def plan_recovery(directories: Sequence[Path]) -> RecoveryPlan:
    """Read every disk that is left; changes nothing. The group must not be running.

    Raises BadConfiguration when there is nothing to recover from or no need to, DirectoryInUse while a node runs: its
    log may be the newest, and passing it over would make an older one the truth.
    """
    survivors: list[Survivor] = []
    unreadable: dict[Path, str] = {}
    for directory in dict.fromkeys(path.resolve() for path in directories):  # named twice, it is still one vote
        try:
            survivors.append(_read(directory))
        except DirectoryInUse as error:
            raise _running(directory) from error
        except StorageError as error:
            unreadable[directory] = str(error)
    data = [survivor for survivor in survivors if survivor.stores_data]
    if not data:
        raise BadConfiguration(f"no disk that stores data can be read: {unreadable}")
    _common_cluster(survivors)
    _refuse_twins(survivors)
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
    """Carry ``plan`` out; it may be repeated when it was interrupted.

    Raises DirectoryInUse (a node runs), BadConfiguration (one ran since the plan was made), and nothing is changed
    then; StorageError, DiskFailed.
    """
    with ExitStack() as held:
        stores = _hold(plan, held)
        old, new = _common_cluster(plan.survivors), secrets.token_hex(8)  # that of the lost nodes' disks is the old one
        left_out = plan.left_out
        # First, for a recovery that is repeated tells the others by their new identities, which do not name these.
        for directory in [*plan.unreadable, *(survivor.directory for survivor in left_out)]:
            _retire_if_possible(directory)
        for survivor in plan.survivors:
            if survivor in left_out:
                continue
            changed = msgspec.structs.replace(
                survivor.identity, cluster_id=new, recovered_from=old, voters=plan.configuration.voters,
                witnesses=plan.configuration.witnesses,
            )  # fmt: skip
            rewrite_identity(survivor.directory, changed)
        # Last, for a log that names only survivors as voters needs no recovery: after an interruption all is repeated.
        term = max(survivor.hard_state.term for survivor in plan.survivors) + 1
        index = plan.best.last_index + 1
        entry = Entry(index, term, EntryKind.CONFIGURATION, encode_configuration(plan.configuration))
        store = stores[plan.best.node]
        store.write(HardState(term, NO_NODE, index), [entry])
        store.sync()


def _common_cluster(survivors: Sequence[Survivor]) -> str:
    """The cluster that all of ``survivors`` are of, or were before a recovery that was interrupted.

    Such a recovery had given some of them a new cluster already, each with all of them as its voters; a recovery of
    fewer disks that was completed has made another group. Raises BadConfiguration.
    """
    groups = {survivor.identity.group for survivor in survivors}
    clusters = {survivor.identity.cluster_id for survivor in survivors}
    if len(groups) == len(clusters) == 1:
        return clusters.pop()
    nodes = {survivor.node for survivor in survivors}
    for old in clusters if len(groups) == 1 else ():
        begun = [survivor.identity for survivor in survivors if survivor.identity.cluster_id != old]
        if all(identity.recovered_from == old and nodes <= set(identity.voters) for identity in begun):
            return old
    listed = "; ".join(
        f"{survivor.directory}: {survivor.identity.group!r}, cluster {survivor.identity.cluster_id}"
        for survivor in survivors
    )
    raise BadConfiguration(
        f"the directories belong to several groups, whose logs have nothing to do with each other: {listed}. Name only "
        "those of one group"
    )


def _refuse_twins(survivors: Sequence[Survivor]) -> None:
    """A copy of a disk is no second voter, and which of the two the group knew last can not be told for sure."""
    by_node: dict[NodeId, list[Survivor]] = {}
    for survivor in survivors:
        by_node.setdefault(survivor.node, []).append(survivor)
    for node, twins in by_node.items():
        if len(twins) > 1:
            listed = "; ".join(
                f"{twin.directory} ends at index {twin.last_index} (term {twin.last_term})" for twin in twins
            )
            raise BadConfiguration(
                f"several directories are of node {node}: {listed}. Name the one that the group used last; the others "
                "are copies or leftovers"
            )


def _hold(plan: RecoveryPlan, held: ExitStack) -> dict[NodeId, RocksLogStore]:
    """Lock every disk, so that no node can start on it meanwhile, and see that it is as it was for the plan."""
    stores: dict[NodeId, RocksLogStore] = {}
    for survivor in plan.survivors:
        try:
            identity, store = _open(survivor.directory)
        except DirectoryInUse as error:
            raise _running(survivor.directory) from error
        held.enter_context(closing(store))
        if _survivor(survivor.directory, identity, store) != survivor:
            raise _changed(survivor.directory)
        stores[survivor.node] = store
    for directory in plan.unreadable:
        try:
            _open(directory)[1].close()
        except DirectoryInUse as error:
            raise _running(directory) from error
        except StorageError:
            continue  # still
        raise _changed(directory)
    return stores


def _read(directory: Path) -> Survivor:
    identity, store = _open(directory)
    with closing(store):
        return _survivor(directory, identity, store)


def _open(directory: Path) -> tuple[Identity, RocksLogStore]:
    """The log of a node that took part, with its lock. Raises StorageError."""
    identity = read_identity(directory)
    if identity is None or not identity.sealed:
        raise StorageError(f"{directory} is empty, or its node never took part")
    if identity.removed:
        raise StorageError(f"node {identity.node_id} had been removed from the group")
    return identity, RocksLogStore(directory / "log", Configuration(), owner=identity.disk_id, create=False)


def _survivor(directory: Path, identity: Identity, store: RocksLogStore) -> Survivor:
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


def _running(directory: Path) -> DirectoryInUse:
    return DirectoryInUse(
        f"{directory} is held by a process: the group, or a part of it, is running. Where it still serves, it needs no "
        "recovery: replace its lost nodes with replace_node. Else end it with `rayraft shutdown`, on every Ray cluster "
        "where it runs, and begin again"
    )


def _changed(directory: Path) -> BadConfiguration:
    return BadConfiguration(f"{directory} has changed since it was read; nothing was done. Begin again")


def _retire_if_possible(directory: Path) -> None:
    with suppress(StorageError):  # then nothing is there that could come up again
        retire(directory)
