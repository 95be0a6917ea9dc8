"""What operators ask of a node does not keep it from its work."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rayraft.errors import StorageError
from rayraft.machine.objects import ObjectMachine
from rayraft.ray.node import Node
from tests.disks.support import Order, node_on, numbers_of

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with node_on(Order(directory=str(tmp_path / "node-1"))) as node:
        node.format("c1", (1,))
        node.seal()
        assert numbers_of(node) == []  # so it leads
        yield node


def at_once(node: Node) -> tuple[int, bytes]:
    found: tuple[int, bytes] = node._running().run(lambda r: (r.raft.log.applied, r.machine.digest()))
    return found


def test_a_node_goes_on_while_its_digest_is_computed(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, really = at_once(node), ObjectMachine.digest
    begun, may_end = tmp_path / "begun", tmp_path / "may end"
    for path in (begun, may_end):
        os.mkfifo(path)

    def slow(machine: ObjectMachine) -> bytes:
        begun.write_bytes(b"!")
        may_end.read_bytes()
        return really(machine)

    monkeypatch.setattr(ObjectMachine, "digest", slow)
    with ThreadPoolExecutor(1) as caller:
        digest = caller.submit(node.digest)
        assert begun.read_bytes() == b"!"
        try:
            assert numbers_of(node) == []
            assert not digest.done()
        finally:
            may_end.write_bytes(b"!")
        assert digest.result() == expected


def test_a_node_that_can_not_be_copied_computes_its_digest_itself(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory() -> int:
        raise OSError("no memory")

    monkeypatch.setattr(os, "fork", no_memory)
    assert node.digest() == at_once(node)


def test_a_state_without_a_digest_is_an_error(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(machine: ObjectMachine) -> bytes:
        raise ValueError("no order among these keys")

    monkeypatch.setattr(ObjectMachine, "digest", fail)
    with pytest.raises(StorageError, match="no order among these keys"):
        node.digest()


def test_a_digest_that_takes_too_long_is_an_error(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(machine: ObjectMachine) -> bytes:
        signal.pause()
        return b"never"

    monkeypatch.setattr(ObjectMachine, "digest", hang)
    monkeypatch.setattr("rayraft.ray.node.DIGEST_SECONDS", 0.0)
    with pytest.raises(StorageError, match="not done within"):
        node.digest()
