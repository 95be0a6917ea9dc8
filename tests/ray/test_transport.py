"""Calls to a peer are bounded, whether it answers or not."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayraft.raft.types import AnyMessage, AppendEntries, Entry, EntryKind, Heartbeat, InstallSnapshot, SnapshotMeta
from rayraft.ray import transport
from rayraft.ray.channels.ends import FRAME_BYTES
from rayraft.ray.channels.poller import Poller
from rayraft.ray.pending import PendingCall
from rayraft.ray.transport import CALL_DEADLINE, MAX_CALLS, MAX_PROBE_SECONDS, RayTransport
from rayraft.ray.wire import decode_messages, encode_messages, size_of
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


ENTRIES = st.lists(st.integers(0, 3 * FRAME_BYTES // 2), max_size=3)


@given(st.lists(st.one_of(ENTRIES, st.integers(0, FRAME_BYTES)), max_size=5))
@settings(max_examples=30, deadline=None)
def test_messages_for_channels_are_cut_into_calls_that_fit(sizes: list[list[int] | int]) -> None:
    messages: list[AnyMessage] = [
        InstallSnapshot(1, 1, 2, SnapshotMeta(), 0, size, bytes(size))
        if isinstance(size, int)
        else AppendEntries(1, 1, 2, 0, 0, 0, tuple(Entry(1, 1, EntryKind.COMMAND, bytes(each)) for each in size))
        for size in sizes
    ]
    calls = list(transport.in_frames(messages))
    assert [message for call in calls for message in call] == messages
    assert all(calls)
    for call in calls:
        assert len(encode_messages(call)) <= sum(map(size_of, call)) + 5
        assert len(call) == 1 or len(encode_messages(call)) <= FRAME_BYTES
    for call, following in pairwise(calls):
        assert sum(map(size_of, call)) + size_of(following[0]) > FRAME_BYTES, "they would fit into one"


def test_several_calls_in_place_of_one_are_for_channels_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two remote calls the second may come first, and a follower refuses what does not follow."""
    run = Run(monkeypatch)
    entries = (Entry(1, 1, EntryKind.COMMAND, bytes(FRAME_BYTES // 2 + 1)),)
    messages: list[AnyMessage] = [AppendEntries(1, 1, 2, 0, 0, 0, entries)] * 2
    run.transport.send(messages)
    assert len(run.peer.remote_calls) == 1
    caller = run.transport._peers[2].caller
    assert caller is not None
    caller._link = run  # type: ignore[assignment]
    made: list[bytes] = []
    monkeypatch.setattr(caller, "call", lambda kind, data, take: made.append(data) or PendingCall)
    monkeypatch.setattr(PendingCall, "leave", lambda: None, raising=False)
    run.transport.send(messages)
    assert [decode_messages(data) for data in made] == [messages[:1]] * 2
