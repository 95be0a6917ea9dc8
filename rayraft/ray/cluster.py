"""Starting, finding and ending groups: `start`, `connect`, and `Cluster`, the operator's view of one group."""

from __future__ import annotations

import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import cloudpickle
import ray

from rayraft.client.client import Client, ClientConfig
from rayraft.client.handle import DEFAULT_TIMEOUT_S, Handle
from rayraft.errors import (
    BadConfiguration,
    GroupExists,
    LostDisk,
    NoQuorum,
    NoSuchGroup,
    RayraftError,
    StorageError,
    WrongDirectory,
)
from rayraft.machine.objects import marked_methods
from rayraft.raft.quorum import majority
from rayraft.raft.ready import RaftConfig
from rayraft.raft.types import Configuration, NodeId
from rayraft.ray.actors import create_actor, gather
from rayraft.ray.endpoints import RayEndpoints
from rayraft.ray.members import Members
from rayraft.ray.names import check_group_name, find_nodes
from rayraft.ray.node import NodeReport, NodeSpec, NodeState
from rayraft.ray.rolling import Progress, ignore, restart_nodes, scale
from rayraft.ray.upgrades import upgrade
from rayraft.ray.wire import PROTOCOL_VERSION
from rayraft.replica import ReplicaConfig
from rayraft.storage.identity import IDENTITY_FILE, Identity, read_identity

log = logging.getLogger("rayraft")
MAX_NODES = 9
POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Settings:
    """How the nodes of a group behave; every field of `RaftConfig` and `ReplicaConfig` that a user may want to turn."""

    election_timeout: float = 1.0
    heartbeat_interval: float = 0.1
    snapshot_entries: int = 100_000
    snapshot_bytes: int = 256 << 20
    snapshot_trailing: int = 1_000
    # See `ReplicaConfig`; 0: the nodes never compare their states.
    digest_entries: int = 50_000
    snapshot_trailing_bytes: int = 64 << 20
    snapshot_bytes_per_second: int = 128 << 20
    # By how much two nodes' clocks may differ in rate; None: no reads by lease (see `RaftConfig.max_clock_drift`).
    max_clock_drift: float | None = None
    # False leaves out every fsync: a benchmark's way to see what durability costs. A power loss then loses data.
    fsync: bool = True
    client: ClientConfig = field(default_factory=ClientConfig)

    def replica_config(self, node: NodeId) -> ReplicaConfig:
        """Raises BadConfiguration for values out of range."""
        raft = RaftConfig(
            node_id=node,
            election_timeout=self.election_timeout,
            heartbeat_interval=self.heartbeat_interval,
            max_clock_drift=self.max_clock_drift,
        )
        return ReplicaConfig(
            raft=raft,
            snapshot_entries=self.snapshot_entries,
            snapshot_bytes=self.snapshot_bytes,
            snapshot_trailing=self.snapshot_trailing,
            digest_entries=self.digest_entries,
            snapshot_trailing_bytes=self.snapshot_trailing_bytes,
            snapshot_bytes_per_second=self.snapshot_bytes_per_second,
        )


