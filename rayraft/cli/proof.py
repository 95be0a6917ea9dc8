"""`rayraft simulate` and `rayraft check-history`: runs of the simulator, and histories of real ones."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from rayraft.bench.session import make_console
from rayraft.cli.common import app, err
from rayraft.errors import BadHistory
from rayraft.ray.settings import MAX_NODES

if TYPE_CHECKING:
    from rayraft.history import Limits, Verdict


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
