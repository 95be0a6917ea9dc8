"""A key-value store, ready to be replicated: ``rayraft.start(rayraft.KeyValue, name="kv", ...)``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

from sortedcontainers import SortedList

from rayraft.machine.objects import command, query

_STRINGS = frozenset({str})


class KeyValue:
    """Strings to any value that can be pickled. Keys are kept sorted for `scan`."""

    def __init__(self) -> None:
        self._data: dict[str, Any] = {}
        self._keys = SortedList()

    def __getstate__(self) -> dict[str, Any]:
        return self._data

    def __setstate__(self, data: dict[str, Any]) -> None:
        self._data = data
        self._keys = SortedList(data)

    def _set(self, key: str, value: Any) -> None:
        data = self._data
        if type(key) is not str and key not in data:
            raise _no_key(key)
        known = len(data)
        data[key] = value
        if len(data) > known:  # cheaper than to look it up before
            self._keys.add(key)

    @command
    def put(self, key: str, value: Any) -> None:
        """Set ``key`` to ``value``."""
        self._set(key, value)

    @command
    def put_many(self, items: Mapping[str, Any]) -> None:
        """Set many keys in one step: no one sees some of them without the others."""
        data = self._data
        if not _STRINGS.issuperset(map(type, items)):
            for key in items:
                if type(key) is not str and key not in data:
                    raise _no_key(key)
        known = len(data)
        data.update(items)
        if len(data) > known:  # the new ones are the last
            self._keys.update(islice(reversed(data), len(data) - known))

    @command
    def delete(self, key: str) -> bool:
        """Remove ``key``; whether it was there."""
        if key not in self._data:
            return False
        del self._data[key]
        self._keys.remove(key)
        return True

    @command
    def compare_and_swap(self, key: str, expected: Any, new: Any) -> bool:
        """Set ``key`` to ``new`` if its value equals ``expected`` (None: not there); whether it did."""
        if self._data.get(key) != expected:
            return False
        self._set(key, new)
        return True

    @command
    def increment(self, key: str, by: int = 1) -> int:
        """Add ``by`` to a number (0 when ``key`` is new); the new value. TypeError when it holds no number."""
        value = self._data.get(key, 0) + by
        self._set(key, value)
        return value  # type: ignore[no-any-return]

    @query
    def get(self, key: str, default: Any = None) -> Any:
        return self._data.get(key, default)

    @query
    def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """The given keys that exist, with their values, all read at one moment."""
        data = self._data
        return {key: data[key] for key in keys if key in data}

    @query
    def contains(self, key: str) -> bool:
        return key in self._data

    @query
    def scan(self, prefix: str = "", limit: int | None = None, start: str | None = None) -> list[tuple[str, Any]]:
        """The items whose key starts with ``prefix``, in order of key; at most ``limit`` of them.

        With ``start`` only those behind that key, which is left out itself: to go through many items page by page, give
        it the last key of the page before.
        """
        if limit is not None and limit < 0:
            raise ValueError(f"limit must not be negative: {limit}")
        found: list[tuple[str, Any]] = []
        lowest, inclusive = (prefix, True) if start is None or start < prefix else (start, False)
        for key in self._keys.irange(minimum=lowest, inclusive=(inclusive, True)):
            if not key.startswith(prefix) or (limit is not None and len(found) >= limit):
                break
            found.append((key, self._data[key]))
        return found

    @query
    def count(self) -> int:
        """How many keys there are."""
        return len(self._data)


def _no_key(key: Any) -> TypeError:
    return TypeError(f"a key must be a string, not {type(key).__name__}")
