"""Remote calls under way, and who takes the answer: a thread that waits for it anyway, or one of Ray's own.

A thread that asks Ray itself has the answer a tenth of a millisecond sooner than one that a thread of Ray's wakes: a
tenth of what a call takes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from queue import SimpleQueue
from typing import Any, TypeAlias

import ray
from ray.exceptions import GetTimeoutError

Take: TypeAlias = "Callable[[Any, bool], None]"  # gets the answer or the error; True in a thread that has waited for it

# An answer that takes longer is left to Ray: who asks for one hears of nothing else meanwhile.
WAIT_SECONDS = 0.02


class PendingCall:
    """One call. Its answer is handed over once, after one of `wait`, `wait_for_first` and `leave` was called."""

    __slots__ = ("_reference", "_take")

    def __init__(self, reference: Any, take: Take) -> None:
        self._reference = reference
        self._take = take

    def leave(self) -> None:
        """Ray hands it over when it comes, in a thread of its own."""
        take = self._take
        try:
            future = self._reference.future()
        except Exception as error:  # Ray is shutting down
            take(error, False)
            return
        if is_ray_client():  # who takes an answer may wait for somebody who waits for the thread that brings it
            future.add_done_callback(lambda ended: _answers.hand_over(take, ended))
        else:
            future.add_done_callback(lambda ended: take(_outcome(ended), False))

    def wait(self, timeout_s: float = WAIT_SECONDS) -> None:
        """Take it in this thread if it comes within ``timeout_s`` and `WAIT_SECONDS`; else as `leave`."""
        if not ray.is_initialized():  # to ask for it would quietly start a new Ray cluster
            self._take(ConnectionError("Ray was shut down in this process"), True)
            return
        try:
            answer = ray.get(self._reference, timeout=min(timeout_s, WAIT_SECONDS))
        except GetTimeoutError:
            self.leave()
            return
        except Exception as error:
            answer = error
        except BaseException:  # Ctrl-C: somebody else may wait for it too
            self.leave()
            raise
        self._take(answer, True)

    @staticmethod
    def wait_for_first(calls: Sequence[PendingCall]) -> list[PendingCall]:
        """As `wait`, for whichever answer comes first; returns the calls that nobody waits for yet."""
        if len(calls) == 1:
            calls[0].wait()
            return []
        by_reference = {call._reference: call for call in calls}
        ready, others = ray.wait(list(by_reference), num_returns=1, timeout=WAIT_SECONDS)
        for reference in ready:
            by_reference[reference].wait()
        left = [by_reference[reference] for reference in others]
        if not ready:
            leave_all(left)
            return []
        return left


def leave_all(calls: Iterable[PendingCall]) -> None:
    for call in calls:
        call.leave()


def is_ray_client() -> bool:
    """Whether this process reaches Ray by ``ray://``: no Ray runs in it, and none of Ray's memory is shared with it."""
    return bool(ray.util.client.ray.is_connected())


class AnswerThread:
    """Takes answers where the one thread of Ray's that brings them must not wait for anything."""

    def __init__(self) -> None:
        self._ended: SimpleQueue[tuple[Take, Any]] = SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def hand_over(self, take: Take, ended: Any) -> None:
        self._ended.put((take, ended))
        with self._lock:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="rayraft-answers", daemon=True)
                thread.start()
                self._thread = thread

    def _run(self) -> None:
        while True:
            take, ended = self._ended.get()
            take(_outcome(ended), False)


_answers = AnswerThread()


def _outcome(future: Any) -> Any:
    return future.exception() or future.result()
