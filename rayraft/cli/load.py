"""`rayraft demo`: a real load and a kill."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated, Any

import typer

from rayraft.bench.demo import DemoPlan, run_demo
from rayraft.bench.load import ALL_WORKLOADS
from rayraft.bench.session import Disks, bench_session
from rayraft.bench.ycsb import Workload
from rayraft.cli.common import Address, DataDir, Keep, Nodes, Seed, app, one_line_errors

WorkloadName = enum.Enum("WorkloadName", {name: name for name in ALL_WORKLOADS}, type=str)  # type: ignore[misc]
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
        workload=chosen_workload(workload),
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


def chosen_workload(name: Any) -> Workload:
    return ALL_WORKLOADS[name.value]
