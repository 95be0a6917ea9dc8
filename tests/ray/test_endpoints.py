"""The client's calls as remote calls: who waits for their answers."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from rayraft.errors import ClientClosed, CommandFailed
from rayraft.ray import endpoints, pending
from rayraft.ray.endpoints import RayEndpoints
from rayraft.ray.pending import PendingCall


class Node:
    """Stands for a node's handle: a call has come to ``answer`` when it is asked for."""

    def __init__(self, answer: Any = b"yes") -> None:
        self.answer = answer
        self.futures: list[Future[Any]] = []
        self.greeted = 0
        self.submit = self.query = self.watch = SimpleNamespace(remote=lambda *args: self)
        self.__ray_ready__ = SimpleNamespace(remote=self.greet)

    def greet(self) -> None:
        self.greeted += 1

    def future(self) -> Future[Any]:
        self.futures.append(Future())
        return self.futures[-1]


@pytest.fixture(autouse=True)
def ray_that_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(pending.ray, "get", lambda node, timeout: node.answer)


def submit(node: Node, outcomes: list[Any]) -> PendingCall | None:
    return RayEndpoints("bank", {1: node}).submit(1, b"request", outcomes.append)


def test_the_main_thread_may_wait_for_its_answer() -> None:
    node, outcomes = Node(), list[Any]()
    call = submit(node, outcomes)
    assert call is not None
    assert not node.futures
    call.wait(1.0)
    assert outcomes == [b"yes"]


def test_other_threads_leave_it_to_ray() -> None:
    """Which ends the process when it is shut down while they wait in it."""
    node, outcomes = Node(), list[Any]()
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(submit, node, outcomes).result() is None
    (future,) = node.futures
    future.set_result(b"yes")
    assert outcomes == [b"yes"]


def test_an_answer_that_is_none_is_named() -> None:
    outcomes = list[Any]()
    call = submit(Node({"no": "bytes"}), outcomes)
    assert call is not None
    call.wait(1.0)
    assert [str(outcome) for outcome in outcomes] == [str(CommandFailed("a node answered with dict"))]


def test_without_ray_nothing_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    outcomes = list[Any]()
    node = Node()
    assert submit(node, outcomes) is None
    assert [type(outcome) for outcome in outcomes] == [ClientClosed]


class Head:
    """What Ray's head knows; ``asked`` is set when somebody has asked it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **nodes: Node) -> None:
        self.nodes = {int(name[1:]): node for name, node in nodes.items()}
        self.asked = threading.Event()
        monkeypatch.setattr(endpoints, "find_nodes", self.find_nodes)
        monkeypatch.setattr(endpoints, "REFRESH_SECONDS", 0.0)

    def find_nodes(self, group: str) -> dict[int, Node]:
        self.asked.set()
        return dict(self.nodes)


PATIENCE = 20.0


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.001)


def test_a_lookup_connects_to_the_processes_of_known_nodes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """They may be new, and to connect only when one leads makes those wait who were not served meanwhile."""
    known, new = Node(), Node()
    found = RayEndpoints("bank", {1: known})
    assert (known.greeted, new.greeted) == (1, 0)
    Head(monkeypatch, n1=known, n2=new)
    found.refresh()
    until(lambda: tuple(found.nodes) == (1, 2))
    assert (known.greeted, new.greeted) == (2, 1)


def test_a_lookup_that_has_time_is_hurried_by_one_that_has_not(monkeypatch: pytest.MonkeyPatch) -> None:
    found = RayEndpoints("bank", {1: Node()})
    head = Head(monkeypatch, n1=Node(), n2=Node())
    found.refresh(10 * PATIENCE)
    assert not head.asked.wait(0.01)
    found.refresh()
    assert head.asked.wait(PATIENCE)
    until(lambda: tuple(found.nodes) == (1, 2))


def test_a_lookup_that_finds_ray_shut_down_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """It waited before, and to ask would start a new Ray cluster."""
    found = RayEndpoints("bank", {1: Node()})
    head = Head(monkeypatch, n1=Node(), n2=Node())
    found.refresh(10 * PATIENCE)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    found.refresh()
    until(lambda: not found._looking.locked())
    assert not head.asked.is_set()


SHUTS_RAY_DOWN = """
    import logging, sys, threading
    import ray, rayraft

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    store = rayraft.start(
        rayraft.KeyValue, name="s", nodes=1, data_dir=sys.argv[1], allow_colocated=True, supervise=False
    )
    ends, under_way = [], threading.Barrier(5)

    def write():
        store.put("k", b"x")
        under_way.wait()
        try:
            while True:
                store.put("k", b"x")
        except rayraft.ClientClosed as error:
            ends.append(error)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    under_way.wait()
    ray.shutdown()
    for thread in threads:
        thread.join()
    assert len(ends) == 4 and not ray.is_initialized()
"""


@pytest.mark.slow
@pytest.mark.cluster
def test_ray_is_shut_down_under_threads_that_make_calls(tmp_path: Any) -> None:
    command = [sys.executable, "-c", textwrap.dedent(SHUTS_RAY_DOWN), str(tmp_path)]
    for _ in range(3):
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr


def test_handles_of_another_ray_session_are_looked_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """`ray.shutdown()` and `ray.init()`, as when a notebook's cell is run again: each call failed for ever."""

    def fail(*_: Any) -> None:
        raise ValueError("can't find this actor")

    gone = Node()
    gone.submit = SimpleNamespace(remote=fail)
    found = RayEndpoints("bank", {1: gone})
    watched: list[Any] = []
    found._open_watches.append(watched.append)  # of the session before: it will never end
    head = Head(monkeypatch, n1=Node(), n2=Node())
    outcomes: list[Any] = []
    assert found.submit(1, b"request", outcomes.append) is None
    assert [type(error) for error in (*outcomes, *watched)] == [ValueError, ValueError]
    assert head.asked.wait(PATIENCE)
    until(lambda: tuple(found.nodes) == (1, 2))
