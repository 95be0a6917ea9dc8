"""The command line: `rayraft demo`, `bench`, `simulate`, `check-history`, `list`, `status`, `recover` and others."""

from __future__ import annotations

import contextlib
import enum
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

import rayraft
from rayraft.bench.demo import DemoPlan, run_demo
from rayraft.bench.figures import table
from rayraft.bench.load import PUT
from rayraft.bench.sections import SECTIONS, Plan
from rayraft.bench.session import Disks, bench_session, make_console, ray_session
from rayraft.bench.stats import format_size
from rayraft.bench.suite import DEFAULT_SECTIONS, check_sections, run
from rayraft.bench.ycsb import WORKLOADS, Workload
from rayraft.errors import BadConfiguration, BadHistory, RayraftError
from rayraft.raft.types import Configuration
from rayraft.ray.cluster import MAX_NODES, Settings, find_cluster
from rayraft.ray.names import list_groups
from rayraft.ray.node import NodeReport
from rayraft.storage.identity import IDENTITY_FILE
from rayraft.storage.recovery import plan_recovery
from rayraft.storage.recovery import recover as run_recovery

if TYPE_CHECKING:
    from rayraft.history import Limits, Verdict

app = typer.Typer(
    name="rayraft",
    help="Python objects that survive: replicated by Raft as actors in a Ray cluster, durable on a majority.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
    add_completion=False,
)
err = Console(stderr=True)
out = Console(highlight=False)

WorkloadName = enum.Enum("WorkloadName", {name: name for name in [*WORKLOADS, PUT.name]}, type=str)  # type: ignore[misc]
DEFAULT_WORKLOAD = WorkloadName("A")


def _odd(nodes: int) -> int:
    if nodes not in range(1, MAX_NODES + 1, 2):
        raise typer.BadParameter(f"1, 3, 5, 7 or 9, not {nodes}: an even number adds no fault tolerance")
    return nodes


Address = Annotated[
    str | None,
    typer.Option(help="Address of a Ray cluster that runs. Default: RAY_ADDRESS, or else one on this machine."),
]
Group = Annotated[str, typer.Argument(metavar="NAME", help="Name of a group.")]
Nodes = Annotated[int, typer.Option(help="Nodes of the group: 1, 3, 5, 7 or 9.", callback=_odd)]
Seed = Annotated[int, typer.Option(help="Seed of the keys and values.")]
DataDir = Annotated[
    Path | None,
    typer.Option(help="Where the nodes keep their data. Default: the system's directory for temporary files."),
]
Keep = Annotated[bool, typer.Option("--keep", help="Leave the nodes' data behind.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON in place of a table.")]


