"""`rayraft bench`: figures, and whether those of two runs differ."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from rayraft.bench.aims import QUICK_SECTIONS, aims, quick, summary
from rayraft.bench.compare import compare
from rayraft.bench.load import ALL_WORKLOADS
from rayraft.bench.sections import SECTIONS, Plan
from rayraft.bench.session import Disks, bench_session, make_console
from rayraft.bench.suite import DEFAULT_SECTIONS, Report, check_sections, run
from rayraft.bench.ycsb import Workload
from rayraft.cli.common import Address, DataDir, Keep, Nodes, Seed, app, err, one_line_errors
from rayraft.errors import BadConfiguration
from rayraft.ray.settings import Settings

bench = typer.Typer(invoke_without_command=True, help="Measure, each figure against its floor where there is one.")
app.add_typer(bench, name="bench")
DEFAULTS = Plan()


def _numbers(kind: Callable[[str], Any]) -> Callable[[Any], tuple[Any, ...]]:
    """A parser of numbers by commas, all above 0."""

    def parse(text: Any) -> tuple[Any, ...]:
        try:
            found = tuple(kind(part) for part in str(text).split(","))
        except ValueError:
            raise typer.BadParameter(f"numbers by commas, not {text!r}") from None
        if min(found) <= 0:
            raise typer.BadParameter(f"all of them above 0, not {text!r}")
        return found

    return parse


def _workloads(text: str) -> tuple[Workload, ...]:
    """In the order in which they are named, each once."""
    known = {found.name.lower(): found for found in ALL_WORKLOADS.values()}
    try:
        found = [known[name.strip().lower()] for name in text.split(",")]
    except KeyError as unknown:
        names = ", ".join(one.name for one in known.values())
        raise typer.BadParameter(f"no workload {unknown}: there are {names}") from None
    return tuple(dict.fromkeys(found))


def _listed(numbers: tuple[float, ...]) -> str:
    return ",".join(str(number) for number in numbers)


@bench.callback()
def measure(
    context: typer.Context,
    only: Annotated[str, typer.Option(help=f"Sections to run, by commas, or 'all': {', '.join(SECTIONS)}.")] = ",".join(
        DEFAULT_SECTIONS
    ),
    repeats: Annotated[int, typer.Option(help="How often each section is run, in rounds over all of them.", min=1)] = 1,
    workload: Annotated[
        str,
        typer.Option(help="Of the section 'workload', by commas: YCSB's A, B, C, D, F, W (writes only), put."),
    ] = ",".join(one.name for one in DEFAULTS.workloads),
    clients: Annotated[
        int | None,
        typer.Option(
            help="Client threads of the workload, each with one call under way. Default: see --outstanding.", min=1
        ),
    ] = None,
    outstanding: Annotated[int, typer.Option(help="Calls that one pipelined client keeps under way.", min=1)] = 10_000,
    batch: Annotated[int, typer.Option(help="Commands in a batch of the section 'packed'.", min=1)] = 2_000,
    in_flight: Annotated[int, typer.Option(help="Batches under way.", min=1)] = 8,
    nodes: Nodes = 3,
    value_size: Annotated[
        int | None,
        typer.Option(help="Bytes of a value. Default: 256 for puts, 1000 for YCSB.", min=16),
    ] = None,
    records: Annotated[
        int, typer.Option(help="Records in the store; fewer where they would be more than 64 MiB of values.", min=1)
    ] = 40_000,
    seconds: Annotated[float, typer.Option(help="Duration of each throughput section.", min=0.1)] = 8,
    commands: Annotated[int, typer.Option(help="Commands of the section 'sequential'.", min=20)] = 1_000,
    kills: Annotated[int, typer.Option(help="Kills of the section 'kills'.", min=1)] = 10,
    callers: Annotated[
        int, typer.Option(help="Callers of the sections 'callers' and 'coroutines'.", min=1)
    ] = DEFAULTS.callers,
    processes: Annotated[str, typer.Option(help="Client processes of the section 'processes', by commas.")] = _listed(
        DEFAULTS.processes
    ),
    value_sizes: Annotated[str, typer.Option(help="Bytes of a value in the section 'sizes', by commas.")] = _listed(
        DEFAULTS.value_sizes
    ),
    group_sizes: Annotated[str, typer.Option(help="Nodes of the groups of the section 'nodes', by commas.")] = _listed(
        DEFAULTS.group_sizes
    ),
    offered: Annotated[
        str, typer.Option(help="Offered loads of the section 'offered', in parts of the closed loop's rate, by commas.")
    ] = _listed(DEFAULTS.offered),
    snapshot_keys: Annotated[
        int, typer.Option(help="Keys of the section 'snapshots'.", min=64)
    ] = DEFAULTS.snapshot_keys,
    recovery_commands: Annotated[
        int, typer.Option(help="Commands behind the last snapshot in the section 'recovery'.", min=8)
    ] = DEFAULTS.recovery_commands,
    memory: Annotated[bool, typer.Option("--memory", help="Also run the section 'memory'.")] = False,
    memory_commands: Annotated[int, typer.Option(help="Commands of the section 'memory'.", min=8)] = 1_000_000,
    fsync: Annotated[bool, typer.Option(help="Whether nodes sync to disk before they answer.")] = True,
    channels: Annotated[
        bool, typer.Option(help="Whether calls within one machine may go through Ray's channels.")
    ] = True,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write all figures there too."),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write the report there: a page, its pictures and all figures as JSON."),
    ] = None,
    seed: Seed = 0,
    data_dir: DataDir = None,
    keep: Keep = False,
    address: Address = None,
) -> None:
    """Measure latency, throughput, failover and memory, each against its floor where there is one."""
    if context.invoked_subcommand is not None:
        return
    whole = _numbers(int)
    plan = Plan(
        workloads=_workloads(workload),
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
        callers=callers,
        processes=whole(processes),
        value_sizes=whole(value_sizes),
        group_sizes=whole(group_sizes),
        offered=_numbers(float)(offered),
        snapshot_keys=snapshot_keys,
        recovery_commands=recovery_commands,
        memory_commands=memory_commands,
        seed=seed,
        disks=Disks(data_dir, keep),
        settings=replace(Settings(), fsync=fsync, channels=channels),
    )
    names = [name.strip() for name in only.split(",")] + ["memory"] * memory
    with one_line_errors():
        names = check_sections(names)  # before Ray is started for nothing
        plan.check(names)
        _check_targets(json_file, html)
        report = Report.of(plan)
        try:
            with bench_session(address) as console:
                run(plan, names, console, repeats, report)
                console.print(summary(report, aims(plan), only_measured=True))
        except BaseException:
            try:
                _write(report, json_file, html)
            except Exception as second:
                err.print(f"[bold red]error:[/] nor could the report be written: {escape(str(second))}")
            raise
        _write(report, json_file, html)
    _exit(report)


def _check_targets(json_file: Path | None, html: Path | None) -> None:
    """Raises BadConfiguration for what the report could not be written to, before anything is measured."""
    if html is not None and find_spec("matplotlib") is None:
        raise BadConfiguration("the pictures of --html need matplotlib: pip install 'rayraft[plot]', or use --json")
    for directory in (json_file.parent if json_file else None, html):
        if directory is None:
            continue
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadConfiguration(f"no report can be written to {directory}: {error.strerror}") from error
        if not os.access(directory, os.W_OK):
            raise BadConfiguration(f"no report can be written to {directory}: choose another place")


def _write(report: Report, json_file: Path | None, html: Path | None) -> None:
    """Also what there is of a run that ended early: it may have taken long."""
    if not report.repeats:
        return
    if json_file is not None:
        report.write_json(json_file)
        typer.echo(f"All figures: {json_file}")
    if html is not None:
        from rayraft.bench.page import write_report

        typer.echo(f"The report: {write_report(report, html)}")


def _exit(report: Report) -> None:
    if not report.intact:
        err.print(f"[bold red]error:[/] {report.complaint}")
        raise typer.Exit(1)


@bench.command("compare")
def compare_runs(
    before: Annotated[Path, typer.Argument(metavar="A.json", help="What `rayraft bench --json` wrote before.")],
    after: Annotated[Path, typer.Argument(metavar="B.json", help="What it wrote after.")],
    changed: Annotated[bool, typer.Option("--changed", help="Only what is more than noise.")] = False,
) -> None:
    """What changed between two runs, and whether it is more than noise (exact Mann-Whitney test over the repeats)."""
    with one_line_errors():
        found = compare(before, after)
    out = make_console()
    for line in found.warnings:
        out.print(f"[bold red]{escape(line)}[/]", highlight=False)
    for line in found.differences:
        out.print(f"[yellow]the runs differ in {escape(line)}[/]", highlight=False)
    out.print(found.table(only_changed=changed))
    out.print(found.closing(), highlight=False)


@bench.command("quick")
def quick_run(
    only: Annotated[str, typer.Option(help="Sections to run, by commas.")] = ",".join(QUICK_SECTIONS),
    seconds: Annotated[float, typer.Option(help="Duration of each throughput section.", min=0.1)] = 2,
    records: Annotated[int, typer.Option(help="Records in the store.", min=64)] = 16_000,
    commands: Annotated[int, typer.Option(help="Commands of the section 'sequential'.", min=20)] = 600,
    keys: Annotated[int, typer.Option(help="Keys, or commands, of snapshots, recovery and memory.", min=64)] = 50_000,
    data_dir: DataDir = None,
    address: Address = None,
) -> None:
    """The ratios that rayraft aims at, each in seconds: a first look at what a change did. Never fails on a figure."""
    wished = Plan(
        records=records,
        seconds=seconds,
        sequential=commands,
        snapshot_keys=keys,
        recovery_commands=4 * keys,
        memory_commands=2 * keys,
        disks=Disks(data_dir),
    )
    plan = quick(wished)
    with one_line_errors():
        names = check_sections(name.strip() for name in only.split(","))
        plan.check(names)
        with bench_session(address) as console:
            report = run(plan, names, console)
            console.print(summary(report, aims(plan)))
    _exit(report)
