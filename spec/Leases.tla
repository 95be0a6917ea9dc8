------------------------------- MODULE Leases -------------------------------
(* Who leads, who may vote, and until when a leader may trust its lease.

   Logs are left out: a voter here grants whatever the log check might grant, so every election of the real system is
   one of these. What a read returns once the lease is good is the subject of module Logs (its invariant ReadFresh).

   Time. Each Tick moves every clock forward, by Slow or by Fast units as the checker likes, anew at each Tick. So no
   two clocks ever differ by more than the ratio Fast / Slow over any stretch, and inside it anything may happen. A clock
   is never read as such: what is kept is how much of a promise is left and how old a heartbeat is, each
   counted by the clock of the node that cares.

   Messages. A pre-vote or vote is asked for and answered in one step (the candidate's state does not change while it
   waits, and what it does with the answer is a later step of its own). A heartbeat and its answer are two steps of any
   delay, one round per pair of nodes on its way; a newer round replaces it, which is how messages are lost, and one that
   is too old to be worth a lease is lost as well.                                                                *)
EXTENDS Naturals, FiniteSets, TLC

CONSTANTS Nodes,
          MaxTerm,
          Timeout,     \* the election timeout, in units of a node's own clock
          Lease,       \* how long the answer to a heartbeat is worth something: at most Timeout * Slow / Fast
          Slow, Fast,  \* what a Tick may add to a clock
          Transfers,   \* whether leaders hand over
          Offers,      \* whether pre-votes are granted unasked
          None,        \* no node
          Bug          \* the rule that is broken on purpose, or "none"

VARIABLES term, vote,  \* durable
          role,
          votes,       \* who answered the pre-candidate or candidate with yes, or offered a follower its pre-vote
          promise,     \* how long this node still may neither vote nor campaign, by its own clock
          beat,        \* beat[l][f]: the heartbeat round under way from l to f
          echo,        \* echo[l][f]: age, by l's clock, of the newest sending time that f has echoed
          voided,      \* this leader has sent TimeoutNow in its term
          order,       \* the term of a TimeoutNow on its way to this node, or NoOrder
          flagged,     \* the vote requests of this candidate carry the transfer flag
          elected      \* history: every <<term, node>> that was elected

vars == <<term, vote, role, votes, promise, beat, echo, voided, order, flagged, elected>>

LeaseLength == IF Bug = "LeaseIgnoresDrift" THEN Timeout ELSE Lease
Ages == 0 .. LeaseLength                \* from there on, age makes no difference
NoOrder == MaxTerm + 1
Idle == [phase |-> "idle", age |-> 0]
Rounds == [phase: {"idle", "sent", "answered"}, age: Ages]
Quorum(S) == 2 * Cardinality(S) > Cardinality(Nodes)
Less(a, b) == IF a > b THEN a - b ELSE 0
Min(a, b) == IF a < b THEN a ELSE b

ASSUME Slow \in Nat \ {0} /\ Fast >= Slow

-----------------------------------------------------------------------------
\* A leader of term 1 was just elected; those that did not vote for it may be behind. Where there are transfers, each node
\* may still get a TimeoutNow of an earlier leader: term 0 stands for all that was before.
Init ==
    \E leader \in Nodes, voters \in SUBSET Nodes :
        /\ leader \in voters /\ Quorum(voters)
        /\ term = [n \in Nodes |-> IF n \in voters THEN 1 ELSE 0]
        /\ vote = [n \in Nodes |-> IF n \in voters THEN leader ELSE None]
        /\ role = [n \in Nodes |-> IF n = leader THEN "leader" ELSE "follower"]
        /\ votes = [n \in Nodes |-> {}]
        /\ promise = [n \in Nodes |-> 0]
        /\ beat = [n \in Nodes |-> [m \in Nodes |-> Idle]]
        /\ echo = [n \in Nodes |-> [m \in Nodes |-> LeaseLength]]
        /\ voided = [n \in Nodes |-> FALSE]
        /\ order = [n \in Nodes |-> IF Transfers THEN 0 ELSE NoOrder]
        /\ flagged = [n \in Nodes |-> FALSE]
        /\ elected = {<<1, leader>>}

