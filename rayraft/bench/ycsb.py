"""The core workloads of YCSB (Cooper et al., SoCC 2010), drawn from a seed.

============  =====================================  ============
workload      operations                             keys
============  =====================================  ============
A             50 % read, 50 % update                 zipfian
B             95 % read, 5 % update                  zipfian
C             100 % read                             zipfian
D             95 % read, 5 % insert                  latest
F             50 % read, 50 % read-modify-write      zipfian
W (not YCSB)  100 % update                           zipfian
============  =====================================  ============

E, the workload of range scans, is left out: the structures it would run against have none. A record is one value of
1000 bytes in place of YCSB's ten fields of 100: the same bytes for each operation, without a row format of our own.

The same workload, number of records, seed and client give the same operations on every machine.
"""

from __future__ import annotations

import enum
import math
import random
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, islice
from typing import Final, TypeAlias

ZIPFIAN_CONSTANT: Final = 0.99
VALUE_SIZE: Final = 1000

SCRAMBLED_ITEMS: Final = 10_000_000_000
"""Scrambled zipfian draws a rank among so many items before it hashes, as YCSB does: with far more items than records
every record is some item's, so that none is left out, and the share of the hottest does not depend on their number."""

_MASK: Final = (1 << 64) - 1

Uniform: TypeAlias = Callable[[], float]  # a number in [0, 1) at each call


class Operation(enum.Enum):
    READ = "read"
    UPDATE = "update"
    INSERT = "insert"
    READ_MODIFY_WRITE = "read-modify-write"


Stream: TypeAlias = Iterator[tuple[Operation, int]]


class Distribution(enum.Enum):
    UNIFORM = "uniform"
    ZIPFIAN = "zipfian"  # a few keys are hot, and they are spread over the key space
    LATEST = "latest"  # the more recently a key was inserted, the hotter


@dataclass(frozen=True, slots=True)
class Workload:
    """Shares of the operations, which add up to 1, and how keys are chosen.

    Variants come from ``dataclasses.replace``: W with uniform keys is
    ``replace(WORKLOADS["W"], distribution=Distribution.UNIFORM)``.
    """

    name: str
    description: str
    read: float = 0.0
    update: float = 0.0
    insert: float = 0.0
    read_modify_write: float = 0.0
    distribution: Distribution = Distribution.ZIPFIAN

    def __post_init__(self) -> None:
        shares = self.proportions.values()
        if min(shares) < 0 or abs(sum(shares) - 1) > 1e-9:
            raise ValueError(f"workload {self.name}: the shares must add up to 1, not to {sum(shares):g}")
        if self.insert and self.distribution is not Distribution.LATEST:
            raise ValueError(f"workload {self.name}: only the latest distribution reads what was inserted")

    @property
    def proportions(self) -> dict[Operation, float]:
        return {
            Operation.READ: self.read,
            Operation.UPDATE: self.update,
            Operation.INSERT: self.insert,
            Operation.READ_MODIFY_WRITE: self.read_modify_write,
        }


WORKLOADS: Final[dict[str, Workload]] = {
    workload.name: workload
    for workload in (
        Workload("A", "update heavy", read=0.5, update=0.5),
        Workload("B", "read mostly", read=0.95, update=0.05),
        Workload("C", "read only", read=1.0),
        Workload("D", "read latest", read=0.95, insert=0.05, distribution=Distribution.LATEST),
        Workload("F", "read-modify-write", read=0.5, read_modify_write=0.5),
        Workload("W", "write only", update=1.0),
    )
}


class Chooser:
    """An endless iterator of ``(operation, key index)``, some one microsecond each.

    The store is loaded with the keys 0 to ``records - 1``. Of several ``clients`` each has its own stream of
    operations, and its inserts use keys that no other client uses; it reads the loaded keys and its own. Whoever
    has several operations in flight may read a key whose insert is not done yet: a missing key is an answer.
    """

    def __init__(self, workload: Workload, records: int, seed: int = 0, *, client: int = 0, clients: int = 1) -> None:
        if records < 1:
            raise ValueError("a workload needs at least one record")
        if not 0 <= client < clients:
            raise ValueError(f"client {client} is not one of {clients}")
        self._records, self._client, self._clients = records, client, clients
        uniform = random.Random(f"{workload.name}/{seed}/{client}").random
        kind = _choice(workload.proportions, uniform)
        if workload.distribution is Distribution.LATEST:
            self._operations = self._growing(kind, uniform)
        else:
            self._operations = _fixed(kind, _keys(workload.distribution, records, uniform))

    def __iter__(self) -> Stream:
        return self._operations  # the generator itself: a `for` loop then calls nothing of ours in between

    def __next__(self) -> tuple[Operation, int]:
        return next(self._operations)

    def take(self, count: int) -> list[tuple[Operation, int]]:
        """The next ``count`` operations."""
        return list(islice(self._operations, count))

    def _growing(self, kind: Callable[[], Operation], uniform: Uniform) -> Stream:
        """Ages are zipfian: rank 0 is the newest key. The key space grows with every insert."""
        ages = Zipfian(self._records)
        while True:
            operation = kind()
            if operation is Operation.INSERT:
                ages.grow()
                yield operation, self._key_at(ages.items - 1)
            else:
                yield operation, self._key_at(ages.items - 1 - ages.rank(uniform()))

    def _key_at(self, position: int) -> int:
        """The key at a position of this client's history: what was loaded, then its own inserts."""
        own = position - self._records
        return position if own < 0 else self._records + own * self._clients + self._client


