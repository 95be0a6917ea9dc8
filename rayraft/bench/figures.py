"""Figures as they are kept and shown: latencies in a few numbers, and the surroundings they were measured in."""

from __future__ import annotations

import enum
import functools
import os
import platform
import shlex
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, Final

import ray
from rich.box import SIMPLE_HEAD
from rich.table import Table

from rayraft.bench.stats import LatencyHistogram, format_duration, format_rate, format_size
from rayraft.ray.priority import NICENESS

WORKER_NICENESS: Final = "RAY_worker_niceness"
RAYS_NICENESS: Final = 15
QUANTILES: Final = (0, 1, 5, *range(10, 100, 10), 95, 98, 99, 99.5, 99.9, 99.99, 100)  # of the kept distribution


class Unit(str, enum.Enum):
    PER_SECOND = "1/s"
    SECONDS = "s"
    BYTES = "B"
    RATIO = "x"

    def show(self, value: float) -> str:
        formats = {Unit.PER_SECOND: format_rate, Unit.SECONDS: format_duration, Unit.BYTES: format_size}
        return formats[self](value) if self in formats else f"{value:.2f} x"


@dataclass(frozen=True, slots=True)
class Figure:
    """One number that a section has found, by a name that is the same in every run."""

    name: str
    value: float
    unit: Unit
    more_is_better: bool


def rate(name: str, per_second: float) -> Figure:
    return Figure(name, per_second, Unit.PER_SECOND, True)


def seconds(name: str, duration: float) -> Figure:
    return Figure(name, duration, Unit.SECONDS, False)


def size(name: str, in_bytes: float) -> Figure:
    return Figure(name, in_bytes, Unit.BYTES, False)


def cost(name: str, times: float) -> Figure:
    """How many times its floor something takes."""
    return Figure(name, times, Unit.RATIO, False)


def share(name: str, times: float) -> Figure:
    """How many times its floor, or its rival, something achieves."""
    return Figure(name, times, Unit.RATIO, True)


@dataclass(frozen=True, slots=True)
class Series:
    """The same figure in each repeat of a run."""

    unit: Unit
    more_is_better: bool
    values: list[float]

    @property
    def median(self) -> float:
        return median(self.values)

    def __str__(self) -> str:
        shown = self.unit.show(self.median)
        if len(self.values) == 1:
            return shown
        return f"{shown} ({self.unit.show(min(self.values))} to {self.unit.show(max(self.values))})"


@dataclass(frozen=True, slots=True)
class Latency:
    """In seconds."""

    count: int
    mean: float
    p50: float
    p95: float
    p99: float
    max: float
    distribution: tuple[tuple[float, float], ...] = ()  # (seconds, per cent that took no longer)

    @classmethod
    def of(cls, histogram: LatencyHistogram) -> Latency:
        count = histogram.count
        p50, p95, p99 = (histogram.percentile(p) for p in (50, 95, 99))
        distribution = tuple((histogram.percentile(p), float(p)) for p in QUANTILES) if count else ()
        return cls(count, histogram.mean, p50, p95, p99, histogram.max if count else float("nan"), distribution)

    def figures(self, name: str) -> list[Figure]:
        return [seconds(f"{name}.p50", self.p50), seconds(f"{name}.p99", self.p99)]

    def cells(self) -> tuple[str, str, str, str]:
        """p50, p95, p99 and the highest, for a table."""
        return tuple(format_duration(seconds) for seconds in (self.p50, self.p95, self.p99, self.max))  # type: ignore[return-value]


def surroundings() -> dict[str, Any]:
    """What the figures depend on besides the code: versions and the machine."""
    return {
        "rayraft": version("rayraft"),
        "ray": version("ray"),
        "rocksdict": version("rocksdict"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "load_average": round(os.getloadavg()[0], 2),
        "niceness": niceness(),
        WORKER_NICENESS: os.environ.get(WORKER_NICENESS, f"{RAYS_NICENESS} (Ray's default)"),
        "commit": commit(),
        "command": shlex.join([os.path.basename(sys.argv[0]), *sys.argv[1:]]),
    }


def machines() -> list[str]:
    """Those of the Ray cluster, without their names: the surroundings of all that a driver does not see."""
    if not ray.is_initialized():
        return []
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return sorted(f"{each.get('CPU', 0):g} CPUs, {format_size(each.get('memory', 0))} for Ray" for each in alive)


@functools.cache
def niceness() -> int:
    """Of the nodes of a group, as far as this system allows it; floors and peers get the same."""
    tried = subprocess.run(["nice", "-n", str(NICENESS - os.nice(0)), "nice"], capture_output=True, text=True)
    taken = tried.stdout.strip() == str(NICENESS)
    return NICENESS if taken else int(os.environ.get(WORKER_NICENESS, RAYS_NICENESS))


def commit() -> str:
    """Of the source that runs, with a + when files differ from it; "unknown" outside a repository."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, timeout=10)
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return head.stdout.strip() + "+" * bool(changed.stdout.strip()) if head.returncode == 0 else "unknown"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


def table(title: str, *columns: str) -> Table:
    """The first column is text, the others are figures."""
    found = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for position, column in enumerate(columns):
        found.add_column(column, justify="right" if position else "left", no_wrap=position == 0)
    return found
