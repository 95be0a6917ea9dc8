"""What a group's actors are found by. No Ray: its head is a test's list of names."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import ray

from rayraft.errors import NoSuchGroup
from rayraft.ray import names
from rayraft.ray.names import NAMESPACE, find_nodes


@pytest.fixture
def head(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """``listed`` are the names that its list has, ``gone`` those whose actors ended since."""
    head = SimpleNamespace(listed=[], gone=set())

    def list_named_actors(all_namespaces: bool) -> list[dict[str, str]]:
        return [{"namespace": NAMESPACE, "name": name} for name in head.listed]

    def get_actor(name: str, namespace: str) -> Any:
        if name in head.gone:
            raise ValueError(f"Failed to look up actor with name {name!r}")
        return name

    monkeypatch.setattr(ray.util, "list_named_actors", list_named_actors)
    monkeypatch.setattr(names.ray, "get_actor", get_actor)
    return head


def test_a_node_that_ends_while_the_group_is_looked_up_is_left_out(head: SimpleNamespace) -> None:
    head.listed = ["bank:1", "bank:2", "bank:4", "bank:supervisor", "other:1"]
    head.gone = {"bank:4"}
    assert find_nodes("bank") == {1: "bank:1", 2: "bank:2"}


def test_a_group_that_ends_while_it_is_looked_up_is_no_group(head: SimpleNamespace) -> None:
    head.listed = ["bank:1", "other:1"]
    head.gone = {"bank:1"}
    with pytest.raises(NoSuchGroup, match=r"no group 'bank' runs .*\(running: other\)"):
        find_nodes("bank")
