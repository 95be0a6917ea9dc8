"""What a chaos run does, drawn from its seed: the same seed is the same schedule.

Whom a fault strikes is decided when it strikes ("the leader" is not known before); ``pick`` decides among several.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Final


class FaultKind(enum.Enum):
    LEADER_KILLED = "leader process killed"
    FOLLOWER_KILLED = "follower process killed"
    LEADER_MACHINE_KILLED = "leader machine killed"
    MACHINE_KILLED = "machine killed"
    HEAD_KILLED = "head machine killed"
    LEADER_CUT = "leader cut off"
    LEADER_NOT_HEARD = "leader not heard"
    LEADER_HEARS_NOTHING = "leader hears nothing"
    FOLLOWER_CUT = "follower cut off"
    BRIDGE = "bridge"
    HEAD_CUT = "machine cut from head"
    LEADER_PAUSED = "leader paused"
    DISK_FULL = "disk full"
    BITS_FLIPPED = "bits flipped"
    DIRECTORY_DELETED = "directory deleted"
    SYNC_FAILED = "sync failed"
    POWER_LOST = "power lost"
    MEMBER_REPLACED = "member replaced"
    SCALED = "scaled down and up"
    LEADER_MOVED = "leadership transferred"
    ROLLING_RESTART = "rolling restart"
    CLASS_UPGRADED = "class upgraded"
    OPERATOR_KILLED = "operator killed"


# How long each lasts, in seconds; what is over at once is only given time to show.
LASTING: Final[dict[FaultKind, tuple[float, float]]] = {
    FaultKind.LEADER_KILLED: (1, 3),
    FaultKind.FOLLOWER_KILLED: (1, 3),
    FaultKind.LEADER_MACHINE_KILLED: (3, 10),
    FaultKind.MACHINE_KILLED: (3, 10),
    FaultKind.HEAD_KILLED: (3, 15),
    FaultKind.LEADER_CUT: (3, 12),
    FaultKind.LEADER_NOT_HEARD: (3, 12),
    FaultKind.LEADER_HEARS_NOTHING: (3, 12),
    FaultKind.FOLLOWER_CUT: (3, 12),
    FaultKind.BRIDGE: (3, 12),
    FaultKind.HEAD_CUT: (3, 12),
    FaultKind.LEADER_PAUSED: (3, 8),
    FaultKind.DISK_FULL: (3, 10),
    FaultKind.BITS_FLIPPED: (1, 3),
    FaultKind.DIRECTORY_DELETED: (1, 3),
    FaultKind.SYNC_FAILED: (1, 3),
    FaultKind.POWER_LOST: (3, 10),
    FaultKind.MEMBER_REPLACED: (1, 2),
    FaultKind.SCALED: (1, 2),
    FaultKind.LEADER_MOVED: (1, 2),
    FaultKind.ROLLING_RESTART: (1, 2),
    FaultKind.CLASS_UPGRADED: (1, 2),
    FaultKind.OPERATOR_KILLED: (0, 2),
}
# What may strike in the middle of another fault: with five nodes a majority is left.
COMPANIONS: Final = (FaultKind.LEADER_KILLED, FaultKind.FOLLOWER_KILLED, FaultKind.LEADER_PAUSED)
ALONE: Final = (
    FaultKind.HEAD_KILLED,
    FaultKind.MEMBER_REPLACED,
    FaultKind.SCALED,
    FaultKind.LEADER_MOVED,
    FaultKind.ROLLING_RESTART,
    FaultKind.CLASS_UPGRADED,
    FaultKind.OPERATOR_KILLED,
)
ACCOMPANIED: Final = 0.25


@dataclass(frozen=True, slots=True)
class Fault:
    number: int
    kind: FaultKind
    rest: float  # seconds of peace before it
    seconds: float  # how long it lasts
    pick: int
    companion: FaultKind | None = None

    def __str__(self) -> str:
        also = f", and {self.companion.value} meanwhile" if self.companion else ""
        return f"{self.number}. after {self.rest:.1f} s: {self.kind.value} for {self.seconds:.1f} s{also}"


def draw(seed: int, kinds: Sequence[FaultKind] = tuple(FaultKind)) -> Iterator[Fault]:
    """Faults without end; of every kind one, in some order, then of every kind one again."""
    rng = random.Random(seed)
    numbers = count(1)
    while True:
        for kind in rng.sample(kinds, len(kinds)):
            rest, seconds, pick = rng.uniform(1, 4), rng.uniform(*LASTING[kind]), rng.randrange(1 << 30)
            accompanied = rng.random() < ACCOMPANIED
            companion = rng.choice(COMPANIONS)
            chosen = companion if accompanied and kind not in ALONE else None
            yield Fault(next(numbers), kind, rest, seconds, pick, chosen)


def repeat(seed: int, kinds: Sequence[FaultKind], times: int) -> Iterator[Fault]:
    """Each kind so many times, alone: to measure it."""
    rng = random.Random(seed)
    numbers = count(1)
    for _ in range(times):
        for kind in kinds:
            yield Fault(next(numbers), kind, 2.0, LASTING[kind][0], rng.randrange(1 << 30))
