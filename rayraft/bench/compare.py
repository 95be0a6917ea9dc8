"""`rayraft bench compare A.json B.json`: what changed between two runs, and whether it is more than noise.

The test is the Mann-Whitney U test in its exact form: under the hypothesis that the run makes no difference, every way
to deal the repeats' values to the two runs is as likely, so p is the share of all ways whose rank sum is at least as
far from its mean as the one seen (two-sided, ties get their mean rank). It assumes nothing of the distribution. With
three repeats each p can not be below 0.10, with four not below 0.03: fewer can show nothing at the 5-% level.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from pathlib import Path
from random import Random
from typing import Any, Final

from rich.table import Table

from rayraft.bench.figures import Series, Unit, table
from rayraft.errors import BadConfiguration

LEVEL: Final = 0.05
MAX_WAYS: Final = 200_000  # beyond that so many are drawn
# What must be equal for two runs to be about the same thing; the commit and the command may differ.
SURROUNDINGS: Final = ("ray", "rocksdict", "python", "system", "processor", "cores", "niceness", "RAY_worker_niceness")


@dataclass(frozen=True, slots=True)
class Run:
    """A run as its JSON has it."""

    path: Path
    surroundings: Mapping[str, Any]
    settings: Mapping[str, Any]
    figures: Mapping[str, Series]
    broken: Sequence[str] = ()  # sections that lost something
    ended_early: str = ""

    @classmethod
    def read(cls, path: Path) -> Run:
        """Raises BadConfiguration for a file that is none of `rayraft bench --json`."""
        try:
            found = json.loads(path.read_text())
            figures = {
                name: Series(Unit(each["unit"]), each["more_is_better"], each["values"])
                for name, each in found["figures"].items()
            }
            return cls(
                path,
                found["surroundings"],
                found["settings"],
                figures,
                found.get("broken", ()),
                found.get("ended_early", ""),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadConfiguration(f"{path} has no figures of `rayraft bench --json`: {error!r}") from error


@dataclass(frozen=True, slots=True)
class Change:
    """One figure in both runs."""

    name: str
    before: Series
    after: Series
    p: float

    @property
    def relative(self) -> float:
        """0.1: the median rose by ten per cent."""
        return self.after.median / self.before.median - 1 if self.before.median else float("nan")

    @property
    def verdict(self) -> str:
        before, after = len(self.before.values), len(self.after.values)
        if 2 / comb(before + after, before) >= LEVEL:
            return "too few repeats to tell"
        if self.p >= LEVEL or self.after.median == self.before.median:
            return "within the noise"
        return "better" if (self.after.median > self.before.median) is self.before.more_is_better else "worse"


@dataclass(frozen=True, slots=True)
class Comparison:
    before: Run
    after: Run
    changes: list[Change]

    @property
    def differences(self) -> list[str]:
        """In what else the two runs differ: then a change may not be the code's."""
        found = []
        for name in SURROUNDINGS:
            one, other = self.before.surroundings.get(name), self.after.surroundings.get(name)
            if one != other:
                found.append(f"{name}: {one} and {other}")
        for name in sorted(self.before.settings.keys() | self.after.settings.keys()):
            one, other = self.before.settings.get(name), self.after.settings.get(name)
            if one != other:
                found.append(f"{name}: {one} and {other}")
        return found

    @property
    def warnings(self) -> list[str]:
        """What no figure says."""
        found = []
        for run in (self.before, self.after):
            if run.broken:
                found.append(f"{run.path}: acknowledged writes were lost, in {', '.join(run.broken)}")
            if run.ended_early:
                found.append(f"{run.path}: it ended early, {run.ended_early}")
        for run, other in ((self.before, self.after), (self.after, self.before)):
            if missing := sorted({name.partition(".")[0] for name in run.figures.keys() - other.figures.keys()}):
                found.append(f"only {run.path} has all figures of {', '.join(missing)}")
        return found

    def table(self, *, only_changed: bool = False) -> Table:
        before, after = (run.surroundings.get("commit", "") for run in (self.before, self.after))
        title = f"{self.before.path} (commit {before}) → {self.after.path} (commit {after})"
        found = table(title, "", "before", "after", "change", "p", "")
        colours = {"better": "green", "worse": "bold red"}
        for change in self.changes:
            if only_changed and change.verdict not in colours:
                continue
            colour = colours.get(change.verdict, "dim")
            shown = [str(series) for series in (change.before, change.after)]
            figures = (f"{change.relative:+.1%}", f"{change.p:.3f}")
            found.add_row(change.name, *shown, *figures, f"[{colour}]{change.verdict}[/]")
        return found

    def closing(self) -> str:
        tested = [change for change in self.changes if change.verdict != "too few repeats to tell"]
        return (
            f"Test: exact two-sided Mann-Whitney U over the repeats, level {LEVEL:.0%}. Of {len(tested)} figures "
            f"tested about {LEVEL * len(tested):.0f} seem to differ by chance alone; believe a change that related "
            "figures share."
        )


def compare(before: Path, after: Path) -> Comparison:
    """Raises BadConfiguration."""
    one, other = Run.read(before), Run.read(after)
    shared = [name for name in one.figures if name in other.figures]
    if not shared:
        raise BadConfiguration(f"{before} and {after} have no figure in common")
    changes = [
        Change(
            name, one.figures[name], other.figures[name], p_value(one.figures[name].values, other.figures[name].values)
        )
        for name in shared
    ]
    return Comparison(one, other, changes)


def p_value(some: Sequence[float], others: Sequence[float]) -> float:
    """Of the two-sided Mann-Whitney test."""
    ranks = _ranks([*some, *others])
    expected = len(some) * (len(ranks) + 1) / 2
    seen = abs(sum(ranks[: len(some)]) - expected) - 1e-9
    if comb(len(ranks), len(some)) <= MAX_WAYS:
        ways = list(combinations(ranks, len(some)))
        return sum(abs(sum(way) - expected) >= seen for way in ways) / len(ways)
    dice = Random(0)
    hits = sum(abs(sum(dice.sample(ranks, len(some))) - expected) >= seen for _ in range(MAX_WAYS))
    return (hits + 1) / (MAX_WAYS + 1)


def _ranks(values: list[float]) -> list[float]:
    """From 1; equal values share the mean of their ranks."""
    ordered = sorted(values)
    first = {value: position for position, value in reversed(list(enumerate(ordered, 1)))}
    return [first[value] + (ordered.count(value) - 1) / 2 for value in values]
