"""The end of a group, whatever somebody else starts meanwhile: against a scripted Ray."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from rayraft.errors import GroupExists, NoSuchGroup
from rayraft.raft.types import NodeId
from rayraft.ray import cluster, supervisor
from rayraft.ray.cluster import Cluster, shut_down
from rayraft.ray.supervision import Rules


class Ray:
    """The actors there are, by node; 0 is the supervisor. ``starts`` are brought up after the next kills."""

    def __init__(self, *nodes: NodeId, starts: tuple[NodeId, ...] = (), immortal: bool = False) -> None:
        self.actors = {node: self.actor(node) for node in nodes}
        self.starts, self.immortal = list(starts), immortal

    def actor(self, node: NodeId) -> Any:
        call = SimpleNamespace(remote=lambda: None)
        return SimpleNamespace(node=node, stop=call, report=call)

    def find_nodes(self, name: str) -> dict[NodeId, Any]:
        nodes = {node: actor for node, actor in self.actors.items() if node}
        if not nodes:
            raise NoSuchGroup(f"no group {name!r}")
        return nodes

    def find_supervisor(self, name: str) -> Any:
        return self.actors.get(0)

    def kill(self, actor: Any, no_restart: bool) -> None:
        if not self.immortal:
            self.actors.pop(actor.node, None)
        if self.starts:
            node = self.starts.pop(0)
            self.actors[node] = self.actor(node)


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[Ray], Ray]:
    def use(ray: Ray) -> Ray:
        for module in (cluster, supervisor):
            monkeypatch.setattr(module, "find_nodes", ray.find_nodes)
            monkeypatch.setattr(module, "find_supervisor", ray.find_supervisor)
        monkeypatch.setattr("rayraft.ray.group.find_nodes", ray.find_nodes)
        for module in ("cluster", "group"):
            monkeypatch.setattr(f"rayraft.ray.{module}.gather", lambda calls, timeout_s: dict.fromkeys(calls))
        monkeypatch.setattr(cluster, "ensure_ray", lambda: None)
        monkeypatch.setattr(cluster, "POLL_SECONDS", 0.0)
        monkeypatch.setattr("ray.kill", ray.kill)
        return ray

    return use


def test_what_is_started_while_a_group_is_shut_down_is_ended_too(use: Callable[[Ray], Ray]) -> None:
    """Nodes that a `scale` under way added went on, and so did the supervisor of a `start`."""
    ray = use(Ray(0, 1, 2, 3, starts=(4, 5, 0)))
    Cluster("g", ray.find_nodes("g")).shutdown()
    assert ray.actors == {}


def test_what_is_still_there_at_the_end_is_named(use: Callable[[Ray], Ray]) -> None:
    ray = use(Ray(0, 1, immortal=True))
    with pytest.raises(GroupExists, match="'g' is not shut down, its supervisor and node 1 is there still"):
        Cluster("g", ray.find_nodes("g")).shutdown(timeout_s=0.0)


def test_a_supervisor_without_nodes_is_ended(use: Callable[[Ray], Ray]) -> None:
    ray = use(Ray(0))
    shut_down("g")
    assert ray.actors == {}
    with pytest.raises(NoSuchGroup):
        shut_down("g")


class Mortal(supervisor.Supervisor):
    def _end(self) -> None:
        super()._end()
        self._stopped.set()  # as its process ends


def test_a_supervisor_ends_itself_when_there_was_no_group_for_long(
    use: Callable[[Ray], Ray], monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = use(Ray(0))
    monkeypatch.setattr(supervisor, "GONE_SECONDS", 0.0)
    found = Mortal("g", Rules())
    found._thread.join(30.0)
    ended = not found._thread.is_alive()
    found.stop()
    assert (ended, ray.actors) == (True, {})
