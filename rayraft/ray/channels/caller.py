"""Calls to one actor: remote calls, or through channels while they come often."""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
import time
from collections import deque
from functools import partial
from typing import Any

import ray
from ray.actor import ActorHandle

from rayraft.ray.channels.ends import Reader, Writer, make_channel
from rayraft.ray.channels.frames import Item, Kind
from rayraft.ray.channels.poller import SHORTEST_NAP, Poller
from rayraft.ray.channels.server import AWAKE_SECONDS, Offer, awake_seconds
from rayraft.ray.channels.session import ChannelGone
from rayraft.ray.pending import WAIT_SECONDS, PendingCall, Take
from rayraft.ray.wire import split

log = logging.getLogger("rayraft")
WARM_SECONDS = AWAKE_SECONDS / 2  # as `warm_seconds`, after a small call
BUSY_CALLS = 2  # calls come often when so many, one behind the other, came within `WARM_SECONDS` of an answer
LARGE_BYTES = 64 << 10  # of a call: the next one had better not be a remote call
MAX_WAITING_BYTES = 8 << 20  # of calls that the actor has not read: with more, it does not get on
# ... and so many until channels are opened: that takes time which a new leader has better use for.
OPENING_CALLS = 20
IDLE_SECONDS = 30.0  # after which channels that were not used are given up, long before the actor does
DOUBT_SECONDS, MAX_DOUBT = 0.02, 1.0  # without an answer, before a remote call asks whether the actor is there
OPEN_AGAIN_SECONDS = 30.0  # after channels could not be opened
REOPEN_SECONDS = 1.0  # after they were: the process that they led to may be gone soon
METHODS = {Kind.DELIVER: "deliver", Kind.SUBMIT: "submit", Kind.QUERY: "query"}  # of the actor


def warm_seconds(size: int) -> float:
    """For so long after the answer to a call of ``size`` bytes the actor is certain to look for calls."""
    return awake_seconds(size) / 2


class Caller:
    """1. Every call is answered once, with an exception where its outcome is not known, as a remote call would be."""

    def __init__(self, handle: ActorHandle, poller: Poller) -> None:
        self._handle = handle
        self._poller = poller
        self._answered = 0.0  # when a remote call was, last
        self._streak = 0  # calls that came soon after an answer
        self._link: Link | None = None
        self._open_at = 0.0

    def call(self, kind: Kind, data: bytes, take: Take) -> PendingCall | ChannelCall:
        now = time.monotonic()
        link = self._link
        if link is not None:
            call = link.call(kind, data, take, now)
            if call is not None:
                return call
            if link.gone:
                self._link = link = None
        self._streak = self._streak + 1 if now - self._answered < WARM_SECONDS else 0
        take = partial(self._on_answer, take)
        method = getattr(self._handle, METHODS[kind])
        if link is not None and (self._streak >= BUSY_CALLS or len(data) >= LARGE_BYTES):  # this call wakes the actor
            return PendingCall(method.remote(*split(data), wake=link.number), partial(link.woken, take, len(data)))
        if self._streak >= OPENING_CALLS:
            self._open(now)
        return PendingCall(method.remote(*split(data)), take)

    def _on_answer(self, take: Take, answer: Any, here: bool) -> None:
        self._answered = time.monotonic()
        take(answer, here)

    # --- opening channels: nobody waits for it, since who waits in Ray as it is shut down ends the process ---------

    def _open(self, now: float) -> None:
        if now < self._open_at or not isinstance(self._handle, ActorHandle):
            return
        self._open_at = now + OPEN_AGAIN_SECONDS
        with contextlib.suppress(Exception):  # the call itself will tell what is wrong
            here = ray.get_runtime_context().get_node_id()
            PendingCall(self._handle.offer_channel.remote(here), self._on_offer).leave()

    def _on_offer(self, offer: Any, _: bool) -> None:
        if isinstance(offer, Offer):  # else it is on another machine, or serves too many
            # Not in this thread: it may be one of Ray's own, for which making a channel waits.
            threading.Thread(target=self._accept, args=(offer,), name="rayraft-open-channels", daemon=True).start()

    def _accept(self, offer: Offer) -> None:
        try:
            answers = Reader(offer.answers)
            calls = make_channel(self._handle, ray.get_runtime_context().get_node_id())
            link = Link(self._handle, offer.link, Writer(calls), answers, self._poller)
            PendingCall(self._handle.accept_channel.remote(offer.link, calls), partial(self._on_accepted, link)).leave()
        except Exception as error:  # calls stay remote calls
            log.debug("no channels to %s: %s", self._handle, error)

    def _on_accepted(self, link: Link, accepted: Any, _: bool) -> None:
        if accepted is True:
            self._poller.watch(link)
            self._link = link
            self._open_at = time.monotonic() + REOPEN_SECONDS

    def drop(self) -> None:
        """The actor's process is another one."""
        link, self._link, self._open_at = self._link, None, 0.0
        if link is not None:
            link.end(ChannelGone("the process that was called is gone"), here=False)


