"""Messages between nodes as remote calls. An answer rides on the reply of the call that brought the question."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Protocol

from rayraft.raft.types import AnyMessage, NodeId
from rayraft.ray.channels.caller import Caller
from rayraft.ray.channels.frames import Kind
from rayraft.ray.channels.poller import Poller
from rayraft.ray.names import ask_for_address
from rayraft.ray.pending import PendingCall
from rayraft.ray.wire import decode_messages, encode_messages

MAX_CALLS = 32  # open calls to one peer: Ray's queue to a peer that hangs has no bound of its own
FIND_SECONDS = 30.0  # for which a peer that was met is looked up, again and again; later, when it is needed
MAX_PROBE_SECONDS = 60.0  # between two calls to a peer that has not answered for long
CALL_DEADLINE = 5.0  # seconds after which an open call may never be answered


class Slot(Protocol):
    """Where the reply to a call that came in goes."""

    def put(self, data: bytes, /) -> None: ...


class Peer:
    """One other node: its handle once it is known, and the calls that are open on it."""

    __slots__ = ("caller", "handle", "opened", "resolving")

    def __init__(self) -> None:
        self.handle: Any = None
        self.caller: Caller | None = None
        self.opened: dict[int, float] = {}
        self.resolving = False

    def may_be_called(self, now: float) -> bool:
        """With `MAX_CALLS` open, one more after `CALL_DEADLINE`, and then less and less: Ray keeps each of them."""
        opened = list(self.opened.values())
        if len(opened) < MAX_CALLS:
            return True
        return now - max(opened) > max(CALL_DEADLINE, min((now - min(opened)) / 8, MAX_PROBE_SECONDS))

    def is_back(self, now: float) -> None:
        """It calls: what it has not answered for long it never will."""
        for call, opened in list(self.opened.items()):
            if opened < now - CALL_DEADLINE:
                self.opened.pop(call, None)


class RayTransport:
    """Used by one thread at a time, except `_on_reply`, which is called in any.

    ``on_reply`` and ``on_lost`` are told whether it is a thread that has waited for that.

    1. `send` never waits: without a handle, or with `MAX_CALLS` open, messages are dropped (Raft repeats them). So a
       peer that hangs costs memory that grows with the logarithm of the time, and then by a call a minute.
    2. Every slot gets exactly one reply, at the end of the turn at the latest.
    """

    def __init__(
        self,
        resolve: Callable[[NodeId], Any],
        on_reply: Callable[[list[AnyMessage], bool], None],
        on_lost: Callable[[NodeId, bool], None],
        poller: Poller,
    ) -> None:
        self._resolve = resolve
        self._on_messages = on_reply
        self._on_lost = on_lost
        self._poller = poller
        self._peers: dict[NodeId, Peer] = {}
        self._pending: list[PendingCall] = []  # calls that nobody waits for yet
        self._slots: dict[NodeId, list[Slot]] = {}
        self._next_call = 0

    def open_slot(self, src: NodeId, slot: Slot) -> None:
        """A call from ``src`` waits for messages to take back."""
        peer = self._peers.get(src)
        if peer is not None and len(peer.opened) >= MAX_CALLS:
            peer.is_back(time.monotonic())
        self._slots.setdefault(src, []).append(slot)

    def close_slots(self) -> None:
        """The turn is over: calls that got no message go back without."""
        if self._slots:
            for slots in self._slots.values():
                for slot in slots:
                    slot.put(b"")
            self._slots.clear()

    def send(self, messages: list[AnyMessage]) -> None:
        by_peer: dict[NodeId, list[AnyMessage]] = {}
        for message in messages:
            by_peer.setdefault(message.dst, []).append(message)
        for node, theirs in by_peer.items():
            slots = self._slots.get(node)
            if slots:
                slots.pop().put(encode_messages(theirs))
            else:
                self._call(node, theirs)

    def _call(self, node: NodeId, messages: list[AnyMessage]) -> None:
        peer = self._peers.setdefault(node, Peer())
        if peer.handle is None:
            self._find(node, peer)
            return
        now = time.monotonic()
        if not peer.may_be_called(now):
            return
        self._next_call += 1
        call = self._next_call
        peer.opened[call] = now
        if peer.caller is None:
            peer.caller = Caller(peer.handle, self._poller)
        made = peer.caller.call(Kind.DELIVER, encode_messages(messages), partial(self._on_reply, node, peer, call))
        if isinstance(made, PendingCall):
            self._pending.append(made)
        else:
            made.leave()

    def take_pending(self) -> list[PendingCall]:
        """The calls made since; whoever takes them sees to it that their answers are taken."""
        pending, self._pending = self._pending, []
        return pending

    def _on_reply(self, node: NodeId, peer: Peer, call: int, answer: Any, here: bool) -> None:
        peer.opened.pop(call, None)
        try:
            messages = decode_messages(answer) if answer else []
        except Exception:  # whatever Ray says, the message may or may not have arrived; or the answer is no such thing
            self._on_lost(node, here)
            return
        if messages:
            self._on_messages(messages, here)

    def handle(self, node: NodeId) -> Any:
        """The peer's actor handle, None while it is being looked up."""
        peer = self._peers.setdefault(node, Peer())
        if peer.handle is None:
            self._find(node, peer)
        return peer.handle

    def meet(self, nodes: Iterable[NodeId]) -> None:
        """Look up whoever is not known yet, while Ray's head is there: an election may find it away."""
        for node in nodes:
            self.handle(node)

    def greet(self, node: NodeId) -> None:
        """Its process is new: have Ray connect to it now. In an election that would take longer than all the rest.

        One that is not known yet is connected to when it is looked up.
        """
        peer = self._peers.get(node)
        if peer is not None and peer.handle is not None:
            if peer.caller is not None:
                peer.caller.drop()
            ask_for_address(peer.handle)

    def _find(self, node: NodeId, peer: Peer) -> None:
        """Look a peer up in a thread of its own: the question goes to Ray's head, which may be slow or away."""
        if peer.resolving:
            return
        peer.resolving = True

        def find() -> None:
            deadline = time.monotonic() + FIND_SECONDS
            try:
                while peer.handle is None and time.monotonic() < deadline:
                    with contextlib.suppress(Exception):  # not there yet, or the head is away
                        peer.handle = self._resolve(node)
                        return
                    time.sleep(0.05)
            finally:
                peer.resolving = False

        threading.Thread(target=find, name=f"rayraft-find-{node}", daemon=True).start()
