"""What a node says of a directory that it can not use, without Ray."""

from __future__ import annotations

from pathlib import Path

from rayraft.ray.spec import NodeState
from tests.disks.support import Order, node_on


def test_a_directory_that_can_not_be_read_is_not_called_used(tmp_path: Path) -> None:
    """The error was replaced by one that sent the operator looking for another node."""
    (tmp_path / "file").touch()
    with node_on(Order(directory=str(tmp_path / "file" / "node-4"))) as node:
        report = node.join("c1")
    assert report.state is NodeState.FAILED
    assert "Not a directory" in str(report.error)
