"""The pictures of a report: each a PNG of one section's figures, medians drawn and the range of the repeats shown."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from rayraft.bench.figures import Latency
from rayraft.bench.load import ALL_WORKLOADS
from rayraft.bench.plot import (
    EVENT_COLOURS,
    FAINT,
    INK,
    LATENCY,
    THROUGHPUT,
    canvas,
    round_duration,
    throughput_timeline,
)
from rayraft.bench.sections import (
    Failover,
    GroupSizes,
    Memory,
    Offered,
    Processes,
    ReadKinds,
    Recovery,
    Rivals,
    Section,
    Sequential,
    Sizes,
    Workloads,
)
from rayraft.bench.sections.rivals import OURS
from rayraft.bench.stats import format_rate, format_size
from rayraft.bench.suite import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = (THROUGHPUT, *EVENT_COLOURS)


class Picture(NamedTuple):
    name: str
    caption: str
    png: bytes


def pictures(report: Report) -> Iterator[Picture]:
    """One or more for each section that has something to draw."""
    for name in report.sections:
        results = [repeat[name] for repeat in report.repeats if name in repeat]
        draw = DRAWN.get(type(results[0]))
        if draw is not None:
            for suffix, caption, png in draw(results):
                yield Picture(f"{name}{suffix}", caption, png)


Drawn = Iterator[tuple[str, str, bytes]]  # (suffix of the name, caption, PNG)


def _offered(results: Sequence[Any]) -> Drawn:
    figure, axes = _new("Throughput against latency, open loop")
    last: Offered = results[-1]
    for result in results:
        shown = result is last
        rates = [step.achieved for step in result.steps]
        for label, colour, of in (("p50", THROUGHPUT, _p50), ("p99", LATENCY, _p99)):
            label = label if shown else ""
            times = [of(step.latency) for step in result.steps]
            axes.plot(rates, times, color=colour, marker="o", markersize=3, alpha=1 if shown else 0.3, label=label)
        axes.axvline(
            result.knee.achieved, color=EVENT_COLOURS[0], linestyle=(0, (4, 2)), linewidth=1, alpha=1 if shown else 0.3,
            label="knee" if shown else "",
        )  # fmt: skip
    axes.axhline(last.relay.p50, color=EVENT_COLOURS[1], linewidth=1, label="bare relay, p50")
    _seconds_axis(axes, "Latency since the command was due")
    _rates_axis(axes.xaxis, axes.set_xlabel, "Commands carried per second")
    _legend(axes)
    yield "", f"Every point is one offered load; the knee is at {format_rate(last.knee.achieved)}.", _png(figure)


def _sequential(results: Sequence[Any]) -> Drawn:
    last: Sequential = results[-1]
    lines = {
        "put": last.commit,
        "linearizable read": last.read,
        "floor: bare relay": last.relay,
        "floor: bare call": last.call,
        "floor: synced write": last.synced_write,
        "floor: the pipe": last.pipe,
    }
    yield "", "One command at a time; floors dashed.", _cdf("Latency distribution, one at a time", lines)


def _cdf(title: str, lines: dict[str, Latency]) -> bytes:
    figure, axes = _new(title)
    for (label, latency), colour in zip(lines.items(), COLOURS * 2, strict=False):
        style = "--" if label.startswith("floor") else "-"
        times, shares = zip(*latency.distribution, strict=True) if latency.distribution else ((), ())
        axes.plot(times, shares, style, color=colour, linewidth=1.4, label=label)
    axes.set_xscale("log")
    _duration_ticks(axes.xaxis)
    axes.set_xlabel("Latency", color=INK)
    axes.set_ylabel("Per cent that took no longer", color=INK)
    axes.set_ylim(0, 101)
    _legend(axes)
    return _png(figure)


def _reads(results: Sequence[Any]) -> Drawn:
    last: ReadKinds = results[-1]
    names = [kind.name for kind in last.kinds]
    bars = {
        "singly, many under way": [[kind.single for kind in result.kinds] for result in results],
        f"{last.batch} keys in a query": [[kind.packed for kind in result.kinds] for result in results],
    }
    yield "", "Keys read per second, by kind of read.", _bars("Reads of each kind", names, bars, "Keys per second")
    lines = {kind.name: kind.one for kind in last.kinds} | {"floor: bare call": last.call}
    yield "-cdf", "One read at a time.", _cdf("Latency distribution of reads, one at a time", lines)


def _nodes(results: Sequence[Any]) -> Drawn:
    last: GroupSizes = results[-1]
    title, label = "Scaling with the nodes of the group", "Nodes"
    lines = {
        "puts in batches": [[row.rate for row in result.rows.values()] for result in results],
        "the pipe": [[row.pipe or float("nan") for row in result.rows.values()] for result in results],
    }
    yield "", "All on the machines of this run.", _lines(title, label, list(last.rows), lines)


def _processes(results: Sequence[Any]) -> Drawn:
    counts = [row.processes for row in results[-1].rows]
    lines = {"all together": [[row.rate for row in result.rows] for result in results]}
    yield (
        "",
        "The same number of puts under way in all.",
        _lines("Client processes", "Processes", counts, lines, log=True),
    )


def _sizes(results: Sequence[Any]) -> Drawn:
    last: Sizes = results[-1]
    sizes = [row.value_size for row in last.rows]
    lines = {
        "puts in batches": [[row.rate * row.value_size for row in result.rows] for result in results],
        "the pipe": [[(row.pipe or float("nan")) * row.value_size for row in result.rows] for result in results],
    }
    figure, axes = _new("Bandwidth by size of a value")
    _draw_lines(axes, sizes, lines)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda size, _: format_size(size))
    axes.yaxis.set_major_formatter(lambda size, _: f"{format_size(size)}/s")
    axes.set_xlabel("Value", color=INK)
    axes.set_ylabel("Values written", color=INK)
    yield "", "Batches of half a MiB at most.", _png(figure)


def _rivals(results: Sequence[Any]) -> Drawn:
    last: Rivals = results[-1]
    contests = list(dict.fromkeys(one.contest for one in last.entrants))
    systems = sorted(dict.fromkeys(one.system for one in last.entrants), key=lambda name: not name.startswith(OURS))
    nan = float("nan")
    bars = {
        system: [[result.rate(system, contest) or nan for contest in contests] for result in results]
        for system in systems
    }
    caption = "The same machine, value size and number under way, in turns."
    yield "", caption, _bars("Peers side by side", contests, bars, "Puts per second", log=True)
    lines = {f"{one.system}": one.latency for one in last.entrants if one.contest == "sequential"}
    yield "-cdf", "One put at a time.", _cdf("Latency distribution of peers, one at a time", lines)


def _failover(results: Sequence[Any]) -> Drawn:
    last: Failover = results[-1]
    near = [(time, rate) for time, rate in last.timeline if -0.5 <= time <= 2.0]
    if len(near) > 1:
        file = io.BytesIO()
        events = [(time, label) for time, label in last.events if time <= 2.0]
        throughput_timeline(
            file, near, events=events, title="The leader's process is killed", clock="Time since the kill (s)"
        )
        yield "", "One client, one put at a time; the last kill.", file.getvalue()


def _workloads(results: Sequence[Any]) -> Drawn:
    last: Workloads = results[-1]
    bars = {"all operations": [[row.rate for row in result.rows.values()] for result in results]}
    names = [f"{name}\n{ALL_WORKLOADS[name].description}" for name in last.rows]
    yield "", "One after another on one group.", _bars("The workloads of YCSB", names, bars, "Operations per second")


def _recovery(results: Sequence[Any]) -> Drawn:
    last: Recovery = results[-1]
    figure, axes = _new("Coming back with a long log")
    counts = [point.commands for point in last.points]
    _draw_lines(axes, counts, {"follower": [[point.seconds for point in result.points] for result in results]})
    _rates_axis(axes.xaxis, axes.set_xlabel, "Commands behind the last snapshot")
    axes.set_ylabel("Seconds until all are applied", color=INK)
    axes.set_ylim(bottom=0)
    yield "", "Killed, started by Ray, and caught up.", _png(figure)


def _memory(results: Sequence[Any]) -> Drawn:
    last: Memory = results[-1]
    figure, axes = _new("Memory as the commands go through")
    counts = [sample.commands for sample in last.samples]
    nodes = sorted(last.samples[0].rss_bytes)
    lines = {
        f"node {node}": [[sample.rss_bytes[node] for sample in result.samples] for result in results] for node in nodes
    }
    _draw_lines(axes, counts, lines)
    _rates_axis(axes.xaxis, axes.set_xlabel, "Commands")
    axes.yaxis.set_major_formatter(lambda size, _: format_size(size))
    axes.set_ylabel("Resident", color=INK)
    axes.set_ylim(bottom=0)
    yield "", "Each node's process.", _png(figure)


DRAWN: dict[type[Section], Callable[[Sequence[Any]], Drawn]] = {
    Sequential: _sequential,
    Offered: _offered,
    Processes: _processes,
    Sizes: _sizes,
    GroupSizes: _nodes,
    ReadKinds: _reads,
    Recovery: _recovery,
    Failover: _failover,
    Memory: _memory,
    Workloads: _workloads,
    Rivals: _rivals,
}


# --- drawing ----------------------------------------------------------------------------------------------------------


def _new(title: str) -> tuple[Figure, Axes]:
    figure, (axes,) = canvas(1)
    figure.set_layout_engine("constrained")
    axes.set_title(title, loc="left", fontsize=13, fontweight="bold", color=INK)
    return figure, axes


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    return file.getvalue()


def _p50(latency: Latency) -> float:
    return latency.p50


def _p99(latency: Latency) -> float:
    return latency.p99


def _draw_lines(axes: Axes, xs: Sequence[float], lines: dict[str, list[list[float]]]) -> None:
    """By label: the values of each repeat. The medians are drawn, and the range between lowest and highest."""
    for (label, repeats), colour in zip(lines.items(), COLOURS, strict=False):
        columns = list(zip(*repeats, strict=True))
        axes.plot(xs, [median(column) for column in columns], color=colour, marker="o", markersize=4, label=label)
        axes.fill_between(xs, [*map(min, columns)], [*map(max, columns)], color=colour, alpha=0.15, linewidth=0)
    if len(lines) > 1:
        _legend(axes)


def _lines(
    title: str, label: str, xs: Sequence[float], lines: dict[str, list[list[float]]], log: bool = False
) -> bytes:
    figure, axes = _new(title)
    _draw_lines(axes, xs, lines)
    if log:
        axes.set_xscale("log", base=2)
    axes.set_xticks(xs, [f"{x:g}" for x in xs])
    axes.set_xlabel(label, color=INK)
    _rates_axis(axes.yaxis, axes.set_ylabel, "Commands per second")
    axes.set_ylim(bottom=0)
    return _png(figure)


def _bars(
    title: str, names: Sequence[str], bars: dict[str, list[list[float]]], label: str, *, log: bool = False
) -> bytes:
    """Values by label, then by repeat, then by name; where there is none (nan) the others move together."""
    figure, axes = _new(title)
    width = 0.9 / len(bars)
    present = [[system for system in bars if not math.isnan(bars[system][-1][i])] for i in range(len(names))]
    for (system, repeats), colour in zip(bars.items(), COLOURS, strict=False):
        there = [i for i in range(len(names)) if system in present[i]]
        columns = [[row[i] for row in repeats] for i in there]
        middles = [median(column) for column in columns]
        spread = [
            [middle - min(column) for middle, column in zip(middles, columns, strict=True)],
            [max(column) - middle for middle, column in zip(middles, columns, strict=True)],
        ]
        places = [i + (present[i].index(system) - (len(present[i]) - 1) / 2) * width for i in there]
        drawn = axes.bar(places, middles, width * 0.92, color=colour, label=system, yerr=spread, ecolor=INK)
        axes.bar_label(drawn, [_short(middle) for middle in middles], fontsize=7, color=INK, padding=2)
    axes.set_xticks(range(len(names)), names)
    if log:
        least = min(value for repeats in bars.values() for row in repeats for value in row if value > 0)
        axes.set_yscale("log")
        axes.set_ylim(bottom=10 ** math.floor(math.log10(least)))
    else:
        axes.margins(y=0.12)
    _rates_axis(axes.yaxis, axes.set_ylabel, label)
    _legend(axes)
    return _png(figure)


def _short(rate: float) -> str:
    """Three digits: a bar is narrow."""
    for unit in ("", "k"):
        if rate < 999.5:
            return f"{rate:.3g}{unit}"
        rate /= 1000
    return f"{rate:.3g}M"


def _rates_axis(axis: Any, set_label: Callable[..., Any], label: str) -> None:
    axis.set_major_formatter(lambda rate, _: f"{rate:,.0f}")
    axis.get_label().set_color(INK)
    set_label(label, color=INK)


def _legend(axes: Axes) -> None:
    """Beside the picture, where it hides nothing."""
    axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _duration_ticks(axis: Any) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(lambda seconds, _: round_duration(seconds))
    axis.set_minor_formatter(NullFormatter())


def _seconds_axis(axes: Axes, label: str) -> None:
    axes.set_yscale("log")
    _duration_ticks(axes.yaxis)
    axes.set_ylabel(label, color=INK)
    axes.grid(axis="x", color=FAINT, linewidth=0.6)
