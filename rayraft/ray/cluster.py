"""Finding and ending groups: `connect`, and `Cluster`, the operator's view of one group."""

from __future__ import annotations

import contextlib
import enum
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ray

from rayraft.client.client import Client
from rayraft.client.config import ClientConfig
from rayraft.client.handle import DEFAULT_TIMEOUT_S, Access, Handle
from rayraft.errors import GroupExists, NoSuchGroup
from rayraft.raft.types import NO_NODE, Configuration, NodeId
from rayraft.ray.actors import gather
from rayraft.ray.backup import take_backup
from rayraft.ray.endpoints import RayEndpoints
from rayraft.ray.group import POLL_SECONDS, Group, newest_of
from rayraft.ray.members import Home, Members
from rayraft.ray.names import check_group_name, find_nodes, find_supervisor
from rayraft.ray.placement import Place
from rayraft.ray.process import refuse_a_fork
from rayraft.ray.rolling import Progress, ignore, restart_nodes, scale
from rayraft.ray.sharing import close_shared, shared_access
from rayraft.ray.supervision import Supervision
from rayraft.ray.upgrades import upgrade
from rayraft.storage.backup import BackupHeader

log = logging.getLogger("rayraft")
LAST_LAP_SECONDS = 5.0  # for those behind to get what the leader has, before all are ended
STOP_SECONDS = 10.0  # for a node to close its disk


class Origin(enum.Enum):
    """Where a group came from when `rayraft.start` was called."""

    NEW = "a new group"
    RUNNING = "it runs already"
    RESUMED = "resumed from its disks"


@dataclass(frozen=True, slots=True)
class Found:
    """What `rayraft.start` found."""

    origin: Origin
    places: Mapping[NodeId, Place]  # the machine of each node
    lost: Mapping[NodeId, str]  # the voters that did not come up, and why
    unfinished: Mapping[NodeId, str] = field(default_factory=dict)  # who never became a member, and its directory

    def __str__(self) -> str:
        where = ", ".join(f"node {node} on {place}" for node, place in sorted(self.places.items()))
        text = f"{self.origin.value}; {where}"
        if self.lost:
            text += "; without " + ", ".join(f"node {node} ({why})" for node, why in sorted(self.lost.items()))
        for node, directory in sorted(self.unfinished.items()):
            text += f"; not node {node}, whose joining was interrupted: its directory {directory} is not needed"
        return text


