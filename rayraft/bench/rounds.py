"""Plain puts that are made before the clock runs, so that the driver's time is the client's."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

from rayraft.bench.witness import SHIFTS, Witness
from rayraft.bench.ycsb import key_name


@dataclass(frozen=True, slots=True)
class Puts:
    """Some puts, all of one version."""

    version: int
    keys: list[int]
    names: list[str]
    values: list[bytes]


@dataclass(frozen=True, slots=True)
class KeySet:
    """Keys that are written together again and again."""

    keys: list[int]
    names: list[str]
    ends: list[list[bytes]]  # of their values, by version modulo `SHIFTS`

    @classmethod
    def of(cls, witness: Witness, keys: list[int]) -> KeySet:
        ends = [[witness.end(key, version) for key in keys] for version in range(SHIFTS)]
        return cls(keys, [key_name(key) for key in keys], ends)

    def puts(self, witness: Witness, version: int, count: int) -> Puts:
        """The first ``count`` of them."""
        keys, names, ends = self.keys, self.names, self.ends[version % SHIFTS]
        if count < len(keys):
            keys, names, ends = keys[:count], names[:count], ends[:count]
        begin = witness.issue(keys, version)
        return Puts(version, keys, names, [begin + end for end in ends])


class Rounds:
    """The keys of one writer, shuffled, in sets of one size that are written in turn.

    1. A set has a key once, unless it is larger than there are keys; then it has all of them, some again.
    2. The version is the round's: higher than all that its keys had before, and the same for all sets of a round.
    3. What is over when the keys are cut into whole sets is never written.
    """

    def __init__(self, witness: Witness, keys: Sequence[int], size: int, seed: int) -> None:
        shuffled = random.Random(seed).sample(keys, len(keys))
        if len(shuffled) < size:
            shuffled = list(islice(cycle(shuffled), size))
        whole = range(0, len(shuffled) - size + 1, size)
        self._sets = [KeySet.of(witness, shuffled[start : start + size]) for start in whole]
        self._witness = witness
        self._version = 1 + max(map(witness.issued, keys))

    def take(self, total: int | None, is_over: Callable[[], bool]) -> Iterator[Puts]:
        """One set after the other, ``total`` puts in all, the last of them with what is left; None: until ``is_over``.

        What was taken counts as issued: it may be found in the store, also where it was not written at the end.
        """
        while True:
            for found in self._sets:
                count = len(found.keys) if total is None else min(total, len(found.keys))
                if not count or is_over():
                    return
                yield found.puts(self._witness, self._version, count)
                total = None if total is None else total - count
            self._version += 1
