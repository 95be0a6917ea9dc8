"""After a crash that is known of: how soon a survivor may ask for votes again, and what it learns meanwhile.

The leader's process is gone, so nobody is disturbed by an election; but not every survivor has learned of it, and not
every one can win. Who asks too often delays the answers that would elect somebody else.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from rayraft.raft.types import NodeId

ELECTION_PATIENCE = 10  # an election that is on its way may take as many staggers
MOST_DOUBLINGS = 5


@dataclass(slots=True)
class Hunt:
    """What a survivor remembers of the crash, from `Raft.report_down` until there is a leader or ``until`` has passed.

    ``term`` is that of the leader that is ``gone``, whom nobody asks for a vote; ``asked`` counts the pre-votes since.
    ``tails`` has the last index and term of the survivors that were heard of: whoever wins goes on there, unprobed.
    """

    gone: NodeId
    term: int
    until: float
    asked: int = 0
    tails: dict[NodeId, tuple[int, int]] = field(default_factory=dict)

    def patience(self, term: int) -> int:
        """How many staggers the next campaign waits, of a node whose term is ``term`` now.

        A newer term means a candidate, this node or another: a further term would only spoil an election that is slow.
        Otherwise twice as long with each pre-vote that led nowhere.
        """
        if term > self.term:
            return ELECTION_PATIENCE
        return 1 << min(max(self.asked - 1, 0), MOST_DOUBLINGS)
