"""What clocks may vouch for: a leader's lease, and how old a follower's state can be (thesis §6.4.1).

Every heartbeat and every answer to one carries its sender's own clock (``stamp``) and gives back the newest stamp of
the other side (``echo``). So each side learns, on its own clock alone, a moment before which the other spoke; no two
clocks are ever compared. Only rates matter: `RaftConfig.max_clock_drift` bounds them.
"""

from __future__ import annotations

from collections.abc import Mapping

from rayraft.raft.quorum import committed_index
from rayraft.raft.types import Configuration, NodeId

NEVER = float("-inf")


def lease_start(
    configuration: Configuration, confirmed_at: Mapping[NodeId, float], leader: NodeId, now: float
) -> float:
    """The moment on the leader's clock at which a quorum still followed it, as far as their answers show.

    ``confirmed_at`` has, for each follower, when the newest heartbeat was sent that it has answered (`NEVER`: none).
    Each of them then promised not to vote for an election timeout of its own clock, so no other leader can exist before
    that ends.
    """
    return committed_index(configuration, {**confirmed_at, leader: now})


class Freshness:
    """How old the state of a follower can be.

    A heartbeat says: when its sender last knew that it led (``age`` ago) nothing above ``newest`` was committed. It was
    sent after the follower's own stamp that it gives back. So a state that has applied ``newest`` has all that was
    acknowledged before that stamp, less ``age``.

    1. ``_moment`` never goes back while the follower runs: what it has applied stays applied.
    """

    __slots__ = ("_moment", "_pending_index", "_pending_moment")

    def __init__(self) -> None:
        self._moment = NEVER
        self._pending_index = 0
        self._pending_moment = NEVER

    def heard(self, commit: int, moment: float, applied: int) -> None:
        """The leader vouches for ``commit`` as of ``moment`` on the own clock."""
        self.as_of(applied)
        if commit <= applied:
            self._moment = max(self._moment, moment)
        elif self._pending_index <= applied:  # else the earlier one is closer to being applied
            self._pending_index, self._pending_moment = commit, moment

    def as_of(self, applied: int) -> float:
        """Everything acknowledged before this moment of the own clock is in the state; -inf when nothing is known."""
        if self._pending_index <= applied:
            self._moment = max(self._moment, self._pending_moment)
        return self._moment
