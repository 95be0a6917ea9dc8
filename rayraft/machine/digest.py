"""A hash of any Python state that does not depend on identity, sharing, or the order of sets."""

from __future__ import annotations

import hashlib
from typing import Any

import cloudpickle

_SIZE = 16


def digest_of(value: Any) -> bytes:
    """16 bytes; equal for equal states. Dicts count in order, because replicas insert in the same order."""
    hasher = hashlib.blake2b(digest_size=_SIZE)
    _feed(hasher, value, set())
    return hasher.digest()


def _feed(hasher: Any, value: Any, above: set[int]) -> None:
    kind = type(value)
    if kind is bytes or kind is bytearray:
        hasher.update(b"b%d:" % len(value))
        hasher.update(value)
    elif kind is str:
        data = value.encode("utf-8", "surrogatepass")
        hasher.update(b"s%d:" % len(data))
        hasher.update(data)
    elif kind is int or kind is float or kind is bool or value is None or kind is complex:
        hasher.update(f"{kind.__name__}:{value!r};".encode())
    else:
        if id(value) in above:
            hasher.update(b"cycle;")
            return
        above.add(id(value))
        _feed_compound(hasher, value, above)
        above.discard(id(value))


def _feed_compound(hasher: Any, value: Any, above: set[int]) -> None:
    if isinstance(value, dict):
        hasher.update(b"d%d:" % len(value))
        for key, item in value.items():
            _feed(hasher, key, above)
            _feed(hasher, item, above)
    elif isinstance(value, (list, tuple)):
        hasher.update(b"l%d:" % len(value))
        for item in value:
            _feed(hasher, item, above)
    elif isinstance(value, (set, frozenset)):
        hasher.update(b"u%d:" % len(value))
        for item in sorted(digest_of(item) for item in value):
            hasher.update(item)
    elif isinstance(value, type) or callable(value):
        hasher.update(f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', repr(value))};".encode())
    else:
        _feed_object(hasher, value, above)


def _feed_object(hasher: Any, value: Any, above: set[int]) -> None:
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
    _feed(hasher, args[1:] if args and isinstance(args[0], type) else args, above)
    for part in rest:
        if part is not None and not isinstance(part, (dict, tuple, list)) and hasattr(part, "__iter__"):
            part = list(part)  # the iterators over a list's or dict's items
        _feed(hasher, part, above)
