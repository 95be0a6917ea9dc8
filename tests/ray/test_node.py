"""How a node comes up on a blank disk, before Ray or another node has anything to do with it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

import rayraft
from rayraft.ray.node import Node
from rayraft.ray.spec import NodeReport, NodeSpec, NodeState
from tests.disks.support import Order, solo_spec
from tests.machine.support import Journal


class Counted:
    made = 0

    def __init__(self) -> None:
        Counted.made += 1
        self.number = Counted.made

    @rayraft.command
    def change(self) -> None: ...


class Locked:
    def __init__(self) -> None:
        self.total = 0
        self.lock = threading.Lock()

    @rayraft.command
    def change(self) -> None: ...


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[Node]]:
    made: list[Node] = []
    yield made
    for node in made:
        node.stop()


def spec_of(directory: Path, cls: type, *args: Any, **kwargs: Any) -> NodeSpec:
    spec = replace(solo_spec(Order(directory=str(directory))), niceness=None)
    return replace(spec, machine=cloudpickle.dumps((cls, args, kwargs)))


def formatted(nodes: list[Node], directory: Path, cls: type, *args: Any, **kwargs: Any) -> NodeReport:
    nodes.append(Node(spec_of(directory, cls, *args, **kwargs)))
    return nodes[-1].format("a-cluster", (1,))


def test_nodes_say_what_object_their_log_would_begin_with(nodes: list[Node], tmp_path: Path) -> None:
    one, other = (formatted(nodes, tmp_path / name, Journal).initial for name in "ab")
    assert one == other != b""
    one, other = (formatted(nodes, tmp_path / name, Counted).initial for name in "cd")
    assert one != other


def test_the_object_that_was_compared_is_the_one_that_serves(nodes: list[Node], tmp_path: Path) -> None:
    initial = formatted(nodes, tmp_path / "node", Counted).initial
    made = Counted.made
    assert nodes[0].seal().state is NodeState.RUNNING
    assert Counted.made == made
    assert nodes[0]._machine is not None
    assert nodes[0]._machine.digest() == initial


def test_an_object_that_could_never_be_saved_is_refused_before_anything_is_written(
    nodes: list[Node], tmp_path: Path
) -> None:
    report = formatted(nodes, tmp_path / "node", Locked)
    assert isinstance(report.error, rayraft.BadConfiguration)
    assert "the attribute 'lock' of Locked can not be pickled" in str(report.error)
    assert not (tmp_path / "node").exists()
