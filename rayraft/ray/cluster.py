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
    WrongDirectory,
)
from rayraft.machine.objects import marked_methods
from rayraft.raft.quorum import majority
from rayraft.raft.ready import RaftConfig
from rayraft.raft.types import NodeId
from rayraft.ray.endpoints import RayEndpoints
from rayraft.ray.names import NAMESPACE, actor_name, check_group_name, find_nodes
from rayraft.ray.node import CONCURRENCY_GROUPS, Node, NodeReport, NodeSpec, NodeState
from rayraft.ray.wire import PROTOCOL_VERSION
from rayraft.replica import ReplicaConfig
from rayraft.storage.identity import IDENTITY_FILE

log = logging.getLogger("rayraft")
MAX_NODES = 9
POLL_SECONDS = 0.05
# A call on a dead process fails at once instead of after a second or two: crashes become elections in milliseconds.
NODE_ENVIRONMENT = {"RAY_timeout_ms_task_wait_for_death_info": "0"}


@dataclass(frozen=True, slots=True)
class Settings:
    """How the nodes of a group behave; every field of `RaftConfig` and `ReplicaConfig` that a user may want to turn."""

    election_timeout: float = 1.0
    heartbeat_interval: float = 0.1
    snapshot_entries: int = 100_000
    snapshot_bytes: int = 256 << 20
    snapshot_trailing: int = 1_000
    # False leaves out every fsync: a benchmark's way to see what durability costs. A power loss then loses data.
    fsync: bool = True
    client: ClientConfig = field(default_factory=ClientConfig)

    def replica_config(self, node: NodeId) -> ReplicaConfig:
        """Raises BadConfiguration for values out of range."""
        raft = RaftConfig(
            node_id=node, election_timeout=self.election_timeout, heartbeat_interval=self.heartbeat_interval
        )
        return ReplicaConfig(
            raft=raft,
            snapshot_entries=self.snapshot_entries,
            snapshot_bytes=self.snapshot_bytes,
            snapshot_trailing=self.snapshot_trailing,
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
        return _gather(references, timeout_s)

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
            if time.monotonic() > deadline:
                raise NoQuorum(f"no leader of {self._name!r} within {timeout_s} s:\n{_explain(reports)}")
            time.sleep(POLL_SECONDS)

    def digests(self, timeout_s: float = 30.0) -> dict[NodeId, tuple[int, str]]:
        """(applied index, hash of the state) of every node that answers."""
        found = _gather({node: handle.digest.remote() for node, handle in self._handles.items()}, timeout_s)
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
        _gather({node: handle.take_snapshot.remote() for node, handle in self._handles.items()}, 30.0)

    def shutdown(self, timeout_s: float = 30.0) -> None:
        """End the group's actors in good order; the data directories stay, and `start` resumes from them."""
        for client in self._clients:
            client.close()
        _gather({node: handle.stop.remote() for node, handle in self._handles.items()}, timeout_s)
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
        client = Client(RayEndpoints(self._handles), config)
        self._clients.append(client)
        return Handle(client, self, timeout_s)


def start(
    machine: type,
    *,
    name: str,
    nodes: int = 3,
    data_dir: str | Path,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    settings: Settings | None = None,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    start_timeout_s: float = 120.0,
) -> Handle:
    """Start a replicated object, or resume it from its data directory; returns a handle when it serves.

    ``machine`` is a class with methods marked by `rayraft.command` and `rayraft.query`; ``args`` and ``kwargs`` go to
    its constructor on a new group. Node ``i`` keeps its disk in ``data_dir/node-i``. Calls of the handle wait at most
    ``timeout_s`` seconds. If the group runs already with the same methods and nodes, this connects to it.

    Raises BadConfiguration (arguments), WrongDirectory, LostDisk, DamagedLog (disks), GroupExists (another group has
    the name), NoQuorum (a majority of the disks does not come up).
    """
    settings = settings or Settings()
    methods = {method: mark.is_command for method, mark in marked_methods(machine).items()}
    check_group_name(name)
    if nodes not in range(1, MAX_NODES + 1, 2):
        raise BadConfiguration(f"nodes must be 1, 3, 5, 7 or 9, not {nodes!r}: an even number adds no fault tolerance")
    if not timeout_s > 0:
        raise BadConfiguration(f"timeout_s must be above 0, not {timeout_s}")
    directory = Path(data_dir).expanduser().resolve()
    if (directory / IDENTITY_FILE).exists():
        raise BadConfiguration(
            f"{directory} is the directory of one node: data_dir is the directory above those of all nodes"
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
        for node in range(1, nodes + 1)
    ]
    _ensure_ray()
    cluster, created = _create_or_find(name, specs)
    try:
        if created:
            _bring_up(cluster, specs, start_timeout_s)
        else:
            cluster.leader(start_timeout_s)
            _check_same(cluster, specs, methods)
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


def _create_or_find(name: str, specs: list[NodeSpec]) -> tuple[Cluster, bool]:
    """The group's actors: newly created, or those of a group of this name that runs already."""
    try:
        return Cluster(name, find_nodes(name)), False
    except NoSuchGroup:
        pass
    actor = ray.remote(num_cpus=0, concurrency_groups=CONCURRENCY_GROUPS)(Node)
    handles: dict[NodeId, Any] = {}
    for spec in specs:
        try:
            handles[spec.node_id] = actor.options(
                name=actor_name(name, spec.node_id),
                namespace=NAMESPACE,
                lifetime="detached",
                max_restarts=-1,
                max_task_retries=0,
                max_concurrency=8,
                enable_task_events=False,
                runtime_env={"env_vars": NODE_ENVIRONMENT},
            ).remote(spec)
        except ValueError:  # the name is taken: another start was faster
            for handle in handles.values():
                ray.kill(handle, no_restart=True)
            return Cluster(name, find_nodes(name)), False
    return Cluster(name, handles), True


def _bring_up(cluster: Cluster, specs: list[NodeSpec], timeout_s: float) -> None:
    """Found the group on blank disks, or resume it from those of its nodes that have theirs."""
    deadline = time.monotonic() + timeout_s
    reports = _all_reports(cluster, deadline)
    _raise_wrong(reports)
    identities = {node: report.identity for node, report in reports.items() if report.identity is not None}
    _check_one_group(identities)
    if not any(identity.sealed for identity in identities.values()):
        cluster_id = next((identity.cluster_id for identity in identities.values()), secrets.token_hex(8))
        _on_every_node(cluster, "format", deadline, cluster_id, tuple(spec.node_id for spec in specs))
        _on_every_node(cluster, "seal", deadline)
    else:
        if any(report.state is NodeState.FORMATTED for report in reports.values()):
            reports = _on_every_node(cluster, "seal", deadline)  # a start was interrupted between two seals
        _check_disks(cluster, specs, reports)
    with contextlib.suppress(Exception):
        _gather({node: cluster.actor(node).campaign.remote() for node in cluster.nodes[:1]}, 5.0)
    cluster.leader(max(1.0, deadline - time.monotonic()))


def _on_every_node(cluster: Cluster, step: str, deadline: float, *arguments: Any) -> dict[NodeId, NodeReport]:
    """One step of founding a group; repeating it changes nothing."""
    calls = {node: getattr(cluster.actor(node), step).remote(*arguments) for node in cluster.nodes}
    answers = _gather(calls, max(1.0, deadline - time.monotonic()))
    failed = {node: answer for node, answer in answers.items() if isinstance(answer, Exception)}
    if failed:
        raise NoQuorum(f"the group could not be founded, some nodes do not answer: {failed}")
    _raise_wrong(answers)
    return answers


def _check_disks(cluster: Cluster, specs: list[NodeSpec], reports: Mapping[NodeId, NodeReport]) -> None:
    """Resume with a majority of the disks; say which ones are missing."""
    founded = next(report.identity for report in reports.values() if report.identity is not None)
    if len(founded.voters) != len(specs):
        raise BadConfiguration(
            f"{cluster.name!r} was founded with {len(founded.voters)} nodes: start it with nodes={len(founded.voters)}"
        )
    lost = [node for node, report in reports.items() if report.state is not NodeState.RUNNING]
    if not lost:
        return
    reasons = "; ".join(f"node {node}: {reports[node].error or reports[node].state.value}" for node in lost)
    blank = [node for node in lost if reports[node].state in (NodeState.BLANK, NodeState.FORMATTED)]
    if blank:
        directories = ", ".join(reports[node].directory for node in blank)
        reasons += f". Missing or empty data directories of known nodes: {directories}"
    if len(reports) - len(lost) < majority(len(specs)):
        error = LostDisk if blank else NoQuorum
        raise error(f"{cluster.name!r} cannot resume, only a minority of its disks is there: {reasons}")
    log.warning("%r resumes without some of its nodes: %s", cluster.name, reasons)


def _check_same(cluster: Cluster, specs: list[NodeSpec], methods: dict[str, bool]) -> None:
    reports = [report for report in cluster.reports().values() if isinstance(report, NodeReport)]
    if any(report.protocol != PROTOCOL_VERSION for report in reports):
        raise GroupExists(f"{cluster.name!r} runs another version of rayraft: shut it down, then start it again")
    running = _methods({report.node_id: report for report in reports})
    if len(cluster.nodes) != len(specs) or running != methods:
        raise GroupExists(
            f"a group {cluster.name!r} runs already, with {len(cluster.nodes)} nodes and the methods "
            f"{', '.join(sorted(running))}: choose another name, or shut it down with "
            f"rayraft.connect({cluster.name!r}).cluster.shutdown()"
        )
    directories = {spec.node_id: spec.directory for spec in specs}
    if any(directories[report.node_id] != report.directory for report in reports):
        raise GroupExists(f"a group {cluster.name!r} runs already, in another data directory: {reports[0].directory}")


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


# --- asking several nodes at once -------------------------------------------------------------------------------------


def _gather(references: Mapping[NodeId, Any], timeout_s: float) -> dict[NodeId, Any]:
    """The results by node, an exception in the place of one that failed or took longer than ``timeout_s``."""
    ready, _ = ray.wait(list(references.values()), num_returns=len(references), timeout=timeout_s)
    done = set(ready)
    results: dict[NodeId, Any] = {}
    for node, reference in references.items():
        try:
            if reference in done:
                results[node] = ray.get(reference)
            else:
                results[node] = TimeoutError(f"no answer within {timeout_s} s")
        except Exception as error:
            results[node] = error
    return results


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
    for report in reports.values():
        if isinstance(report, NodeReport):
            return report.methods
    raise NoQuorum(f"no node answers:\n{_explain(reports)}")


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
