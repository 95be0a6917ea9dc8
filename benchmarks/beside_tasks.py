"""What tasks that compute on every processor cost a group, with the priority that its nodes take and without it.

python benchmarks/beside_tasks.py [--kills N] [--data-dir DIR] [--address ADDRESS]
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, NoReturn

import ray
import typer

from rayraft import Settings
from rayraft.bench.figures import table
from rayraft.bench.sections import Failover, Plan, Sequential
from rayraft.bench.session import Disks, bench_session
from rayraft.bench.stats import format_duration
from rayraft.bench.suite import run
from rayraft.ray.priority import NICENESS

ROWS = (
    ("nothing else runs", NICENESS, False),
    ("beside tasks", NICENESS, True),
    ("beside tasks, nodes at the priority of Ray's workers", None, True),
)


def compute() -> NoReturn:
    while True:
        pass


@contextlib.contextmanager
def tasks(count: int) -> Iterator[None]:
    """That many of Ray's tasks which do nothing but compute."""
    running = [ray.remote(num_cpus=1)(compute).remote() for _ in range(count)]
    try:
        yield
    finally:
        for task in running:
            ray.cancel(task, force=True)


def main(
    kills: Annotated[int, typer.Option(min=1, help="Kills of the leader's process in each row.")] = 10,
    data_dir: Annotated[Path | None, typer.Option(help="Where the nodes keep their data.")] = None,
    address: Annotated[str | None, typer.Option(help="Address of a Ray cluster that runs.")] = None,
) -> None:
    """Exit code 1 when an acknowledged write was lost."""
    intact = True
    with bench_session(address) as console:
        found = table("Beside tasks that compute", "", "put, p50", "p99", "leader killed, p50", "longest")
        for name, niceness, busy in ROWS:
            plan = Plan(settings=Settings(niceness=niceness), disks=Disks(data_dir), kills=kills)
            with tasks(int(ray.cluster_resources()["CPU"]) if busy else 0):
                report = run(plan, ("sequential", "kills"), console)
            intact &= report.intact
            sequential, failover = report.sections["sequential"], report.sections["kills"]
            assert isinstance(sequential, Sequential)
            assert isinstance(failover, Failover)
            put, gaps = sequential.commit, failover.without_service
            figures = (put.p50, put.p99, failover.p50, max(gaps))
            found.add_row(name, *(format_duration(seconds) for seconds in figures))
        console.print(found)
    if not intact:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
