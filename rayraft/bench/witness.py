"""Which writes were acknowledged, and whether they are still there: the evidence for "nothing was lost"."""

from __future__ import annotations

import random
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

from rayraft.bench.journal import Journal, clock
from rayraft.bench.ycsb import key_name, value
from rayraft.errors import BadConfiguration
from rayraft.history import Report, Verdict

ABSENT: Final = -1  # the version of a key that is not there
CHUNK_BYTES: Final = 64 << 10
CHUNKS_IN_FLIGHT: Final = 4

_HEADER: Final = struct.Struct("<qQ")  # version, key
_VERSION: Final = struct.Struct("<q")
SHIFTS: Final = 2  # the ends of a key's values, in turn: neighbouring versions differ in more than their number
_POOL_BYTES: Final = 1 << 20


@dataclass(slots=True)
class Verification:
    """What reading everything back has shown, and the history of all that was done before."""

    keys: int = 0
    lost: int = 0  # acknowledged writes that are not there
    damaged: int = 0  # values that nobody wrote so
    examples: list[str] = field(default_factory=list)
    history: Report = field(default_factory=Report)

    @property
    def intact(self) -> bool:
        """Undecided is no conviction; the report says that it is undecided."""
        return not self.lost and not self.damaged and self.history.verdict is not Verdict.VIOLATED


@dataclass(slots=True)
class Together:
    """Keys of one writer whose writes have one version: to note that for all of them at once costs next to nothing."""

    keys: list[int]
    issued: int = ABSENT
    acknowledged: int = ABSENT


class Witness:
    """Every value carries its key and version, so that what is read tells which write it is of.

    1. A key has one writer, whose writes have ever higher versions, in the order in which they are applied.
    2. ``acknowledged`` is the newest version of a key that was answered for; reading less than that is a loss.
    3. A value is a function of its key and version alone: every byte is verified without being kept.
    4. ``journal`` has every write and read of the keys that it records.
    5. What is known of a key is the higher of what is noted for it and for the sets in ``_unsettled`` that have it.
    """

    def __init__(self, value_size: int, seed: int = 0, journal: Journal | None = None) -> None:
        if value_size < _HEADER.size:
            raise BadConfiguration(f"values need {_HEADER.size} bytes at least for key and version, not {value_size}")
        self.value_size = value_size
        self._value = _values(value_size, seed)
        self.journal = journal or Journal()
        self._issued: dict[int, int] = {}
        self._acknowledged: dict[int, int] = {}
        self._unsettled: dict[int, Together] = {}  # by their ids

    def next_value(self, key: int) -> tuple[int, bytes]:
        """(version, value) for the next write of a key; only the key's writer may ask."""
        version = self.issued(key) + 1
        self._issued[key] = version
        return version, self._value(key, version)

    def issued(self, key: int) -> int:
        """The version of the last write of a key."""
        if self._unsettled:
            self._settle()
        return self._issued.get(key, ABSENT)

    def issue(self, together: Together, version: int) -> bytes:
        """The next write of all these keys is of this version, higher than all before: what their values begin with
        (see `end`).
        """
        together.issued = version
        self._unsettled[id(together)] = together
        return _VERSION.pack(version)

    def _settle(self) -> None:
        """Note for each key what is known of it by its set."""
        while self._unsettled:
            _, together = self._unsettled.popitem()
            for noted, version in ((self._issued, together.issued), (self._acknowledged, together.acknowledged)):
                noted.update({key: version for key in together.keys if noted.get(key, ABSENT) < version})

    def end(self, key: int, version: int) -> bytes:
        """What follows the version in a value."""
        return self._value(key, version)[_VERSION.size :]

    def acknowledge(self, key: int, version: int, begin: float) -> None:
        """A write was answered; ``begin`` is a time of `clock` before it was sent."""
        if version > self._acknowledged.get(key, ABSENT):
            self._acknowledged[key] = version
        self.journal.wrote(key, version, begin)

    def acknowledge_all(self, keys: Iterable[int], version: int) -> None:
        """The same for writes of one version, which is higher than what was acknowledged of these keys before. Who
        wrote them tells the journal.
        """
        self._acknowledged.update(dict.fromkeys(keys, version))

    def acknowledge_together(self, together: Together, version: int) -> None:
        """The same for a whole set of keys."""
        together.acknowledged = version
        self._unsettled[id(together)] = together

    def saw(self, key: int, read: bytes | None, begin: float) -> int:
        """A read was answered; the version that it found."""
        version = version_of(read)
        self.journal.saw(key, None if read is None else version, begin)
        return version

    def acknowledged(self, key: int) -> int:
        """What a read of the key that begins now must find at least."""
        if self._unsettled:
            self._settle()
        return self._acknowledged.get(key, ABSENT)

    # --- reading back -------------------------------------------------------------------------------------------------

    def verify(self, handle: Any, on_progress: Callable[[int], None] = lambda keys: None) -> Verification:
        """Read every key that was ever written, compare, and check the whole history. Nobody may write meanwhile."""
        found = Verification()
        self._settle()
        for keys, values, begin in self._read_back(handle):
            for key in keys:
                self.saw(key, values.get(key_name(key)), begin)
                self._check(found, key, values.get(key_name(key)))
            found.keys += len(keys)
            on_progress(found.keys)
        found.history = self.journal.check()
        return found

    def _read_back(self, handle: Any) -> Iterator[tuple[list[int], dict[str, bytes], float]]:
        flight: deque[tuple[list[int], Any, float]] = deque()
        for keys in chunks(iter(self._issued), max(1, CHUNK_BYTES // self.value_size)):
            begin = clock()
            flight.append((keys, handle.get_many.remote([key_name(key) for key in keys]), begin))
            if len(flight) >= CHUNKS_IN_FLIGHT:
                sent, result, begin = flight.popleft()
                yield sent, result.result(), begin
        for sent, result, begin in flight:
            yield sent, result.result(), begin

    def _check(self, found: Verification, key: int, read: bytes | None) -> None:
        version, acknowledged = version_of(read), self.acknowledged(key)
        if read is not None and (version > self._issued[key] or read != self._value(key, version)):
            found.damaged += 1
            problem = "holds a value that was never written"
        elif version < acknowledged:
            found.lost += acknowledged - version
            problem = f"is at version {version}, but {acknowledged} was acknowledged"
        else:
            return
        if len(found.examples) < 5:
            found.examples.append(f"{key_name(key)} {problem}")


def _values(size: int, seed: int) -> Callable[[int, int], bytes]:
    """A function that makes the value of a (key, version), quickly: it is called for every write."""
    filling, pack = size - _HEADER.size, _HEADER.pack
    pool = value(random.Random(seed), _POOL_BYTES + filling)  # random: nothing can compress it

    def make(key: int, version: int) -> bytes:
        start = (key * 7919 + version % SHIFTS * 104729) % _POOL_BYTES
        return pack(version, key) + pool[start : start + filling]

    return make


def version_of(read: bytes | None) -> int:
    """The version that a value carries; ABSENT for none, and for what is no value of ours."""
    if read is None or len(read) < _HEADER.size:
        return ABSENT
    version: int = _HEADER.unpack_from(read)[0]
    return version


def chunks(items: Iterator[int], size: int) -> Iterator[list[int]]:
    while chunk := list(islice(items, size)):
        yield chunk