class Cluster:
    """The nodes of one group, as an operator sees them."""

    def __init__(self, name: str, handles: Mapping[NodeId, Any]) -> None:
        self._name = name
        self._handles = dict(handles)
        self._methods: dict[str, bool] = {}
        self._clients: list[Client] = []

    @property
    def name(self) -> str:
        return self._name

    @property
    def nodes(self) -> list[NodeId]:
        return sorted(self._handles)

    @property
    def commands(self) -> frozenset[str]:
        return frozenset(name for name, is_command in self._methods.items() if is_command)

    @property
    def queries(self) -> frozenset[str]:
        return frozenset(name for name, is_command in self._methods.items() if not is_command)

    def reconnect(self) -> Callable[[], Handle]:
        return partial(connect, self._name)

    def actor(self, node: NodeId) -> Any:
        """The Ray actor handle of one node."""
        return self._handles[node]

    def reports(self, timeout_s: float = 5.0) -> dict[NodeId, NodeReport | Exception]:
        """What each node says of itself, or why it could not be asked within ``timeout_s`` seconds."""
        references = {node: handle.report.remote() for node, handle in self._handles.items()}
        return gather(references, timeout_s)

    def status(self, timeout_s: float = 5.0) -> dict[NodeId, NodeReport | Exception]:
        return self.reports(timeout_s)

    def leader(self, timeout_s: float = 30.0) -> NodeId:
        """Wait until a node leads and serves, and return its id. Raises NoQuorum after ``timeout_s`` seconds."""
        deadline = time.monotonic() + timeout_s
        while True:
            reports = self.reports()
            leader = _serving_leader(reports)
            if leader is not None:
                return leader
            self._look_again()
            if time.monotonic() > deadline:
                raise NoQuorum(f"no leader of {self._name!r} within {timeout_s} s:\n{_explain(reports)}")
            time.sleep(POLL_SECONDS)

    def _look_again(self) -> None:
        """Somebody else may have changed the members."""
        with contextlib.suppress(NoSuchGroup, ValueError):
            self._handles = find_nodes(self._name)

    def digests(self, timeout_s: float = 30.0) -> dict[NodeId, tuple[int, str]]:
        """(applied index, hash of the state) of every node that answers."""
        found = gather({node: handle.digest.remote() for node, handle in self._handles.items()}, timeout_s)
        return {node: (item[0], item[1].hex()) for node, item in found.items() if not isinstance(item, Exception)}

    def wait_until_equal(self, timeout_s: float = 30.0) -> dict[NodeId, tuple[int, str]]:
        """Wait until every node has applied the same index, and return the hashes there; the newest after the deadline.

        Meant for a group without load: under load the nodes are never at one index.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            digests = self.digests()
            indexes = {index for index, _ in digests.values()}
            if (len(digests) == len(self._handles) and len(indexes) == 1) or time.monotonic() > deadline:
                return digests
            time.sleep(POLL_SECONDS)

    def take_snapshot(self) -> None:
        """Have every node save its state and cut its log now."""
        gather({node: handle.take_snapshot.remote() for node, handle in self._handles.items()}, 30.0)

    # --- members and leadership ---------------------------------------------------------------------------------------

    def configuration(self) -> Configuration:
        """Who votes, learns, witnesses and is preferred as leader, as the leader has it. Raises NoQuorum."""
        return Members(self).configuration()

    def add_node(
        self,
        *,
        directory: str | Path | None = None,
        witness: bool = False,
        learner: bool = False,
        timeout_s: float = 120.0,
    ) -> NodeId:
        """Start another node and make it a voter once it has caught up; returns its id, which was never used before.

        Its disk is ``directory``, by default ``node-ID`` beside those of the others. A ``learner`` receives everything
        and does not vote; a ``witness`` votes and stores no data, so that two full copies live on with three votes.
        Raises MembershipRefused, NoQuorum, or what is wrong with the directory; nothing is left behind then.
        """
        return Members(self).add(directory=directory, witness=witness, learner=learner, timeout_s=timeout_s)

    def remove_node(self, node: NodeId, *, timeout_s: float = 60.0) -> None:
        """Have ``node`` leave, also if it is dead or leads. Its directory stays, and can not be used again.

        Raises MembershipRefused (also when too few of the others answer), NoQuorum.
        """
        Members(self).remove(node, timeout_s)

    def replace_node(self, node: NodeId, *, directory: str | Path | None = None, timeout_s: float = 120.0) -> NodeId:
        """A new node takes the place of ``node``, whose disk may be lost; returns the new id. Raises as `add_node`."""
        return Members(self).replace(node, directory=directory, timeout_s=timeout_s)

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
        self._look_again()
        version = upgrade(self, machine, without_absent=without_absent, timeout_s=timeout_s)
        self._methods = _methods(self.reports())
        return version

    def scale(self, nodes: int, *, timeout_s: float = 600.0, on_progress: Progress = ignore) -> Configuration:
        """Make the group one of 1, 3, 5, 7 or 9 voters, while it serves; returns its configuration then.

        New nodes catch up without a vote; then one joint change makes them voters and removes the surplus: first who
        does not answer, never the leader if it can be helped, then who shares a machine with most of the others.
        Learners of the group are made voters before new nodes are started. Safe to repeat after an interruption.

        Raises BadConfiguration, MembershipRefused (a majority of the new voters would not answer), NoQuorum.
        """
        self._look_again()
        return scale(self, nodes, timeout_s, on_progress)

    def restart_nodes(
        self, *, allow_downtime: bool = False, timeout_s: float = 600.0, on_progress: Progress = ignore
    ) -> None:
        """Start every node's process anew, one at a time, the leader last and after it has handed over.

        The next one goes only when the last is back from its disk and has caught up. Raises NoQuorum before a node
        goes without whom too few would be left, unless ``allow_downtime`` (a group of one or two has no other way).
        """
        self._look_again()
        restart_nodes(self, allow_downtime, timeout_s, on_progress)

    def admit(self, node: NodeId, actor: Any) -> None:
        """For `Members`: ``actor`` belongs to the group from now on."""
        self._handles[node] = actor

    def dismiss(self, node: NodeId) -> Any:
        """For `Members`: ``node`` is gone; its actor, if there is one."""
        return self._handles.pop(node, None)

    def shutdown(self, timeout_s: float = 30.0) -> None:
        """End the group's actors in good order; the data directories stay, and `start` resumes from them."""
        for client in self._clients:
            client.close()
        gather({node: handle.stop.remote() for node, handle in self._handles.items()}, timeout_s)
        for handle in self._handles.values():
            ray.kill(handle, no_restart=True)
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            try:
                find_nodes(self._name)
            except (NoSuchGroup, ValueError):
                return
            time.sleep(POLL_SECONDS)

    def handle(self, config: ClientConfig, timeout_s: float) -> Handle:
        self._methods = _methods(self.reports())
        client = Client(RayEndpoints(self._name, self._handles), config)
        self._clients.append(client)
        return Handle(client, self, timeout_s)


