"""Machines, waiting and killing for the tests on a real Ray cluster."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import rayraft
from rayraft.history import Recording
from rayraft.ray.spec import NodeReport
from tests.ray.recorded import Recorded

READ_EVERY = 5  # tokens


class Ledger:
    """Counts what was deposited, and how often each token was seen: more than once means applied twice."""

    def __init__(self) -> None:
        self.balance: dict[str, int] = {}
        self.tokens: dict[str, int] = {}

    @rayraft.command
    def deposit(self, who: str, amount: int) -> int:
        if amount < 0:
            raise ValueError(f"cannot deposit {amount}")
        self.balance[who] = self.balance.get(who, 0) + amount
        return self.balance[who]

    @rayraft.command
    def mark(self, token: str) -> int:
        self.tokens[token] = self.tokens.get(token, 0) + 1
        return len(self.tokens)

    @rayraft.query
    def balance_of(self, who: str) -> int:
        return self.balance.get(who, 0)

    @rayraft.query
    def seen(self) -> dict[str, int]:
        return dict(self.tokens)


def wait_until(condition: Callable[[], Any], timeout_s: float = 60.0, what: str = "the condition") -> Any:
    """Ask again and again until ``condition()`` is true; its value. AssertionError after ``timeout_s`` seconds."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"{what} did not come true within {timeout_s} s"
        time.sleep(0.05)


def report(handle: rayraft.Handle, node: int) -> NodeReport | None:
    found = handle.cluster.reports()[node]
    return found if isinstance(found, NodeReport) else None


def signal_node(handle: rayraft.Handle, node: int, number: int = signal.SIGKILL) -> int:
    """Send a signal to the process of one node actor; its process id."""
    found = wait_until(lambda: report(handle, node), what=f"a report of node {node}")
    os.kill(found.pid, number)
    return int(found.pid)


def running_nodes(handle: rayraft.Handle) -> list[int]:
    return [
        node
        for node, found in handle.cluster.reports().items()
        if isinstance(found, NodeReport) and found.replica is not None
    ]


def assert_equal_states(handle: rayraft.Handle) -> None:
    digests = handle.cluster.wait_until_equal(60.0)
    assert len(digests) == len(handle.cluster.nodes), f"not every node of {handle.cluster.nodes} answers: {digests}"
    assert len(set(digests.values())) == 1, f"the replicas differ: {digests}"


class Marker:
    """A thread that marks fresh tokens all the time, and remembers those that were acknowledged.

    Now and then it reads how many there are. All of it is recorded, two markers of one ledger may share a recording;
    when the one that began it ends, the history must be linearizable.
    """

    def __init__(self, handle: rayraft.Handle, prefix: str, recording: Recording | None = None) -> None:
        self._ledger = Recorded(handle, recording, prefix)
        self._prefix = prefix
        self._began_it = recording is None
        self._stop = threading.Event()
        self._progress = threading.Condition()
        self.acknowledged: list[str] = []
        self.errors: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def recording(self) -> Recording:
        return self._ledger.recording

    def __enter__(self) -> Marker:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=120)
        assert not self._thread.is_alive()
        if self._began_it and kind is None:
            self._ledger.assert_linearizable(len(self.acknowledged))

    def _run(self) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            token = f"{self._prefix}-{number}"
            try:
                if number % READ_EVERY == 0:
                    self._ledger.seen()
                self._ledger.mark(token)
            except rayraft.RayraftError as error:
                self.errors.append(error)
                continue
            with self._progress:
                self.acknowledged.append(token)
                self._progress.notify_all()

    def wait_for_more(self, count: int, timeout_s: float = 60.0) -> None:
        """Until ``count`` further tokens are acknowledged."""
        with self._progress:
            goal = len(self.acknowledged) + count
            assert self._progress.wait_for(lambda: len(self.acknowledged) >= goal, timeout_s), "no progress"

    def assert_exactly_once(self) -> None:
        """Every acknowledged token is there, and none was applied twice; the history allows for what is read now."""
        seen = self._ledger.seen()
        lost = [token for token in self.acknowledged if token not in seen]
        twice = {token: count for token, count in seen.items() if count != 1}
        assert not lost, f"acknowledged and lost: {lost[:5]} and more ({len(lost)})"
        assert not twice, f"applied more than once: {twice}"
        assert not self.errors, self.errors[:3]
        self._ledger.assert_linearizable(len(self.acknowledged))
