"""The pipeline from many callers to one leader: packets of commands in a session, packets of queries beside them."""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from queue import Empty, SimpleQueue

from rayraft.client.config import ClientConfig
from rayraft.client.endpoints import Endpoints
from rayraft.client.gathering import FOREVER
from rayraft.client.lane import UNTIMED, Clocks, Lane, Leaving, Sent, read_clocks
from rayraft.client.leader import LeaderTracker
from rayraft.client.reads import LINEARIZABLE, Reads
from rayraft.client.results import Packet, Reply, Result, unanswered, withdrawn
from rayraft.errors import BadCall, ClientClosed, Overloaded, SessionExpired, TooStale
from rayraft.machine.requests import (
    NEW_SESSION,
    Status,
    decode_hint,
    encode_ending,
    encode_opening,
    encode_queries,
    encode_request,
    pack,
)
from rayraft.raft.types import NO_NODE, NodeId

MAX_LANES = 16  # of queries, before idle ones go
FORKED = "this process was forked from one that uses Ray, which does not work here: start it by 'spawn' instead"
OPENING = -1  # stands in `Lane.sent` for the request that opens the session


class Lifeline:
    """Kept by all through which a client can be called (`Client.hold`)."""

    __slots__ = ("__weakref__",)


class Client:
    """Invariants:

    1. Requests of a session are numbered 1, 2, 3, … in the order of the calls; each keeps its bytes and number through
       every retry, so the machine applies it once.
    2. A request that has left is repeated until it is answered or the client is closed, even if its callers gave up:
       a number that never came would hold up those behind it. Only when nobody can call any more, and the deadline of
       every call is over, and nobody waits, the client closes without the answer: the group may be gone for good.
       Queries are repeated no longer than somebody has time for them: one that never ends would hang leader after
       leader.
    3. What is open is bounded by `ClientConfig.max_open_bytes` and `max_open_calls`.
    4. A session is left for a new one only when none of its requests is under way, or when the group has forgotten it;
       then what might have been applied fails with SessionExpired, because a retry might be applied twice, and what
       certainly was not goes in the new one.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        config: ClientConfig | None = None,
        clock: Callable[[], Clocks] = read_clocks,
        linger_s: float = 0.0,
    ) -> None:
        """``linger_s``: how long to be there for whoever may `hold` it next, when nobody does any more."""
        self.config = config or ClientConfig()
        self._clock = clock
        self._session_used = clock()
        self._endpoints = endpoints
        self._lock = threading.RLock()  # an answer may come within the very call that asks for it
        self._room = threading.Condition(self._lock)
        self._crowded = 0  # callers who wait for room
        self._wake: SimpleQueue[None] = SimpleQueue()  # a garbage collector may put something in at any moment
        self._lifeline: weakref.ref[Lifeline] | None = None
        self._linger = linger_s
        self._patience = 0.0  # seconds: the longest deadline that a handle gives its calls
        self._left_at = FOREVER  # when nobody held it any more
        self._tracker = LeaderTracker(endpoints, random.Random())
        self._commands = Lane()
        self._queries: dict[Reads, Lane] = {}
        self._session = NEW_SESSION
        self._renewed = False  # in place of a session that the group had forgotten, and nothing was answered in it yet
        self._awaited: Packet | None = None  # what the caller who holds the lock will wait for
        self._open_bytes = 0
        self._open_calls = 0
        self._error: BaseException | None = None
        self._looks_at = FOREVER  # when the client's own thread looks for attempts that ran out, if nobody wakes it
        self._thread: threading.Thread | None = None
        _clients.add(self)

    # --- the callers --------------------------------------------------------------------------------------------------

    def command(self, call: bytes, timeout_s: float, *, waits: bool = False) -> Result:
        """Send one encoded command, together with others that are made meanwhile. Raises Overloaded, ClientClosed.

        ``waits``: the caller will wait for it at once, and may as well take the answer in that thread.
        """
        return self._add(self._commands, call, timeout_s, waits)

    def query(self, call: bytes, timeout_s: float, reads: Reads = LINEARIZABLE, *, waits: bool = False) -> Result:
        """Send one encoded query, together with others that ask for the same consistency. Raises as `command`."""
        with self._lock:
            lane = self._queries.get(reads)
            if lane is None:
                self._forget_idle_lanes()
                lane = self._queries[reads] = Lane(reads)
            return self._add(lane, call, timeout_s, waits)

    def _forget_idle_lanes(self) -> None:
        """There is one for each ``max_staleness_s`` that was ever asked for."""
        if len(self._queries) >= MAX_LANES:
            self._queries = {reads: lane for reads, lane in self._queries.items() if lane.in_use}

    def _lanes(self) -> list[Lane]:
        return [self._commands, *self._queries.values()]

    def batch(self, packet: Packet, timeout_s: float) -> None:
        """Send a packet of commands as one request; the caller will wait for it at once."""
        with self._lock:
            self._wait_for_room(packet.size, timeout_s)
            lane = self._commands
            try:
                lane.close_filling()  # calls made before the batch go before it
                self._open_bytes += packet.size
                self._open_calls += len(packet.calls)
                lane.waiting.append(packet)
                lane.gathering.arrived()
                self._awaited = packet
                self._pump(lane)
                self._awaited = None
            except BaseException:
                self._mend(lane)
                raise

    def _add(self, lane: Lane, call: bytes, timeout_s: float, waits: bool) -> Result:
        size, config = len(call), self.config
        if size > config.max_call_bytes:
            raise BadCall(f"a call of {size} bytes is above the limit of {config.max_call_bytes}")
        with self._lock:  # for every single call: nothing here that could be done per packet
            if self._thread is None or self._error is not None or not self._has_room(size):
                self._wait_for_room(size, timeout_s)
            try:
                self._open_bytes += size
                self._open_calls += 1
                packet = lane.filling
                result = packet.add(call, timeout_s)
                self._awaited = packet if waits else None
                all_there = lane.gathering.arrived()
                if packet.size * lane.weight >= config.packet_bytes or len(packet.calls) >= config.packet_calls:
                    lane.close_filling()
                    self._pump(lane)
                elif len(lane.sent) < config.window and not lane.gathering.expected:
                    if all_there or not lane.gathering.in_series:
                        self._pump(lane)
                    elif len(packet.calls) == 1:  # the client's own thread gets its turn when this waits, or after 5 ms
                        self._wake.put(None)
                self._awaited = None
            except BaseException:
                self._mend(lane)
                raise
        return result

    def _wait_for_room(self, size: int, timeout_s: float) -> None:
        deadline = time.monotonic() + min(timeout_s, threading.TIMEOUT_MAX)
        self._crowded += 1
        try:
            while self._error is None and not self._has_room(size):
                if not self._room.wait(deadline - time.monotonic()):
                    raise Overloaded(
                        f"{self._open_calls} calls ({self._open_bytes} bytes) are open and none was answered within "
                        f"{timeout_s} s: send slower, or see whether a majority of the nodes is alive"
                    )
        finally:
            self._crowded -= 1
        if self._error is not None:
            raise self._error.with_traceback(None)
        if self._thread is None:
            self._start_thread()

    def _has_room(self, size: int) -> bool:
        fits = self._open_bytes + size <= self.config.max_open_bytes and self._open_calls < self.config.max_open_calls
        return fits or self._open_calls == 0  # a single call above the limit still goes, alone

    # --- sending (under the lock) -------------------------------------------------------------------------------------

    def _pump(self, lane: Lane) -> None:
        """Send what may leave now: as much as fills a packet up to `max_window`, less only while few are under way."""
        if lane.reads is None and not self._has_session():
            if lane.waiting or lane.filling.calls:
                self._open_session()
            return
        held = lane.gathering.goes_on(time.monotonic())
        if len(lane.sent) < self.config.window and not held:
            lane.close_filling()
        while lane.waiting and len(lane.sent) < self.config.max_window:
            if lane.reads is None and self._session == NEW_SESSION:
                return  # the answer to the last one came within the call: the group has forgotten this session
            if (held or len(lane.sent) >= self.config.window) and not lane.is_worth_a_call(self.config):
                return
            self._number_and_send(lane)

    def _number_and_send(self, lane: Lane) -> None:
        packets = lane.next_packets(self.config)
        calls: list[bytes] = []
        for packet in packets:
            calls += packet.seal()
        leaving = [packet for packet in packets if packet.sent_calls]
        number = lane.last_number + 1
        if lane.reads is not None:
            born, data = UNTIMED, encode_queries(pack(calls), lane.reads.consistency, lane.reads.max_age)
        else:
            born = self._clock()
            answered = min(lane.sent, default=number) - 1
            data = encode_request(self._session, number, answered, calls)
        sent = Sent(leaving, data, born)
        lane.leaving = Leaving(number, sent, packets)
        self._leave(lane)
        if leaving:
            self._send(lane, number, sent)

    def _leave(self, lane: Lane) -> None:
        """What `Lane.leaving` says, or the rest of it. Packets whose every call was withdrawn end here."""
        assert lane.leaving is not None
        number, sent, packets = lane.leaving
        if sent.packets:
            lane.sent[number] = sent
            lane.last_number = number
        while lane.waiting and lane.waiting[0] in packets:
            packet = lane.waiting.popleft()
            if not packet.sent_calls:
                self._forget([packet])
                packet.fail(withdrawn())
        lane.leaving = None

    def _mend(self, lane: Lane) -> None:
        """After Ctrl-C under the lock: finish what it interrupted, and have this client's own thread go on with it."""
        if lane.leaving is not None:
            self._leave(lane)
        if lane.waiting and lane.waiting[-1] is lane.filling:
            lane.filling = Packet()
        packets = self._packets()
        self._open_bytes = sum(packet.size for packet in packets)
        self._open_calls = sum(len(packet.calls) for packet in packets)
        self._awaited = None
        self._wake.put(None)

    def _has_session(self) -> bool:
        lane = self._commands
        if self._session != NEW_SESSION and not lane.sent:
            now = self._clock()
            if now.since(self._session_used) > self.config.session_ttl / 2:  # the group may be about to forget it
                self._session, lane.last_number = NEW_SESSION, 0
        return self._session != NEW_SESSION

    def _open_session(self) -> None:
        if OPENING in self._commands.sent:
            return
        nonce = random.SystemRandom().getrandbits(63)
        opening = encode_opening(nonce, int(self.config.session_ttl * 1000))
        sent = self._commands.sent[OPENING] = Sent([], opening, self._clock())
        self._send(self._commands, OPENING, sent)

    def _choose_node(self, lane: Lane, sent: Sent, now: float) -> tuple[NodeId, float]:
        """Where to send it, and for how many seconds to wait before another one is asked."""
        most = self.config.attempt_timeout
        if not lane.from_any_node:
            return self._tracker.target(now), most
        # What any node can do waits for none that hangs: to ask two of them does no harm.
        patience = min(most, self.config.hedge_after * 2 ** min(sent.attempt - 1, 20))
        if sent.too_stale:
            leader = self._tracker.target(now)
            if leader == self._tracker.leader and leader not in sent.too_stale:
                return leader, patience
        return self._tracker.anyone(now, but=sent.too_stale), patience

    def _send(self, lane: Lane, number: int, sent: Sent) -> None:
        now = time.monotonic()
        if not sent.attempt:
            sent.left_at = now
        sent.attempt += 1
        sent.node, patience = self._choose_node(lane, sent, now)
        # Where Ctrl-C comes before the end of this, the client's own thread sends it once more.
        attempt, sent.due = sent.attempt, 0.0
        send = self._endpoints.submit if lane.reads is None else self._endpoints.query
        call = send(sent.node, sent.data, lambda answer: self._on_answer(lane, number, sent, attempt, answer))
        if call is not None:
            if sent.packets and sent.packets[-1] is self._awaited:
                sent.packets[-1].call = call
            else:
                call.leave()
        if sent.attempt == attempt and sent.node != NO_NODE:  # else an answer has come already
            sent.due = now + patience
        if sent.due < self._looks_at:  # else this thread's call could be lost without anybody noticing
            self._looks_at = sent.due
            self._wake.put(None)

    # --- answers (in any thread) --------------------------------------------------------------------------------------

    def _on_answer(self, lane: Lane, number: int, sent: Sent, attempt: int, answer: bytes | BaseException) -> None:
        if isinstance(answer, bytes) and answer[0] == Status.OK:
            self._on_ok(lane, number, sent, answer)
            return
        if isinstance(answer, ClientClosed):  # there is no Ray any more to ask
            self.close(answer)
            return
        with self._lock:
            if lane.sent.get(number) is not sent or sent.attempt != attempt:
                return  # answered already, or repeated since: that attempt decides
            if isinstance(answer, BaseException):
                self._tracker.failed(sent.node, time.monotonic())
                self._back_off(sent)
                return
            self._tracker.heard(sent.node)
            if answer[0] == Status.NOT_LEADER:
                self._on_not_leader(lane, sent, answer[1:])
                return
            if answer[0] == Status.SESSION_EXPIRED:
                self._on_expired(number, sent)
                return
            if answer[0] == Status.TOO_STALE:
                self._on_too_stale(lane, number, sent)
                return
            if answer[0] == Status.FAILED:
                self._tracker.suspect(sent.node)
            self._back_off(sent)

    def _on_too_stale(self, lane: Lane, number: int, sent: Sent) -> None:
        """The leader is as fresh as any, so it is asked next; where there is none, each of the others."""
        sent.too_stale |= {sent.node}
        leader_was_asked = sent.node == self._tracker.leader and sent.node == self._tracker.target(time.monotonic())
        if not leader_was_asked and not sent.too_stale.issuperset(self._endpoints.nodes):
            self._send(lane, number, sent)
            return
        del lane.sent[number]
        error = "no node could vouch for a state as fresh as max_staleness_s asks: is a majority of them alive?"
        self._fail(sent, TooStale(error))

    def _on_ok(self, lane: Lane, number: int, sent: Sent, answer: bytes) -> None:
        given = Reply(answer[1:])
        with self._lock:
            if lane.sent.get(number) is not sent:
                return
            try:
                more = self._settle(lane, number, sent, answer)
            except BaseException:  # Ctrl-C, in a thread that waits for it
                lane.sent.pop(number, None)
                self._mend(lane)
                _hand_out(sent, given)
                raise
        try:
            _hand_out(sent, given)
        except BaseException:
            _hand_out(sent, given)
            raise
        if more:
            self._wake.put(None)  # not from here: this may be a thread of Ray's own

    def _settle(self, lane: Lane, number: int, sent: Sent, answer: bytes) -> bool:
        """It was served; whether there is something to do now for this client's own thread."""
        if number == OPENING:
            self._session = int.from_bytes(answer[1:], "little")
        del lane.sent[number]
        lane.was_answered(len(sent.data), len(answer))
        if lane.reads is None:
            self._session_used = sent.born
        if number != OPENING:
            if not lane.from_any_node:
                self._tracker.answered(sent.node)
            if lane.reads is None:
                self._renewed = False
            self._forget(sent.packets)
        calls = callers = 0
        for packet in sent.packets:
            calls += packet.sent_calls
            callers += packet.awaited
        lane.gathering.begin(callers, calls, time.monotonic())
        return bool(lane.waiting or lane.filling.calls or self._retired or lane.gathering.expected)

    def _forget(self, packets: Iterable[Packet]) -> None:
        for packet in packets:
            self._open_bytes -= packet.size
            self._open_calls -= len(packet.calls)
        if self._crowded:
            self._room.notify_all()

    def _fail(self, sent: Sent, error: BaseException) -> None:
        self._forget(sent.packets)
        for packet in sent.packets:
            packet.fail(error)

    def _on_not_leader(self, lane: Lane, sent: Sent, body: bytes) -> None:
        leader, term = decode_hint(body)
        self._tracker.suspect(sent.node)
        sent.node = NO_NODE  # it has answered
        news = self._tracker.learn(term, leader)
        if news:
            self._resend_all()
        if not news or lane.from_any_node:
            self._back_off(sent)

    def _back_off(self, sent: Sent) -> None:
        sent.node = NO_NODE  # no answer is outstanding
        sent.backoff = min(sent.backoff * 2 or self.config.backoff, self.config.max_backoff)
        sent.due = time.monotonic() + sent.backoff
        self._wake.put(None)

    def _on_expired(self, number: int, refused: Sent) -> None:
        """The group forgot this session: what may have been applied in it fails, the rest goes in a new one.

        A request that left once and came back was not applied, nor was any behind it: numbers are applied without gaps.
        """
        lane = self._commands
        first = number if refused.attempt == 1 and not self._renewed else FOREVER  # that is sent again
        again = [packet for key, sent in sorted(lane.sent.items()) if key >= first for packet in sent.packets]
        lost = [sent for key, sent in lane.sent.items() if key < first]
        waiting = deque([*again, *lane.waiting])
        error = SessionExpired("the group no longer knows this client's session: its open commands can not be retried")
        # In one statement, so that Ctrl-C comes before it or after it.
        lane.sent, lane.waiting, lane.last_number, self._session, self._renewed = {}, waiting, 0, NEW_SESSION, True
        try:
            for sent in lost:
                self._fail(sent, error)
        except BaseException:
            for sent in lost:
                self._fail(sent, error)
            self._mend(lane)
            raise
        self._wake.put(None)

    def _resend_all(self) -> None:
        """Another leader is known: everything that is under way goes there, in order."""
        now = time.monotonic()
        for lane in self._lanes():
            for sent in lane.sent.values():
                if sent.node != self._tracker.leader and not lane.from_any_node:
                    sent.due = now
        self._wake.put(None)

    # --- the client's own thread --------------------------------------------------------------------------------------

    def _start_thread(self) -> None:
        """Where it can not be started (RuntimeError), or Ctrl-C comes, the next call tries again."""
        with self._lock:  # it looks whether it is the one
            thread = threading.Thread(target=self._run, name="rayraft-client", daemon=True)
            thread.start()
            self._thread = thread

    def _run(self) -> None:
        while True:
            with self._lock:
                if self._thread is not threading.current_thread():
                    return
                ends = self._ends(time.monotonic()) if self._retired else FOREVER
                if ends <= time.monotonic():
                    self.leave(ClientClosed("the handle was dropped, and the call had no answer by its deadline"))
                if self._error is not None:
                    return
                try:
                    deadline = min(ends, self._tend(time.monotonic()))
                except Exception as error:  # without this thread the open calls would wait for ever
                    self.close(error)
                    return
                self._looks_at = deadline
            timeout = None if deadline == FOREVER else max(0.0, deadline - time.monotonic())
            self._sleep(timeout)

    def _ends(self, now: float) -> float:
        """When a retired client will have nothing left to do (invariant 2), as things are."""
        self._left_at = min(self._left_at, now)
        if not self._open_calls:
            return self._left_at + self._linger
        return FOREVER if any(packet.awaited for packet in self._packets()) else self._left_at + self._patience

    def _packets(self) -> list[Packet]:
        """All that are open, the one being filled too."""
        packets = []
        for lane in self._lanes():
            packets += [packet for sent in lane.sent.values() for packet in sent.packets]
            packets += [*lane.waiting, lane.filling]
        return packets

    def _sleep(self, timeout: float | None) -> None:
        """Until somebody has work for this thread, or the time is over."""
        with contextlib.suppress(Empty):
            self._wake.get(timeout=timeout)
            while True:
                self._wake.get_nowait()

    def _tend(self, now: float) -> float:
        """Send what is due and say when to look again."""
        deadline = FOREVER
        for lane in self._lanes():
            for number, sent in sorted(lane.sent.items()):
                if sent.due <= now and lane.sent.get(number) is sent:  # an answer may come within the call
                    if lane.reads is not None and sent.is_given_up(now):
                        del lane.sent[number]
                        self._fail(sent, unanswered())
                        continue
                    if sent.node != NO_NODE:  # it let an attempt run out: another one may lead by now
                        self._tracker.failed(sent.node, now)
                    self._send(lane, number, sent)
            self._pump(lane)
            deadline = min(deadline, lane.gathering.until, *(sent.due for sent in lane.sent.values()))
        for node in self._tracker.watches_due(now):
            self._tracker.watch(node, self._on_watch)
        return min(deadline, self._tracker.next_watch)

    def _on_watch(self, node: NodeId, answer: bytes | BaseException) -> None:
        if isinstance(answer, ClientClosed):
            self.close(answer)
            return
        with self._lock:
            if self._tracker.watched(node, answer, time.monotonic()):
                self._resend_all()
        self._wake.put(None)

    def expect(self, timeout_s: float) -> None:
        """Calls with this deadline will be made."""
        self._patience = max(self._patience, timeout_s)

    def abandon(self) -> None:
        """This process is a copy of the one that the client is of; the original goes on."""
        self._lock = threading.RLock()
        self._room = threading.Condition(self._lock)
        self._error = ClientClosed(FORKED)
        for packet in self._packets():
            packet.abandon(self._error)

    def hold(self) -> Lifeline:
        """What whoever calls this client must keep. Once nobody has it, the client closes in time (invariant 2).

        Raises ClientClosed.
        """
        with self._lock:
            if self._error is not None:
                raise self._error.with_traceback(None)
            held = None if self._lifeline is None else self._lifeline()
            if held is None:
                held = Lifeline()
                # No lock: a garbage collector calls.
                self._lifeline = weakref.ref(held, lambda _: self._wake.put(None))
                self._left_at = FOREVER
            return held

    @property
    def closed(self) -> bool:
        return self._error is not None

    @property
    def _retired(self) -> bool:
        """Nobody can call any more."""
        return self._lifeline is not None and self._lifeline() is None

    def leave(self, error: BaseException | None = None) -> None:
        """`close`, and tell the group that this client's session will not be used again.

        One try: if it fails, the session is kept until its time is over.
        """
        with self._lock:
            if self._error is None and self._session != NEW_SESSION:
                node = self._tracker.target(time.monotonic())
                call = self._endpoints.submit(node, encode_ending(self._session), lambda _: None)
                if call is not None:
                    call.leave()
                self._session = NEW_SESSION
        self.close(error)

    def close(self, error: BaseException | None = None) -> None:
        """End everything: open calls fail with ClientClosed (their outcome is not known). Safe to call twice."""
        error = error or ClientClosed("the handle was closed before the call had its answer")
        with self._lock:
            if self._error is not None:
                return
            self._error = error
            packets = self._packets()
            for lane in self._lanes():
                lane.sent.clear()
                lane.waiting.clear()
                lane.filling = Packet()
            self._room.notify_all()
        for packet in packets:
            packet.fail(error)
        self._wake.put(None)


def _hand_out(sent: Sent, given: Reply) -> None:
    """To each packet its part of the results; doing it again does no harm."""
    start = 0
    for packet in sent.packets:
        packet.complete(given, start)
        start += packet.sent_calls


def _leave_clients_behind() -> None:
    """In a forked child: threads and connections are the parent's, and whoever held a lock is not here."""
    for client in list(_clients):
        client.abandon()


_clients: weakref.WeakSet[Client] = weakref.WeakSet()
os.register_at_fork(after_in_child=_leave_clients_behind)