def start(
    machine: type,
    *,
    name: str,
    nodes: int = 3,
    witnesses: int = 0,
    data_dir: str | Path,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    settings: Settings | None = None,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    start_timeout_s: float = 120.0,
) -> Handle:
    """Start a replicated object, or resume it from its data directory; returns a handle when it serves.

    ``machine`` is a class with methods marked by `rayraft.command` and `rayraft.query`; ``args`` and ``kwargs`` go to
    its constructor on a new group. Node ``i`` keeps its disk in ``data_dir/node-i``. Of the ``nodes`` the last
    ``witnesses`` vote and store no data: fewer copies, the same majority. Calls of the handle wait at most
    ``timeout_s`` seconds. If the group runs already with the same methods and nodes, this connects to it. A group that
    was upgraded (`Cluster.upgrade`) resumes with the class it was upgraded to, and logs a warning if that is another.

    Raises BadConfiguration (arguments), WrongDirectory, LostDisk, DamagedLog (disks), GroupExists (another group has
    the name), NoQuorum (a majority of the disks does not come up).
    """
    settings = settings or Settings()
    methods = {method: mark.is_command for method, mark in marked_methods(machine).items()}
    check_group_name(name)
    directory = Path(data_dir).expanduser().resolve()
    founded = any(directory.glob(f"node-*/{IDENTITY_FILE}"))
    if nodes not in range(1, MAX_NODES + 1, 1 if founded else 2):  # members may have left since it was founded
        raise BadConfiguration(f"nodes must be 1, 3, 5, 7 or 9, not {nodes!r}: an even number adds no fault tolerance")
    if not timeout_s > 0:
        raise BadConfiguration(f"timeout_s must be above 0, not {timeout_s}")
    if (directory / IDENTITY_FILE).exists():
        raise BadConfiguration(
            f"{directory} is the directory of one node: data_dir is the directory above those of all nodes"
        )
    if not 0 <= witnesses <= nodes // 2:
        raise BadConfiguration(
            f"witnesses must be 0 to {nodes // 2} of {nodes} nodes, not {witnesses!r}: a majority has to store the data"
        )
    specs = [
        NodeSpec(
            group=name,
            node_id=node,
            directory=str(directory / f"node-{node}"),
            machine=cloudpickle.dumps((machine, tuple(args), dict(kwargs or {}))),
            config=settings.replica_config(node),
            fsync=settings.fsync,
        )
        for node in _nodes_of(directory, nodes)
    ]
    _ensure_ray()
    cluster, created = _create_or_find(name, specs)
    try:
        if created:
            _bring_up(cluster, nodes, witnesses, start_timeout_s)
            _say_if_upgraded(cluster, machine, methods)
        else:
            cluster.leader(start_timeout_s)
            _check_same(cluster, nodes, directory, methods)
    except BaseException:
        if created:
            with contextlib.suppress(Exception):
                cluster.shutdown()
        raise
    return cluster.handle(settings.client, timeout_s)


