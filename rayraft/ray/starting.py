"""`start`: found a group, resume it from the disks of its machines, or connect to it where it runs."""

from __future__ import annotations

import contextlib
import logging
import re
import secrets
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import cloudpickle
import ray

from rayraft.client.config import check_timeout
from rayraft.client.handle import DEFAULT_TIMEOUT_S, Handle
from rayraft.errors import BadConfiguration, GroupExists, LostDisk, NoQuorum, NoSuchGroup, WrongDirectory
from rayraft.machine.objects import marked_methods
from rayraft.raft.quorum import VoteResult, majority, vote_result
from rayraft.raft.types import Configuration, NodeId
from rayraft.ray.actors import create_actor, gather, left
from rayraft.ray.cluster import Cluster, Found, Origin, ensure_ray
from rayraft.ray.founding import check_founding, describe
from rayraft.ray.group import newest_of
from rayraft.ray.members import Members, places_of
from rayraft.ray.names import check_group_name, find_nodes
from rayraft.ray.placement import Place, Placement, PlacementLike, placement_of, plan, settle
from rayraft.ray.settings import MAX_NODES, Settings, bad_size
from rayraft.ray.spec import NodeReport, NodeSpec, NodeState
from rayraft.ray.supervisor import ensure_supervisor
from rayraft.ray.survey import Survey, alive_machines, directory_of, is_unfinished, survey
from rayraft.ray.wire import PROTOCOL_VERSION
from rayraft.storage.identity import IDENTITY_FILE, FoundingClass, Identity