class Cluster(Group):
    """The nodes of one group, as an operator sees them."""

    def __init__(self, name: str, handles: Mapping[NodeId, Any]) -> None:
        super().__init__(name, handles)
        self.found: Found | None = None  # what `rayraft.start` found; None after `connect`
        self._methods: dict[str, bool] = {}
        self._clients: list[Client] = []

    @property
    def commands(self) -> frozenset[str]:
        return frozenset(name for name, is_command in self._methods.items() if is_command)

    @property
    def queries(self) -> frozenset[str]:
        return frozenset(name for name, is_command in self._methods.items() if not is_command)

    def operator(self) -> Cluster:
        return self

    def passed(self, config: ClientConfig) -> Passed:
        return Passed(self._name, self.commands, self.queries, config)

    def supervision(self, timeout_s: float = 5.0) -> Supervision | Exception | None:
        """What the group's supervisor does and why not more, or why it can not be asked; None where there is none."""
        supervisor = find_supervisor(self._name)
        if supervisor is None:
            return None
        found: Supervision | Exception = gather({NO_NODE: supervisor.status.remote()}, timeout_s)[NO_NODE]
        return found

    def backup(self, path: str | Path, *, timeout_s: float = 3600.0) -> BackupHeader:
        """Write the state to the file ``path`` on this machine, while the group serves; returns what is in it.

        It holds every command that was acknowledged before this call. Raises BadConfiguration for a directory,
        NoQuorum; DiskFull or DiskFailed where the file can not be written, and nothing is left of it then.
        `rayraft.restore` starts a new group from it.
        """
        return take_backup(self, path, timeout_s=timeout_s)

    # --- members and leadership ---------------------------------------------------------------------------------------

    def configuration(self) -> Configuration:
        """Who votes, learns, witnesses and is preferred as leader, as the leader has it. Raises NoQuorum."""
        return Members(self).configuration()

    def add_node(
        self,
        *,
        directory: str | Path | None = None,
        machine: str | None = None,
        witness: bool = False,
        learner: bool = False,
        timeout_s: float = 120.0,
    ) -> NodeId:
        """Start another node and make it a voter once it has caught up; returns its id, which was never used before.

        It lives on ``machine`` (its label, address or host name), by default on one that has no node of the group; its
        disk is ``directory`` there, to which ``data_dir/node-ID`` becomes a link, by default that one itself. A
        ``learner`` receives everything and does not vote; a ``witness`` votes and stores no data, so that two full
        copies live on with three votes. Raises NotEnoughMachines, MembershipRefused, NoQuorum, or what is wrong with
        the directory; what may be left behind then is a directory that is marked, and never used again.
        """
        home = Home(directory, machine)
        return Members(self).add(home=home, witness=witness, learner=learner, timeout_s=timeout_s)

    def remove_node(self, node: NodeId, *, timeout_s: float = 60.0) -> None:
        """Have ``node`` leave, also if it is dead or leads. Its directory stays, and can not be used again.

        Raises MembershipRefused (also when too few of the others answer), NoQuorum.
        """
        Members(self).remove(node, timeout_s)

    def replace_node(
        self,
        node: NodeId,
        *,
        directory: str | Path | None = None,
        machine: str | None = None,
        timeout_s: float = 120.0,
    ) -> NodeId:
        """A new node takes the place of ``node``, whose disk may be lost; returns the new id. Raises as `add_node`.

        It lives on another machine where one is free, else on that of ``node``. Where the caller is interrupted, the
        supervisor finishes it after a minute; whoever asks for the same before that goes on with the same new node.
        """
        return Members(self).replace(node, home=Home(directory, machine), timeout_s=timeout_s)

    def set_members(
        self, voters: Sequence[NodeId], *, learners: Sequence[NodeId] = (), timeout_s: float = 120.0
    ) -> None:
        """Make exactly these nodes the members, in one step (joint consensus); who is left out is removed.

        Raises MembershipRefused, NoQuorum.
        """
        Members(self).set(voters, learners, timeout_s)

    def transfer_leadership(self, to: NodeId, *, timeout_s: float = 30.0) -> None:
        """Have ``to`` lead; it gets all it lacks before. Raises MembershipRefused, NoQuorum."""
        Members(self).transfer(to, timeout_s)

    def prefer_leader(self, *nodes: NodeId, timeout_s: float = 30.0) -> None:
        """Keep leadership on the first of ``nodes`` that is healthy; without any, nobody is preferred any longer."""
        Members(self).prefer(nodes, timeout_s)

    # --- the class, and the size --------------------------------------------------------------------------------------

    def upgrade(self, machine: type, *, without_absent: bool = False, timeout_s: float = 120.0) -> int:
        """Replace the machine's class while the group serves; returns its version (1 after the first upgrade).

        The upgrade is a command: every node does it at the same place in the log, and calls before it run on the old
        class, calls after it on the new one. The new class is sent with the code it has now, and takes over the state:
        by its own class method ``__rayraft_migrate__(cls, old)``, which returns its first object and must be as
        deterministic as a command, else attribute by attribute. Every node tries it on a copy of its state before.
        To go back, upgrade to the old class. `connect` again where new methods are to be called.

        Raises UpgradeFailed, and then nothing was changed: the class can not be sent or loaded, its migration raises,
        somebody else has upgraded meanwhile, a node can not be asked (unless ``without_absent``). CommandTimeout: it
        may still take effect.
        """
        self.look_again()
        version = upgrade(self, machine, without_absent=without_absent, timeout_s=timeout_s)
        self._methods = newest_of(self.reports()).methods
        return version

    def scale(self, nodes: int, *, timeout_s: float = 600.0, on_progress: Progress = ignore) -> Configuration:
        """Make the group one of 1, 3, 5, 7 or 9 voters, while it serves; returns its configuration then.

        New nodes catch up without a vote; then one joint change makes them voters and removes the surplus: first who
        does not answer, never the leader if it can be helped, then who shares a machine with most of the others.
        Learners of the group are made voters before new nodes are started; where it fails, those that it has started
        leave again. Safe to repeat after an interruption.

        Raises BadConfiguration, MembershipRefused (a majority of the new voters would not answer), NoQuorum.
        """
        self.look_again()
        return scale(self, nodes, timeout_s, on_progress)

    def restart_nodes(
        self, *, allow_downtime: bool = False, timeout_s: float = 600.0, on_progress: Progress = ignore
    ) -> None:
        """Start every node's process anew, one at a time, the leader last and after it has handed over.

        The next one goes only when the last is back from its disk and has caught up. Raises NoQuorum before a node
        goes without whom too few would be left, unless ``allow_downtime`` (a group of one or two has no other way).
        """
        self.look_again()
        restart_nodes(self, allow_downtime, timeout_s, on_progress)

    def shutdown(self, timeout_s: float = 30.0) -> None:
        """End the group's actors in good order; the data directories stay, and `start` resumes from them.

        Each of them then has every command: those who are behind get what they lack before, if it takes no more than
        `LAST_LAP_SECONDS`. Raises GroupExists where some of it is still there after ``timeout_s`` seconds.
        """
        for client in self._clients:
            client.close()
        close_shared(self._name)
        supervisor = find_supervisor(self._name)
        if supervisor is not None:  # first: it would bring the nodes back
            gather({NO_NODE: supervisor.stop.remote()}, STOP_SECONDS)
            ray.kill(supervisor, no_restart=True)
        self.look_again()
        self.wait_until_all_have(min(timeout_s, LAST_LAP_SECONDS))
        gather({node: handle.stop.remote() for node, handle in self._handles.items()}, min(timeout_s, STOP_SECONDS))
        deadline = time.monotonic() + timeout_s
        while there := _end_all(self._name):  # also what somebody else has started meanwhile
            if time.monotonic() > deadline:
                raise GroupExists(
                    f"{self._name!r} is not shut down, {' and '.join(there)} is there still or again: see that nobody "
                    "starts or changes the group meanwhile, and repeat it"
                )
            time.sleep(POLL_SECONDS)

    def handle(self, config: ClientConfig, timeout_s: float) -> Handle:
        self._methods = newest_of(self.quick_reports()).methods
        client = Client(RayEndpoints(self._name, self._handles), config)
        self._clients.append(client)
        return Handle(Access(lambda _: (client, client.hold()), config), self, timeout_s)


