"""Killing the leader's process, and what the group does then."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import ray

from rayraft.bench.journal import clock
from rayraft.bench.places import on_machine_of
from rayraft.errors import NoQuorum
from rayraft.ray.cluster import Cluster
from rayraft.ray.spec import NodeReport, NodeState

POLL_SECONDS: Final = 0.01
SETTLE_SECONDS: Final = 60.0


@dataclass(slots=True)
class Kill:
    """One kill of a leader; times are of `clock`, and None as long as it has not happened."""

    node: int
    pid: int
    at: float
    watches: list[Any] = field(repr=False)  # open calls on the survivors, which end when these know a new leader
    new_leader: int | None = None
    led_at: float | None = None
    back_at: float | None = None


def kill_leader(cluster: Cluster) -> Kill:
    """A real SIGKILL of the process that leads, on whatever machine. Raises NoQuorum when it does not answer."""
    leader = cluster.leader()
    report = _ask(cluster, leader)
    if report is None or report.replica is None:
        raise NoQuorum(f"node {leader} of {cluster.name!r} led, and does not answer now")
    on_machine_of(report, os.getpid)  # Ray has a worker ready there
    survivors = [node for node in cluster.nodes if node != leader]
    watches = [cluster.actor(node).watch.remote(report.replica.term, leader) for node in survivors]
    before = clock()  # what is still answered meanwhile bounds the time without service
    on_machine_of(report, os.kill, report.pid, signal.SIGKILL)
    return Kill(leader, report.pid, before, watches)


def follow(
    cluster: Cluster, kill: Kill, timeout_s: float = SETTLE_SECONDS, on_change: Callable[[], None] = lambda: None
) -> None:
    """Wait until another node leads and the killed one is back with all that is committed; fills in ``kill``."""
    deadline = kill.at + timeout_s
    _see_election(cluster, kill, deadline)
    on_change()
    while kill.led_at is not None and kill.back_at is None and clock() < deadline:
        _look_for_return(cluster, kill)
        time.sleep(POLL_SECONDS)
    on_change()


def _see_election(cluster: Cluster, kill: Kill, deadline: float) -> None:
    if kill.watches:
        ray.wait(kill.watches, num_returns=1, timeout=deadline - clock())
    elected_at = clock()
    candidates = [node for node in cluster.nodes if node != kill.node] or [kill.node]
    while clock() < deadline:
        for node in candidates:
            report = _ask(cluster, node)
            if report is not None and report.replica is not None and report.replica.serves and report.pid != kill.pid:
                kill.new_leader, kill.led_at = node, elected_at if kill.watches else clock()
                return
        time.sleep(POLL_SECONDS)


def _look_for_return(cluster: Cluster, kill: Kill) -> None:
    assert kill.new_leader is not None
    leader = _ask(cluster, kill.new_leader)
    report = _ask(cluster, kill.node)
    if report is None or report.pid == kill.pid or report.state is not NodeState.RUNNING:
        return
    if leader is None or leader.replica is None or report.replica is None:
        return
    if report.replica.applied >= leader.replica.commit:
        kill.back_at = clock()


def _ask(cluster: Cluster, node: int, timeout_s: float = 1.0) -> NodeReport | None:
    try:
        report = ray.get(cluster.actor(node).report.remote(), timeout=timeout_s)
    except Exception:  # dead, or coming up
        return None
    return report if isinstance(report, NodeReport) else None


def wait_until_whole(cluster: Cluster, timeout_s: float = SETTLE_SECONDS) -> None:
    """Until there is a leader and every node has applied what it had committed. Raises NoQuorum."""
    deadline = clock() + timeout_s
    while clock() < deadline:
        leader = _ask(cluster, cluster.leader(max(0.0, deadline - clock())))
        if leader is not None and leader.replica is not None:
            reports = [_ask(cluster, node) for node in cluster.nodes]
            applied = [
                report.replica.applied for report in reports if report is not None and report.replica is not None
            ]
            if len(applied) == len(cluster.nodes) and min(applied) >= leader.replica.commit:
                return
        time.sleep(POLL_SECONDS)
    raise NoQuorum(f"not every node of {cluster.name!r} was back within {timeout_s} s")


class Ambush(threading.Thread):
    """Kills the leader a while after it starts and follows what happens, beside whatever else goes on.

    ``kill`` is None until then; ``error`` has what went wrong.
    """

    def __init__(self, cluster: Any, delay_s: float, on_change: Callable[[], None] = lambda: None) -> None:
        super().__init__(name="rayraft-ambush", daemon=True)
        self._cluster: Cluster = cluster
        self._delay_s = delay_s
        self._on_change = on_change
        self.kill: Kill | None = None
        self.error: Exception | None = None

    def lie_in_wait(self, elapsed: float = 0.0, done: int = 0) -> None:
        """For `run_load`: start once the load runs, for to make its puts takes seconds when there are many keys."""
        if self.ident is None:
            self.start()

    def run(self) -> None:
        time.sleep(self._delay_s)
        try:
            self.kill = kill_leader(self._cluster)
            self._on_change()
            follow(self._cluster, self.kill, on_change=self._on_change)
        except Exception as error:
            self.error = error