\* What a node forgets when it stops leading (or standing): its lease goes with its role.
Retire(n, newRole, newVotes) ==
    /\ role' = [role EXCEPT ![n] = newRole]
    /\ votes' = [votes EXCEPT ![n] = newVotes]
    /\ beat' = [beat EXCEPT ![n] = [m \in Nodes |-> Idle]]
    /\ echo' = [echo EXCEPT ![n] = [m \in Nodes |-> LeaseLength]]
    /\ voided' = [voided EXCEPT ![n] = FALSE]

\* A later term clears the vote; an equal one changes nothing.
Adopt(n, t) ==
    /\ term' = [term EXCEPT ![n] = t]
    /\ vote' = [vote EXCEPT ![n] = IF t > term[n] THEN None ELSE @]

-----------------------------------------------------------------------------
(* Elections *)

\* The election timer fires. A pre-candidate asks for term + 1 and stays in its own; what it was offered counts.
PreCampaign(n) ==
    /\ role[n] \in {"follower", "candidate"}
    /\ promise[n] = 0 \/ Bug = "StandsDespitePromise"
    /\ term[n] < MaxTerm
    /\ Retire(n, "precandidate", {n} \cup IF role[n] = "follower" THEN votes[n] ELSE {})
    /\ flagged' = [flagged EXCEPT ![n] = @ /\ Bug = "TransferFlagKept"]
    /\ UNCHANGED <<term, vote, promise, order, elected>>

\* While a leader was heard of within an election timeout, no other is needed. A leader itself does not vote either.
Bound(v) == role[v] = "leader" \/ promise[v] > 0

\* Also unasked, to one that does not stand yet: v has learned that the leader's process is gone, and c may soon.
GrantPreVote(v, c) ==
    /\ role[c] = "precandidate" \/ (Offers /\ role[c] = "follower")
    /\ v # c /\ v \notin votes[c]
    /\ term[c] + 1 > term[v]
    /\ ~Bound(v)
    /\ votes' = [votes EXCEPT ![c] = @ \cup {v}]
    /\ UNCHANGED <<term, vote, role, promise, beat, echo, voided, order, flagged, elected>>

Stand(n) ==
    /\ term' = [term EXCEPT ![n] = @ + 1]
    /\ vote' = [vote EXCEPT ![n] = n]
    /\ role' = [role EXCEPT ![n] = "candidate"]
    /\ votes' = [votes EXCEPT ![n] = {n}]

Campaign(n) ==
    /\ role[n] = "precandidate" /\ Quorum(votes[n])
    /\ Stand(n)
    /\ UNCHANGED <<promise, beat, echo, voided, order, flagged, elected>>

\* The promise binds in every term, also in one that was learned of after it was given.
GrantVote(v, c) ==
    /\ role[c] = "candidate" /\ v # c
    /\ \/ term[c] > term[v]
       \/ term[c] = term[v] /\ vote[v] = None /\ role[v] # "leader"
    /\ ~Bound(v) \/ flagged[c] \/ Bug = "HeardFromLeaderIgnored"
    /\ term' = [term EXCEPT ![v] = term[c]]
    /\ vote' = [vote EXCEPT ![v] = c]
    /\ role' = [role EXCEPT ![v] = "follower"]
    /\ votes' = [votes EXCEPT ![v] = {}, ![c] = @ \cup {v}]
    /\ beat' = [beat EXCEPT ![v] = [m \in Nodes |-> Idle]]
    /\ echo' = [echo EXCEPT ![v] = [m \in Nodes |-> LeaseLength]]
    /\ voided' = [voided EXCEPT ![v] = FALSE]
    /\ UNCHANGED <<promise, order, flagged, elected>>