@dataclass(frozen=True, slots=True)
class Passed:
    """A group as a handle that came from another process knows it: nothing is asked before it has to be."""

    name: str
    commands: frozenset[str]
    queries: frozenset[str]
    config: ClientConfig

    def operator(self) -> Cluster:
        return find_cluster(self.name)

    def passed(self, config: ClientConfig) -> Passed:
        return replace(self, config=config)

    def access(self) -> Access:
        return shared_access(self.name, self.config)


def connect(name: str, *, timeout_s: float = DEFAULT_TIMEOUT_S, config: ClientConfig | None = None) -> Handle:
    """A handle on a group that runs in this Ray cluster, from any driver, task, actor or notebook.

    Raises NoSuchGroup; NoQuorum when none of its nodes answers.
    """
    return find_cluster(name).handle(config or ClientConfig(), timeout_s)


def find_cluster(name: str) -> Cluster:
    """The operator's view of a group that runs in this Ray cluster. Raises NoSuchGroup."""
    check_group_name(name)
    ensure_ray()
    return Cluster(name, find_nodes(name))


def shut_down(name: str, timeout_s: float = 30.0) -> None:
    """As `Cluster.shutdown`, also where only the supervisor is left of a group. Raises NoSuchGroup."""
    check_group_name(name)
    ensure_ray()
    try:
        nodes = find_nodes(name)
    except NoSuchGroup:
        if find_supervisor(name) is None:
            raise
        nodes = {}
    Cluster(name, nodes).shutdown(timeout_s)


def _end_all(name: str) -> list[str]:
    """Have Ray end whatever there is of a group; says what that is. It is gone when this finds nothing."""
    found: dict[str, Any] = {}
    if (supervisor := find_supervisor(name)) is not None:
        found["its supervisor"] = supervisor
    with contextlib.suppress(NoSuchGroup):
        found |= {f"node {node}": actor for node, actor in find_nodes(name).items()}
    for actor in found.values():
        ray.kill(actor, no_restart=True)
    return list(found)


def ensure_ray() -> None:
    refuse_a_fork()
    if ray.util.client.ray.is_connected():
        log.warning(
            "this driver is connected through Ray Client (ray://), which makes some 500 calls a second: run what sends "
            "many commands as a Ray task or actor"
        )
    elif not ray.is_initialized():
        ray.init(logging_level=logging.ERROR, log_to_driver=True)
