"""The same seed gives the same run, byte for byte: in one process, and in two that hash differently."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from rayraft.simulation import simulate

SEEDS = (1, 2, 3, 4, 5, 6)
PROGRAM = f"from rayraft.simulation import simulate; print([simulate(seed).digest for seed in {SEEDS}])"


@pytest.mark.parametrize("seed", SEEDS)
def test_a_seed_gives_the_same_run_twice(seed: int) -> None:
    assert simulate(seed) == simulate(seed)


def test_different_seeds_give_different_runs() -> None:
    assert len({simulate(seed, seconds=5.0).digest for seed in SEEDS}) == len(SEEDS)


def test_a_run_does_not_depend_on_the_order_of_hashes() -> None:
    def digests(hash_seed: str) -> str:
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    here = str([simulate(seed).digest for seed in SEEDS]) + "\n"
    assert digests("0") == digests("12345") == here
