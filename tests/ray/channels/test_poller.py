"""The thread that looks: while something is expected, and only then."""

from __future__ import annotations

import os
import threading

from rayraft.ray.channels import poller as poller_module
from rayraft.ray.channels.poller import LONGEST_NAP, SHORTEST_NAP, Poller, nap, poller_of_clients

PATIENCE = 30.0


class Ten:
    """Something that comes at the tenth look."""

    def __init__(self) -> None:
        self.expected = False
        self.looks = 0
        self.over = False
        self.came = threading.Event()

    def expects(self, now: float) -> bool:
        return self.expected

    def poll(self, now: float) -> bool:
        self.looks += 1
        if self.looks == 10:
            self.expected = False
            self.came.set()
        return self.looks == 10

    def is_over(self, now: float) -> bool:
        return self.over


def test_it_looks_again_until_something_comes_and_then_sleeps() -> None:
    done = threading.Event()
    poller, ten = Poller(done.set), Ten()
    poller.watch(ten)
    assert ten.looks == 0
    ten.expected = True
    poller.wake()
    assert ten.came.wait(PATIENCE)
    assert done.wait(PATIENCE), "what came is worked on"
    assert ten.looks == 10
    again = Ten()
    again.expected = True
    poller.watch(again)
    assert again.came.wait(PATIENCE)
    assert ten.looks == 10, "nothing was expected there"


def test_all_are_looked_at_before_what_came_is_worked_on() -> None:
    """So that it shares one turn, one write, one sync."""
    seen: list[tuple[int, int]] = []
    done = threading.Event()
    first, second = Ten(), Ten()

    def after() -> None:
        seen.append((first.looks, second.looks))
        done.set()

    poller = Poller(after)
    first.expected = second.expected = True
    poller._watched = (first, second)
    poller.watch(Ten())
    assert done.wait(PATIENCE)
    assert seen[0] == (10, 10)


def test_what_is_over_is_watched_no_longer() -> None:
    poller, ten, other = Poller(), Ten(), Ten()
    poller.watch(ten)
    poller.watch(other)
    ten.over = True
    poller._tidy()
    assert poller._watched == (other,)


def test_what_takes_long_is_looked_for_less_and_less() -> None:
    waited = [0.0, 0.001, 0.01, 0.1, 10.0]
    naps = [nap(seconds) for seconds in waited]
    assert naps == sorted(naps)
    assert naps[0] == SHORTEST_NAP
    assert naps[-1] == LONGEST_NAP


def test_a_forked_child_has_a_poller_of_its_own() -> None:
    parents = poller_of_clients()
    assert poller_of_clients() is parents
    child = os.fork()
    if child == 0:
        os._exit(7 if poller_module._of_clients is None else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 7
    assert poller_of_clients() is parents
