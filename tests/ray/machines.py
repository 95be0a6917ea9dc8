"""Several of Ray's nodes on this machine, in a process of its own: the tests' own Ray cluster has one."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from rayraft.ray.placement import MACHINE_LABEL

ALONE_SECONDS = 500.0


def alone(test: Callable[[Path], None], path: Path) -> None:
    """Run ``test`` in a fresh process; what it raises is a failure here."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_run, args=(test, path, there))
    process.start()
    there.close()
    try:
        outcome = here.recv() if here.poll(ALONE_SECONDS) else f"no end within {ALONE_SECONDS} s"
    except EOFError:
        outcome = "the process ended without a word"
    process.join(30.0)
    if process.is_alive():
        process.kill()
    if outcome:
        pytest.fail(outcome)


def _run(test: Callable[[Path], None], path: Path, outcome: Connection) -> None:
    try:
        test(path)
        outcome.send("")
    except BaseException:
        outcome.send(traceback.format_exc())


def patiently(begin: Callable[[], Any]) -> Any:
    """Ray gives a node 30 s to start, which a crowded machine may exceed."""
    for _ in range(4):
        try:
            return begin()
        except Exception as error:
            if "timed out during startup" not in str(error):
                raise
    return begin()


class Machines:
    """Machines m0, m1, … by their labels; the head runs on m0, which therefore stays."""

    def __init__(self, count: int) -> None:
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 1, "labels": {MACHINE_LABEL: "m0"}}
        self._cluster = patiently(lambda: Cluster(initialize_head=True, head_node_args=head))
        self._nodes: dict[str, Any] = {}
        for number in range(1, count):
            self.add(f"m{number}")

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def add(self, name: str) -> None:
        self._nodes[name] = patiently(lambda: self._cluster.add_node(num_cpus=1, labels={MACHINE_LABEL: name}))

    def lose(self, name: str) -> None:
        """As by a power loss."""
        self._cluster.remove_node(self._nodes.pop(name), allow_graceful=False)

    def end(self) -> None:
        self._cluster.shutdown()


@contextlib.contextmanager
def machines(count: int) -> Iterator[Machines]:
    import ray

    found = Machines(count)
    try:
        ray.init(address=found.address, log_to_driver=False, logging_level=logging.CRITICAL)
        yield found
    finally:
        ray.shutdown()
        found.end()
