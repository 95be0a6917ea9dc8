"""The client that all handles which were passed to this process share, without Ray: who asks for it, and waits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from rayraft.client.config import ClientConfig
from rayraft.errors import ClientClosed, NoQuorum, NoSuchGroup
from rayraft.ray import process, sharing
from tests.client.support import Scripted

PATIENCE = 30.0
CONFIG = ClientConfig()


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Callable[[], Any]]]:
    """What Ray's head does when it is asked for the nodes of a group."""
    answers: dict[str, Callable[[], Any]] = {"here": dict}

    def find_nodes(group: str) -> Any:
        return answers[group]()

    monkeypatch.setattr(sharing, "_all_shared", {})
    monkeypatch.setattr(sharing, "find_nodes", find_nodes)
    monkeypatch.setattr(sharing, "require_ray", lambda: None)
    monkeypatch.setattr(sharing, "RayEndpoints", lambda group, nodes: Scripted())
    yield answers
    for name in answers:
        sharing.close_shared(name)


def test_all_threads_get_the_same_client() -> None:
    with ThreadPoolExecutor(8) as threads:
        held = list(threads.map(lambda _: sharing._hold("here", CONFIG, PATIENCE), range(32)))
    assert len({id(client) for client, _ in held}) == 1
    # Other settings take another client.
    assert sharing._hold("here", ClientConfig(window=2), PATIENCE)[0] is not held[0][0], (
        "other settings, another client"
    )


def test_a_head_that_is_silent_keeps_nobody_from_another_group_and_is_not_waited_for_beyond_the_deadline(
    asked: dict[str, Callable[[], Any]],
) -> None:
    silent = threading.Event()
    asked["there"] = lambda: silent.wait(PATIENCE) and {}
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(sharing._hold, "there", CONFIG, 0.05)
        second = threads.submit(sharing._hold, "there", CONFIG, 0.01)
        assert sharing._hold("here", CONFIG, PATIENCE)
        for waiting in (first, second):
            with pytest.raises(NoQuorum, match="Ray's head has not said within"):
                waiting.result(PATIENCE)
        silent.set()
    assert sharing._hold("there", CONFIG, PATIENCE)


def test_a_group_that_is_not_there_is_looked_for_again(asked: dict[str, Callable[[], Any]]) -> None:
    def nowhere() -> Any:
        raise NoSuchGroup("no group")

    asked["there"] = nowhere
    with pytest.raises(NoSuchGroup):
        sharing._hold("there", CONFIG, PATIENCE)
    asked["there"] = dict
    assert sharing._hold("there", CONFIG, PATIENCE)


def test_a_closed_client_is_replaced_and_those_of_other_groups_are_forgotten(
    asked: dict[str, Callable[[], Any]],
) -> None:
    asked["there"] = dict
    old, _ = sharing._hold("here", CONFIG, PATIENCE)
    sharing._hold("there", CONFIG, PATIENCE)
    sharing.close_shared("there")
    old.close()
    new, _ = sharing._hold("here", CONFIG, PATIENCE)
    assert new is not old
    assert not new.closed
    assert list(sharing._all_shared) == [("here", CONFIG)]


@pytest.mark.parametrize(("forked", "initialized", "says"), [(True, True, "forked"), (False, False, "ray.init")])
def test_without_ray_nothing_is_asked(
    monkeypatch: pytest.MonkeyPatch, forked: bool, initialized: bool, says: str
) -> None:
    """To ask would wait for ever in a forked child, and quietly start another Ray cluster where there is none."""
    monkeypatch.setattr(process, "_forked", forked)
    monkeypatch.setattr(process.ray, "is_initialized", lambda: initialized)
    with pytest.raises(ClientClosed, match=says):
        process.require_ray()