Win(c) ==
    /\ role[c] = "candidate" /\ Quorum(votes[c])
    /\ Retire(c, "leader", {})
    /\ flagged' = [flagged EXCEPT ![c] = @ /\ Bug = "TransferFlagKept"]
    /\ elected' = elected \cup {<<term[c], c>>}
    /\ UNCHANGED <<term, vote, promise, order>>

\* An answer to some earlier message (a refused vote, a stale heartbeat) tells n of the later term that m is in.
LearnTerm(n, m) ==
    /\ term[m] > term[n]
    /\ Adopt(n, term[m])
    /\ Retire(n, "follower", {})
    /\ flagged' = [flagged EXCEPT ![n] = FALSE]
    /\ promise' = [promise EXCEPT ![n] = IF Bug = "PromiseEndsWithTerm" THEN 0 ELSE @]
    /\ UNCHANGED <<order, elected>>

-----------------------------------------------------------------------------
(* Heartbeats and the lease *)

SendHeartbeat(l, f) ==
    /\ role[l] = "leader" /\ l # f
    /\ beat' = [beat EXCEPT ![l][f] = [phase |-> "sent", age |-> 0]]
    /\ UNCHANGED <<term, vote, role, votes, promise, echo, voided, order, flagged, elected>>

\* A follower gives its promise when the heartbeat arrives, which is never before it was sent.
HearHeartbeat(l, f) ==
    /\ role[l] = "leader" /\ beat[l][f].phase = "sent" /\ term[l] >= term[f]
    /\ Adopt(f, term[l])
    /\ role' = [role EXCEPT ![f] = "follower"]
    /\ votes' = [votes EXCEPT ![f] = {}]
    /\ promise' = [promise EXCEPT ![f] = Timeout]
    /\ beat' = [beat EXCEPT ![f] = [m \in Nodes |-> Idle], ![l][f].phase = "answered"]
    /\ echo' = [echo EXCEPT ![f] = [m \in Nodes |-> LeaseLength]]
    /\ voided' = [voided EXCEPT ![f] = FALSE]
    /\ flagged' = [flagged EXCEPT ![f] = FALSE]
    /\ UNCHANGED <<order, elected>>

HearAnswer(l, f) ==
    /\ role[l] = "leader" /\ beat[l][f].phase = "answered"
    /\ echo' = [echo EXCEPT ![l][f] = IF Bug = "LeaseFromReceipt" THEN 0 ELSE Min(@, beat[l][f].age)]
    /\ beat' = [beat EXCEPT ![l][f] = Idle]
    /\ UNCHANGED <<term, vote, role, votes, promise, voided, order, flagged, elected>>

\* A quorum, the leader among it, echoed sending times that are young enough.
HoldsLease(l) ==
    /\ role[l] = "leader"
    /\ ~voided[l] \/ Bug = "TransferKeepsLease"
    /\ Quorum({l} \cup {f \in Nodes \ {l} : echo[l][f] < LeaseLength})

\* Check-quorum: at the latest when no lease could be left. The model lets it happen as soon as the lease is over.
StepDown(l) ==
    /\ role[l] = "leader" /\ ~HoldsLease(l)
    /\ Retire(l, "follower", {})
    /\ UNCHANGED <<term, vote, promise, order, flagged, elected>>

-----------------------------------------------------------------------------
(* Transfer of leadership *)

SendTimeoutNow(l, f) ==
    /\ Transfers
    /\ role[l] = "leader" /\ l # f
    /\ voided' = [voided EXCEPT ![l] = TRUE]
    /\ order' = [order EXCEPT ![f] = term[l]]
    /\ UNCHANGED <<term, vote, role, votes, promise, beat, echo, flagged, elected>>

\* Only an order of the current term counts. It skips the pre-vote, and the voters' promises do not hold it up.
ObeyTimeoutNow(f) ==
    /\ order[f] # NoOrder /\ role[f] # "leader" /\ term[f] < MaxTerm
    /\ order[f] = term[f] \/ Bug = "StaleTimeoutNowObeyed"
    /\ Stand(f)
    /\ order' = [order EXCEPT ![f] = NoOrder]
    /\ flagged' = [flagged EXCEPT ![f] = TRUE]
    /\ UNCHANGED <<promise, beat, echo, voided, elected>>

