"""What a client makes of what the nodes tell it about the leader and the members."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayraft.client.leader import LONGEST_PAUSE, LOOK_AFTER, RETRY_AFTER, LeaderTracker, View
from tests.client.support import NODES, Scripted

numbers = st.integers(0, 2**64 - 1)


class Growing(Scripted):
    """Counts how often the nodes were looked up."""

    def __init__(self) -> None:
        super().__init__()
        self.delays: list[float] = []

    @property
    def lookups(self) -> int:
        return len(self.delays)

    def refresh(self, delay_s: float = 0.0) -> None:
        self.delays.append(delay_s)


def tracker() -> tuple[LeaderTracker, Growing]:
    endpoints = Growing()
    return LeaderTracker(endpoints, random.Random(0)), endpoints


@given(numbers, numbers, st.lists(numbers, max_size=9))
def test_a_view_arrives_as_it_was(term: int, leader: int, members: list[int]) -> None:
    view = View(term, leader, tuple(members))
    assert View.decode(view.encode()) == view


def test_a_member_that_is_new_is_looked_up_at_once_and_not_when_it_leads() -> None:
    """When it leads, Ray's head, which knows where it is, may be away."""
    found, endpoints = tracker()
    assert found.watched(NODES[0], View(3, NODES[1], (*NODES, 99)).encode(), now=1.0)
    assert endpoints.lookups == 1
    assert found.leader == NODES[1]


def test_after_a_failure_there_is_time_for_a_lookup_and_a_new_leader_has_none() -> None:
    """First there is an election, and whoever waits for it is served; the process that failed may be back then."""
    found, endpoints = tracker()
    found.watched(NODES[0], ConnectionError(), now=1.0)
    found.watched(NODES[1], View(3, 99, (*NODES, 99)).encode(), now=1.1)
    assert endpoints.delays == [LOOK_AFTER, 0.0, 0.0]


def test_members_that_are_known_are_not_looked_up_again() -> None:
    found, endpoints = tracker()
    found.watched(NODES[0], View(3, NODES[1], NODES).encode(), now=1.0)
    found.watched(NODES[0], View(4, NODES[0], NODES[:2]).encode(), now=2.0)
    found.watched(NODES[0], View().encode(), now=3.0)
    assert endpoints.lookups == 0
    assert (found.term, found.leader) == (4, NODES[0])


def test_news_of_members_alone_is_no_news_of_the_leader() -> None:
    found, endpoints = tracker()
    assert not found.watched(NODES[0], View(3, 0, (*NODES, 99)).encode(), now=1.0)
    assert endpoints.lookups == 1
    assert found.leader == 0


def test_a_node_without_room_for_a_watch_is_asked_less_and_less() -> None:
    """Hundreds of clients, each asking ten times a second, keep a node busy with nothing."""
    found, _ = tracker()
    view, pauses = View(3, NODES[1], NODES).encode(), []
    found.watched(NODES[0], view, now=0.0)  # news: the leader
    now = time.monotonic()
    for _ in range(8):
        found.watch(NODES[0], lambda *_: None)
        now = time.monotonic()
        found.watched(NODES[0], view, now)
        pauses.append(found._watch_due[NODES[0]] - now)
    assert pauses == sorted(pauses)
    assert pauses[0] <= 2 * RETRY_AFTER
    assert pauses[-1] == pytest.approx(LONGEST_PAUSE)
    found.watch(NODES[0], lambda *_: None)
    found.watched(NODES[0], view, now + 30.0)  # it had room, and there was no news for so long
    assert found._watch_due[NODES[0]] == pytest.approx(now + 30.0 + RETRY_AFTER)
