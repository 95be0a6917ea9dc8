"""The speeds that the first release has to reach, measured: one table of aim, measured, and whether it was met.

python benchmarks/first_light.py [--json FILE] [--data-dir DIR] [--address ADDRESS]
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from rich.table import Table

from rayraft.bench.figures import table
from rayraft.bench.sections import Failover, Memory, Plan, Sequential, Throughput
from rayraft.bench.session import Disks, bench_session
from rayraft.bench.stats import format_duration, format_rate, format_size
from rayraft.bench.suite import Report, run

SECTIONS = ("sequential", "packed", "single", "kills", "memory")
RELAYS = 1.6
PUTS_PER_SECOND = 60_000
SECONDS_WITHOUT_SERVICE = 0.150
MEMORY_GROWTH = 64 << 20  # over the second half of a million commands, whose log is some 300 MiB


class Aim(NamedTuple):
    what: str
    aim: str
    measured: str
    ratio: float  # measured / aim
    met: bool


def aims(report: Report) -> Iterable[Aim]:
    for name, found in report.sections.items():
        if isinstance(found, Sequential):
            measured = f"{found.ratio_p50:.2f} ({format_duration(found.commit.p50)})"
            yield _at_most("p50 of a sequential put, in bare relays", str(RELAYS), measured, found.ratio_p50 / RELAYS)
        elif isinstance(found, Throughput):
            what = "puts in batches" if name == "packed" else "single puts, packed by the client"
            ratio = found.rate / PUTS_PER_SECOND
            yield Aim(what, f">= {format_rate(PUTS_PER_SECOND)}", format_rate(found.rate), ratio, ratio >= 1)
        elif isinstance(found, Failover):
            aim = format_duration(SECONDS_WITHOUT_SERVICE)
            what = f"without service after a kill, p50 of {len(found.without_service)}"
            yield _at_most(what, aim, format_duration(found.p50), found.p50 / SECONDS_WITHOUT_SERVICE)
        elif isinstance(found, Memory):
            growth = max(0, found.growth)
            what = f"growth of a node in the second half of {found.samples[-1].commands:,} commands"
            yield _at_most(what, format_size(MEMORY_GROWTH), format_size(growth), growth / MEMORY_GROWTH)


def _at_most(what: str, aim: str, measured: str, ratio: float) -> Aim:
    return Aim(what, f"<= {aim}", measured, ratio, ratio <= 1)


def summary(report: Report) -> Table:
    found = table("First light: speed to reach", "", "aim", "measured", "measured / aim", "met")
    for aim in aims(report):
        met = "[green]yes[/]" if aim.met else "[bold red]no[/]"
        found.add_row(aim.what, aim.aim, aim.measured, f"{aim.ratio:.2f}", met)
    return found


def main(
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write all figures there.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where the nodes keep their data.")] = None,
    address: Annotated[str | None, typer.Option(help="Address of a Ray cluster that runs.")] = None,
) -> None:
    """Exit code 1 when an aim was missed or an acknowledged write was lost."""
    with bench_session(address) as console:
        report = run(Plan(disks=Disks(data_dir)), SECTIONS, console)
        console.print(summary(report))
    if json_file is not None:
        report.write_json(json_file)
    if not report.intact or not all(aim.met for aim in aims(report)):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