-----------------------------------------------------------------------------
(* Crashes and clocks *)

\* A node forgets whom it promised what, so it behaves as if it had promised just now.
Restart(n) ==
    /\ Retire(n, "follower", {})
    /\ promise' = [promise EXCEPT ![n] = IF Bug = "VoteAfterRestartAtOnce" THEN 0 ELSE Timeout]
    /\ flagged' = [flagged EXCEPT ![n] = FALSE]
    /\ vote' = [vote EXCEPT ![n] = IF Bug = "VoteNotDurable" THEN None ELSE @]
    /\ UNCHANGED <<term, order, elected>>

\* The surroundings say that the leader's process is gone. It ends the promise only when it is certainly true.
HearOfDeath(n) ==
    /\ promise[n] > 0
    /\ (\A l \in Nodes : role[l] # "leader") \/ Bug = "FalseAlarmEndsPromise"
    /\ promise' = [promise EXCEPT ![n] = 0]
    /\ UNCHANGED <<term, vote, role, votes, beat, echo, voided, order, flagged, elected>>

Tick ==
    \E fast \in SUBSET {n \in Nodes : role[n] = "leader" \/ promise[n] > 0} :  \* the other clocks do not matter now
        LET step(n) == IF n \in fast THEN Fast ELSE Slow
            older(n, age) == Min(age + step(n), LeaseLength)
        IN /\ promise' = [n \in Nodes |-> Less(promise[n], step(n))]
           /\ beat' = [l \in Nodes |-> [f \in Nodes |->
                          IF beat[l][f] = Idle \/ older(l, beat[l][f].age) = LeaseLength THEN Idle
                          ELSE [beat[l][f] EXCEPT !.age = older(l, @)]]]
           /\ echo' = [l \in Nodes |-> [f \in Nodes |-> older(l, echo[l][f])]]
           /\ UNCHANGED <<term, vote, role, votes, voided, order, flagged, elected>>

Next ==
    \/ \E n \in Nodes :
          \/ PreCampaign(n) \/ Campaign(n) \/ Win(n) \/ StepDown(n)
          \/ ObeyTimeoutNow(n) \/ Restart(n) \/ HearOfDeath(n)
    \/ \E n, m \in Nodes :
          \/ GrantPreVote(n, m) \/ GrantVote(n, m) \/ LearnTerm(n, m)
          \/ SendHeartbeat(n, m) \/ HearHeartbeat(n, m) \/ HearAnswer(n, m) \/ SendTimeoutNow(n, m)
    \/ Tick

Spec == Init /\ [][Next]_vars
Symmetry == Permutations(Nodes)

-----------------------------------------------------------------------------
(* Invariants *)

TypeOK ==
    /\ term \in [Nodes -> 0 .. MaxTerm]
    /\ vote \in [Nodes -> Nodes \cup {None}]
    /\ role \in [Nodes -> {"follower", "precandidate", "candidate", "leader"}]
    /\ votes \in [Nodes -> SUBSET Nodes]
    /\ promise \in [Nodes -> 0 .. Timeout]
    /\ beat \in [Nodes -> [Nodes -> Rounds]]
    /\ echo \in [Nodes -> [Nodes -> Ages]]
    /\ order \in [Nodes -> 0 .. NoOrder]

\* At most one leader in a term, over the whole history.
ElectionSafety == \A a, b \in elected : a[1] = b[1] => a[2] = b[2]

\* While a leader trusts its lease, nobody was elected in a later term.
LeaseSafety == \A l \in Nodes : HoldsLease(l) => \A e \in elected : e[1] <= term[l]

\* Whoever stands for election without having been told to has not heard of a leader within its own timeout.
OnlyTheForsakenStand ==
    \A n \in Nodes : role[n] \in {"precandidate", "candidate"} /\ ~flagged[n] => promise[n] = 0
=============================================================================
