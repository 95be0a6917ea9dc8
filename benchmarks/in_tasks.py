"""What a command costs in a Ray task of its own: through a handle that is passed, and through `connect` in each task.

python benchmarks/in_tasks.py [--count N] [--data-dir DIR] [--address ADDRESS]
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import ray
import typer

from rayraft import Handle, connect
from rayraft.bench.figures import table
from rayraft.bench.session import Disks, bench_session, store
from rayraft.bench.stats import format_duration, format_rate

Call = Callable[[Any, int], None]


class Bare:
    """An actor that does nothing, to be called as a group is."""

    def put(self, key: str, value: int) -> None:
        """Keep nothing."""


def bare(actor: Any, number: int) -> None:
    ray.get(actor.put.remote(str(number), number))


def passed(handle: Handle, number: int) -> None:
    handle.put(str(number), number)


def connected(name: str, number: int) -> None:
    connect(name).put(str(number), number)


def measured(call: Call, target: Any, count: int) -> tuple[float, float]:
    """Tasks a second with many under way, and how long one takes with nothing else, in seconds."""
    task = ray.remote(num_cpus=0.5)(call)
    ray.get([task.remote(target, number) for number in range(count // 4)])  # processes start, and connect
    begun = time.perf_counter()
    ray.get([task.remote(target, number) for number in range(count)])
    rate = count / (time.perf_counter() - begun)
    alone = []
    for number in range(count // 4):
        begun = time.perf_counter()
        ray.get(task.remote(target, number))
        alone.append(time.perf_counter() - begun)
    return rate, median(alone)


def main(
    count: Annotated[int, typer.Option(min=8, help="Tasks of each kind.")] = 400,
    data_dir: Annotated[Path | None, typer.Option(help="Where the nodes keep their data.")] = None,
    address: Annotated[str | None, typer.Option(help="Address of a Ray cluster that runs.")] = None,
) -> None:
    with bench_session(address) as console, store(Disks(data_dir), nodes=3) as handle:
        found = table(f"{count} tasks with one command each", "", "tasks", "one alone, p50", "of a bare call's")
        actor = ray.remote(num_cpus=0)(Bare).remote()
        kinds: tuple[tuple[str, Call, Any], ...] = (
            ("a bare call of an actor", bare, actor),
            ("a command by a handle that was passed", passed, handle),
            ("a command by `connect` in the task", connected, handle.name),
        )
        floor = 0.0
        for name, call, target in kinds:
            rate, alone = measured(call, target, count)
            floor = floor or alone
            found.add_row(name, format_rate(rate), format_duration(alone), f"{alone / floor:.2f} x")
        console.print(found)


if __name__ == "__main__":
    typer.run(main)
