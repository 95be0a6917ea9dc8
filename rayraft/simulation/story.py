"""What a run was like: who led and what was lost, for a reader, and a digest of everything, for a machine."""

from __future__ import annotations

import hashlib
import struct
from collections import Counter

_FIELDS = struct.Struct("<dqqqqq")


class Story:
    """A line is kept as a template and its arguments: it becomes text only when somebody reads it."""

    def __init__(self) -> None:
        self.faults: Counter[str] = Counter()
        self._lines: list[tuple[float, str, tuple[object, ...]]] = []
        self._hash = hashlib.blake2b(digest_size=16)

    def headline(self, time: float, text: str, *args: object) -> None:
        self._lines.append((time, text, args))

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
        return self.tell()

    def tell(self, last: int | None = None) -> str:
        """The whole story, or its ``last`` lines."""
        lines = self._lines if last is None else self._lines[-last:]
        left_out = len(self._lines) - len(lines)
        head = [f"  ... {left_out} earlier lines ..."] if left_out else []
        return "\n".join(head + [f"{time:10.4f} s  {text.format(*args)}" for time, text, args in lines])