@contextlib.contextmanager
def _one_line_errors() -> Iterator[None]:
    """What rayraft raises on purpose becomes one line; exit code 2 for a bad option, 1 for the rest."""
    try:
        yield
    except RayraftError as error:
        err.print(f"[bold red]error:[/] {escape(' '.join(str(error).split()))}", soft_wrap=True, highlight=False)
        raise typer.Exit(2 if isinstance(error, BadConfiguration) else 1) from None


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rayraft {rayraft.__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


@app.command()
def demo(
    workload: Annotated[WorkloadName, typer.Option(help="YCSB core workload; W writes only.", case_sensitive=False)] = (
        DEFAULT_WORKLOAD
    ),
    seconds: Annotated[float, typer.Option(help="How long the load lasts; the write-only one takes half.", min=1)] = 20,
    records: Annotated[int, typer.Option(help="Records in the store.", min=1)] = 10_000,
    nodes: Nodes = 3,
    value_size: Annotated[int, typer.Option(help="Bytes of a record.", min=16)] = 1000,
    out_dir: Annotated[Path, typer.Option("--out", help="Directory for the pictures and figures.")] = Path("demo-out"),
    seed: Seed = 0,
    data_dir: DataDir = None,
    keep: Keep = False,
    address: Address = None,
) -> None:
    """Kill the leader's process under real load, and see that nothing acknowledged is lost."""
    plan = DemoPlan(
        workload=_workload(workload),
        seconds=seconds,
        records=records,
        nodes=nodes,
        value_size=value_size,
        out=out_dir,
        seed=seed,
        disks=Disks(data_dir, keep),
    )
    with _one_line_errors(), bench_session(address) as console:
        outcomes = run_demo(plan, console)
    if not all(outcome.good for outcome in outcomes):
        raise typer.Exit(1)


@app.command()
def recover(
    directories: Annotated[
        list[Path],
        typer.Argument(
            help="The data directory of the group (the one above node-1, node-2, …), or those of its nodes."
        ),
    ],
    yes: Annotated[bool, typer.Option("--yes", help="Do it without asking.")] = False,
) -> None:
    """Last resort after the loss of a majority of the disks: go on from those that are left, with what they hold.

    Says first what is kept and what may be lost. The group must not be running.
    """
    with _one_line_errors():
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


@app.command()
def bench(
    only: Annotated[str, typer.Option(help=f"Sections to run, by commas: {', '.join(SECTIONS)}.")] = ",".join(
        DEFAULT_SECTIONS
    ),
    workload: Annotated[
        WorkloadName,
        typer.Option(help="Of the section 'workload': YCSB, W (writes only) or put.", case_sensitive=False),
    ] = DEFAULT_WORKLOAD,
    clients: Annotated[
        int | None,
        typer.Option(
            help="Client threads of the workload, each with one call under way. Default: see --outstanding.", min=1
        ),
    ] = None,
    outstanding: Annotated[int, typer.Option(help="Calls that one pipelined client keeps under way.", min=1)] = 4_000,
    batch: Annotated[int, typer.Option(help="Commands in a batch of the section 'packed'.", min=1)] = 2_000,
    in_flight: Annotated[int, typer.Option(help="Batches under way.", min=1)] = 8,
    nodes: Nodes = 3,
    value_size: Annotated[
        int | None,
        typer.Option(help="Bytes of a value. Default: 256 for puts, 1000 for YCSB.", min=16),
    ] = None,
    records: Annotated[int, typer.Option(help="Records in the store.", min=1)] = 10_000,
    seconds: Annotated[float, typer.Option(help="Duration of each throughput section.", min=0.1)] = 8,
    commands: Annotated[int, typer.Option(help="Commands of the section 'sequential'.", min=20)] = 1_000,
    kills: Annotated[int, typer.Option(help="Kills of the section 'kills'.", min=1)] = 10,
    memory: Annotated[bool, typer.Option("--memory", help="Also run the section 'memory'.")] = False,
    memory_commands: Annotated[int, typer.Option(help="Commands of the section 'memory'.", min=8)] = 1_000_000,
    fsync: Annotated[bool, typer.Option(help="Whether nodes sync to disk before they answer.")] = True,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write all figures there too."),
    ] = None,
    seed: Seed = 0,
    data_dir: DataDir = None,
    keep: Keep = False,
    address: Address = None,
) -> None:
    """Measure latency, throughput, failover and memory, each against its floor where there is one."""
    plan = Plan(
        workload=_workload(workload),
        nodes=nodes,
        records=records,
        value_size=value_size,
        seconds=seconds,
        clients=clients,
        outstanding=outstanding,
        batch=batch,
        in_flight=in_flight,
        kills=kills,
        sequential=commands,
        memory_commands=memory_commands,
        seed=seed,
        disks=Disks(data_dir, keep),
        settings=replace(Settings(), fsync=fsync),
    )
    names = [name.strip() for name in only.split(",")] + ["memory"] * memory
    with _one_line_errors():
        check_sections(names)  # before Ray is started for nothing
        with bench_session(address) as console:
            report = run(plan, names, console)
        if json_file is not None:
            report.write_json(json_file)
            typer.echo(f"All figures: {json_file}")
    if not report.intact:
        err.print("[bold red]error:[/] acknowledged writes were lost: this is a bug")
        raise typer.Exit(1)


def _workload(name: Any) -> Workload:
    return PUT if name.value == PUT.name else WORKLOADS[name.value]


# --- histories --------------------------------------------------------------------------------------------------------


@app.command("check-history")
def check_history(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", exists=True, dir_okay=False, help="Histories; the content tells the format."),
    ],
    steps: Annotated[int | None, typer.Option(help="Give a key up as undecided after so many steps.", min=1)] = None,
) -> None:
    """Say whether recorded histories are linearizable, and if not, why.

    The exit code is 0 for yes, 1 when one is not, 2 when one is undecided or can not be read.
    """
    from rayraft.history import Limits, Verdict

    limits = Limits() if steps is None else Limits(steps=steps)
    found = {_check_history(path, limits) for path in files}
    if found != {Verdict.LINEARIZABLE}:
        raise typer.Exit(1 if Verdict.VIOLATED in found else 2)