def _fixed(kind: Callable[[], Operation], key: Callable[[], int]) -> Stream:
    while True:
        yield kind(), key()


def _choice(proportions: dict[Operation, float], uniform: Uniform) -> Callable[[], Operation]:
    kinds = [kind for kind, share in proportions.items() if share]
    bounds = list(accumulate(proportions[kind] for kind in kinds))
    last = len(kinds) - 1  # shares that sum to a hair below 1 must not overrun
    return lambda: kinds[bisect_right(bounds, uniform(), 0, last)]


def _keys(distribution: Distribution, records: int, uniform: Uniform) -> Callable[[], int]:
    if distribution is Distribution.UNIFORM:
        return lambda: int(records * uniform())
    rank = Zipfian(SCRAMBLED_ITEMS).rank
    return lambda: scramble(rank(uniform())) % records


class Zipfian:
    """Ranks 0 to ``items - 1``, rank r with a probability proportional to ``1 / (r + 1) ** constant``.

    A uniform number is turned into a rank in constant time by the approximation of Gray et al., "Quickly generating
    billion-record synthetic databases" (SIGMOD 1994): exact for the first two ranks, up to a fifth too often for the
    next few, and never further than 2 % of all draws from the true cumulative share.
    """

    __slots__ = ("_constant", "_eta", "_exponent", "_first_two", "_zeta", "items")

    def __init__(self, items: int, constant: float = ZIPFIAN_CONSTANT) -> None:
        if items < 1 or not 0 < constant < 1:
            raise ValueError("zipfian needs at least one item and a constant between 0 and 1")
        self.items = items
        self._constant = constant
        self._exponent = 1 / (1 - constant)
        self._first_two = 1 + math.pow(0.5, constant)
        self._zeta = zeta(items, constant)
        self._eta = self._shape()

    def rank(self, u: float) -> int:
        """The rank for ``u``, uniform in [0, 1)."""
        weight = u * self._zeta
        if weight < 1:
            return 0
        if weight < self._first_two:
            return 1
        items, eta = self.items, self._eta
        rank = int(items * (eta * u - eta + 1) ** self._exponent)
        return rank if rank < items else items - 1  # rounding may reach the end

    def grow(self) -> None:
        """One item more."""
        self.items += 1
        self._zeta += math.pow(self.items, -self._constant)
        self._eta = self._shape()

    def _shape(self) -> float:
        if self.items <= 2:
            return 0.0  # never used: the first two ranks are all there is
        return (1 - math.pow(2 / self.items, 1 - self._constant)) / (1 - self._first_two / self._zeta)


def zeta(n: int, constant: float) -> float:
    """The sum of ``i ** -constant`` for i from 1 to n, in constant time: Euler-Maclaurin beyond the first terms."""
    head = min(n, 1000)
    total = math.fsum(math.pow(i, -constant) for i in range(1, head + 1))
    if n == head:
        return total
    integral = (math.pow(n, 1 - constant) - math.pow(head, 1 - constant)) / (1 - constant)
    ends = (math.pow(n, -constant) - math.pow(head, -constant)) / 2
    slopes = constant * (math.pow(head, -constant - 1) - math.pow(n, -constant - 1)) / 12
    return total + integral + ends + slopes


def scramble(item: int) -> int:
    """A 64-bit hash of an integer (the finaliser of SplitMix64), the same in every process."""
    x = (item + 0x9E3779B97F4A7C15) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


@lru_cache(1 << 16)  # to format a number takes longer than to look one up
def key_name(index: int) -> str:
    return f"user{index:012d}"


def value(rng: random.Random, size: int = VALUE_SIZE) -> bytes:
    """Random bytes: nothing on the way can make them smaller by compression."""
    return rng.randbytes(size)
