"""A chaos run as a person sees it: live on a terminal, as lines elsewhere, and its figures at the end."""

from __future__ import annotations

import time
from typing import Final

from rich.console import Console
from rich.console import Group as Rows
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from rayraft.bench.figures import table
from rayraft.bench.stats import format_duration
from rayraft.chaos.group import Group
from rayraft.chaos.nemesis import Nemesis
from rayraft.chaos.run import ChaosPlan, Outcome, View

RATE_SECONDS: Final = 5.0


class LiveView(View):
    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._plan = ChaosPlan()
        self._group: Group | None = None
        self._nemesis: Nemesis | None = None
        self._origin = 0.0

    def begin(self, plan: ChaosPlan, group: Group, nemesis: Nemesis, origin: float) -> None:
        self._plan, self._group, self._nemesis, self._origin = plan, group, nemesis, origin
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()

    def say(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=True)

    def refresh(self) -> None:
        if self._live is not None and self._group is not None and self._nemesis is not None:
            self._live.update(self._picture(self._group, self._nemesis), refresh=True)

    def end(self) -> None:
        if self._live is not None:
            self._live.stop()

    def _picture(self, group: Group, nemesis: Nemesis) -> Rows:
        now = time.monotonic()
        acknowledged = group.books.acknowledged
        recent = sum(1 for at, _ in acknowledged[-10_000:] if at > now - RATE_SECONDS) / RATE_SECONDS
        total = "" if self._plan.repeats is not None else f" of {self._plan.minutes * 60:.0f}"
        fault = nemesis.under_way
        struck = f"[red]{fault.kind.value}[/] {fault.target}" if fault is not None else "[green]peace[/]"
        line = (
            f"[bold]{now - self._origin:.0f}{total} s[/]   {len(acknowledged):,} commands   {recent:,.0f}/s   "
            f"{len(nemesis.done)} faults   {struck}"
        )
        nodes = Table(box=None, padding=(0, 2))
        for title in ("machine", "node", "state", "role", "term", "applied"):
            nodes.add_column(title, justify="left")
        seen = group.now()
        for machine in group.machines.machines:
            if machine in seen:
                each = seen[machine]
                role = f"[bold]{each.role}[/]" if each.role == "leader" else each.role
                cells = (str(each.node), each.state, role, str(each.term), f"{each.applied:,}")
            else:
                cells = ("-", "[red]no answer[/]", "", "", "")
            nodes.add_row(f"m{machine}", *cells)
        return Rows(line, nodes)


def figures(outcome: Outcome) -> Table:
    found = table("", "", "value")
    rows = {
        "lasted": format_duration(outcome.seconds),
        "commands acknowledged": f"{outcome.commands:,}",
        "operations in the histories": f"{outcome.operations:,}",
        "acknowledged commands lost": _good(not outcome.lost, f"{len(outcome.lost)}"),
        "commands applied twice": _good(not outcome.repeated, f"{len(outcome.repeated)}"),
        "linearizable": _good(outcome.linearizable == "yes", outcome.linearizable),
        "states of the replicas": _good(len(set(outcome.digests.values())) == 1, f"{len(outcome.digests)} compared"),
        "terms": f"{len(outcome.leaders)}",
        "longest time without service": f"{format_duration(outcome.longest_gap)}, at {outcome.longest_gap_at:.0f} s",
        "calls that failed": ", ".join(f"{count:,} {error}" for error, count in outcome.errors.items()) or "0",
        "faults": f"{sum(outcome.by_kind.values())}",
        "faults that could not be done": f"{sum(bool(each.failed) for each in outcome.injections)}",
        "not whole in time after a fault": _good(not outcome.not_whole, f"{outcome.not_whole}"),
    }
    for name, value in rows.items():
        found.add_row(name, value)
    return found


def gap_table(outcome: Outcome) -> Table:
    """The time without service, by kind of fault."""
    found = table("", "fault", "times", "p50", "p90", "longest")
    for kind, gaps in sorted(outcome.gaps.items()):
        ordered = sorted(gaps)
        cells = (ordered[(len(ordered) - 1) // 2], ordered[min(len(ordered) - 1, len(ordered) * 9 // 10)], ordered[-1])
        found.add_row(kind, f"{len(gaps)}", *map(format_duration, cells))
    return found


def _good(good: bool, text: str) -> str:
    return f"[green]{escape(text)}[/]" if good else f"[bold red]{escape(text)}[/]"
