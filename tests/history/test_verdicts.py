"""Histories of real systems with verdicts that others reached; `RAYRAFT_HISTORIES` names their directory."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from rayraft.history import Verdict, check
from rayraft.history.formats import read

_ROOT = Path(__file__).resolve().parents[2]


def directory() -> Path:
    return Path(os.environ.get("RAYRAFT_HISTORIES") or _ROOT.parent / "shared" / "histories")


def known() -> list[ParameterSet]:
    """A parameter for each line of the verdicts; a single one that skips where there are none."""
    verdicts = directory() / "verdicts.csv"
    if not verdicts.is_file():
        reason = f"no {verdicts}: set RAYRAFT_HISTORIES to the directory of recorded histories"
        return [pytest.param(Path(), False, id="absent", marks=pytest.mark.skip(reason=reason))]
    with verdicts.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        pytest.param(directory() / row["history"], row["linearizable"] == "true", id=row["history"]) for row in rows
    ]


@pytest.mark.parametrize(("path", "linearizable"), known())
def test_agrees_with_the_verdict(path: Path, linearizable: bool) -> None:
    recorded = read(path)
    report = check(recorded.history, recorded.model)
    assert report.verdict is (Verdict.LINEARIZABLE if linearizable else Verdict.VIOLATED), report.explain()
    assert report.operations > 10
    assert bool(report.explain()) != linearizable
