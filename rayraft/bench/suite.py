"""`rayraft bench`: the chosen sections one after another, as tables for people and JSON for programs."""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from rayraft.bench.figures import Series, machines, surroundings, table
from rayraft.bench.progress import Stage
from rayraft.bench.sections import SECTIONS, Kept, Plan, Section
from rayraft.bench.session import file_system
from rayraft.bench.stats import format_duration, format_size
from rayraft.errors import BadConfiguration

DEFAULT_SECTIONS: Final = ("sequential", "packed", "single", "workload", "kills")
ALL: Final = "all"
FORMAT: Final = 2  # of the JSON


@dataclass(slots=True)
class Report:
    """All that one run of the bench has found. Times in seconds, sizes in bytes."""

    surroundings: dict[str, Any]
    settings: dict[str, Any]
    repeats: list[dict[str, Section]] = field(default_factory=list)
    ended_early: str = ""  # in which section, and why

    @classmethod
    def of(cls, plan: Plan) -> Report:
        """Of a run that begins now."""
        return cls(surroundings(), settings_of(plan))

    @property
    def sections(self) -> dict[str, Section]:
        """Of the last repeat that has each."""
        return {name: section for repeat in self.repeats for name, section in repeat.items()}

    def add(self, repeat: int, name: str, found: Section) -> None:
        if len(self.repeats) == repeat:
            self.repeats.append({})
        self.repeats[repeat][name] = found

    @property
    def broken(self) -> list[str]:
        """The sections in any of whose repeats something acknowledged was lost, damaged or read too old."""
        return list(
            dict.fromkeys(name for repeat in self.repeats for name, section in repeat.items() if not section.intact)
        )

    @property
    def intact(self) -> bool:
        return not self.broken

    @property
    def complaint(self) -> str:
        """What to say where it is not intact."""
        return f"acknowledged writes were lost (in {', '.join(self.broken)}): this is a bug"

    def figures(self) -> dict[str, Series]:
        """Every figure by ``section.name``, with its value in each repeat."""
        found: dict[str, Series] = {}
        for repeat in self.repeats:
            for section, results in repeat.items():
                for figure in results.figures():
                    name = f"{section}.{figure.name}"
                    found.setdefault(name, Series(figure.unit, figure.more_is_better, [])).values.append(figure.value)
        return found

    def as_json(self) -> dict[str, Any]:
        figures = {
            name: {**asdict(series), "median": series.median, "min": min(series.values), "max": max(series.values)}
            for name, series in self.figures().items()
        }
        repeats = [{name: asdict(section) for name, section in repeat.items()} for repeat in self.repeats]  # type: ignore[call-overload]
        return {
            "format": FORMAT,
            "surroundings": self.surroundings,
            "settings": self.settings,
            "ended_early": self.ended_early,
            "broken": self.broken,
            "figures": figures,
            "repeats": repeats,
        }

    def write_json(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.as_json(), indent=2, default=str) + "\n")


def run(plan: Plan, names: Iterable[str], console: Console, repeats: int = 1, report: Report | None = None) -> Report:
    """Measure; the tables are printed as they come. Raises BadConfiguration for a section that does not exist.

    Repeats go round all sections, so that a slow minute of the machine does not hit one section alone. ``report`` is
    filled as the sections end: whoever gives it has those that did, whatever becomes of the next.
    """
    names = check_sections(names)
    report = report or Report.of(plan)
    report.surroundings["machines"] = machines()
    console.print(_heading(report))
    if report.settings["file_system"] == "tmpfs":
        console.print("[yellow]The data is on tmpfs, where a sync costs nothing: choose a disk with --data-dir[/]")
    if report.surroundings["load_average"] > report.surroundings["cores"] / 2:
        console.print("[yellow]Something else uses this machine: the figures will say more about that[/]")
    stage = Stage(console)
    with contextlib.closing(plan.kept or Kept()):
        for repeat, name in _course(names, repeats, stage):
            with _told(report, name):
                found = SECTIONS[name](plan, stage)
                report.add(repeat, name, found)
                console.print(found.table())
    if repeats > 1:
        console.print(medians(report))
    return report


@contextlib.contextmanager
def _told(report: Report, name: str) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        report.ended_early = f"in section {name}: {type(error).__name__}: {error}"
        raise


def _course(names: list[str], repeats: int, stage: Stage) -> Iterator[tuple[int, str]]:
    """(repeat, section) in order, saying how long all of it will take as soon as that can be told."""
    took: dict[str, float] = {}
    total = len(names) * repeats
    for step in range(total):
        repeat, name = step // len(names), names[step % len(names)]
        if total > 1:
            usual = sum(took.values()) / len(took) if took else 0.0
            left = sum(took.get(names[later % len(names)], usual) for later in range(step, total))
            rest = f", about {format_duration(round(left))} left" if took else ""
            which = f" (repeat {repeat + 1} of {repeats})" if repeats > 1 else ""
            stage.say(f"[dim][{step + 1}/{total}] {name}{which}{rest}[/]")
        begin = time.monotonic()
        yield repeat, name
        took[name] = time.monotonic() - begin


def medians(report: Report) -> Table:
    repeats = len(report.repeats)
    found = table(f"Medians of {repeats} repeats", "", "median", "min", "max")
    for name, series in report.figures().items():
        show = series.unit.show
        found.add_row(name, show(series.median), show(min(series.values)), show(max(series.values)))
    return found


def check_sections(names: Iterable[str]) -> list[str]:
    names = list(dict.fromkeys(names))
    if ALL in names:
        return list(SECTIONS)
    unknown = [name for name in names if name not in SECTIONS]
    if unknown or not names:
        raise BadConfiguration(f"no section {', '.join(unknown) or 'chosen'}: there are {', '.join(SECTIONS)}")
    return names


def settings_of(plan: Plan) -> dict[str, Any]:
    found = asdict(replace(plan, kept=None))
    del found["kept"]
    disks = found.pop("disks")
    directory = plan.disks.data_dir or Path(tempfile.gettempdir())
    return {
        **found,
        "workloads": [workload.name for workload in plan.workloads],
        "data_dir": disks["data_dir"],
        "file_system": file_system(directory),
    }


def heading(report: Report) -> list[tuple[str, str]]:
    """What every figure depends on, as lines for people."""
    machine, settings = report.surroundings, report.settings
    memory = format_size(machine["memory_bytes"])
    chosen = settings["settings"]
    durable = "fsync on a majority before every answer" if chosen["fsync"] else "fsync OFF"
    if not chosen.get("channels", True):
        durable += ", remote calls only"
    versions = ", ".join(f"{name} {machine[name]}" for name in ("rayraft", "ray", "rocksdict", "python"))
    return [
        ("command", machine["command"]),
        ("commit", machine["commit"]),
        ("versions", versions),
        ("machine", f"{machine['cores']} cores ({machine['processor']}), {memory}, {machine['system']}"),
        *([("Ray's machines", "; ".join(others))] if len(others := machine.get("machines", [])) > 1 else []),
        ("load before", str(machine["load_average"])),
        ("group", f"{settings['nodes']} nodes, {durable}, {settings['file_system']}"),
        ("niceness", f"{machine['niceness']} of floors, peers and, by default, nodes"),
        ("worker niceness", str(machine["RAY_worker_niceness"])),
    ]


def _heading(report: Report) -> Table:
    found = table("rayraft bench", "", "")
    found.show_header = False
    found.columns[1].justify = "left"
    for name, line in heading(report):
        found.add_row(name, line)
    return found
