"""What a person sees of a campaign: progress, totals, and the stories of the runs that failed."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from rayraft.simulation.campaign import Failure, Setting, Totals, run_seeds
from rayraft.simulation.run import tell

MAX_STORIES = 3


def print_story(seed: int, setting: Setting) -> int:
    """The exit code: 0 when all invariants held."""
    text, good = tell(seed, nodes=setting.nodes, seconds=setting.seconds)
    print(text)
    return 0 if good else 1


def run_with_progress(seeds: Sequence[int], setting: Setting, jobs: int | None, out: Console, err: Console) -> Totals:
    """Run the seeds, with a bar on ``err`` and everything that is to be kept on ``out``."""
    totals = Totals()
    columns = (
        TextColumn("seeds"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with (
        contextlib.suppress(KeyboardInterrupt),  # whoever has seen enough gets the totals so far
        Progress(*columns, console=err, disable=not err.is_terminal) as progress,
    ):
        task = progress.add_task("", total=len(seeds), note="")
        for outcome in run_seeds(seeds, setting, jobs=jobs):
            totals.add(outcome)
            if isinstance(outcome.result, Failure) and len(totals.failures) <= MAX_STORIES:
                _print_failure(outcome.result, setting, out)
            note = f"{totals.speed:.0f} simulated s per core-second, {len(totals.failures)} failed"
            progress.update(task, advance=1, note=note)
    _print_totals(totals, out)
    return totals


def _print_failure(failure: Failure, setting: Setting, out: Console) -> None:
    out.print(failure.story, markup=False, highlight=False, soft_wrap=True)
    out.print(f"replay it: {setting.command(failure.seed)}\n", markup=False, highlight=False, soft_wrap=True)


def _print_totals(totals: Totals, out: Console) -> None:
    table = Table(title=f"{totals.runs} runs, {len(totals.failures)} failed")
    table.add_column("of those that held")
    table.add_column("total", justify="right")
    rows = {
        "simulated seconds": f"{totals.simulated_seconds:,.0f}",
        "seconds of one core": f"{totals.cpu_seconds:,.1f}",
        "simulated seconds per second of one core": f"{totals.speed:.1f}",
        "commits": f"{totals.commits:,}",
        "acknowledged commands": f"{totals.acknowledged:,}",
        "linearizable reads": f"{totals.reads:,}",
        "elections won": f"{totals.elections:,}",
        "snapshots installed": f"{totals.snapshots_installed:,}",
    }
    for name, figure in rows.items():
        table.add_row(name, figure)
    table.add_section()
    for fault, count in sorted(totals.faults.items()):
        table.add_row(fault, f"{count:,}")
    out.print(table)
    if totals.failures:
        seeds = ", ".join(f"{failure.seed} ({failure.invariant})" for failure in totals.failures)
        out.print(f"failed seeds: {seeds}", markup=False, highlight=False, soft_wrap=True)
