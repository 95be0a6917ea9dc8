"""Calls and results as bytes."""

from __future__ import annotations

import copy
import pickle
import threading
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayraft.errors import BadCall
from rayraft.machine.calls import (
    Raised,
    decode_call,
    decode_calls,
    decode_results,
    encode_call,
    encode_results,
    freeze,
    open_call,
    unwrap,
)
from rayraft.machine.requests import pack
from tests.machine.support import QUICK

plain = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5) | st.binary(max_size=5)
)
values = st.recursive(
    plain,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@QUICK
@given(st.text(min_size=1), st.lists(values, max_size=3), st.dictionaries(st.text(), values, max_size=2))
def test_a_call_arrives_as_it_was_made(method: str, args: list[Any], kwargs: dict[str, Any]) -> None:
    call = decode_call(encode_call(method, tuple(args), kwargs))
    assert call == (method, tuple(args), kwargs)
    assert [type(arg) for arg in call.args] == [type(arg) for arg in args]


@pytest.mark.parametrize(
    "arg",
    [
        *(2**64 - 1, 2**64, -(2**63), -(2**63) - 1, True, 1, 1.0, float("inf")),
        *("\ud800", "é\x00", b"\xff", (1,)),
        *({}, {"a": 1, "": None}, {"a": 2**64}, {"\ud800": 1}, {1: 2}, {"a": [1]}),
        *([], [1], [[1]], [2**64], [(1,)]),
    ],
)
def test_an_argument_keeps_its_value_and_type_however_it_travels(arg: Any) -> None:
    [item] = decode_calls(pack([encode_call("put", (arg,), {})]))
    [arrived] = open_call(item).args
    assert (arrived, type(arrived)) == (arg, type(arg))


def test_what_is_flat_travels_without_a_pickle() -> None:
    items = {"a": b"1", "b": None}
    assert msgspec.msgpack.decode(encode_call("put_many", (items, ["x"]), {})) == ["put_many", items, ["x"]]
    assert isinstance(msgspec.msgpack.decode(encode_call("put_many", ({"a": [1]},), {})), bytes)


@pytest.mark.parametrize("result", [{"a": 1}, [1, "b"], {"a": [1]}, [[1]]])
def test_a_result_is_frozen_and_belongs_to_its_caller(result: Any) -> None:
    before = copy.deepcopy(result)
    frozen = freeze(result)
    result.clear()
    unwrap(frozen).clear()
    assert unwrap(frozen) == before


def test_a_call_of_an_older_log_is_still_understood() -> None:
    """Before packets were decoded in one go, each call was a pickle of its own in a list of bytes."""
    older = msgspec.msgpack.encode([pickle.dumps(("put", ("key", 1), {}))])
    assert [open_call(item) for item in decode_calls(older)] == [("put", ("key", 1), {})]


@QUICK
@given(st.lists(values))
def test_results_arrive_in_order_and_as_they_were(results: list[Any]) -> None:
    assert [unwrap(item) for item in decode_results(encode_results([freeze(item) for item in results]))] == results


def test_flat_results_travel_without_a_pickle_and_older_ones_are_still_understood() -> None:
    """A session keeps its results: they may be of a version before."""
    results = [None, 7, {"a": b"1"}, ["b", 1.5]]
    assert msgspec.msgpack.decode(encode_results(results)) == decode_results(encode_results(results)) == results
    assert decode_results(pickle.dumps(results, 5)) == results
    assert decode_results(encode_results([2**70, "\ud800"])) == [2**70, "\ud800"]


def test_an_argument_that_can_not_travel_is_named_before_anything_is_sent() -> None:
    with pytest.raises(BadCall, match=r"an argument of put\(\) can not be serialised"):
        encode_call("put", ("key", threading.Lock()), {})


def test_functions_and_classes_of_the_callers_main_module_travel_by_value() -> None:
    scope: dict[str, Any] = {"__name__": "__main__"}
    exec("class Point:\n    x = 3\n\ndouble = lambda n: 2 * n", scope)
    point, double = decode_call(encode_call("put", (scope["Point"](), scope["double"]), {})).args
    assert (point.x, double(2)) == (3, 4)


def test_each_caller_gets_an_exception_of_its_own() -> None:
    raised = Raised.of(ValueError("no"))
    assert raised.error() is not raised.error()
    again = pickle.loads(pickle.dumps(raised))
    with pytest.raises(ValueError, match="no"):
        unwrap(again)


def test_an_exception_leaves_its_trace_and_so_the_nodes_variables_behind() -> None:
    with pytest.raises(ValueError, match="no") as caught:
        raise ValueError("no")
    assert caught.value.__traceback__ is not None
    assert Raised.of(caught.value).error().__traceback__ is None
