"""Many seeds on all cores: what they amounted to together, and how each one that failed went wrong."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass, field

from rayraft.simulation.run import Report, SimulationFailed, simulate

CHUNK = 5  # seeds that a worker runs at a time


@dataclass(frozen=True, slots=True)
class Setting:
    """What the runs of a campaign have in common; None is drawn from the seed."""

    nodes: int | None = None
    seconds: float = 20.0

    def command(self, seed: int) -> str:
        """What a person types to see that run again."""
        nodes = f" --nodes {self.nodes}" if self.nodes is not None else ""
        return f"rayraft simulate --seed {seed}{nodes} --seconds {self.seconds:g} --story"


@dataclass(frozen=True, slots=True)
class Failure:
    """A run that broke ``invariant``; ``story`` is for a reader."""

    seed: int
    invariant: str
    step: int
    time: float
    story: str


@dataclass(frozen=True, slots=True)
class Outcome:
    seed: int
    result: Report | Failure
    cpu_seconds: float


@dataclass(slots=True)
class Totals:
    """Sums over the runs that kept all invariants, and the failures of the others."""

    runs: int = 0
    simulated_seconds: float = 0.0
    cpu_seconds: float = 0.0
    commits: int = 0
    acknowledged: int = 0
    reads: int = 0
    elections: int = 0
    snapshots_installed: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)

    @property
    def speed(self) -> float:
        """Simulated seconds per second of one core."""
        return self.simulated_seconds / self.cpu_seconds if self.cpu_seconds else 0.0

    def add(self, outcome: Outcome) -> None:
        self.runs += 1
        result = outcome.result
        if isinstance(result, Failure):
            self.failures.append(result)
            return
        self.cpu_seconds += outcome.cpu_seconds
        self.simulated_seconds += result.simulated_seconds
        self.commits += result.commits
        self.acknowledged += result.acknowledged
        self.reads += result.reads
        self.elections += result.terms
        self.snapshots_installed += result.snapshots_installed
        self.faults.update(result.faults)


def run_seed(seed: int, setting: Setting) -> Outcome:
    begun = time.process_time()
    try:
        result: Report | Failure = simulate(seed, nodes=setting.nodes, seconds=setting.seconds)
    except SimulationFailed as failed:
        violation = failed.violation
        result = Failure(seed, violation.name, violation.step, violation.time, str(failed))
    return Outcome(seed, result, time.process_time() - begun)


def run_seeds(seeds: Sequence[int], setting: Setting, *, jobs: int | None = None) -> Iterator[Outcome]:
    """Run them all, in worker processes where that helps; outcomes come as they are ready, in any order."""
    jobs = min(jobs or os.cpu_count() or 1, len(seeds))
    if jobs <= 1:
        yield from (run_seed(seed, setting) for seed in seeds)
        return
    chunks = iter([seeds[i : i + CHUNK] for i in range(0, len(seeds), CHUNK)])
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        open_chunks = {
            pool.submit(_run_chunk, chunk, setting) for _, chunk in zip(range(2 * jobs), chunks, strict=False)
        }
        while open_chunks:
            done, open_chunks = wait(open_chunks, return_when=FIRST_COMPLETED)
            for future in done:
                yield from future.result()
            open_chunks |= {pool.submit(_run_chunk, chunk, setting) for _, chunk in zip(done, chunks, strict=False)}


def _run_chunk(seeds: Sequence[int], setting: Setting) -> list[Outcome]:
    return [run_seed(seed, setting) for seed in seeds]
