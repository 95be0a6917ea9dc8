"""Plain puts that are made before the clock runs, so that the driver's time is the client's."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

from rayraft.bench.witness import SHIFTS, Together, Witness
from rayraft.bench.ycsb import key_name


@dataclass(frozen=True, slots=True)
class Puts:
    """The first ``count`` puts of a set of keys, all of one version."""

    of: KeySet
    version: int
    count: int
    names: list[str]
    values: list[bytes]

    @property
    def keys(self) -> list[int]:
        return self.of.keys[: self.count]

    def acknowledge(self, begins: Sequence[float], ends: Sequence[float], places: Sequence[int]) -> None:
        """The puts at these places were acknowledged."""
        together, witness = self.of.together, self.of.witness
        if len(places) == len(together.keys):
            witness.acknowledge_together(together, self.version)
            places = self.of.noted
        else:
            witness.acknowledge_all([together.keys[place] for place in places], self.version)
            places = [place for place in places if witness.journal.has(together.keys[place])]
        witness.journal.wrote_all(together.keys, self.version, begins, ends, places)

    def unsure(self, place: int, begin: float, error: Exception) -> None:
        """One ended with an error."""
        self.of.witness.journal.unsure(self.of.keys[place], self.version, begin, error)


@dataclass(frozen=True, slots=True)
class KeySet:
    """Keys that are written together again and again."""

    witness: Witness
    together: Together
    names: list[str]
    ends: list[list[bytes]]  # of their values, by version modulo `SHIFTS`
    noted: list[int]  # places of the keys that the journal has

    @classmethod
    def of(cls, witness: Witness, keys: list[int]) -> KeySet:
        ends = [[witness.end(key, version) for key in keys] for version in range(SHIFTS)]
        noted = [place for place, key in enumerate(keys) if witness.journal.has(key)]
        return cls(witness, Together(keys), [key_name(key) for key in keys], ends, noted)

    @property
    def keys(self) -> list[int]:
        return self.together.keys

    def puts(self, version: int, count: int) -> Puts:
        """The first ``count`` of them."""
        names, ends = self.names, self.ends[version % SHIFTS]
        if count < len(names):
            names, ends = names[:count], ends[:count]
        begin = self.witness.issue(self.together, version)
        return Puts(self, version, count, names, [begin + end for end in ends])


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
        self._version = 1 + max(map(witness.issued, keys))

    def take(self, total: int | None, is_over: Callable[[], bool]) -> Iterator[Puts]:
        """One set after the other, ``total`` puts in all, the last of them with what is left; None: until ``is_over``.

        The whole set that it was taken of counts as issued: it may be found in the store, and need not.
        """
        while True:
            for found in self._sets:
                count = len(found.names) if total is None else min(total, len(found.names))
                if not count or is_over():
                    return
                yield found.puts(self._version, count)
                total = None if total is None else total - count
            self._version += 1
