"""Many seeds in worker processes, and `rayraft simulate`, which shows them to a person."""

from __future__ import annotations

from typing import Any

import pytest
from typer.testing import CliRunner

from rayraft import cli
from rayraft.simulation.campaign import Failure, Setting, Totals, run_seed, run_seeds
from tests.simulation.mutations import MUTATIONS

SHORT = Setting(nodes=3, seconds=3.0)


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(cli.app, ["simulate", *arguments], env={"COLUMNS": "200", "NO_COLOR": "1"})


def test_worker_processes_find_what_one_process_finds() -> None:
    alone = {outcome.seed: outcome.result for outcome in run_seeds(range(12), SHORT, jobs=1)}
    shared = {outcome.seed: outcome.result for outcome in run_seeds(range(12), SHORT, jobs=2)}
    assert alone == shared
    assert len(alone) == 12


def test_totals_are_sums() -> None:
    totals, outcomes = Totals(), [run_seed(seed, SHORT) for seed in range(3)]
    for outcome in outcomes:
        totals.add(outcome)
    assert totals.runs == 3
    assert totals.acknowledged == sum(outcome.result.acknowledged for outcome in outcomes)  # type: ignore[union-attr]
    assert totals.speed > 0


def test_the_command_prints_speed_and_totals() -> None:
    ended = invoke("--seeds", "3", "--from", "7", "--nodes", "3", "--seconds", "3", "--jobs", "1")
    assert ended.exit_code == 0, ended.output
    for words in ("3 runs, 0 failed", "simulated seconds per second of one core", "acknowledged commands"):
        assert words in ended.output


def test_a_story_tells_who_led_and_how_it_ended() -> None:
    ended = invoke("--seed", "4", "--nodes", "3", "--seconds", "5", "--story")
    assert ended.exit_code == 0, ended.output
    for words in ("seed 4: 3 nodes", "leads in term", "everything heals", "all invariants held"):
        assert words in ended.output


def test_a_failing_seed_comes_with_its_story_and_the_command_that_replays_it(monkeypatch: pytest.MonkeyPatch) -> None:
    MUTATIONS["answer_before_the_sync"](monkeypatch)
    failing = next(seed for seed in range(400) if isinstance(run_seed(seed, Setting()).result, Failure))
    ended = invoke("--seed", str(failing))
    assert ended.exit_code == 1
    assert "1 runs, 1 failed" in ended.output
    assert f"=> seed {failing} breaks durable before ack" in ended.output
    assert f"replay it: rayraft simulate --seed {failing} --seconds 20 --story" in ended.output
    assert invoke("--seed", str(failing), "--story").exit_code == 1


def test_a_story_needs_a_seed() -> None:
    assert invoke("--story").exit_code == 2
