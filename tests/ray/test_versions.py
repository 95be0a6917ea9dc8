"""Nodes that could not agree on what a command does are kept apart, before they touch anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import rayraft
from rayraft.ray import wire
from rayraft.ray.node import Node
from rayraft.ray.spec import NodeReport, NodeState
from rayraft.ray.wire import PROTOCOL_VERSION, check_version
from tests.disks.support import Order, solo_spec


def test_a_process_of_another_version_does_not_take_part(tmp_path: Path) -> None:
    """As Ray starts it after a crash, when another version was installed meanwhile."""
    spec = replace(solo_spec(Order(directory=str(tmp_path / "node"))), niceness=None)
    node = Node(replace(spec, protocol=PROTOCOL_VERSION - 1))
    try:
        report = node.format("a-cluster", (1,))
        assert report.state is NodeState.FAILED
        assert isinstance(report.error, rayraft.WrongVersion)
        assert f"protocol {PROTOCOL_VERSION - 1}" in str(report.error)
        assert not (tmp_path / "node").exists(), "nothing was touched"
        assert node.deliver(wire.encode_messages([])) == b""
    finally:
        node.stop()


def test_the_same_version_does() -> None:
    check_version("any", PROTOCOL_VERSION)


@pytest.mark.cluster
def test_a_rolling_restart_to_a_version_that_can_not_run_beside_the_others_touches_nothing(
    start_group: Callable[..., rayraft.Handle], monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = start_group(rayraft.KeyValue, "versions")

    def pids() -> list[int]:
        return [report.pid for report in handle.cluster.status().values() if isinstance(report, NodeReport)]

    before = pids()
    monkeypatch.setattr(wire, "PROTOCOL_VERSION", PROTOCOL_VERSION + 1)
    with pytest.raises(rayraft.WrongVersion, match="shut the group down"):
        handle.cluster.restart_nodes()
    assert pids() == before
