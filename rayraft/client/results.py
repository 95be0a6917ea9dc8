"""What a caller holds while its command is on its way."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Generator, Sequence
from typing import Any

from rayraft.errors import CommandTimeout
from rayraft.machine.calls import PLAIN, decode_results, unwrap

WITHDRAWN = b""  # stands for a call that was withdrawn before its packet left; no encoded call is empty


def withdrawn() -> CommandTimeout:
    return CommandTimeout(
        "there was no room to send the command before its deadline, so it was withdrawn: it has no effect; is a "
        "majority of the group's nodes alive?",
        outcome_known=True,
    )


class Packet:
    """Calls that travel together, and the one event that everyone who made them waits for.

    1. Calls are added or withdrawn only before `sealed`; from then on their number and order are fixed.
    2. ``size`` counts every call that was added, withdrawn or not: what the client accounts for.
    3. It ends once: `complete` or `fail`, never both; later answers change nothing. ``done`` tells; it is set last.
    """

    __slots__ = ("_callbacks", "_decoded", "_error", "_event", "_lock", "_reply", "calls", "done", "sealed", "size")

    def __init__(self) -> None:
        self.calls: list[bytes] = []
        self.size = 0
        self.sealed = False
        self.done = False  # a plain attribute: it is read for every call
        self._lock = threading.Lock()
        self._event = threading.Event()
        self._reply: bytes | None = None
        self._decoded: list[Any] | None = None
        self._error: BaseException | None = None
        self._callbacks: list[Callable[[], None]] = []

    def add(self, call: bytes, timeout_s: float | None = None) -> Result:
        calls = self.calls
        calls.append(call)
        self.size += len(call)
        return Result(self, len(calls) - 1, timeout_s)

    def seal(self) -> list[bytes]:
        """Fix the content; what was withdrawn stays as a place without a call."""
        with self._lock:
            self.sealed = True
            return [call for call in self.calls if call is not WITHDRAWN]

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
        """The deadline of these calls has passed: raises CommandTimeout, unless the answer has just come."""
        if self.withdraw(positions):
            raise withdrawn()
        if not self.done:
            raise CommandTimeout(
                f"no answer within {timeout_s} s; the command may still take effect, once. Wait for it again with "
                "result(), or read what it would have changed"
            )

    def complete(self, encoded_results: bytes) -> None:
        self._end(encoded_results, None)

    def fail(self, error: BaseException) -> None:
        self._end(None, error)

    def _end(self, encoded_results: bytes | None, error: BaseException | None) -> None:
        with self._lock:
            if self.done:
                return
            self._reply, self._error = encoded_results, error
            self.done = True
            self._event.set()
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def wait(self, timeout_s: float | None) -> bool:
        return self._event.wait(None if timeout_s is None else min(timeout_s, threading.TIMEOUT_MAX))

    def when_done(self, callback: Callable[[], None]) -> None:
        with self._lock:
            if not self.done:
                self._callbacks.append(callback)
                return
        callback()

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
        """Decoded by whoever asks first."""
        if self._error is not None:
            raise self._error.with_traceback(None)  # it is shared: each caller's trace would add to the last one's
        with self._lock:
            if self._decoded is None:
                assert self._reply is not None
                results = iter(decode_results(self._reply))
                self._decoded = [None if call is WITHDRAWN else next(results) for call in self.calls]
                self._reply = None
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
        take effect.
        """
        packet = self._packet
        if not packet.done:
            timeout_s = self._timeout_s if timeout_s is None else timeout_s
            if not packet.wait(timeout_s):
                packet.give_up((self._position,), timeout_s)
        return packet.outcome(self._position)

    def __await__(self) -> Generator[Any, None, Any]:
        return self._wait_in_loop().__await__()

    async def _wait_in_loop(self) -> Any:
        if not self._packet.done:
            loop = asyncio.get_running_loop()
            arrived = asyncio.Event()

            def arrive() -> None:
                with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
                    loop.call_soon_threadsafe(arrived.set)

            self._packet.when_done(arrive)
            try:
                await asyncio.wait_for(arrived.wait(), self._timeout_s)
            except asyncio.TimeoutError:
                self._packet.give_up((self._position,), self._timeout_s)
        return self._packet.outcome(self._position)
