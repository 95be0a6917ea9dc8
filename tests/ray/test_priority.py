"""Nodes before what only computes, as far as the system allows it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import ray

import rayraft
from rayraft.bench.figures import niceness
from rayraft.errors import BadConfiguration
from rayraft.ray.priority import NICENESS, take_niceness

THREADS = """
import os, threading
from rayraft.ray.priority import take_niceness
end = threading.Event()
threads = [threading.Thread(target=end.wait) for _ in range(3)]
for thread in threads:
    thread.start()
print(take_niceness(19))
later = threading.Thread(target=end.wait)
later.start()
print(*[os.getpriority(os.PRIO_PROCESS, int(thread)) for thread in os.listdir("/proc/self/task")])
end.set()
"""

ONLY_ONE = """
import types, os
import rayraft.ray.priority as priority
priority.os = types.SimpleNamespace(setpriority=os.setpriority, PRIO_PROCESS=os.PRIO_PROCESS, listdir=lambda _: [])
"""

Start = Callable[..., rayraft.Handle]


def check_every_thread_has_it(before: str = "") -> None:
    run = subprocess.run([sys.executable, "-c", before + THREADS], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["True", *["19"] * 5]


def test_every_thread_has_it_and_those_that_they_start() -> None:
    check_every_thread_has_it()


def test_threads_that_are_left_out_are_noticed() -> None:
    with pytest.raises(AssertionError):
        check_every_thread_has_it(ONLY_ONE)


def test_where_the_system_does_not_allow_it_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def refuse(which: int, who: int, niceness: int) -> None:
        asked.append(niceness)
        raise PermissionError

    monkeypatch.setattr(os, "setpriority", refuse)
    assert not take_niceness(-20)
    assert asked == [-20]


def test_a_thread_that_ends_meanwhile_is_no_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []

    def give(which: int, who: int, niceness: int) -> None:
        if who:
            given.append(who)
            raise ProcessLookupError

    monkeypatch.setattr(os, "setpriority", give)
    assert take_niceness(-5)
    assert os.getpid() in given


@pytest.mark.parametrize("niceness", [-21, 20, 0.5, 5.0, "low"])
def test_what_is_no_niceness_is_refused(niceness: Any) -> None:
    with pytest.raises(BadConfiguration, match="niceness"):
        rayraft.Settings(niceness=niceness)


def niceness_of(handle: rayraft.Handle) -> list[int]:
    return [report.niceness for report in handle.cluster.status().values()]


def test_a_node_takes_what_the_settings_say(start_group: Start) -> None:
    assert niceness_of(start_group(rayraft.KeyValue, "behind", nodes=1, settings=rayraft.Settings(niceness=19))) == [19]


@pytest.mark.skipif(niceness() != NICENESS, reason="needs the right to raise a process's priority: run as root")
def test_nodes_go_before_the_workers_of_ray(start_group: Start) -> None:
    left_alone = start_group(rayraft.KeyValue, "left", nodes=1, settings=rayraft.Settings(niceness=None))
    assert niceness_of(left_alone) == [ray.get(ray.remote(num_cpus=0)(lambda: os.nice(0)).remote())]
    assert niceness_of(start_group(rayraft.KeyValue, "before", nodes=1)) == [NICENESS]
