"""One picture of a chaos run: commands per second, who led in which term, and what was done to the machines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from rayraft.bench.plot import EVENT_COLOURS, FAINT, INK, LATENCY, THROUGHPUT
from rayraft.chaos.run import Outcome

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDTH, _DPI = 13.0, 130
_ROW: Final = 0.24  # inches for each machine and each kind of fault
_TERM_LABELS: Final = 60  # more terms than that get no number


def draw_timeline(outcome: Outcome, path: Path) -> None:
    """Raises ImportError without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install rayraft[plot]") from error
    kinds = sorted({injection.kind.value for injection in outcome.injections}, reverse=True)
    heights = [2.2, _ROW * outcome.plan.machines + 0.3, _ROW * max(1, len(kinds)) + 0.3]
    figure = Figure(figsize=(_WIDTH, sum(heights) + 1.3), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(_title(outcome), x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
    throughput, leaders, faults = figure.subplots(3, 1, sharex=True, height_ratios=heights)
    for axes in (throughput, leaders, faults):
        _clean(axes)
    _draw_throughput(throughput, outcome)
    _draw_leaders(leaders, outcome)
    _draw_faults(faults, outcome, kinds)
    faults.set_xlim(0, outcome.seconds)
    faults.set_xlabel("Time since the clients began (s)", color=INK)
    figure.savefig(path, format="png", dpi=_DPI)


def _title(outcome: Outcome) -> str:
    return (
        f"Chaos, seed {outcome.plan.seed}: {outcome.commands:,} commands acknowledged, {len(outcome.lost)} lost; "
        f"linearizable: {outcome.linearizable}; longest time without service {outcome.longest_gap:.2f} s"
    )


def _clean(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=8, length=3)
    axes.grid(axis="x", color=FAINT, linewidth=0.5)
    axes.set_axisbelow(True)


def _draw_throughput(axes: Axes, outcome: Outcome) -> None:
    times = [at for at, _ in outcome.throughput]
    rates = [rate for _, rate in outcome.throughput]
    axes.fill_between(times, rates, step="post", color=THROUGHPUT, alpha=0.15, linewidth=0)
    axes.step(times, rates, where="post", color=THROUGHPUT, linewidth=1)
    axes.axvspan(outcome.longest_gap_at, outcome.longest_gap_at + outcome.longest_gap, color="#cf222e", alpha=0.2)
    axes.set_ylim(0, max(rates, default=1) * 1.08 or 1)
    axes.set_ylabel("Commands per second", color=INK, fontsize=9)


def _draw_leaders(axes: Axes, outcome: Outcome) -> None:
    ends = [at for at, *_ in outcome.leaders[1:]] + [outcome.seconds]
    for (at, term, _, machine), end in zip(outcome.leaders, ends, strict=True):
        axes.barh(machine, end - at, left=at, height=0.7, color=LATENCY, alpha=0.35 + 0.4 * (term % 2), linewidth=0)
        if len(outcome.leaders) <= _TERM_LABELS:
            axes.text(at, machine, f" {term}", fontsize=6, va="center", color=INK, clip_on=True)
    machines = range(1, outcome.plan.machines + 1)
    axes.set_yticks(list(machines), [f"m{machine}" for machine in machines])
    axes.set_ylim(outcome.plan.machines + 0.6, 0.4)
    axes.set_ylabel("Leader, by term", color=INK, fontsize=9)


def _draw_faults(axes: Axes, outcome: Outcome, kinds: list[str]) -> None:
    for injection in outcome.injections:
        row = kinds.index(injection.kind.value)
        colour = EVENT_COLOURS[row % len(EVENT_COLOURS)] if not injection.failed else FAINT
        whole = max(injection.whole, injection.healed)
        axes.barh(row, whole - injection.began, left=injection.began, height=0.6, color=colour, alpha=0.25, linewidth=0)
        lasting = max(injection.healed - injection.began, outcome.seconds / 500)
        axes.barh(row, lasting, left=injection.began, height=0.6, color=colour, linewidth=0)
    axes.set_yticks(range(len(kinds)), kinds)
    axes.set_ylim(-0.6, len(kinds) - 0.4)
    axes.set_ylabel("Faults (pale: until whole)", color=INK, fontsize=9)
