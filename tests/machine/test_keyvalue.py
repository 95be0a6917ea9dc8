"""The ready-made store against a plain dict."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from rayraft.machine.keyvalue import KeyValue
from rayraft.machine.objects import ObjectMachine
from tests.machine.support import QUICK, ask, run, saved

keys = st.text("ab\x00é\U0010ffff", max_size=4)
values = st.integers(-3, 3) | st.none() | st.text("xy", max_size=2)


class StoreStory(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.store = ObjectMachine(KeyValue)
        self.model: dict[str, Any] = {}

    @rule(key=keys, value=values)
    def put(self, key: str, value: Any) -> None:
        assert run(self.store, "put", key, value) is None
        self.model[key] = value

    @rule(items=st.dictionaries(keys, values, max_size=3))
    def put_many(self, items: dict[str, Any]) -> None:
        run(self.store, "put_many", items)
        self.model.update(items)

    @rule(key=keys)
    def delete(self, key: str) -> None:
        assert run(self.store, "delete", key) is (key in self.model)
        self.model.pop(key, None)

    @rule(key=keys, expected=values, new=values)
    def compare_and_swap(self, key: str, expected: Any, new: Any) -> None:
        same = self.model.get(key) == expected
        assert run(self.store, "compare_and_swap", key, expected, new) is same
        if same:
            self.model[key] = new

    @rule(key=keys, by=st.integers(-2, 2))
    def increment(self, key: str, by: int) -> None:
        before = self.model.get(key, 0)
        if isinstance(before, int):
            self.model[key] = before + by
            assert run(self.store, "increment", key, by) == before + by
        else:
            with pytest.raises(TypeError):
                run(self.store, "increment", key, by)

    @rule()
    def start_from_a_snapshot(self) -> None:
        data = saved(self.store)
        digest = self.store.digest()
        self.store = ObjectMachine(KeyValue)
        self.store.restore(io.BytesIO(data))
        assert self.store.digest() == digest

    @rule(key=keys, wanted=st.lists(keys, max_size=3))
    def get(self, key: str, wanted: list[str]) -> None:
        assert ask(self.store, "get", key, default="none") == self.model.get(key, "none")
        assert ask(self.store, "contains", key) is (key in self.model)
        assert ask(self.store, "get_many", wanted) == {k: self.model[k] for k in wanted if k in self.model}

    @rule(prefix=keys, limit=st.none() | st.integers(0, 3), start=st.none() | keys)
    def scan(self, prefix: str, limit: int | None, start: str | None) -> None:
        found = sorted(item for item in self.model.items() if item[0].startswith(prefix))
        assert ask(self.store, "scan", prefix, limit) == found[:limit]
        behind = [item for item in found if start is None or item[0] > start]
        assert ask(self.store, "scan", prefix, limit, start=start) == behind[:limit]

    @invariant()
    def nothing_is_lost_or_invented(self) -> None:
        assert ask(self.store, "scan") == sorted(self.model.items())
        assert ask(self.store, "count") == len(self.model)


TestStoreStory: Any = StoreStory.TestCase
TestStoreStory.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)


@QUICK
@given(st.one_of(st.integers(), st.binary(), st.none(), st.tuples(st.text())))
def test_a_key_that_is_no_string_is_refused_and_changes_nothing(key: Any) -> None:
    store = ObjectMachine(KeyValue)
    calls = (
        ("put", key, 1),
        ("put_many", {"before": 1, key: 2}),
        ("increment", key),
        ("compare_and_swap", key, None, 1),
    )
    for method, *args in calls:
        with pytest.raises(TypeError, match="a key must be a string"):
            run(store, method, *args)
    assert ask(store, "scan") == []


def test_a_string_of_another_class_may_name_a_key_that_is_there_and_no_new_one() -> None:
    """Logs of older versions may hold such commands."""

    class Name(str):
        pass

    store = KeyValue()
    store.put("a", 1)
    store.put(Name("a"), 2)
    store.put_many({Name("a"): 3, "b": 4})
    for call in (lambda: store.put(Name("c"), 5), lambda: store.put_many({"c": 5, Name("d"): 6})):
        with pytest.raises(TypeError, match="not Name"):
            call()
    assert store.scan() == [("a", 3), ("b", 4)]
    assert [type(key) for key in store._data] == [str, str]


def test_a_scan_goes_on_page_by_page() -> None:
    store = ObjectMachine(KeyValue)
    run(store, "put_many", {"before": 0, **{f"item {number}": number for number in range(7)}, "later": 0})
    pages, last = [], None
    while page := ask(store, "scan", "item", 3, start=last):
        pages.append([value for _, value in page])
        last = page[-1][0]
    assert pages == [[0, 1, 2], [3, 4, 5], [6]]


def test_a_negative_limit_is_refused() -> None:
    with pytest.raises(ValueError, match="limit"):
        ask(ObjectMachine(KeyValue), "scan", limit=-1)
