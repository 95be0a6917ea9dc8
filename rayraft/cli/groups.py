"""The operator's commands on one group: `list`, `status`, `snapshot`, `shutdown`, `recover`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.markup import escape

from rayraft.bench.figures import table
from rayraft.bench.session import make_console, ray_session
from rayraft.bench.stats import format_size
from rayraft.cli.common import Address, AsJson, Group, app, one_line_errors, out
from rayraft.errors import BadConfiguration
from rayraft.raft.types import Configuration
from rayraft.ray.cluster import find_cluster, shut_down
from rayraft.ray.members import places_of
from rayraft.ray.names import list_groups
from rayraft.ray.spec import NodeReport
from rayraft.ray.supervision import Supervision
from rayraft.storage.identity import IDENTITY_FILE
from rayraft.storage.recovery import plan_recovery
from rayraft.storage.recovery import recover as run_recovery


@app.command("list")
def list_(address: Address = None, as_json: AsJson = False) -> None:
    """The groups that run in the Ray cluster."""
    with one_line_errors(), ray_session(address, local=False):
        groups = list_groups()
    if as_json:
        typer.echo(json.dumps(groups, indent=2))
    elif not groups:
        typer.echo("no groups run in this Ray cluster")
    else:
        found = table("", "group", "nodes")
        for name, nodes in groups.items():
            found.add_row(name, ", ".join(map(str, nodes)))
        make_console().print(found)


@app.command()
def status(name: Group, address: Address = None, as_json: AsJson = False) -> None:
    """Each node's role, term, log, disk, memory and process."""
    with one_line_errors(), ray_session(address, local=False):
        cluster = find_cluster(name)
        rows, watch = _status_rows(cluster.status()), cluster.supervision()
    if as_json:
        typer.echo(json.dumps({"group": name, "nodes": rows, "supervisor": _supervisor_row(watch)}, indent=2))
        return
    out = make_console()
    for title, columns in ((f"group {name}", _RAFT), ("processes", _PROCESS)):
        found = table(title, *columns)
        for row in rows:
            style = {"leader": "bold green", "follower": ""}.get(row["role"] or "", "yellow")
            found.add_row(*(_cell(column, row[column]) for column in columns), style=style)
        out.print(found)
    for row in rows:
        if row["error"]:
            out.print(f"[red]node {row['node']}:[/] {escape(row['error'])}", highlight=False)
    for line in _supervisor_lines(watch):
        out.print(f"supervisor: {escape(line)}", highlight=False, soft_wrap=True)


_RAFT = ("node", "state", "member", "role", "term", "commit", "applied", "lag", "first", "last", "snapshot")
_PROCESS = ("node", "machine", "pid", "nice", "host", "memory", "disk", "directory")


def _status_rows(reports: dict[int, NodeReport | Exception]) -> list[dict[str, Any]]:
    """Lag: entries that the group has committed, as far as any node knows, and the node has not applied."""
    running = [report.replica for report in reports.values() if isinstance(report, NodeReport) and report.replica]
    committed = max((replica.commit for replica in running), default=0)
    places = places_of(report for report in reports.values() if isinstance(report, NodeReport))
    newest = max(
        running, key=lambda replica: (replica.term, replica.role == "leader", replica.last_index), default=None
    )
    members = newest.configuration.members() if newest is not None else []
    rows = [_status_row(node, reports.get(node), committed) for node in sorted({*reports, *members})]
    return [row | {"machine": str(places[row["node"]]) if row["node"] in places else None} for row in rows]


def _supervisor_row(found: Supervision | Exception | None) -> Any:
    return {"error": f"no answer: {found}"} if isinstance(found, Exception) else msgspec.to_builtins(found)


def _supervisor_lines(found: Supervision | Exception | None) -> list[str]:
    """What it did last, and why it does not do more."""
    if found is None:
        return ["none; rayraft.start brings one up"]
    if isinstance(found, Exception):
        return [f"no answer: {found}"]
    return [*found.steps[-3:], *found.notes, *([found.error] if found.error else [])]


def _trouble(report: NodeReport) -> str | None:
    if report.error is not None:
        return str(report.error)
    if report.replica is None:
        return None
    divergence = report.replica.divergence
    return report.replica.snapshot_error or (str(divergence) if divergence is not None else None)