def connect(name: str, *, timeout_s: float = DEFAULT_TIMEOUT_S, config: ClientConfig | None = None) -> Handle:
    """A handle on a group that runs in this Ray cluster, from any driver, task, actor or notebook.

    Raises NoSuchGroup; NoQuorum when none of its nodes answers.
    """
    return find_cluster(name).handle(config or ClientConfig(), timeout_s)


def find_cluster(name: str) -> Cluster:
    """The operator's view of a group that runs in this Ray cluster. Raises NoSuchGroup."""
    check_group_name(name)
    _ensure_ray()
    return Cluster(name, find_nodes(name))


# --- the steps of a start ---------------------------------------------------------------------------------------------


def _ensure_ray() -> None:
    if ray.util.client.ray.is_connected():
        log.warning(
            "this driver is connected through Ray Client (ray://), which makes some 500 calls a second: run what sends "
            "many commands as a Ray task or actor"
        )
    elif not ray.is_initialized():
        ray.init(logging_level=logging.ERROR, log_to_driver=True)


def _nodes_of(directory: Path, nodes: int) -> list[NodeId]:
    """Who is to be brought up: the first ``nodes`` of a new group, else its founders and those that joined later.

    As far as the directories tell that this process sees; those of removed nodes do not count.
    """
    identities: dict[NodeId, Identity | None] = {}
    for path in directory.glob("node-*"):
        if path.name[5:].isdecimal():
            identities[int(path.name[5:])] = None
            with contextlib.suppress(StorageError):  # the node itself will say what is wrong with its directory
                identities[int(path.name[5:])] = read_identity(path)
    known = [identity for identity in identities.values() if identity is not None]
    founders = {voter for identity in known for voter in identity.voters if not identity.removed}
    removed = {identity.node_id for identity in known if identity.removed}
    joined = {node for node, identity in identities.items() if identity is not None}
    return sorted(((founders or set(range(1, nodes + 1))) | joined) - removed)


def _create_or_find(name: str, specs: list[NodeSpec]) -> tuple[Cluster, bool]:
    """The group's actors: newly created, or those of a group of this name that runs already."""
    try:
        return Cluster(name, find_nodes(name)), False
    except NoSuchGroup:
        pass
    handles: dict[NodeId, Any] = {}
    for spec in specs:
        try:
            handles[spec.node_id] = create_actor(spec)
        except ValueError:  # the name is taken: another start was faster
            for handle in handles.values():
                ray.kill(handle, no_restart=True)
            return Cluster(name, find_nodes(name)), False
    return Cluster(name, handles), True


