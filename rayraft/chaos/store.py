"""The replicated object of a chaos run: a key-value store with lists, so that what was acknowledged can be counted.

There are two versions of its class, with states of different shape; the group is upgraded from one to the other and on.
"""

from __future__ import annotations

from typing import Any, Final

from rayraft.machine.keyvalue import KeyValue
from rayraft.machine.objects import command


class Store(KeyValue):
    @classmethod
    def __rayraft_migrate__(cls, old: CountingStore) -> Store:
        new = cls()
        new.__setstate__(old.__getstate__()["data"])
        return new

    @command
    def append(self, key: str, item: Any) -> int:
        """Add ``item`` to the list at ``key``; how many it holds now."""
        items = (*self._data.get(key, ()), item)
        self._set(key, items)
        return len(items)


class CountingStore(Store):
    """Also counts how often each key was changed under this version."""

    def __init__(self) -> None:
        super().__init__()
        self._changes: dict[str, int] = {}

    @classmethod
    def __rayraft_migrate__(cls, old: Store) -> CountingStore:
        new = cls()
        new.__setstate__({"data": old.__getstate__(), "changes": {}})
        return new

    def __getstate__(self) -> dict[str, Any]:
        return {"data": super().__getstate__(), "changes": self._changes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state["data"])
        self._changes = state["changes"]

    def _set(self, key: str, value: Any) -> None:
        super()._set(key, value)
        self._changes[key] = self._changes.get(key, 0) + 1


VERSIONS: Final = (Store, CountingStore)  # a group begins with the first; each upgrade leads to the other
