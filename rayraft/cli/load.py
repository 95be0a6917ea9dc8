"""`rayraft demo` and `rayraft bench`: a real load, and figures."""

from __future__ import annotations

import enum
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from rayraft.bench.demo import DemoPlan, run_demo
from rayraft.bench.load import PUT
from rayraft.bench.sections import SECTIONS, Plan
from rayraft.bench.session import Disks, bench_session
from rayraft.bench.suite import DEFAULT_SECTIONS, check_sections, run
from rayraft.bench.ycsb import WORKLOADS, Workload
from rayraft.cli.common import Address, DataDir, Keep, Nodes, Seed, app, err, one_line_errors
from rayraft.ray.cluster import Settings

WorkloadName = enum.Enum("WorkloadName", {name: name for name in [*WORKLOADS, PUT.name]}, type=str)  # type: ignore[misc]
DEFAULT_WORKLOAD = WorkloadName("A")


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
    with one_line_errors(), bench_session(address) as console:
        outcomes = run_demo(plan, console)
    if not all(outcome.good for outcome in outcomes):
        raise typer.Exit(1)


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
    with one_line_errors():
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