def _bring_up(cluster: Cluster, nodes: int, witnesses: int, timeout_s: float) -> None:
    """Found the group on blank disks, or resume it from those of its nodes that have theirs."""
    deadline = time.monotonic() + timeout_s
    reports = _all_reports(cluster, deadline)
    _raise_wrong(reports)
    identities = {node: report.identity for node, report in reports.items() if report.identity is not None}
    _check_one_group(identities)
    if not any(identity.sealed for identity in identities.values()):
        cluster_id = next((identity.cluster_id for identity in identities.values()), secrets.token_hex(8))
        voters = tuple(range(1, nodes + 1))
        _on_every_node(cluster, "format", deadline, cluster_id, voters, voters[nodes - witnesses :])
        _on_every_node(cluster, "seal", deadline)
    else:
        if any(report.state is NodeState.FORMATTED for report in reports.values()):
            reports = _on_every_node(cluster, "seal", deadline)  # a start was interrupted between two seals
        _check_disks(cluster, nodes, reports)
    with contextlib.suppress(Exception):
        gather({node: cluster.actor(node).campaign.remote() for node in cluster.nodes[:1]}, 5.0)
    cluster.leader(max(1.0, deadline - time.monotonic()))
    _dismiss_strangers(cluster)


def _dismiss_strangers(cluster: Cluster) -> None:
    """Nodes that were removed while they were down, or whose joining was interrupted, are not brought up."""
    members = set(cluster.configuration().members())
    for node in set(cluster.nodes) - members:
        Members(cluster).end(node)


def _on_every_node(cluster: Cluster, step: str, deadline: float, *arguments: Any) -> dict[NodeId, NodeReport]:
    """One step of founding a group; repeating it changes nothing."""
    calls = {node: getattr(cluster.actor(node), step).remote(*arguments) for node in cluster.nodes}
    answers = gather(calls, max(1.0, deadline - time.monotonic()))
    failed = {node: answer for node, answer in answers.items() if isinstance(answer, Exception)}
    if failed:
        raise NoQuorum(f"the group could not be founded, some nodes do not answer: {failed}")
    _raise_wrong(answers)
    return answers


def _check_disks(cluster: Cluster, nodes: int, reports: Mapping[NodeId, NodeReport]) -> None:
    """Resume with a majority of the disks; say which ones are missing."""
    founders = {voter for report in reports.values() if report.identity for voter in report.identity.voters}
    running = {node: report.replica for node, report in reports.items() if report.replica is not None}
    newest = max(running.values(), key=lambda status: (status.term, status.last_index), default=None)
    voters = newest.configuration.all_voters() if newest is not None else frozenset(founders)
    if nodes not in (len(founders), len(voters)):
        raise BadConfiguration(
            f"{cluster.name!r} was founded with {len(founders)} nodes and has {len(voters)}: start it with "
            f"nodes={len(founders)}"
        )
    lost = [node for node in reports if node in voters and node not in running]
    if not lost:
        return
    reasons = "; ".join(f"node {node}: {reports[node].error or reports[node].state.value}" for node in lost)
    blank = [node for node in lost if reports[node].state in (NodeState.BLANK, NodeState.FORMATTED)]
    if blank:
        directories = ", ".join(reports[node].directory for node in blank)
        reasons += f". Missing or empty data directories of known nodes: {directories}"
    if len(voters & running.keys()) < majority(len(voters)):
        error = LostDisk if blank else NoQuorum
        raise error(f"{cluster.name!r} cannot resume, only a minority of its disks is there: {reasons}")
    log.warning("%r resumes without some of its nodes: %s", cluster.name, reasons)


def _check_same(cluster: Cluster, nodes: int, directory: Path, methods: dict[str, bool]) -> None:
    reports = [report for report in cluster.reports().values() if isinstance(report, NodeReport)]
    if any(report.protocol != PROTOCOL_VERSION for report in reports):
        raise GroupExists(f"{cluster.name!r} runs another version of rayraft: shut it down, then start it again")
    running = _methods({report.node_id: report for report in reports})
    founders = {voter for report in reports if report.identity for voter in report.identity.voters}
    if nodes not in (len(cluster.nodes), len(founders)) or running != methods:
        raise GroupExists(
            f"a group {cluster.name!r} runs already, with {len(cluster.nodes)} nodes and the methods "
            f"{', '.join(sorted(running))}: choose another name, shut it down with "
            f"rayraft.connect({cluster.name!r}).cluster.shutdown(), or upgrade it to a new version of its class with "
            f"rayraft.connect({cluster.name!r}).cluster.upgrade(...)"
        )
    elsewhere = [report for report in reports if report.node_id in founders]
    elsewhere = [report for report in elsewhere if report.directory != str(directory / f"node-{report.node_id}")]
    if elsewhere:
        raise GroupExists(f"a group {cluster.name!r} runs already, in another data directory: {elsewhere[0].directory}")


