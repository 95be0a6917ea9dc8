"""A hash of any Python state that does not depend on identity, sharing, or the order of sets."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from types import BuiltinFunctionType, FunctionType
from typing import Any

import cloudpickle

_SIZE = 16
_BY_NAME = (type, FunctionType, BuiltinFunctionType)


def digest_of(value: Any) -> bytes:
    """16 bytes; equal for equal states. Dicts count in order, because replicas insert in the same order."""
    return _digest(value, {})


def _digest(value: Any, above: dict[int, int]) -> bytes:
    hasher = hashlib.blake2b(digest_size=_SIZE)
    _feed(hasher, value, above)
    return hasher.digest()


def _feed(hasher: Any, value: Any, above: dict[int, int]) -> None:
    """``above`` has the objects that contain this one, each with its depth: what ends a cycle."""
    kind = type(value)
    if kind is bytes:
        hasher.update(b"b%d:" % len(value))
        hasher.update(value)
    elif kind is str:
        data = value.encode("utf-8", "surrogatepass")
        hasher.update(b"s%d:" % len(data))
        hasher.update(data)
    elif kind is int:
        hasher.update(b"i%x;" % value)  # in decimal Python refuses very long ones
    elif kind is float or kind is bool or value is None or kind is complex:
        hasher.update(f"{kind.__name__}:{value!r};".encode())
    elif id(value) in above:
        hasher.update(b"cycle%d;" % above[id(value)])
    else:
        above[id(value)] = len(above)
        _feed_compound(hasher, value, above)
        del above[id(value)]


def _feed_compound(hasher: Any, value: Any, above: dict[int, int]) -> None:
    kind = type(value)
    if kind is dict:
        hasher.update(b"d%d:" % len(value))
        for key, item in value.items():
            _feed(hasher, key, above)
            _feed(hasher, item, above)
    elif kind is list or kind is tuple:
        hasher.update(f"{kind.__name__}{len(value)}:".encode())
        for item in value:
            _feed(hasher, item, above)
    elif isinstance(value, (set, frozenset)):
        hasher.update(f"u{kind.__module__}.{kind.__qualname__}{len(value)}:".encode())
        _feed_set(hasher, value, above)
        if kind is not set and kind is not frozenset:
            _feed(hasher, getattr(value, "__dict__", None), above)
    elif isinstance(value, _BY_NAME):
        hasher.update(f"f{value.__module__}.{value.__qualname__};".encode())
    else:
        _feed_object(hasher, value, above)


def _feed_set(hasher: Any, items: Iterable[Any], above: dict[int, int]) -> None:
    for item in sorted(_digest(item, above) for item in items):
        hasher.update(item)


def _feed_object(hasher: Any, value: Any, above: dict[int, int]) -> None:
    """Any other object by its class and what pickle would keep of it."""
    hasher.update(f"o{type(value).__module__}.{type(value).__qualname__}:".encode())
    try:
        reduced = value.__reduce_ex__(2)
    except Exception:
        hasher.update(cloudpickle.dumps(value))
        return
    if isinstance(reduced, str):
        hasher.update(reduced.encode())
        return
    _, args, *rest = reduced
    state, items, pairs = (*rest[:3], None, None, None)[:3]
    for part in (args, state, None if items is None else list(items), None if pairs is None else list(pairs)):
        _feed(hasher, part, above)
