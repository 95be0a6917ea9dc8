"""`rayraft chaos`: faults on several machines, which are made for it on this one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from rayraft.bench.session import make_console
from rayraft.cli.common import app, err


@app.command()
def chaos(
    minutes: Annotated[float, typer.Option(help="How long; the last fault is waited for.", min=0.1)] = 2.0,
    seed: Annotated[
        int | None, typer.Option(help="Of the schedule; the same seed is the same schedule. Default: a new one.", min=0)
    ] = None,
    machines: Annotated[int, typer.Option(help="Machines, with a node on each.", min=3, max=9)] = 5,
    faults: Annotated[
        str, typer.Option(help="Kinds of faults, by commas, by the beginning of their names. Default: all.")
    ] = "",
    repeats: Annotated[
        int | None,
        typer.Option(
            help="Each kind so many times, to measure it, in place of a drawn schedule: two clients write all the time "
            "and tell how long nobody was served.",
            min=1,
        ),
    ] = None,
    pause: Annotated[
        float,
        typer.Option(
            help="Seconds between two calls of a client. At 0 the machines, which share this one's processors, are as "
            "busy as they can be, and the time without service is mostly waiting for a processor.",
            min=0.0,
        ),
    ] = 0.0,
    election_timeout: Annotated[float, typer.Option(help="Of the group, in seconds.", min=0.05)] = 1.0,
    out_dir: Annotated[Path, typer.Option("--out", help="Directory for the picture and the record.")] = Path(
        "chaos-out"
    ),
    plan_only: Annotated[bool, typer.Option("--plan", help="Print the schedule's first faults and end.")] = False,
) -> None:
    """Torment a group on several machines (namespaces of this one; needs root), and check every answer it gave."""
    from rayraft.chaos import picture, run, schedule, show
    from rayraft.chaos.machines import BedError, why_not

    kinds = tuple(kind for kind in schedule.FaultKind if _chosen(kind.value, faults))
    if not kinds:
        raise typer.BadParameter(
            f"no kind of fault begins so; there are: {', '.join(k.value for k in schedule.FaultKind)}"
        )
    seed = run.new_seed() if seed is None else seed
    plan = run.ChaosPlan(minutes, seed, machines, kinds, repeats, pause, election_timeout=election_timeout, out=out_dir)
    console = make_console()
    if plan_only:
        for _, fault in zip(range(2 * len(kinds)), plan.faults(), strict=False):
            console.print(str(fault), highlight=False)
        return
    if reason := why_not():
        err.print(f"[bold red]error:[/] machines can not be made here: {reason}")
        raise typer.Exit(1)
    console.print(f"[bold]rayraft chaos[/], seed {seed}: run it again with --seed {seed}", highlight=False)
    view = show.LiveView(console)
    try:
        outcome = run.run_chaos(plan, view)
    except BedError as error:
        err.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False)
        raise typer.Exit(1) from None
    finally:
        view.end()
    out_dir.mkdir(parents=True, exist_ok=True)
    run.write_json(outcome, out_dir / "chaos.json")
    console.print(show.figures(outcome))
    console.print(show.gap_table(outcome))
    for line in (*outcome.lost[:5], *outcome.repeated[:5], outcome.violation):
        if line:
            console.print(f"[red]{escape(line)}[/]", highlight=False)
    try:
        picture.draw_timeline(outcome, out_dir / "timeline.png")
        console.print(f"Timeline: {out_dir / 'timeline.png'}; record: {out_dir / 'chaos.json'}")
    except ImportError as error:
        console.print(f"[yellow]The picture is left out: {escape(str(error))}[/]")
    if not outcome.good:
        raise typer.Exit(1)


def _chosen(kind: str, wanted: str) -> bool:
    beginnings = [each.strip() for each in wanted.split(",") if each.strip()]
    return not beginnings or any(kind.startswith(beginning) for beginning in beginnings)
