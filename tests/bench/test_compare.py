"""Two runs are compared by an exact test, which finds what is there and nothing else."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from rayraft.bench.compare import LEVEL, compare, p_value
from rayraft.bench.sections import Failover, Memory, Plan, Sample
from rayraft.bench.suite import Report, settings_of
from rayraft.bench.witness import Verification
from rayraft.errors import BadConfiguration


def run_of(path: Path, gaps: list[float], **surroundings: str) -> Path:
    repeats = [{"kills": Failover([gap], [2.0], 10, Verification())} for gap in gaps]
    Report({"commit": path.stem, **surroundings}, settings_of(Plan()), repeats).write_json(path)
    return path


@pytest.mark.parametrize(
    ("some", "others", "p"),
    [
        ([1, 2, 3], [4, 5, 6], 2 / 20),  # the two extreme ways of 20
        ([4, 5, 6, 7], [0, 1, 2, 3], 2 / 70),
        ([1, 4], [2, 3], 1.0),
        ([1, 1, 1], [1, 1, 1], 1.0),
        ([1, 2, 2], [2, 3, 3], 6 / 20),  # ties: three ways to take two of the twos with the one, three with the threes
    ],
)
def test_exact_values(some: list[float], others: list[float], p: float) -> None:
    assert p_value(some, others) == pytest.approx(p)


def test_equal_distributions_seldom_differ() -> None:
    dice = Random(1)
    p_values = [p_value([dice.gauss(0, 1) for _ in range(5)], [dice.gauss(0, 1) for _ in range(5)]) for _ in range(400)]
    assert sum(p < LEVEL for p in p_values) / len(p_values) <= LEVEL + 0.02


def test_many_repeats_are_drawn_from() -> None:
    assert p_value(list(range(12)), list(range(100, 112))) < 0.001
    assert p_value(list(range(0, 24, 2)), list(range(1, 25, 2))) > 0.5


def test_better_worse_noise_and_too_few(tmp_path: Path) -> None:
    slow = run_of(tmp_path / "slow.json", [0.20, 0.21, 0.22, 0.23])
    fast = run_of(tmp_path / "fast.json", [0.10, 0.11, 0.12, 0.13])
    few = run_of(tmp_path / "few.json", [0.01, 0.01, 0.01])

    def verdict(before: Path, after: Path) -> str:
        return next(one.verdict for one in compare(before, after).changes if one.name == "kills.without_service.p50")

    assert verdict(slow, fast) == "better"
    assert verdict(fast, slow) == "worse"
    assert verdict(slow, slow) == "within the noise"
    assert verdict(few, few) == "too few repeats to tell"


def test_other_machines_are_named(tmp_path: Path) -> None:
    one, other = run_of(tmp_path / "a.json", [1.0], ray="2.60"), run_of(tmp_path / "b.json", [1.0], ray="2.61")
    assert compare(one, other).differences == ["ray: 2.60 and 2.61"]
    assert compare(one, one).differences == []


def test_a_file_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(BadConfiguration, match="no figures"):
        compare(tmp_path / "x.json", tmp_path / "absent.json")


def test_what_no_figure_says_is_told(tmp_path: Path) -> None:
    """A run that crashed, or lost something, is not one in which nothing changed."""
    before = run_of(tmp_path / "a.json", [0.1, 0.2])
    report = Report({}, settings_of(Plan()), [{"kills": Failover([0.1], [2.0], 10, Verification(lost=1))}])
    report.repeats[0]["memory"] = Memory(256, 10, [Sample(0, {1: 5}, 1, 1), Sample(9, {1: 6}, 1, 1)])
    report.ended_early = "in section peers: NoQuorum: nobody leads"
    report.write_json(tmp_path / "b.json")
    assert compare(before, before).warnings == []
    told = "\n".join(compare(before, tmp_path / "b.json").warnings)
    assert "b.json: acknowledged writes were lost, in kills" in told
    assert "b.json: it ended early, in section peers: NoQuorum" in told
    assert "b.json has all figures of memory" in told


def test_only_what_changed_is_shown_and_all_that_was_tested_is_counted(tmp_path: Path) -> None:
    found = compare(run_of(tmp_path / "a.json", [1, 2, 3, 4, 5.0]), run_of(tmp_path / "b.json", [6, 7, 8, 9, 10.0]))
    assert [change.verdict for change in found.changes] == ["worse", "worse", "within the noise"]
    assert found.table(only_changed=True).row_count == 2
    assert found.table().row_count == 3
    assert "Of 3 figures" in found.closing()