log = logging.getLogger("rayraft")
Plant: TypeAlias = Callable[[Cluster, float], None]
ATTACH_SECONDS = 2.0  # between two looks whether a group that does not serve yet is still there


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the caller of `start` asked for."""

    name: str
    nodes: int
    witnesses: int
    data_dir: str
    machine: bytes
    methods: Mapping[str, bool]
    founding: FoundingClass
    settings: Settings
    placement: Placement

    def spec(self, node: NodeId, home: Place) -> NodeSpec:
        return NodeSpec(
            group=self.name,
            node_id=node,
            directory=directory_of(self.data_dir, home, node),
            machine=self.machine,
            config=self.settings.replica_config(node),
            fsync=self.settings.fsync,
            niceness=self.settings.niceness,
            channels=self.settings.channels,
            home=home,
            placement=self.placement,
            data_dir=self.data_dir,
        )


def start(
    machine: type,
    *,
    name: str,
    nodes: int = 3,
    witnesses: int = 0,
    data_dir: str | Path,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    placement: PlacementLike = None,
    allow_colocated: bool = False,
    supervise: bool = True,
    settings: Settings | None = None,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    start_timeout_s: float = 120.0,
    plant: Plant | None = None,
) -> Handle:
    """Start a replicated object, or resume it from its data directory; returns a handle when it serves.

    ``machine`` is a class with methods marked by `rayraft.command` and `rayraft.query`; ``args`` and ``kwargs`` go to
    its constructor on a new group. Of the ``nodes`` the last ``witnesses`` vote and store no data: fewer copies, the
    same majority. Calls of the handle wait at most ``timeout_s`` seconds. If the group runs already with the same
    methods and nodes, this connects to it; ``handle.cluster.found`` says which of these it was. A group that was
    upgraded (`Cluster.upgrade`) resumes with the class it was upgraded to, and logs a warning if that is another. One
    that was not resumes with the class it was founded with alone, and logs a warning if its code was edited.

    Each node lives on a machine of its own and never leaves it. ``placement`` says which machines may be used: labels
    they must have (``{"disk": "ssd"}``, see Ray's label selectors), or a list of them. ``allow_colocated=True`` lets
    nodes share a machine where there are too few, as on a laptop. Node ``i`` keeps its disk in ``data_dir/node-i`` of
    its own machine: the same path everywhere, taken from this process's working directory if it is relative, with
    ``{machine}`` in it standing for the machine's name.

    Unless ``supervise`` is False, an actor keeps the group complete: see ``Settings.replace_after``.

    ``plant`` is for `restore`: it gives new nodes their state before they take part, until a deadline.

    Raises BadConfiguration (arguments, another class), ClassNotLoadable (a node lacks its module), NotEnoughMachines,
    WrongDirectory, LostDisk, DamagedLog (disks), GroupExists (another group has the name), NoQuorum (a majority of the
    disks does not come up).
    """
    wanted = _check_arguments(
        machine, name, nodes, witnesses, data_dir, args, kwargs, placement, allow_colocated, settings, timeout_s
    )
    ensure_ray()
    deadline = time.monotonic() + start_timeout_s
    while True:
        cluster = _attach(wanted, deadline)
        if cluster is not None and plant is not None:
            raise GroupExists(f"{name!r} runs already: a backup is restored as a new group, under a name that is free")
        cluster = cluster or _create(wanted, deadline, plant)
        if cluster is not None:
            break  # else another start was faster, or ended without success: look again
    if supervise:
        ensure_supervisor(name, wanted.settings.rules)
    _say(cluster)
    if cluster.found is None or cluster.found.origin is not Origin.NEW:
        _say_if_another(cluster, machine, wanted.methods)
    return cluster.handle(wanted.settings.client, timeout_s)


def _check_arguments(
    machine: type,
    name: str,
    nodes: int,
    witnesses: int,
    data_dir: str | Path,
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None,
    placement: PlacementLike,
    allow_colocated: bool,
    settings: Settings | None,
    timeout_s: float,
) -> Wanted:
    """Everything that can be told wrong before anything is asked or started."""
    settings = settings or Settings()
    if not isinstance(settings, Settings):
        raise BadConfiguration(f"settings must be made by rayraft.Settings(...), not {settings!r}")
    methods = {method: mark.is_command for method, mark in marked_methods(machine).items()}
    check_group_name(name)
    directory = _directory(data_dir)
    if not isinstance(nodes, int) or nodes not in range(1, MAX_NODES + 1):
        raise bad_size(nodes)
    check_timeout(timeout_s)
    if (directory / IDENTITY_FILE).exists():
        raise BadConfiguration(
            f"{directory} is the directory of one node: data_dir is the directory above those of all nodes"
        )
    if not 0 <= witnesses <= nodes // 2:
        raise BadConfiguration(
            f"witnesses must be 0 to {nodes // 2} of {nodes} nodes, not {witnesses!r}: a majority has to store the data"
        )
    settings.replica_config(1)
    return Wanted(
        name=name,
        nodes=nodes,
        witnesses=witnesses,
        data_dir=str(directory),
        machine=_packed(machine, args, kwargs or {}),
        methods=methods,
        founding=describe(machine),
        settings=settings,
        placement=placement_of(placement, allow_colocated=allow_colocated),
    )


def _directory(data_dir: object) -> Path:
    if not isinstance(data_dir, (str, Path)) or re.match(r"\w+:/", str(data_dir)):  # a Path has one slash there
        raise BadConfiguration(
            f"data_dir must be a directory on the disks of the machines where the nodes run, not {data_dir!r}"
        )
    return Path(data_dir).expanduser().resolve()


def _packed(machine: type, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
    """For the nodes. Raises BadConfiguration."""
    if not isinstance(args, Sequence) or isinstance(args, (str, bytes)) or not isinstance(kwargs, Mapping):
        raise BadConfiguration(
            f"args must be a list or tuple and kwargs a dictionary, not {args!r} and {kwargs!r}: one argument is "
            "args=(value,)"
        )
    try:
        data: bytes = cloudpickle.dumps((machine, tuple(args), dict(kwargs)))
    except Exception as error:
        parts = {"args": args, "kwargs": kwargs}
        what = next((name for name in parts if not _travels(parts[name])), f"{machine.__name__}, or what it uses,")
        raise BadConfiguration(
            f"{what} can not be pickled, so it can not be sent to the nodes ({error}): let the object make there what "
            "it needs"
        ) from error
    return data


def _travels(part: Any) -> bool:
    try:
        cloudpickle.dumps(part)
    except Exception:
        return False
    return True


def _say(cluster: Cluster) -> None:
    found = cluster.found
    if found is not None:
        log.log(logging.WARNING if found.lost else logging.INFO, "%r: %s", cluster.name, found)


def _say_if_another(cluster: Cluster, machine: type, methods: Mapping[str, bool]) -> None:
    """A group that runs, or was upgraded, goes on with the class that it has, whichever one `start` was given."""
    found = newest_of(cluster.quick_reports())
    if found.methods != methods or found.machine != machine.__name__:
        log.warning(
            "%r goes on with its class %s (version %d), not with %s: call handle.cluster.upgrade(%s) for that",
            cluster.name,
            found.machine,
            found.version,
            machine.__name__,
            machine.__name__,
        )


# --- a group that runs ------------------------------------------------------------------------------------------------


def _attach(wanted: Wanted, deadline: float) -> Cluster | None:
    """The group of this name that runs already, once it serves; None where there is none, or it ends meanwhile.

    Raises GroupExists when it is another one, NoQuorum when it does not serve in time.
    """
    while True:
        try:
            cluster = Cluster(wanted.name, find_nodes(wanted.name))
        except NoSuchGroup:
            return None
        try:
            cluster.leader(min(ATTACH_SECONDS, left(deadline, 0.1)))
        except NoQuorum as error:
            if time.monotonic() < deadline:
                continue
            raise NoQuorum(
                f"{error}\nA group of this name runs, but does not serve. If its start was interrupted, end it with "
                f"`rayraft shutdown {wanted.name}` and start it again: nothing on its disks is lost by that"
            ) from None
        cluster = Cluster(wanted.name, find_nodes(wanted.name))  # it may have been half started before
        reports = [report for report in cluster.reports().values() if isinstance(report, NodeReport)]
        _check_same(cluster, reports, wanted)
        cluster.found = Found(Origin.RUNNING, places_of(reports), {})
        return cluster


def _check_same(cluster: Cluster, reports: Collection[NodeReport], wanted: Wanted) -> None:
    if any(report.protocol != PROTOCOL_VERSION for report in reports):
        raise GroupExists(f"{cluster.name!r} runs another version of rayraft: shut it down, then start it again")
    running = newest_of({report.node_id: report for report in reports}).methods
    founders = {voter for report in reports if report.identity for voter in report.identity.voters}
    if wanted.nodes not in (len(cluster.nodes), len(founders)) or running != wanted.methods:
        raise GroupExists(
            f"a group {cluster.name!r} runs already, with {len(cluster.nodes)} nodes and the methods "
            f"{', '.join(sorted(running))}: choose another name, shut it down with "
            f"rayraft.connect({cluster.name!r}).cluster.shutdown(), or upgrade it to a new version of its class with "
            f"rayraft.connect({cluster.name!r}).cluster.upgrade(...)"
        )
    for report in reports:
        expected = directory_of(wanted.data_dir, report.home, report.node_id)
        if report.node_id in founders and report.directory != expected:
            raise GroupExists(f"a group {cluster.name!r} runs already, in another data directory: {report.directory}")


# --- a group that does not run ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Homes:
    """Who is to be brought up, and where."""

    places: dict[NodeId, Place]
    absent: dict[NodeId, str]  # those that do not come up now, and why
    unfinished: dict[NodeId, str]  # those that are not brought up, for they never became members: their directories


def _create(wanted: Wanted, deadline: float, plant: Plant | None) -> Cluster | None:
    """Found the group, or resume it from its disks; None when another start was faster."""
    homes = _find_homes(wanted, deadline)
    handles: dict[NodeId, Any] = {}
    for node, home in homes.places.items():
        try:
            handles[node] = create_actor(wanted.spec(node, home))
        except ValueError:  # the name is taken
            for handle in handles.values():
                ray.kill(handle, no_restart=True)
            return None
    cluster = Cluster(wanted.name, handles)
    try:
        cluster.found = _bring_up(cluster, wanted, homes, deadline, plant)
    except BaseException:
        with contextlib.suppress(Exception):
            cluster.shutdown()
        raise
    return cluster


def _find_homes(wanted: Wanted, deadline: float) -> Homes:
    """Ask the machines what they have of the group, and decide where each of its nodes belongs."""
    machines = alive_machines(wanted.placement.label)
    found = survey(wanted.data_dir, machines, left(deadline))
    machines = [machine for machine in machines if machine.place in found.by_place]
    identities = found.identities()
    _check_class(wanted, found)
    if not identities and wanted.nodes % 2 == 0:  # members may have left since the group was founded
        raise bad_size(wanted.nodes)
    nodes = _nodes_of(identities, wanted.nodes)
    if any(identity.sealed for identity in identities.values()):
        nodes = sorted({*nodes, *found.elsewhere()})
        places = settle(wanted.name, nodes, found.disks(), machines, wanted.placement, found.recorded())
    else:
        known = [node for node in nodes if node in identities]
        places = settle(wanted.name, known, found.disks(), machines, wanted.placement, {})
        rest = [node for node in nodes if node not in places]
        places |= plan(wanted.name, rest, machines, wanted.placement, places)
    absent = {node: "it has no disk here, and no machine is free" for node in nodes if node not in places}
    for node, place in places.items():
        if not any(machine.is_at(place) for machine in machines):
            absent[node] = f"its machine {place} is away"
    unfinished = {node: directory for node, directory in found.unfinished().items() if node not in nodes}
    return Homes({node: places[node] for node in nodes if node in places}, absent, unfinished)


def _check_class(wanted: Wanted, found: Survey) -> None:
    """Nodes that keep the class which their log begins with are not given another one: the group may be upgraded."""
    disks = [disk for disk in found.everything() if disk.identity is not None and disk.identity.sealed]
    if not any(disk.keeps_class for disk in disks):
        identities = [disk.identity for disk in disks if disk.identity is not None and not disk.identity.removed]
        founded = [identity.founding for identity in identities if identity.founding is not None]
        check_founding(wanted.name, wanted.founding, founded)


def _nodes_of(identities: Mapping[NodeId, Identity], nodes: int) -> list[NodeId]:
    """Who is to be brought up: the first ``nodes`` of a new group, else its founders and those that joined later.

    As far as the disks tell; those of removed nodes do not count, nor those of nodes that never became members.
    """
    founders = {voter for identity in identities.values() for voter in identity.voters if not identity.removed}
    out = {identity.node_id for identity in identities.values() if identity.removed or is_unfinished(identity)}
    return sorted(((founders or set(range(1, nodes + 1))) | identities.keys()) - out)


def _bring_up(cluster: Cluster, wanted: Wanted, homes: Homes, deadline: float, plant: Plant | None) -> Found:
    """Found the group on blank disks, or resume it from those of its nodes that have theirs."""
    here = [node for node in cluster.nodes if node not in homes.absent]
    reports = _all_reports(cluster, here, deadline)
    _raise_wrong(reports)
    identities = {node: report.identity for node, report in reports.items() if report.identity is not None}
    _check_one_group(identities)
    if plant is not None and identities:
        used = ", ".join(reports[node].directory for node in identities)
        raise WrongDirectory(f"a backup is restored to empty directories, and these are in use: {used}")
    lost: dict[NodeId, str] = {}
    new = not any(identity.sealed for identity in identities.values())
    if new:
        founders = range(1, wanted.nodes + 1)
        leftovers = {node: "its directory is a leftover, move it away" for node in founders if node not in here}
        if missing := leftovers | homes.absent:
            raise NoQuorum(f"{cluster.name!r} could not be founded: {_listed(missing)}")
        cluster_id = next((identity.cluster_id for identity in identities.values()), secrets.token_hex(8))
        _found_group(cluster, wanted, here, cluster_id, deadline, plant)
    else:
        founded = [node for node in here if not is_unfinished(reports[node].identity)]
        if any(reports[node].state is NodeState.FORMATTED for node in founded):
            reports |= _on_every_node(cluster, founded, "seal", deadline)  # a start was interrupted between two seals
        lost = _check_disks(cluster, wanted.nodes, reports, homes.absent)
    with contextlib.suppress(Exception):
        gather({node: cluster.actor(node).campaign.remote() for node in here[:1]}, 5.0)
    cluster.leader(left(deadline))
    _dismiss_strangers(cluster, homes.absent)
    gather({node: cluster.actor(node).note_places.remote(homes.places) for node in here if node in cluster.nodes}, 5.0)
    return Found(Origin.NEW if new else Origin.RESUMED, homes.places, lost, homes.unfinished)


def _found_group(
    cluster: Cluster, wanted: Wanted, nodes: Sequence[NodeId], cluster_id: str, deadline: float, plant: Plant | None
) -> None:
    """No node is sealed before each has its identity, and an object like that of the others."""
    voters = tuple(range(1, wanted.nodes + 1))
    witnesses = voters[wanted.nodes - wanted.witnesses :]
    arguments = (cluster_id, voters, witnesses, plant is not None)
    reports = _on_every_node(cluster, nodes, "format", deadline, *arguments)
    for report in reports.values():
        if report.error is not None:
            raise report.error
    if plant is not None:
        plant(cluster, deadline)
    elif wanted.settings.digest_entries and len({report.initial for report in reports.values()}) > 1:
        raise BadConfiguration(
            f"{wanted.founding.name}.__init__ is not deterministic: the nodes have made objects that differ, so the "
            "group was not founded. Let it depend on nothing but its arguments, and pass times, random numbers and "
            "ids in args or kwargs"
        )
    _on_every_node(cluster, nodes, "seal", deadline)


def _dismiss_strangers(cluster: Cluster, absent: Collection[NodeId]) -> None:
    """Nodes that were removed while they were down, or whose joining was interrupted, are not brought up."""
    members = set(cluster.configuration().members())
    strangers = set(cluster.nodes) - members
    gather({node: cluster.actor(node).retire.remote() for node in strangers if node not in absent}, 5.0)
    for node in strangers:
        Members(cluster).end(node, ask=node not in absent)


def _on_every_node(
    cluster: Cluster, nodes: Sequence[NodeId], step: str, deadline: float, *arguments: Any
) -> dict[NodeId, NodeReport]:
    """One step of founding a group; repeating it changes nothing."""
    calls = {node: getattr(cluster.actor(node), step).remote(*arguments) for node in nodes}
    answers = gather(calls, left(deadline))
    failed = {node: answer for node, answer in answers.items() if isinstance(answer, Exception)}
    if failed:
        raise NoQuorum(f"the group could not be founded, some nodes do not answer: {failed}")
    _raise_wrong(answers)
    return answers


def _check_disks(
    cluster: Cluster, nodes: int, reports: Mapping[NodeId, NodeReport], absent: Mapping[NodeId, str]
) -> dict[NodeId, str]:
    """Whether the disks that are there can elect a leader; which voters are not, and why. Raises LostDisk, NoQuorum."""
    founders = {voter for report in reports.values() if report.identity for voter in report.identity.voters}
    running = {node: report.replica for node, report in reports.items() if report.replica is not None}
    newest = max(running.values(), key=lambda status: (status.term, status.last_index), default=None)
    configuration = newest.configuration if newest is not None else Configuration(voters=tuple(sorted(founders)))
    voters = configuration.all_voters()
    if nodes not in (len(founders), len(voters)):
        raise BadConfiguration(
            f"{cluster.name!r} was founded with {len(founders)} nodes and has {len(voters)}: start it with "
            f"nodes={len(founders)}"
        )
    lost = {node: reason for node, reason in absent.items() if node in voters}
    for node, report in reports.items():
        if node in voters and node not in running:
            lost[node] = str(report.error or report.state.value)
    unseen = voters - reports.keys() - absent.keys()
    lost |= dict.fromkeys(unseen, "no directory of it under data_dir; was it started with one elsewhere? Link it there")
    blank = [node for node in lost if node in reports and reports[node].state in (NodeState.BLANK, NodeState.FORMATTED)]
    if vote_result(configuration, {voter: voter in running for voter in voters}) is not VoteResult.WON:
        reasons = _listed(lost)
        if blank:
            directories = ", ".join(reports[node].directory for node in blank)
            reasons += (
                f". Missing or empty data directories of known nodes: {directories}. If such a node was started with "
                "another directory=, make a link to it there"
            )
        error = LostDisk if blank else NoQuorum
        raise error(f"{cluster.name!r} cannot resume, no majority of its disks is there: {reasons}")
    return lost | {node: f"its directory {reports[node].directory} is missing or empty" for node in blank}


def _listed(reasons: Mapping[NodeId, str]) -> str:
    return "; ".join(f"node {node}: {reason}" for node, reason in sorted(reasons.items()))


def _check_one_group(identities: Mapping[NodeId, Identity]) -> None:
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
    if failed and len(reports) - len(failed) < majority(len(reports)) and failed[0].error is not None:
        raise failed[0].error


def _all_reports(cluster: Cluster, nodes: Sequence[NodeId], deadline: float) -> dict[NodeId, NodeReport]:
    """Wait until every new actor has come up."""
    answers = gather({node: cluster.actor(node).report.remote() for node in nodes}, left(deadline))
    failed = {node: answer for node, answer in answers.items() if isinstance(answer, Exception)}
    if failed:
        raise NoQuorum(f"some node actors of {cluster.name!r} did not come up: {failed}")
    return {node: answer for node, answer in answers.items() if isinstance(answer, NodeReport)}
