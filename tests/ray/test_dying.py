"""The last seconds of a node whose disk failed: everybody who waits gets an answer of the kind that they expect."""

from __future__ import annotations

import os
import threading
from collections import deque
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import pytest

from rayraft.errors import DiskFailed
from rayraft.machine.requests import Status
from rayraft.ray import loop as loop_module
from rayraft.ray import members as members_module
from rayraft.ray.group import Group
from rayraft.ray.loop import RaftLoop
from rayraft.ray.members import Members
from rayraft.ray.spec import NodeReport, NodeState


class Surroundings:
    """What is left of the replica and the transport of a dying node."""

    def refuse_all(self, refusal: bytes) -> None: ...

    def close_slots(self) -> None: ...


class Ended(BaseException):
    """In place of the end of the process."""


def dying(monkeypatch: pytest.MonkeyPatch) -> RaftLoop:

    def end(code: int) -> None:
        raise Ended

    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr(loop_module, "RESTART_DELAY", 0.2)
    thread = RaftLoop.__new__(RaftLoop)
    thread._inbox, thread._waiting = deque(), deque()
    thread._alarm = SimpleQueue()
    thread._replica = thread._transport = Surroundings()  # type: ignore[assignment]
    thread._on_failure = lambda error: None
    thread._view_changed = threading.Condition()
    thread.stopped = threading.Event()
    return thread


def die_with(monkeypatch: pytest.MonkeyPatch, handler: str) -> Any:
    """What somebody is told who asks a dying node by this way in."""
    thread = dying(monkeypatch)
    slot: SimpleQueue[Any] = SimpleQueue()
    thread._inbox.append((getattr(thread, handler), b"", slot))
    with pytest.raises(Ended):
        thread._die(DiskFailed("no space left"))
    return slot.get(timeout=10)


@pytest.mark.parametrize(
    "item", [("_on_presence_end", 1, ValueError("gone")), ("_on_messages", [], None), ("_on_lost", 2, None)]
)
def test_what_nobody_waits_for_does_not_keep_the_process(monkeypatch: pytest.MonkeyPatch, item: Any) -> None:
    thread = dying(monkeypatch)
    thread._inbox.append((getattr(thread, item[0]), *item[1:]))
    with pytest.raises(Ended):
        thread._die(DiskFailed("no space left"))
    assert not thread._inbox


@pytest.mark.parametrize("handler", ["_on_submit", "_on_query", "_on_order"])
def test_clients_are_refused(monkeypatch: pytest.MonkeyPatch, handler: str) -> None:
    assert die_with(monkeypatch, handler)[0] == Status.FAILED


def test_peers_get_no_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    """One full disk must not take the other nodes with it."""
    assert die_with(monkeypatch, "_on_call") == b""


def test_who_wants_something_run_gets_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    result, error = die_with(monkeypatch, "_on_run")
    assert result is None
    assert isinstance(error, DiskFailed)


def test_an_operator_who_finds_the_leader_dying_asks_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by a directory deleted under a leader: `configuration` said NoQuorum, though another node led by then."""
    status: Any = SimpleNamespace(configuration="of node 2")

    def report(node: int) -> NodeReport:
        state, replica = (NodeState.FAILED, None) if node == 1 else (NodeState.RUNNING, status)
        return NodeReport(node, state, None, None, 1, "", {}, "", 0, 0, replica)

    leaders = iter([1, 2])
    group: Any = Group("dying", {node: SimpleNamespace(report=SimpleNamespace(remote=object)) for node in (1, 2)})
    monkeypatch.setattr(group, "leader", lambda *_: next(leaders))
    monkeypatch.setattr(members_module, "gather", lambda calls, *_: {node: report(node) for node in calls})
    assert Members(group).configuration() == "of node 2"
