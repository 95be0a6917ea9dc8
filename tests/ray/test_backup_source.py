"""A node's side of a backup: what nobody fetches does not stay on its disk."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rayraft.errors import StorageError
from rayraft.ray import backup_source
from rayraft.ray.node import Node
from rayraft.ray.spec import NodeState
from tests.disks.support import Order, node_on, numbers_of

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@pytest.fixture
def order(tmp_path: Path) -> Order:
    return Order(directory=str(tmp_path / "node-1"))


@pytest.fixture
def node(order: Order) -> Iterator[Node]:
    with node_on(order) as node:
        node.format("c1", (1,))
        node.seal()
        assert numbers_of(node) == []  # so it leads
        yield node


def files(order: Order) -> list[Path]:
    return list(Path(order.directory, "backup").glob("*"))


def look(node: Node) -> None:
    assert node._watch is not None
    node._watch.look()


def saved(node: Node) -> str:
    """The ticket of a backup that can be fetched."""
    ticket, deadline = node.backup_begin(), time.monotonic() + 60
    while node.backup_header(ticket) is None:
        assert time.monotonic() < deadline
    return ticket


def test_a_backup_that_nobody_fetches_does_not_stay(node: Node, order: Order, monkeypatch: pytest.MonkeyPatch) -> None:
    ticket = saved(node)
    look(node)
    assert len(files(order)) == 1, "its time is not over"
    assert node.backup_read(ticket, 0)
    monkeypatch.setattr(backup_source, "IDLE_SECONDS", 0.0)
    look(node)
    assert files(order) == []
    with pytest.raises(StorageError, match="no such backup"):
        node.backup_read(ticket, 0)
    monkeypatch.undo()
    assert node.backup_read(saved(node), 0), "the next one is not disturbed"


def test_a_backup_that_was_under_way_when_the_node_ended_does_not_stay(node: Node, order: Order) -> None:
    saved(node)
    assert files(order)
    node.stop()
    with node_on(order) as again:
        assert again.report().state is NodeState.RUNNING
        assert files(order) == []


def test_a_backup_does_not_keep_a_node_from_coming_up(
    node: Node, order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(node)
    node.stop()
    monkeypatch.setattr("rayraft.storage.space.room", lambda directory: (0, 1) if files(order) else (2, 1))
    with node_on(order) as again:
        assert again.report().state is NodeState.RUNNING, again.report().error
