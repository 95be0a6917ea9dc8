"""How fresh the answer to a query must be, and so which node may give it."""

from __future__ import annotations

from dataclasses import dataclass

from rayraft.errors import BadConfiguration
from rayraft.machine.requests import Consistency


@dataclass(frozen=True, slots=True)
class Reads:
    """What queries ask for. ``max_age`` is in seconds, for stale reads only."""

    consistency: Consistency = Consistency.LINEARIZABLE
    max_age: float = 0.0

    @classmethod
    def of(cls, name: str, max_staleness_s: float | None) -> Reads:
        """From what a user writes. Raises BadConfiguration."""
        try:
            consistency = Consistency[name.upper()]
        except KeyError:
            names = ", ".join(repr(each.name.lower()) for each in Consistency)
            raise BadConfiguration(f"read is one of {names}, not {name!r}") from None
        if (consistency is Consistency.STALE) is (max_staleness_s is None):
            raise BadConfiguration("max_staleness_s says how old a stale read may be, in seconds, and nothing else")
        if max_staleness_s is not None and not max_staleness_s > 0:
            raise BadConfiguration(f"max_staleness_s must be above 0, not {max_staleness_s}")
        return cls(consistency, max_staleness_s or 0.0)

    @property
    def from_any_node(self) -> bool:
        return self.consistency in (Consistency.FOLLOWER, Consistency.STALE)


LINEARIZABLE = Reads()
