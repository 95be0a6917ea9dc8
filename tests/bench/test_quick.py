"""`rayraft bench quick` can be run: tiny sizes, no word about speed."""

from __future__ import annotations

import io
import os
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from rayraft.bench.aims import QUICK_SECTIONS, aims, quick, summary
from rayraft.bench.sections import SECTIONS, Plan
from rayraft.bench.session import Disks
from rayraft.bench.suite import Report, run


def measure(tmp_path: Path, *sections: str, file: io.StringIO | None = None) -> Report:
    sizes = Plan(records=64, seconds=0.2, sequential=20, callers=4, batch=20, outstanding=64, kills=1, processes=(1, 2))
    plan = quick(replace(sizes, snapshot_keys=64, recovery_commands=100, memory_commands=80, disks=Disks(tmp_path)))
    plan = replace(plan, value_sizes=(1 << 10,), group_sizes=(1, 3), offered=(0.5, 1.1))
    console = Console(file=file or io.StringIO(), width=120)
    report = run(plan, sections, console)
    console.print(summary(report, aims(plan)))
    assert "Aims" in console.file.getvalue()  # type: ignore[attr-defined]
    assert list(report.sections) == list(sections)
    assert report.intact
    assert not list(tmp_path.iterdir())  # tidied away
    return report


@pytest.mark.cluster
def test_quick_can_be_run(ray_cluster: None, tmp_path: Path) -> None:
    report = measure(tmp_path, "single")
    measured = {aim.what: aim.measure(report) for aim in aims(Plan())}
    assert measured["the same / the pipe"] is not None
    assert measured["sequential put, p50 / relay"] is None


@pytest.mark.cluster
def test_sections_that_need_the_same_group_share_it(ray_cluster: None, tmp_path: Path) -> None:
    started: list[str] = []

    class Heard(io.StringIO):
        def write(self, text: str) -> int:
            started.extend(line for line in text.splitlines() if line.startswith("Starting 3 nodes"))
            return super().write(text)

    report = measure(tmp_path, "callers", "coroutines", "reads", file=Heard())
    assert list(report.sections) == ["callers", "coroutines", "reads"]
    assert len(started) == 2


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_section_can_be_run(ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = str(Path(__file__).parents[2])  # for PySyncObj's processes
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])))
    report = measure(tmp_path, *SECTIONS)
    assert set(QUICK_SECTIONS) <= set(report.sections)
    assert all(list(section.figures()) for section in report.sections.values())
