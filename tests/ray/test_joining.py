"""A node that was to join and does not: its disk never comes up again, and no other disk is touched. Without Ray."""

from __future__ import annotations

import threading
from pathlib import Path

import cloudpickle
import pytest

from rayraft.raft.ready import RaftConfig
from rayraft.ray import node as node_module
from rayraft.ray.node import Node
from rayraft.ray.spec import NodeReport, NodeSpec, NodeState
from rayraft.replica import ReplicaConfig
from rayraft.storage.identity import create_identity, read_identity
from tests.ray.support import Ledger


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    return new_node(tmp_path, monkeypatch)


def new_node(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    monkeypatch.setattr(node_module, "_collect_seldom", lambda: None)  # it is for processes of their own
    config = ReplicaConfig(RaftConfig(4))
    return Node(NodeSpec("g", 4, str(directory), cloudpickle.dumps((Ledger, (), {})), config, niceness=None))


def is_marked(directory: Path) -> bool:
    identity = read_identity(directory)
    return identity is not None and identity.removed


def test_a_disk_that_is_not_sealed_is_marked(node: Node, tmp_path: Path) -> None:
    node.format("c", ())
    node.retire("c")
    assert is_marked(tmp_path)
    assert node.report().state is NodeState.REMOVED


def test_a_join_that_comes_after_it_was_called_off_writes_nothing(node: Node, tmp_path: Path) -> None:
    node.retire("c")
    assert node.join("c").state is NodeState.FAILED
    assert read_identity(tmp_path) is None


def test_a_join_that_is_under_way_when_it_is_called_off_is_marked(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    formatting, go_on = threading.Event(), threading.Event()
    real = node.format

    def slow(cluster_id: str, voters: tuple[int, ...]) -> NodeReport:
        formatting.set()
        assert go_on.wait(30)
        return real(cluster_id, voters)

    monkeypatch.setattr(node, "format", slow)
    monkeypatch.setattr(node, "seal", node.report)
    join = threading.Thread(target=node.join, args=("c",))
    join.start()
    assert formatting.wait(30)
    retire = threading.Thread(target=node.retire, args=("c",))
    retire.start()
    go_on.set()
    join.join(30)
    retire.join(30)
    assert is_marked(tmp_path)


@pytest.mark.parametrize(("number", "cluster"), [(3, "c"), (4, "older")])
def test_a_directory_of_another_node_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, cluster: str
) -> None:
    create_identity(tmp_path, group="g", cluster_id=cluster, node_id=number, voters=(1, 2, 3))
    other = new_node(tmp_path, monkeypatch)
    assert other.join("c").state is NodeState.FAILED
    other.retire("c")
    assert not is_marked(tmp_path)