def _say_if_upgraded(cluster: Cluster, machine: type, methods: dict[str, bool]) -> None:
    """A group that was upgraded goes on with the class in its log, whichever one `start` was given."""
    found = _newest(cluster.reports())
    if found.version and (found.methods != methods or found.machine != machine.__name__):
        log.warning(
            "%r goes on with the class that it was upgraded to, %s (version %d), not with %s: "
            "call handle.cluster.upgrade(%s) for that",
            cluster.name,
            found.machine,
            found.version,
            machine.__name__,
            machine.__name__,
        )


def _check_one_group(identities: Mapping[NodeId, Any]) -> None:
    clusters = {identity.cluster_id for identity in identities.values()}
    if len(clusters) > 1:
        raise WrongDirectory(
            "the data directories belong to different groups of the same name: "
            + ", ".join(f"node {node}: cluster {identity.cluster_id}" for node, identity in identities.items())
        )


def _raise_wrong(reports: Mapping[NodeId, NodeReport]) -> None:
    """What an operator must put right is raised; a disk that is lost or damaged is weighed against the others."""
    for report in reports.values():
        if isinstance(report.error, WrongDirectory):
            raise report.error
    failed = [report for report in reports.values() if report.error is not None]
    if len(reports) - len(failed) < majority(len(reports)) and failed[0].error is not None:
        raise failed[0].error


def _all_reports(cluster: Cluster, deadline: float) -> dict[NodeId, NodeReport]:
    """Wait until every new actor has come up."""
    answers = cluster.reports(max(1.0, deadline - time.monotonic()))
    failed = {node: answer for node, answer in answers.items() if isinstance(answer, Exception)}
    if failed:
        raise NoQuorum(f"some node actors of {cluster.name!r} did not come up: {failed}")
    return {node: answer for node, answer in answers.items() if isinstance(answer, NodeReport)}


# --- what the reports say ---------------------------------------------------------------------------------------------


def _serving_leader(reports: Mapping[NodeId, NodeReport | Exception]) -> NodeId | None:
    """The leader of the newest term, if its no-op is applied."""
    leaders = [
        report.replica
        for report in reports.values()
        if isinstance(report, NodeReport) and report.replica is not None and report.replica.role == "leader"
    ]
    if not leaders:
        return None
    newest = max(leaders, key=lambda status: status.term)
    return newest.leader if newest.serves else None


def _methods(reports: Mapping[NodeId, NodeReport | Exception]) -> dict[str, bool]:
    return _newest(reports).methods


def _newest(reports: Mapping[NodeId, NodeReport | Exception]) -> NodeReport:
    """Of a node whose class is the newest: others may be behind."""
    found = [report for report in reports.values() if isinstance(report, NodeReport)]
    if not found:
        raise NoQuorum(f"no node answers:\n{_explain(reports)}")
    return max(found, key=lambda report: report.version)


def _explain(reports: Mapping[NodeId, NodeReport | Exception]) -> str:
    lines: Iterable[str] = (
        f"  node {node}: {report}"
        if isinstance(report, Exception)
        else f"  node {node}: {report.state.value}"
        + (f", {report.replica.role} in term {report.replica.term}" if report.replica else "")
        + (f", {report.error}" if report.error else "")
        for node, report in sorted(reports.items())
    )
    return "\n".join(lines)


__all__ = ["Cluster", "RayraftError", "Settings", "connect", "find_cluster", "start"]
