"""Calls to a peer are bounded, whether it answers or not."""

from __future__ import annotations

import pytest

from rayraft.raft.types import Heartbeat
from rayraft.ray import transport
from rayraft.ray.channels.poller import Poller
from rayraft.ray.transport import CALL_DEADLINE, MAX_CALLS, MAX_PROBE_SECONDS, RayTransport
from tests.ray.channels.support import Actor

BEAT = Heartbeat(term=1, src=1, dst=2, commit=0)


class Run:
    """A leader that has something to say every 0.1 s, and a peer whose answers are given by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.peer = Actor()
        self.transport = RayTransport(lambda node: None, lambda *_: None, lambda *_: None, Poller())
        self.transport._peers[2] = found = transport.Peer()
        found.handle = self.peer
        monkeypatch.setattr(transport.time, "monotonic", lambda: self.now)

    def go_on(self, seconds: float) -> int:
        """How many calls were made meanwhile."""
        before, end = len(self.peer.remote_calls), self.now + seconds
        while self.now < end:
            self.now += 0.1
            self.transport.send([BEAT])
            self.transport.take_pending()
        return len(self.peer.remote_calls) - before


def test_a_peer_that_hangs_is_called_less_and_less(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray keeps every call that is open: the leader's memory grew by 200 KiB/s."""
    run = Run(monkeypatch)
    assert run.go_on(4.0) == MAX_CALLS
    first = run.go_on(60.0)
    assert 3 <= first <= 60.0 / CALL_DEADLINE
    assert run.go_on(3600.0) <= 3600.0 / MAX_PROBE_SECONDS + 30
    assert run.go_on(3600.0) <= 3600.0 / MAX_PROBE_SECONDS + 1


def test_a_peer_that_answers_is_called_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch)
    run.go_on(60.0)
    peer = run.transport._peers[2]
    for call in list(peer.opened):
        run.transport._on_reply(2, peer, call, b"", False)
    assert run.go_on(1.0) >= 10


def test_a_peer_that_calls_is_called_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has not answered for long was lost on the way."""
    run = Run(monkeypatch)
    run.go_on(600.0)
    slots: list[bytes] = []
    run.transport.open_slot(2, type("Slot", (), {"put": lambda self, data: slots.append(data)})())
    run.transport.close_slots()
    assert slots == [b""]
    assert run.go_on(1.0) >= 10
