"""`rayraft bench`: the chosen sections one after another, as tables for people and JSON for programs."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from rayraft.bench.figures import surroundings, table
from rayraft.bench.progress import Stage
from rayraft.bench.sections import SECTIONS, Failover, Plan, Section, Throughput
from rayraft.bench.session import file_system
from rayraft.bench.stats import format_size
from rayraft.errors import BadConfiguration

DEFAULT_SECTIONS: Final = ("sequential", "packed", "single", "workload", "kills")


@dataclass(frozen=True, slots=True)
class Report:
    """All that one run of the bench has found. Times in seconds, sizes in bytes."""

    surroundings: dict[str, Any]
    settings: dict[str, Any]
    sections: dict[str, Section]

    @property
    def intact(self) -> bool:
        """Nothing acknowledged was lost in any section."""
        checked = [found for found in self.sections.values() if isinstance(found, Throughput | Failover)]
        stale = sum(found.stale_reads for found in checked if isinstance(found, Throughput))
        return not stale and all(found.verification.intact for found in checked)

    def write_json(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=2, default=str) + "\n")


def run(plan: Plan, names: Iterable[str], console: Console) -> Report:
    """Measure; the tables are printed as they come. Raises BadConfiguration for a section that does not exist."""
    names = check_sections(names)
    report = Report(surroundings(), settings_of(plan), {})
    console.print(_heading(report))
    if report.settings["file_system"] == "tmpfs":
        console.print("[yellow]The data is on tmpfs, where a sync costs nothing: choose a disk with --data-dir[/]")
    stage = Stage(console)
    for name in names:
        found = report.sections[name] = SECTIONS[name](plan, stage)
        console.print(found.table())
    return report


def check_sections(names: Iterable[str]) -> list[str]:
    names = list(dict.fromkeys(names))
    unknown = [name for name in names if name not in SECTIONS]
    if unknown or not names:
        raise BadConfiguration(f"no section {', '.join(unknown) or 'chosen'}: there are {', '.join(SECTIONS)}")
    return names


def settings_of(plan: Plan) -> dict[str, Any]:
    found = asdict(plan)
    disks = found.pop("disks")
    directory = plan.disks.data_dir or Path(tempfile.gettempdir())
    return {
        **found,
        "workload": plan.workload.name,
        "data_dir": disks["data_dir"],
        "file_system": file_system(directory),
    }


def _heading(report: Report) -> Table:
    machine, settings = report.surroundings, report.settings
    found = table("rayraft bench", "", "")
    found.show_header = False
    found.columns[1].justify = "left"
    found.add_row("command", machine["command"])
    found.add_row(
        "versions", ", ".join(f"{name} {machine[name]}" for name in ("rayraft", "ray", "rocksdict", "python"))
    )
    memory = format_size(machine["memory_bytes"])
    found.add_row("machine", f"{machine['cores']} cores ({machine['processor']}), {memory}, {machine['system']}")
    durable = "fsync on a majority before every answer" if settings["settings"]["fsync"] else "fsync OFF"
    found.add_row("group", f"{settings['nodes']} nodes, {durable}, {settings['file_system']}")
    found.add_row("worker niceness", str(machine["RAY_worker_niceness"]))
    return found
