"""Where our core answers otherwise than the reference library in its scenarios: line by line, with the reason.

What is listed must show exactly as it is listed; what holds for every file is said at the top of `tests.interaction`.
"""

from __future__ import annotations

from tests.interaction import Difference

IN_FORCE_AT_ONCE = (
    "A configuration is in force as soon as it is in the log (§6), in the reference when it is applied. So the new "
    "voter is asked before the change is committed, and gets the snapshot of before it, and then the entries."
)
NEW_QUORUM = (
    "A configuration is in force as soon as it is in the log (§6), in the reference when it is applied: the new voters "
    "decide on the change itself, and it commits when they have it."
)
PATIENCE = (
    "One heartbeat answer tells nothing of entries that left after that heartbeat: a pipeline counts as lost when a "
    "second answer, a heartbeat interval later, finds no headway."
)
WHOLE_TERMS = (
    "A refusal names the follower's conflicting term and its first index (§5.3), so every step skips a whole term. "
    "In the reference both sides skip: it needs one step less where the follower's log is shorter or its term unknown."
)

DIFFERENCES: dict[str, Difference] = {
    "slow_follower_after_compaction.txt:108": Difference(PATIENCE, before=("stabilize", "tick-heartbeat 1")),
    "confchange_v1_add_single.txt:40": Difference(
        IN_FORCE_AT_ONCE,
        """
        configurations of 2:
        + voters=(1)
        entries applied of 2; entries written of 2:
        + 1/4 EntryConfChange v2
        messages received of 1->2; messages sent of 1->2:
        - MsgApp 1 after 1/3 commit 4: 1/4 EntryConfChange v2
        + MsgApp 1 after 1/3 commit 3: 1/4 EntryConfChange v2
        - MsgSnap 1 snapshot 1/4 voters=(1 2)
        + MsgSnap 1 snapshot 1/3 voters=(1)
        + MsgApp 1 after 1/3 commit 3: 1/4 EntryConfChange v2
        + MsgApp 1 after 1/4 commit 4:
        messages received of 2->1; messages sent of 2->1:
        + MsgAppResp 1 up to 3
        + MsgAppResp 1 up to 4
        snapshots installed of 2:
        - snapshot 1/4 voters=(1 2)
        + snapshot 1/3 voters=(1)
        """,
        apart=True,
    ),
    "confchange_v1_remove_leader.txt:85": Difference(
        NEW_QUORUM,
        """
        configurations of 1:
        - voters=(2 3)
        entries applied of 1:
        - 1/4 EntryConfChange r1
        - 1/5 "foo"
        messages sent of 1->2; messages sent of 1->3:
        - MsgApp 1 after 1/6 commit 4:
        - MsgApp 1 after 1/6 commit 5:
        commit index of 1:
        - 5
        + None
        configuration applied of 1:
        - voters=(2 3)
        + None
        """,
    ),
    "confchange_v1_remove_leader.txt:110": Difference(
        NEW_QUORUM,
        """
        printed:
        - 1: StateLeader (Non-Voter) Term:1 Lead:1
        + 1: StateLeader (Voter) Term:1 Lead:1
        """,
    ),
    "confchange_v1_remove_leader.txt:117": Difference(
        NEW_QUORUM,
        """
        configurations of 1; configurations of 2:
        - voters=(2 3)
        entries applied of 1; entries applied of 2:
        - 1/4 EntryConfChange r1
        - 1/5 "foo"
        messages received of 1->2; messages sent of 1->2; messages sent of 1->3:
        - MsgApp 1 after 1/6 commit 4:
        - MsgApp 1 after 1/6 commit 5:
        messages sent of 2->1:
        - MsgAppResp 1 up to 6
        - MsgAppResp 1 up to 6
        commit index of 1; commit index of 2:
        - 5
        + None
        configuration applied of 1; configuration applied of 2:
        - voters=(2 3)
        + None
        """,
    ),
    "confchange_v1_remove_leader.txt:138": Difference(
        NEW_QUORUM,
        """
        configurations of 1; configurations of 2:
        - voters=(2 3)
        entries applied of 1; entries applied of 2:
        - 1/4 EntryConfChange r1
        - 1/5 "foo"
        messages received of 1->2; messages sent of 1->2; messages sent of 1->3:
        - MsgApp 1 after 1/6 commit 4:
        - MsgApp 1 after 1/6 commit 5:
        messages received of 2->1; messages sent of 2->1:
        - MsgAppResp 1 up to 6
        - MsgAppResp 1 up to 6
        commit index of 1; commit index of 2:
        - 5
        + None
        configuration applied of 1; configuration applied of 2:
        - voters=(2 3)
        + None
        """,
    ),
    "confchange_v2_add_double_auto.txt:42": Difference(
        IN_FORCE_AT_ONCE,
        """
        messages sent of 1->2; messages sent of 1->3:
        + MsgApp 1 after 1/3 commit 3: 1/4 EntryConfChangeV2 v2 v3
        """,
    ),
    "confchange_v2_add_double_auto.txt:54": Difference(
        NEW_QUORUM,
        """
        configurations of 1:
        - voters=(1 2 3)&&(1) autoleave
        entries applied of 1:
        - 1/4 EntryConfChangeV2 v2 v3
        messages sent of 1->2; messages sent of 1->3:
        + MsgApp 1 after 1/3 commit 3: 1/4 EntryConfChangeV2 v2 v3
        commit index of 1:
        - 4
        + 3
        configuration applied of 1:
        - voters=(1 2 3)&&(1) autoleave
        + voters=(1)
        """,
    ),
    "confchange_v2_add_double_auto.txt:65": Difference(
        NEW_QUORUM,
        """
        configurations of 1:
        - voters=(1 2 3)&&(1) autoleave
        entries applied of 1:
        - 1/4 EntryConfChangeV2 v2 v3
        entries written of 1:
        - 1/5 EntryConfChangeV2
        messages sent of 1->2; messages sent of 1->3:
        - MsgApp 1 after 1/3 commit 4: 1/4 EntryConfChangeV2 v2 v3
        + MsgApp 1 after 1/3 commit 3: 1/4 EntryConfChangeV2 v2 v3
        commit index of 1:
        - 4
        + 3
        configuration applied of 1:
        - voters=(1 2 3)&&(1) autoleave
        + voters=(1)
        """,
    ),
    "confchange_v2_add_double_auto.txt:80": Difference(
        IN_FORCE_AT_ONCE,
        """
        configurations of 2:
        + voters=(1)
        entries applied of 2; entries written of 2:
        + 1/4 EntryConfChangeV2 v2 v3
        messages received of 1->2; messages sent of 1->2:
        - MsgApp 1 after 1/3 commit 4: 1/4 EntryConfChangeV2 v2 v3
        + MsgApp 1 after 1/3 commit 3: 1/4 EntryConfChangeV2 v2 v3
        - MsgSnap 1 snapshot 1/4 voters=(1 2 3)&&(1) autoleave
        + MsgSnap 1 snapshot 1/3 voters=(1)
        + MsgApp 1 after 1/3 commit 3: 1/4 EntryConfChangeV2 v2 v3
        messages received of 2->1; messages sent of 2->1:
        + MsgAppResp 1 up to 3
        messages sent of 1->3:
        - MsgApp 1 after 1/3 commit 4: 1/4 EntryConfChangeV2 v2 v3
        + MsgApp 1 after 1/3 commit 3: 1/4 EntryConfChangeV2 v2 v3
        snapshots installed of 2:
        - snapshot 1/4 voters=(1 2 3)&&(1) autoleave
        + snapshot 1/3 voters=(1)
        """,
        apart=True,
    ),
    "confchange_v2_add_double_auto.txt:156": Difference(
        IN_FORCE_AT_ONCE,
        """
        messages received of 1->3:
        - MsgApp 1 after 1/3 commit 4: 1/4 EntryConfChangeV2 v2 v3
        + MsgApp 1 after 1/3 commit 3: 1/4 EntryConfChangeV2 v2 v3
        """,
        apart=True,
    ),
    "confchange_v2_add_double_auto.txt:254": Difference(
        NEW_QUORUM,
        """
        configurations of 1:
        + voters=(1)
        entries applied of 1:
        + 1/7 "foo"
        + 1/8 "bar"
        + 1/9 EntryConfChangeV2
        messages sent of 1->2; messages sent of 1->3:
        - MsgApp 1 after 1/8 commit 6:
        + MsgApp 1 after 1/9 commit 8:
        + MsgApp 1 after 1/9 commit 9:
        commit index of 1:
        - 6
        + 9
        configuration applied of 1:
        - voters=(1)&&(1 2 3) autoleave
        + voters=(1)
        """,
    ),
    "confchange_v2_add_double_auto.txt:288": Difference(
        NEW_QUORUM,
        """
        configurations of 1; configurations of 2; configurations of 3:
        + voters=(1)
        entries applied of 1; entries applied of 2; entries applied of 3:
        + 1/7 "foo"
        + 1/8 "bar"
        + 1/9 EntryConfChangeV2
        messages received of 1->2; messages received of 1->3; messages sent of 1->2; messages sent of 1->3:
        - MsgApp 1 after 1/8 commit 6:
        + MsgApp 1 after 1/9 commit 8:
        + MsgApp 1 after 1/9 commit 9:
        messages sent of 2->1; messages sent of 3->1:
        - MsgAppResp 1 up to 8
        + MsgAppResp 1 up to 9
        + MsgAppResp 1 up to 9
        commit index of 1; commit index of 2; commit index of 3:
        - 6
        + 9
        configuration applied of 1; configuration applied of 2; configuration applied of 3:
        - voters=(1)&&(1 2 3) autoleave
        + voters=(1)
        """,
    ),
    "confchange_v2_add_double_auto.txt:334": Difference(
        NEW_QUORUM,
        """
        messages received of 1->2; messages received of 1->3; messages sent of 1->2; messages sent of 1->3:
        - MsgApp 1 after 1/8 commit 6:
        - MsgApp 1 after 1/9 commit 7:
        messages received of 2->1; messages received of 3->1; messages sent of 2->1; messages sent of 3->1:
        - MsgAppResp 1 up to 8
        - MsgAppResp 1 up to 9
        """,
    ),
    "confchange_v2_add_double_implicit.txt:43": Difference(
        IN_FORCE_AT_ONCE,
        """
        configurations of 2:
        + voters=(1)
        entries applied of 2; entries written of 2:
        + 1/4 EntryConfChangeV2 v2
        messages received of 1->2; messages sent of 1->2:
        - MsgApp 1 after 1/3 commit 4: 1/4 EntryConfChangeV2 v2
        + MsgApp 1 after 1/3 commit 3: 1/4 EntryConfChangeV2 v2
        - MsgSnap 1 snapshot 1/4 voters=(1 2)&&(1) autoleave
        + MsgSnap 1 snapshot 1/3 voters=(1)
        + MsgApp 1 after 1/3 commit 3: 1/4 EntryConfChangeV2 v2
        messages received of 2->1; messages sent of 2->1:
        + MsgAppResp 1 up to 3
        snapshots installed of 2:
        - snapshot 1/4 voters=(1 2)&&(1) autoleave
        + snapshot 1/3 voters=(1)
        """,
        apart=True,
    ),
    "confchange_v2_add_single_explicit.txt:41": Difference(
        IN_FORCE_AT_ONCE,
        """
        configurations of 2:
        + voters=(1)
        entries applied of 2; entries written of 2:
        + 1/4 EntryConfChangeV2 v2
        messages received of 1->2; messages sent of 1->2:
        - MsgApp 1 after 1/3 commit 4: 1/4 EntryConfChangeV2 v2
        + MsgApp 1 after 1/3 commit 3: 1/4 EntryConfChangeV2 v2
        - MsgSnap 1 snapshot 1/4 voters=(1 2)&&(1)
        + MsgSnap 1 snapshot 1/3 voters=(1)
        + MsgApp 1 after 1/3 commit 3: 1/4 EntryConfChangeV2 v2
        + MsgApp 1 after 1/4 commit 4:
        messages received of 2->1; messages sent of 2->1:
        + MsgAppResp 1 up to 3
        + MsgAppResp 1 up to 4
        snapshots installed of 2:
        - snapshot 1/4 voters=(1 2)&&(1)
        + snapshot 1/3 voters=(1)
        """,
        apart=True,
    ),
    "probe_and_replicate.txt:654": Difference(
        WHOLE_TERMS,
        """
        messages received of 1->6; messages sent of 1->6:
        + MsgApp 8 after 5/17 commit 21: 6/18 "", 6/19 "prop_6_19", 6/20 "prop_6_20", 8/21 ""
        messages received of 6->1; messages sent of 6->1:
        + MsgAppResp 8 rejects 17
        """,
        apart=True,
    ),
    "probe_and_replicate.txt:709": Difference(
        WHOLE_TERMS,
        """
        messages received of 1->7; messages sent of 1->7:
        + MsgApp 8 after 5/16 commit 21: 5/17 "prop_5_17", 6/18 "", 6/19 "prop_6_19", 6/20 "prop_6_20", 8/21 ""
        messages received of 7->1; messages sent of 7->1:
        + MsgAppResp 8 rejects 16
        """,
        apart=True,
    ),
}
