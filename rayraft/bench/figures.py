"""Figures as they are kept and shown: latencies in a few numbers, and the surroundings they were measured in."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final

from rich.box import SIMPLE_HEAD
from rich.table import Table

from rayraft.bench.stats import LatencyHistogram, format_duration

NICENESS: Final = "RAY_worker_niceness"


@dataclass(frozen=True, slots=True)
class Latency:
    """In seconds."""

    count: int
    mean: float
    p50: float
    p95: float
    p99: float
    max: float

    @classmethod
    def of(cls, histogram: LatencyHistogram) -> Latency:
        p50, p95, p99 = (histogram.percentile(p) for p in (50, 95, 99))
        return cls(histogram.count, histogram.mean, p50, p95, p99, histogram.max if histogram.count else float("nan"))

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
        "RAY_worker_niceness": os.environ.get(NICENESS, "15 (Ray's default)"),
        "command": " ".join([os.path.basename(sys.argv[0]), *sys.argv[1:]]),
    }


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
