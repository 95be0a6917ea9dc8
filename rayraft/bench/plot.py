"""Pictures of a run: throughput (and latency) over time, with a mark where something was done to the cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from os import PathLike
from typing import TYPE_CHECKING, Any, BinaryIO, Final, TypeAlias

from rayraft.bench.stats import format_duration

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Points: TypeAlias = Sequence[tuple[float, float]]
Events: TypeAlias = Sequence[tuple[float, str]]

INK: Final = "#24292f"
FAINT: Final = "#d0d7de"
THROUGHPUT: Final = "#0969da"
LATENCY: Final = "#8250df"
EVENT_COLOURS: Final = ("#cf222e", "#1a7f37", "#9a6700", "#bf3989", "#57606a")

_WIDTH, _HEIGHT, _DPI = 10.0, 4.2, 150
_LABEL_ROW = 0.17  # inches from one row of event labels to the next
_LETTER = 0.075  # inches that a letter of a label takes, a little more than it does


def throughput_timeline(
    path: str | PathLike[str] | BinaryIO,
    points: Points,
    *,
    events: Events = (),
    title: str = "Throughput over time",
    latency: Points = (),
    latency_label: str = "Latency",
    clock: str = "Time since start (s)",
) -> None:
    """Write a PNG of ``points``, (seconds, operations per second) at the beginning of each interval.

    ``events`` are (seconds, label), such as a kill and the new leader; one label has one colour throughout.
    ``latency``, (seconds, seconds), gets a panel of its own below: two scales on one axis can not be read.
    """
    if len(points) < 2:
        raise ValueError("a timeline needs at least two points")
    figure, axes = canvas(2 if latency else 1)
    span = _span(points, events)
    marks = _marks(events, span)
    figure.suptitle(title, x=0.02, y=0.98, ha="left", va="top", fontsize=13, fontweight="bold", color=INK)

    _draw_throughput(axes[0], points)
    if latency:
        _draw_latency(axes[1], latency, latency_label)
    _draw_events(axes, marks)
    axes[0].set_xlim(span)
    axes[-1].set_xlabel(clock, color=INK)

    rows = 1 + max((mark.row for mark in marks), default=-1)
    height = figure.get_size_inches()[1]
    top = 0.4 + _LABEL_ROW * rows + 0.1 * bool(rows)  # the title, and the labels under it
    figure.set_layout_engine("constrained", rect=(0.01, 0.01, 0.97, 0.99 - top / height))
    figure.savefig(path, format="png", dpi=_DPI)


def canvas(panels: int) -> tuple[Figure, list[Axes]]:
    try:
        import matplotlib  # noqa: F401
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install rayraft[plot]") from error
    # No pyplot: its figures are global to the process, and it would choose a backend for a notebook's owner.
    height = _HEIGHT if panels == 1 else _HEIGHT * 1.5
    figure = Figure(figsize=(_WIDTH, height), facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.subplots(panels, 1, sharex=True, squeeze=False, height_ratios=[2, 1][:panels])
    axes = [row[0] for row in grid]
    for each in axes:
        _clean(each)
    figure.align_ylabels(axes)
    return figure, axes


def _clean(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=9, length=3)
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)


def _draw_throughput(axes: Axes, points: Points) -> None:
    times, rates = _steps(points)
    axes.fill_between(times, rates, step="post", color=THROUGHPUT, alpha=0.15, linewidth=0)
    axes.step(times, rates, where="post", color=THROUGHPUT, linewidth=1.4)
    axes.set_ylim(0, max(rates) * 1.08 or 1)
    axes.set_ylabel("Operations per second", color=INK)
    axes.yaxis.set_major_formatter(lambda rate, _: f"{rate:,.0f}" if rate >= 10 or rate == int(rate) else f"{rate:g}")


def _draw_latency(axes: Axes, points: Points, label: str) -> None:
    """On a logarithmic scale: a failover takes a thousand times as long as a command, and both should be seen."""
    from matplotlib.ticker import LogLocator

    axes.plot(*zip(*points, strict=True), color=LATENCY, linewidth=1.2, marker="o", markersize=2)
    lowest, highest = min(seconds for _, seconds in points), max(seconds for _, seconds in points)
    axes.set_yscale("log", subs=[])
    axes.set_ylim(lowest / 2, highest * 2)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if highest < 30 * lowest else (1,)))
    axes.set_ylabel(label, color=INK)
    axes.yaxis.set_major_formatter(lambda seconds, _: round_duration(seconds))


def _draw_events(axes: list[Axes], marks: list[_Mark]) -> None:
    for mark in marks:
        for each in axes:
            each.axvline(mark.time, color=mark.colour, linewidth=1, linestyle=(0, (4, 2)))
        top: dict[str, Any] = {
            "xy": (mark.time, 1),
            "xycoords": ("data", "axes fraction"),
            "textcoords": "offset points",
        }
        height = 72 * _LABEL_ROW * (mark.row + 1)
        stem = {"arrowstyle": "-", "color": mark.colour, "linewidth": 1, "shrinkA": 0, "shrinkB": 0}
        axes[0].annotate("", xytext=(0, height), arrowprops=stem, in_layout=False, **top)
        axes[0].annotate(
            mark.label,
            xytext=(-4 if mark.leftwards else 4, height),
            ha="right" if mark.leftwards else "left",
            va="top",
            fontsize=9,
            color=mark.colour,
            in_layout=False,
            **top,
        )


@dataclass(frozen=True, slots=True)
class _Mark:
    """An event and the place of its label above the picture."""

    time: float
    label: str
    colour: str
    row: int
    leftwards: bool  # the label is on the left of its stem, for want of room on the right


def _marks(events: Events, span: tuple[float, float]) -> list[_Mark]:
    """Places the labels from the last to the first, each in the lowest row with room for it.

    So of events close together the earlier has the higher label, and its stem passes the others' labels on the left.
    """
    start, end = span
    width = _WIDTH - 1.2  # of the axes, about, in inches
    colours = dict(zip(dict.fromkeys(label for _, label in events), cycle(EVENT_COLOURS), strict=False))
    taken: list[float] = []  # from where on each row is taken, in inches
    marks: list[_Mark] = []
    for time, label in sorted(events, reverse=True):
        stem = (time - start) / (end - start) * width
        length = _LETTER * (len(label) + 2)
        leftwards = stem + length > width
        left, right = (stem - length, stem) if leftwards else (stem, stem + length)
        row = next((row for row, edge in enumerate(taken) if right <= edge), len(taken))
        taken[row : row + 1] = [left]
        marks.append(_Mark(time, label, colours[label], row, leftwards))
    return marks


def _span(points: Points, events: Events) -> tuple[float, float]:
    times = _steps(points)[0] + [time for time, _ in events]
    return min(times), max(times)


def _steps(points: Points) -> tuple[list[float], list[float]]:
    """The points as lists, the last one drawn as long as the interval before it."""
    times, rates = (list(column) for column in zip(*points, strict=True))
    return [*times, 2 * times[-1] - times[-2]], [*rates, rates[-1]]


def round_duration(seconds: float) -> str:
    """A tick's label: ``10 ms`` where a measured figure would be ``10.0 ms``."""
    figure, _, unit = format_duration(seconds).partition(" ")
    return f"{float(figure):g} {unit}" if unit in ("s", "ms", "µs") else f"{figure} {unit}"