class Link:
    """A pair of channels, and the calls that are under way through it.

    1. A call is in ``_calls`` until it was answered or the link has ended. Where Ctrl-C interrupts that, it is answered
       once more: no harm, and more than a caller who waits for ever.
    2. Of the remote calls that ask for the actor, one is under way at most: it may hang.
    """

    def __init__(self, handle: Any, number: int, calls: Writer, answers: Reader, poller: Poller) -> None:
        self.number = number
        self.gone = False
        self.poller = poller
        self._handle = handle
        self._writer, self._reader = calls, answers
        self._numbers = itertools.count()
        self._calls: dict[int, ChannelCall] = {}
        self._arrived: deque[Item] = deque()  # answers that nobody has been given yet
        self._looking = threading.Lock()
        self._ending = threading.Lock()
        self._warm_until = 0.0
        self._used = time.monotonic()
        self._heard, self._doubt = self._used, DOUBT_SECONDS
        self._asking = False
        self.looked_for: set[ChannelCall] = set()  # whose callers look for themselves

    # --- calls --------------------------------------------------------------------------------------------------------

    def call(self, kind: Kind, data: bytes, take: Take, now: float) -> ChannelCall | None:
        """None where it has to be a remote call: the actor may not look, or does not get on with what it has."""
        item = Item(next(self._numbers), kind, data)
        may_be_asleep = not self._calls and now >= self._warm_until
        if may_be_asleep or self._writer.bytes + item.size > MAX_WAITING_BYTES:
            return None
        call = ChannelCall(self, take, len(data), now)
        with self._ending:
            if self.gone:
                return None
            self._calls[item.number] = call
        self._used = now
        try:
            self._writer.put(item)
        except ChannelGone as error:
            if self._calls.pop(item.number, None) is None:
                return call  # `end` has answered it
            self.end(error, here=False)
            return None
        return call

    def woken(self, take: Take, size: int, answer: Any, here: bool) -> None:
        """The answer to a remote call of ``size`` bytes that woke the actor."""
        if isinstance(answer, BaseException):
            self.end(ChannelGone(f"a remote call failed: {answer}"), here=False)
        else:
            self._stay_warm(time.monotonic(), size)
        take(answer, here)

    def _stay_warm(self, now: float, size: int) -> None:
        self._warm_until = max(self._warm_until, now + warm_seconds(size))

    # --- answers (in any thread) --------------------------------------------------------------------------------------

    def expects(self, now: float) -> bool:
        return bool(self._calls) and not self.looked_for

    def poll(self, now: float) -> bool:
        if not self._looking.acquire(blocking=False):
            return False
        try:
            return self._look(now)
        finally:
            self._looking.release()

    def _look(self, now: float) -> bool:
        try:
            written = self._writer.flush()
            arrived = self._reader.read()
            self._arrived += arrived or ()
        except ChannelGone as error:
            self.end(error, here=True)
            return True
        if arrived is None and not self._arrived:
            if self._calls:
                self._doubt_it(now)
            return written
        self._heard, self._doubt = now, DOUBT_SECONDS
        while self._arrived:
            try:
                self._hand_over(self._arrived[0], now)
            except Exception:  # this thread takes the answers to all others, too
                log.exception("an answer could not be taken")
                self._calls.pop(self._arrived[0].number, None)
            self._arrived.popleft()
        return True

    def _hand_over(self, answer: Item, now: float) -> None:
        call = self._calls.get(answer.number)
        if call is None:
            return
        self._stay_warm(now, call.size)
        call.take(answer.data, True)
        call.done = True
        self._calls.pop(answer.number, None)

    def _doubt_it(self, now: float) -> None:
        """Without an answer for a while: is it awake, is it there at all?"""
        oldest = next(iter(list(self._calls.values())), None)
        if self._asking or oldest is None or now < max(self._heard, oldest.sent) + self._doubt:
            return
        self._asking = True
        self._heard, self._doubt = now, min(2 * self._doubt, MAX_DOUBT)
        try:
            PendingCall(self._handle.wake_channel.remote(self.number), self._on_doubt).leave()
        except Exception as error:  # Ray is shutting down
            self.end(ChannelGone(str(error)), here=False)

    def _on_doubt(self, known: Any, _: bool) -> None:
        self._asking = False
        if known is not True:
            self.end(ChannelGone(str(known or "the process that was called is another one")), here=False)

    def is_over(self, now: float) -> bool:
        if not self._calls and now - self._used > IDLE_SECONDS:
            self.end(ChannelGone("it was not used"), here=False)
        return self.gone

    def end(self, error: ChannelGone, *, here: bool) -> None:
        """What is under way may have been received or not."""
        with self._ending:
            self.gone = True
        self._writer.leave()
        self._reader.leave()
        while self._calls:
            try:
                _, call = self._calls.popitem()
            except KeyError:
                return
            call.take(error, here)
            call.done = True


class ChannelCall:
    """One call under way; its answer is taken by the poller, or by a thread that waits for it."""

    __slots__ = ("_link", "done", "sent", "size", "take")

    def __init__(self, link: Link, take: Take, size: int, sent: float) -> None:
        self._link = link
        self.take = take
        self.size = size
        self.sent = sent
        self.done = False

    def leave(self) -> None:
        self._link.poller.wake()

    def wait(self, timeout_s: float = WAIT_SECONDS) -> None:
        """As `PendingCall.wait`."""
        link = self._link
        deadline = time.monotonic() + min(timeout_s, WAIT_SECONDS)
        link.looked_for.add(self)
        try:
            while not self.done and (now := time.monotonic()) < deadline:
                if not link.poll(now):
                    time.sleep(SHORTEST_NAP)
        finally:
            link.looked_for.discard(self)
            if link.expects(time.monotonic()):  # this call, or others that are under way
                self.leave()
