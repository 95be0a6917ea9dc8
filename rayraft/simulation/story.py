"""What a run was like: the last things that happened, for a reader, and a digest of everything, for a machine."""

from __future__ import annotations

import hashlib
import struct
from collections import Counter, deque

_FIELDS = struct.Struct("<dqqqqq")


class Story:
    """Two bounded rings, so that a crowd of messages does not push out who led and what was lost.

    A line is kept as a template and its arguments: it becomes text only when somebody reads it.
    """

    def __init__(self, headlines: int = 120, details: int = 80) -> None:
        self.faults: Counter[str] = Counter()
        self._headlines: deque[tuple[float, int, str, tuple[object, ...]]] = deque(maxlen=headlines)
        self._details: deque[tuple[float, int, str, tuple[object, ...]]] = deque(maxlen=details)
        self._hash = hashlib.blake2b(digest_size=16)
        self._count = 0

    def headline(self, time: float, text: str, *args: object) -> None:
        self._count += 1
        self._headlines.append((time, self._count, text, args))

    def detail(self, time: float, text: str, *args: object) -> None:
        self._count += 1
        self._details.append((time, self._count, text, args))

    def fault(self, time: float, kind: str, text: str, *args: object) -> None:
        """Count a fault and tell of it."""
        self.faults[kind] += 1
        self.headline(time, f"{kind}: {text}", *args)
        self._hash.update(kind.encode())

    def trace(self, time: float, node: int, a: int, b: int, c: int, d: int) -> None:
        """Count one step of a node in the digest of the run."""
        self._hash.update(_FIELDS.pack(time, node, a, b, c, d))

    def trace_bytes(self, data: bytes) -> None:
        self._hash.update(data)

    def digest(self) -> str:
        return self._hash.hexdigest()

    def __str__(self) -> str:
        lines = sorted([*self._headlines, *self._details], key=lambda line: line[1])
        return "\n".join(f"{time:10.4f} s  {text.format(*args)}" for time, _, text, args in lines)
