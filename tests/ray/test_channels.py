"""Calls through channels on a real Ray cluster: they are used, and nothing is lost by them whoever dies."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import ray

import rayraft
from rayraft.ray.channels.caller import Link
from rayraft.ray.channels.ends import FRAME_BYTES
from rayraft.ray.spec import NodeReport
from tests.ray.support import Ledger, assert_equal_states, signal_node, wait_until

pytestmark = pytest.mark.cluster
Start = Callable[..., rayraft.Handle]


def links(handle: rayraft.Handle) -> list[Link]:
    client, _ = handle._access.client(30.0)
    return [caller._link for caller in client._endpoints._callers.values() if caller._link is not None]


def call_until_there_is_a_link(handle: rayraft.Handle) -> int:
    """How many marks that took."""
    count = 0

    def once_more() -> bool:
        nonlocal count
        for _ in range(20):
            handle.mark(f"warm-{count}")
            count += 1
        return bool(links(handle))

    wait_until(once_more, what="a link to the leader")
    return count


def callers(handle: rayraft.Handle) -> int:
    return sum(report.callers for report in handle.cluster.reports().values() if isinstance(report, NodeReport))


def test_calls_that_come_often_go_through_channels(start_group: Start) -> None:
    ledger = start_group(Ledger, "often")
    between_nodes = callers(ledger)
    count = call_until_there_is_a_link(ledger)
    for number in range(300):
        assert ledger.mark(f"t{number}") == count + number + 1
        assert len(ledger.seen()) == count + number + 1
    assert callers(ledger) > between_nodes
    (link,) = links(ledger)
    assert next(link._numbers) > 300, "they did go through it"
    assert_equal_states(ledger)


def test_threads_and_coroutines_share_a_link(start_group: Start) -> None:
    ledger = start_group(Ledger, "shared-link")
    count = call_until_there_is_a_link(ledger)

    def work(name: str) -> None:
        for number in range(50):
            ledger.mark(f"{name}-{number}")

    async def many() -> None:
        await asyncio.gather(*(ledger.mark.remote(f"c-{number}") for number in range(400)))

    threads = [threading.Thread(target=work, args=(f"t{name}",)) for name in range(8)]
    for thread in threads:
        thread.start()
    asyncio.run(many())
    for thread in threads:
        thread.join()
    assert len(ledger.seen()) == count + 8 * 50 + 400
    assert set(ledger.seen().values()) == {1}


def test_a_group_may_do_without(start_group: Start) -> None:
    ledger = start_group(Ledger, "no-channels", settings=rayraft.Settings(channels=False))
    for number in range(200):
        ledger.mark(f"t{number}")
    client, _ = ledger._access.client(30.0)
    wait_until(lambda: any(caller._open_at for caller in client._endpoints._callers.values()), what="an attempt")
    assert not links(ledger)
    assert callers(ledger) == 0


def test_a_caller_on_another_machine_gets_none(start_group: Start) -> None:
    ledger = start_group(Ledger, "elsewhere")
    other = "0" * len(ray.get_runtime_context().get_node_id())
    assert ray.get(ledger.cluster.actor(1).offer_channel.remote(other)) is None
    assert ray.get(ledger.cluster.actor(1).wake_channel.remote(12345)) is False


def test_answers_that_are_too_large_for_a_channel(start_group: Start) -> None:
    values = start_group(rayraft.KeyValue, "large-answers")
    large = b"x" * (2 * FRAME_BYTES)
    values.put("large", large)
    for number in range(200):
        values.put("small", number)
    wait_until(lambda: values.get("small") is not None and links(values), what="a link")
    for _ in range(20):
        assert values.get("large") == large
        assert values.get("small") == 199
    values.put("large", large[:-1])
    assert values.get("large") == large[:-1]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_nothing_is_lost_or_doubled_when_the_leader_goes(start_group: Start, how: signal.Signals) -> None:
    """What is under way in channels then is sent again, to the next one."""
    ledger = start_group(Ledger, f"gone-{how.name.lower()}", nodes=3)
    count = call_until_there_is_a_link(ledger)
    stop = threading.Event()
    sent: list[str] = []

    def work(name: int) -> None:
        while not stop.is_set():
            token = f"{name}-{len(sent)}-{threading.get_ident()}"
            ledger.mark(token)
            sent.append(token)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    stopped: list[int] = []
    try:
        for _ in range(2):
            before = len(sent)
            wait_until(lambda before=before: len(sent) > before + 200, what="calls")
            stopped.append(signal_node(ledger, ledger.cluster.leader(), how))
            before = len(sent)
            wait_until(lambda before=before: len(sent) > before + 200, what="calls to the next leader")
            if how is signal.SIGSTOP:
                os.kill(stopped.pop(), signal.SIGCONT)
            wait_until(lambda: len(ledger.cluster.digests()) == 3, what="all nodes")
    finally:
        for pid in stopped:
            if how is signal.SIGSTOP:
                os.kill(pid, signal.SIGCONT)
        stop.set()
        for thread in threads:
            thread.join()
    seen = ledger.seen()
    assert set(sent) <= set(seen)
    assert set(seen.values()) == {1}
    assert len(seen) == count + len(sent)
    assert_equal_states(ledger)


def test_callers_that_are_killed_leave_the_others_alone(start_group: Start) -> None:
    @ray.remote(num_cpus=0)
    class Caller:
        def __init__(self, ledger: rayraft.Handle) -> None:
            self.ledger = ledger

        def work(self, name: str, count: int) -> int:
            for number in range(count):
                self.ledger.mark(f"{name}-{number}")
            return len(links(self.ledger))

    ledger = start_group(Ledger, "killed-callers")
    call_until_there_is_a_link(ledger)
    victims = [Caller.remote(ledger) for _ in range(3)]
    for number, victim in enumerate(victims):
        assert ray.get(victim.work.remote(f"v{number}", 200)) == 1
        victim.work.remote(f"w{number}", 1_000_000)
    before = callers(ledger)
    for victim in victims:
        ray.kill(victim)
    for number in range(300):
        ledger.mark(f"mine-{number}")
    assert set(ledger.seen().values()) == {1}
    assert before >= 4
    assert_equal_states(ledger)


PROGRAM = """
    import threading, sys, ray, rayraft
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    values = rayraft.start(rayraft.KeyValue, name="ends", nodes=1, data_dir=sys.argv[1], supervise=False)
    for number in range(300):
        values.put("n", number)

    def work():
        try:
            while True:
                values.put("m", 1)
        except rayraft.RayraftError:
            pass

    for _ in range(4):
        threading.Thread(target=work, daemon=True).start()
    for number in range(300):
        values.put("n", number)
    print("reached", flush=True)
    {end}
"""


@pytest.mark.parametrize("end", ["pass", "ray.shutdown()", "raise SystemExit(0)"])
def test_a_process_ends_quietly_while_calls_are_under_way(tmp_path: Path, end: str) -> None:
    """Ray ends a process that reads a channel after Ray was shut down in it."""
    program = textwrap.dedent(PROGRAM).format(end=end)
    found = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert "reached" in found.stdout
    assert found.returncode == 0, found.stderr
    assert "core worker has already been shutdown" not in found.stderr
    assert "Traceback" not in found.stderr, found.stderr
