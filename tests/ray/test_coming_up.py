"""How a node comes up on a blank disk, before Ray or another node has anything to do with it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
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


class Strict(Journal):
    def __init__(self, size: int) -> None:
        super().__init__()
        if size < 0:
            raise ValueError(f"no such size: {size}")


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


@pytest.mark.parametrize(
    ("args", "words"), [((-1,), "ValueError: no such size: -1"), ((), "missing 1 required positional argument: 'size'")]
)
def test_an_object_that_can_not_be_made_is_refused_in_one_sentence(
    nodes: list[Node], tmp_path: Path, args: tuple[int, ...], words: str
) -> None:
    report = formatted(nodes, tmp_path / "node", Strict, *args)
    assert isinstance(report.error, rayraft.BadConfiguration)
    assert str(report.error).startswith("no Strict can be made")
    assert words in str(report.error)
    assert "Traceback" not in str(report.error)
    assert not (tmp_path / "node").exists()


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A module that is here while the node is described, and gone where it runs."""
    module = ModuleType("only_at_home")
    exec("import rayraft\nclass Shy:\n    @rayraft.command\n    def change(self): ...\n", vars(module))
    monkeypatch.setitem(sys.modules, "only_at_home", module)
    return lambda: monkeypatch.delitem(sys.modules, "only_at_home")


def test_a_module_that_a_node_lacks_is_named_with_what_to_do(
    nodes: list[Node], tmp_path: Path, elsewhere: Callable[[], None]
) -> None:
    spec = spec_of(tmp_path / "node", sys.modules["only_at_home"].Shy)
    elsewhere()
    nodes.append(Node(spec))
    assert nodes[0].report().state is NodeState.BLANK
    report = nodes[0].format("a-cluster", (1,))
    assert isinstance(report.error, rayraft.ClassNotLoadable)
    assert "No module named 'only_at_home'" in str(report.error)
    assert "working_dir" in str(report.error)
    assert not (tmp_path / "node").exists()


def test_a_module_that_is_gone_when_a_node_comes_back_is_named_too(
    nodes: list[Node], tmp_path: Path, elsewhere: Callable[[], None]
) -> None:
    spec = spec_of(tmp_path / "node", sys.modules["only_at_home"].Shy)
    nodes.append(Node(spec))
    nodes[0].format("a-cluster", (1,))
    assert nodes[0].seal().state is NodeState.RUNNING
    nodes[0].stop()
    elsewhere()
    nodes.append(Node(spec))
    report = nodes[1].report()
    assert (report.state, report.methods) == (NodeState.FAILED, {})
    assert isinstance(report.error, rayraft.ClassNotLoadable)
    assert "Traceback" not in str(report.error)