def _check_history(path: Path, limits: Limits) -> Verdict | None:
    """None: it can not be read."""
    from rayraft.history import Verdict, check
    from rayraft.history.formats import read

    begin = time.perf_counter()
    try:
        recorded = read(path)
        report = check(recorded.history, recorded.model, limits)
    except (BadHistory, OSError) as error:
        err.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True, highlight=False)
        return None
    style = {Verdict.LINEARIZABLE: "green", Verdict.VIOLATED: "bold red"}.get(report.verdict, "yellow")
    out = make_console()
    out.print(
        f"{escape(str(path))}: linearizable: [{style}]{report.verdict.value}[/] ({recorded.model.name}, "
        f"{report.operations:,} operations, {report.keys:,} keys, {time.perf_counter() - begin:.2f} s)",
        soft_wrap=True,
        highlight=False,
    )
    if story := report.explain():
        out.print(escape(story), soft_wrap=True, highlight=False)
    return report.verdict


# --- the simulator ----------------------------------------------------------------------------------------------------


@app.command()
def simulate(
    seeds: Annotated[int, typer.Option(help="How many seeds to run.", min=1)] = 100,
    first: Annotated[int, typer.Option("--from", help="The first of them.", min=0)] = 0,
    seed: Annotated[int | None, typer.Option(help="Run this one alone.", min=0)] = None,
    story: Annotated[bool, typer.Option("--story", help="Tell the story of the one run, line by line.")] = False,
    nodes: Annotated[
        int | None, typer.Option(help="Nodes of each group. Default: 3 or 5, by the seed.", min=1, max=MAX_NODES)
    ] = None,
    seconds: Annotated[float, typer.Option(help="Simulated seconds with faults; healing comes after.", min=0.1)] = 20,
    jobs: Annotated[int | None, typer.Option(help="Worker processes. Default: one per core.", min=1)] = None,
) -> None:
    """Run the real replica code on a simulated network, disk and clock, and check Raft's invariants at every step."""
    from rayraft.simulation import campaign, report  # not needed by the other commands

    setting = campaign.Setting(nodes, seconds)
    if story and seed is None:
        raise typer.BadParameter("--story tells of one run: say which with --seed")
    if story and seed is not None:
        raise typer.Exit(report.print_story(seed, setting))
    chosen = range(first, first + seeds) if seed is None else range(seed, seed + 1)
    totals = report.run_with_progress(chosen, setting, jobs, make_console(), err)
    raise typer.Exit(1 if totals.failures else 0)


# --- groups that run --------------------------------------------------------------------------------------------------


@app.command("list")
def list_(address: Address = None, as_json: AsJson = False) -> None:
    """The groups that run in the Ray cluster."""
    with _one_line_errors(), ray_session(address, local=False):
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
    with _one_line_errors(), ray_session(address, local=False):
        rows = _status_rows(find_cluster(name).status())
    if as_json:
        typer.echo(json.dumps({"group": name, "nodes": rows}, indent=2))
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


_RAFT = ("node", "state", "member", "role", "term", "commit", "applied", "lag", "first", "last", "snapshot")
_PROCESS = ("node", "pid", "host", "memory", "disk", "directory")


def _status_rows(reports: dict[int, NodeReport | Exception]) -> list[dict[str, Any]]:
    """Lag: entries that the group has committed, as far as any node knows, and the node has not applied."""
    running = [report.replica for report in reports.values() if isinstance(report, NodeReport) and report.replica]
    committed = max((replica.commit for replica in running), default=0)
    return [_status_row(node, report, committed) for node, report in sorted(reports.items())]


def _trouble(report: NodeReport) -> str | None:
    if report.error is not None:
        return str(report.error)
    if report.replica is None:
        return None
    divergence = report.replica.divergence
    return report.replica.snapshot_error or (str(divergence) if divergence is not None else None)


def _status_row(node: int, report: NodeReport | Exception, committed: int) -> dict[str, Any]:
    row: dict[str, Any] = {**dict.fromkeys((*_RAFT, *_PROCESS, "error")), "node": node}
    if isinstance(report, Exception):
        return {**row, "state": "no answer", "error": str(report)}
    row |= {
        "state": report.state.value,
        "disk": report.disk_bytes,
        "memory": report.rss_bytes,
        "pid": report.pid,
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
    """Have every node save its state and cut its log now."""
    with _one_line_errors(), ray_session(address, local=False):
        find_cluster(name).take_snapshot()
    typer.echo(f"the nodes of {name} save their state")


@app.command()
def shutdown(name: Group, address: Address = None) -> None:
    """End a group's nodes; their data stays, and rayraft.start resumes from it."""
    with _one_line_errors(), ray_session(address, local=False):
        find_cluster(name).shutdown()
    typer.echo(f"{name} is shut down; its data directories are kept")


if __name__ == "__main__":
    app()
