"""The replicated object of a chaos run: a key-value store with lists, so that what was acknowledged can be counted."""

from __future__ import annotations

from typing import Any

from rayraft.machine.keyvalue import KeyValue
from rayraft.machine.objects import command


class Store(KeyValue):
    @command
    def append(self, key: str, item: Any) -> int:
        """Add ``item`` to the list at ``key``; how many it holds now."""
        items = (*self._data.get(key, ()), item)
        self._set(key, items)
        return len(items)