def _status_row(node: int, report: NodeReport | Exception | None, committed: int) -> dict[str, Any]:
    row: dict[str, Any] = {**dict.fromkeys((*_RAFT, *_PROCESS, "error")), "node": node}
    if report is None:
        return {
            **row,
            "state": "no actor",
            "error": "a member without an actor: replace it, or let the supervisor revive it",
        }
    if isinstance(report, Exception):
        return {**row, "state": "no answer", "error": str(report)}
    row |= {
        "state": report.state.value,
        "disk": report.disk_bytes,
        "memory": report.rss_bytes,
        "pid": report.pid,
        "nice": report.niceness,
        "host": report.host,
        "directory": report.directory,
        "error": _trouble(report),
    }
    if (replica := report.replica) is not None:
        row |= {
            "member": _membership(node, replica.configuration),
            "role": replica.role,
            "term": replica.term,
            "commit": replica.commit,
            "applied": replica.applied,
            "lag": committed - replica.applied,
            "first": replica.first_index,
            "last": replica.last_index,
            "snapshot": replica.snapshot,
        }
    return row


def _membership(node: int, configuration: Configuration) -> str:
    """What the node is by its own log."""
    if node in configuration.witnesses:
        return "witness"
    if node in configuration.voters:
        return "voter"
    if node in configuration.outgoing:
        return "leaving"
    return "learner" if node in configuration.learners else "none"


def _cell(column: str, figure: Any) -> str:
    if figure is None:
        return "-"
    return format_size(figure) if column in ("disk", "memory") else escape(str(figure))


@app.command()
def snapshot(name: Group, address: Address = None) -> None:
    """Have every node save its state and cut its log now: one after the other, the leader last.

    Says which nodes did not, and why; exit code 1 when none did.
    """
    with one_line_errors(), ray_session(address, local=False):
        cluster = find_cluster(name)
        failed = cluster.take_snapshot()
    for node, reason in failed.items():
        out.print(f"[yellow]node {node} did not:[/] {escape(' '.join(reason.split()))}", soft_wrap=True)
    done = [node for node in cluster.nodes if node not in failed]
    if not done:
        raise typer.Exit(1)
    typer.echo(f"nodes {', '.join(map(str, done))} of {name} have saved their state")


@app.command()
def shutdown(name: Group, address: Address = None) -> None:
    """End a group's nodes; their data stays, and rayraft.start resumes from it."""
    with one_line_errors(), ray_session(address, local=False):
        shut_down(name)
    typer.echo(f"{name} is shut down; its data directories are kept")


@app.command()
def recover(
    directories: Annotated[
        list[Path],
        typer.Argument(
            help="The data directory of the group (the one above node-1, node-2, …), or those of its nodes: all that "
            "are left, in one call."
        ),
    ],
    yes: Annotated[bool, typer.Option("--yes", help="Do it without asking.")] = False,
) -> None:
    """Last resort after the loss of a majority of the disks: go on from those that are left, with what they hold.

    All disks that are left have to be named in one call, those of other machines through a mount or as copies that are
    carried back afterwards: called once for each machine, it makes groups that can never be joined again. Says first
    what is kept and what may be lost. No node of the group may be running.
    """
    with one_line_errors():
        nodes = [node for directory in directories for node in _node_directories(directory)]
        plan = plan_recovery(nodes)
        for directory, reason in plan.unreadable.items():
            out.print(f"[yellow]not usable:[/] {escape(str(directory))}: {escape(reason)}", soft_wrap=True)
        out.print(escape(plan.explain()), soft_wrap=True)
        if not yes and not typer.confirm("Go on?"):
            raise typer.Exit(1)
        run_recovery(plan)
    voters = len(plan.configuration.voters)
    out.print(f"Done. Start the group with nodes={voters}, then let it grow again with cluster.add_node().")


def _node_directories(directory: Path) -> list[Path]:
    if (directory / IDENTITY_FILE).exists():
        return [directory]
    found = sorted(directory.glob("node-*"))
    if not found:
        raise BadConfiguration(f"{directory} is no data directory: there is no node-1, node-2, … in it")
    return found
