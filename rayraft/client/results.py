"""What a caller holds while its command is on its way."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Generator, Sequence
from typing import Any

from rayraft.client.endpoints import Pending
from rayraft.errors import BadCall, CommandTimeout
from rayraft.machine.calls import PLAIN, decode_results, unwrap

WITHDRAWN = b""  # stands for a call that was withdrawn before its packet left; no encoded call is empty


def unanswered() -> CommandTimeout:
    return CommandTimeout(
        "no node has answered this query within its time, and it is not asked again: does it take long, or is a "
        "majority of the group's nodes away?",
        outcome_known=True,
    )


def withdrawn() -> CommandTimeout:
    return CommandTimeout(
        "the call could not be sent before its deadline, so it was withdrawn: it has no effect. Is a majority of the "
        "group's nodes alive?",
        outcome_known=True,
    )


class Reply:
    """The encoded results of a request, decoded once, by whoever asks first; the packets that went in it share them."""

    __slots__ = ("_decoded", "_encoded", "_lock")

    def __init__(self, encoded_results: bytes) -> None:
        self._encoded = encoded_results
        self._decoded: list[Any] | None = None
        self._lock = threading.Lock()

    def results(self) -> list[Any]:
        if self._decoded is None:
            with self._lock:
                if self._decoded is None:
                    self._decoded = decode_results(self._encoded)
                    self._encoded = b""
        return self._decoded


class Packet:
    """Calls that travel together, and what everyone who made them waits for.

    1. Calls are added or withdrawn only before `sealed`; from then on their number and order are fixed.
    2. ``size`` counts every call that was added, withdrawn or not: what the client accounts for.
    3. It ends once: `complete` or `fail`, never both; later answers change nothing. ``done`` tells; it is set last.
    4. At the end the threads that wait are woken one by the other: all at once would queue for the interpreter's lock,
       which takes a second wake-up of each. A thread whose turn came passes it on, also if it waits no longer.
    """

    __slots__ = (
        "_arrivals",
        "_decoded",
        "_error",
        "_lock",
        "_reply",
        "_start",
        "_to_wake",
        "_waiters",
        "call",
        "calls",
        "collecting",
        "done",
        "patience",
        "sealed",
        "size",
    )

    def __init__(self) -> None:
        self.calls: list[bytes] = []
        self.size = 0
        self.sealed = False
        self.patience = 0.0  # seconds: the longest time that one of the calls has
        self.collecting = False  # for a batch whose block has not ended: nothing is sent before
        self.done = False  # a plain attribute: it is read for every call
        self.call: Pending | None = None  # under way, where the first who waits is to take the answer
        self._lock = threading.Lock()
        self._waiters: list[threading.Lock] = []  # one for each thread that waits, released when its turn has come
        self._to_wake: list[threading.Lock] = []  # at the end: those whose turn has not come yet, the first one last
        self._reply: Reply | None = None
        self._start = 0
        self._decoded: list[Any] | None = None
        self._error: BaseException | None = None
        # One wake-up for all that wait in an event loop: each costs a system call.
        self._arrivals: dict[asyncio.AbstractEventLoop, list[asyncio.Future[bool]]] = {}

    def add(self, call: bytes, timeout_s: float | None = None) -> Result:
        calls = self.calls
        calls.append(call)
        self.size += len(call)
        if timeout_s is not None and timeout_s > self.patience:
            self.patience = timeout_s
        return Result(self, len(calls) - 1, timeout_s)

    def seal(self) -> list[bytes]:
        """Fix the content; what was withdrawn stays as a place without a call."""
        with self._lock:
            self.sealed = True
            return [call for call in self.calls if call is not WITHDRAWN]

    @property
    def sent_calls(self) -> int:
        """How many of its calls travel, once it is sealed."""
        return len(self.calls) - self.calls.count(WITHDRAWN)

    def withdraw(self, positions: Sequence[int]) -> bool:
        """Take calls back, all or none; False when it is too late for that."""
        with self._lock:
            if all(self.calls[position] is WITHDRAWN for position in positions):
                return True
            if self.sealed or self.done:
                return False
            for position in positions:
                self.calls[position] = WITHDRAWN
            return True

    def give_up(self, positions: Sequence[int], timeout_s: float | None) -> None:
        """The deadline of these calls has passed: raises CommandTimeout, unless the answer has just come.

        Without positions nothing is withdrawn: somebody has only waited long enough.
        """
        if positions and self.withdraw(positions):
            raise withdrawn()
        if not self.done:
            raise CommandTimeout(
                f"no answer within {timeout_s} s. If it was a command, it may still take effect, once: wait for it "
                "again with result(), or read what it would have changed"
            )

    def check_sent(self) -> None:
        """Raises BadCall where no answer can come, for nothing was sent."""
        if self.collecting:
            raise BadCall("a batch is sent when its with block ends: ask for results after it")

    def complete(self, reply: Reply, start: int = 0) -> None:
        """Its results are those of ``reply`` from ``start`` on."""
        self._start = start
        self._end(reply, None)

    def fail(self, error: BaseException) -> None:
        self._end(None, error)

    def _end(self, reply: Reply | None, error: BaseException | None) -> None:
        with self._lock:
            if not self.done:
                self._reply, self._error = reply, error
                self.done = True
            # Also when it is done already: Ctrl-C may have come between.
            self._to_wake, self._waiters = self._waiters[::-1] + self._to_wake, []
            waiting, self._arrivals = self._arrivals, {}
        if self._to_wake:
            self._wake_next()
        for loop, arrivals in waiting.items():
            with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
                loop.call_soon_threadsafe(_arrive, arrivals)

    def abandon(self, error: BaseException) -> None:
        """In a forked child: nobody who waits is here, and a lock may be held for ever."""
        self._lock = threading.Lock()
        self._waiters, self._to_wake, self._arrivals, self.call = [], [], {}, None
        self._error, self.done = error, True

    @property
    def awaited(self) -> int:
        """How many callers wait for it."""
        with self._lock:
            waiting = len(self._waiters)
            return waiting + sum(map(len, self._arrivals.values())) if self._arrivals else waiting

    def wait(self, timeout_s: float | None) -> bool:
        deadline = time.monotonic() + (threading.TIMEOUT_MAX if timeout_s is None else timeout_s)
        waiter = threading.Lock()
        waiter.acquire()
        call: Pending | None = None
        try:
            with self._lock:
                if self.done:
                    return True
                self._waiters.append(waiter)
                call, self.call = self.call, None
            if call is not None:
                call.wait(max(0.0, deadline - time.monotonic()))
            in_turn = waiter.acquire(timeout=max(0.0, min(deadline - time.monotonic(), threading.TIMEOUT_MAX)))
            if not in_turn:
                self._stop_waiting(waiter)
            elif self._to_wake:
                self._wake_next()
        except BaseException:  # Ctrl-C
            self._stop_waiting(waiter)
            if call is not None:
                call.leave()
            raise
        return self.done

    def _wake_next(self) -> None:
        with self._lock:
            waiter = self._to_wake.pop() if self._to_wake else None
        if waiter is not None:
            waiter.release()

    def _stop_waiting(self, waiter: threading.Lock) -> None:
        """Its thread waits no longer; if its turn came all the same, that is passed on."""
        with self._lock:
            for queue in (self._waiters, self._to_wake):
                if waiter in queue:
                    queue.remove(waiter)
                    return
        self._wake_next()

    def arrival(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[bool] | None:
        """What to await in ``loop``: True at the end. None when that has come."""
        if self.done:
            return None
        arrival = loop.create_future()
        with self._lock:
            if self.done:
                return None
            self._arrivals.setdefault(loop, []).append(arrival)
        return arrival

    def stop_awaiting(self, loop: asyncio.AbstractEventLoop, arrival: asyncio.Future[bool]) -> None:
        """Nobody awaits this one any more."""
        with self._lock, contextlib.suppress(KeyError, ValueError):
            self._arrivals[loop].remove(arrival)

    def outcome(self, position: int) -> Any:
        """The result of one call; raises what it raised."""
        if self.calls[position] is WITHDRAWN:
            raise withdrawn()
        result = (self._decoded or self._results())[position]
        return result if type(result) in PLAIN else unwrap(result)

    def outcomes(self) -> list[Any]:
        """The results of all calls, in order; raises the first exception that one of them raised."""
        if WITHDRAWN in self.calls:
            raise withdrawn()
        return [result if type(result) in PLAIN else unwrap(result) for result in self._results()]

    def _results(self) -> list[Any]:
        if self._error is not None:
            raise self._error.with_traceback(None)  # it is shared: each caller's trace would add to the last one's
        if self._decoded is None:
            assert self._reply is not None
            results = self._reply.results()
            if WITHDRAWN in self.calls:
                given = iter(results[self._start :])
                results = [None if call is WITHDRAWN else next(given) for call in self.calls]
            elif self._start or len(results) > len(self.calls):
                results = results[self._start : self._start + len(self.calls)]
            self._decoded, self._reply = results, None
        return self._decoded


class Result:
    """The result of one call: ``r.result(timeout_s=...)``, ``await r``, ``r.done()``, as Ray Serve's responses."""

    __slots__ = ("_packet", "_position", "_timeout_s")

    def __init__(self, packet: Packet, position: int, timeout_s: float | None = None) -> None:
        self._packet = packet
        self._position = position
        self._timeout_s = timeout_s

    def done(self) -> bool:
        return self._packet.done

    def result(self, timeout_s: float | None = None) -> Any:
        """Wait at most ``timeout_s`` seconds (default: the handle's) and return what the method returned.

        Raises what the method raised, or CommandTimeout, whose ``outcome_known`` tells whether the command can still
        take effect. To wait for less than the handle's time withdraws nothing: the call goes on.
        """
        packet, own = self._packet, self._timeout_s
        if not packet.done:
            packet.check_sent()
            timeout_s = own if timeout_s is None else timeout_s
            if not packet.wait(timeout_s):
                positions = (self._position,) if own is None or timeout_s is None or timeout_s >= own else ()
                packet.give_up(positions, timeout_s)
        return packet.outcome(self._position)

    def __await__(self) -> Generator[Any, None, Any]:
        packet, timeout_s = self._packet, self._timeout_s
        packet.check_sent()
        loop = asyncio.get_running_loop()
        arrival = packet.arrival(loop)
        if arrival is not None:
            timer = loop.call_later(timeout_s, _expire, arrival) if timeout_s is not None else None
            try:
                arrived = yield from arrival
            finally:
                if timer is not None:
                    timer.cancel()
                if not packet.done:
                    packet.stop_awaiting(loop, arrival)
            if not arrived:
                packet.give_up((self._position,), timeout_s)
        return packet.outcome(self._position)


def _arrive(arrivals: list[asyncio.Future[bool]]) -> None:
    for arrival in arrivals:
        if not arrival.done():  # its caller was cancelled, or gave up
            arrival.set_result(True)


def _expire(arrival: asyncio.Future[bool]) -> None:
    if not arrival.done():
        arrival.set_result(False)
