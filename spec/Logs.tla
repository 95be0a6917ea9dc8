-------------------------------- MODULE Logs --------------------------------
(* What the disks hold: logs, votes, witnesses without payload, disks that are lost, members that come and go.

   Time is left out, and so is the pre-vote: any node may stand at any moment, so every run of the real elections is one of
   these (module Leases has the clocks). A message is sent and handled in one step, as late as the checker likes; what
   is volatile and what is durable are told apart, for a crash takes all that is not.

   A node is known by its id, and an id by its disk: nodes in Spare are ids that were never used.                  *)
EXTENDS Naturals, Sequences, FiniteSets, TLC

CONSTANTS Full,      \* founding members that keep everything
          Witness,   \* founding members that vote and keep (term, index, kind) without payload
          Spare,     \* ids that may become members later
          None,      \* no node
          MaxTerm, MaxLog,
          MaxLost,   \* how many disks may be lost
          Changes,   \* how the members may change: "none", "any", or only to "replace" who has lost its disk
          Commands,  \* whether clients propose; without, the log has no-ops and configurations only
          Volatile,  \* whether a write takes time, and a crash may come before its end
          Bug        \* the rule that is broken on purpose, or "none"

VARIABLES term, vote,  \* durable at once: no message that admits them leaves before
          log,
          stable,      \* the log is durable up to here
          role,
          votes,
          match,       \* match[l][n]: what n has acknowledged to leader l
          commit,
          wiped,       \* ids whose disk was lost
          elected,     \* history: every <<term, node>> that was elected
          decided,     \* history: the longest log that was ever committed ...
          decidedIn    \* ... and the term in which each of its entries was

vars == <<term, vote, log, stable, role, votes, match, commit, wiped, elected, decided, decidedIn>>

Founders == Full \cup Witness
Ids == Founders \cup Spare
Majority(S, all) == 2 * Cardinality(S \cap all) > Cardinality(all)
Min(a, b) == IF a < b THEN a ELSE b
Max(a, b) == IF a > b THEN a ELSE b
Prefix(s, n) == SubSeq(s, 1, n)

\* An entry. Its term and index name it, for at most one leader writes in a term; so the payload itself is left out.
Command(t) == [term |-> t, kind |-> "command", voters |-> {}, learners |-> {}]
Noop(t) == [term |-> t, kind |-> "noop", voters |-> {}, learners |-> {}]
Configuration(t, voters, learners) == [term |-> t, kind |-> "configuration", voters |-> voters, learners |-> learners]

LastTerm(s) == IF s = <<>> THEN 0 ELSE s[Len(s)].term
UpToDate(s, than) ==
    \/ LastTerm(s) > LastTerm(than)
    \/ LastTerm(s) = LastTerm(than) /\ Len(s) >= Len(than)

\* The newest configuration in the log is in force, committed or not.
ConfigurationIndexes(s) == {i \in 1 .. Len(s) : s[i].kind = "configuration"}
InForce(s) ==
    LET at == ConfigurationIndexes(s)
    IN IF at = {} THEN Configuration(0, Founders, {}) ELSE s[CHOOSE i \in at : \A j \in at : j <= i]
Voters(n) == InForce(log[n]).voters
Learners(n) == InForce(log[n]).learners

\* A node whose disk was lost never takes part again under its id.
Alive(n) == n \notin wiped \/ Bug = "WipedDiskVotes"

CommittedInTerm(l) == \E i \in 1 .. commit[l] : log[l][i].term = term[l]

-----------------------------------------------------------------------------
\* A leader of term 1 was just elected and has appended its first entry; those that did not vote for it may be behind.
Init ==
    \E leader \in Full, voters \in SUBSET Founders :
        /\ leader \in voters /\ Majority(voters, Founders)
        /\ term = [n \in Ids |-> IF n \in voters THEN 1 ELSE 0]
        /\ vote = [n \in Ids |-> IF n \in voters THEN leader ELSE None]
        /\ log = [n \in Ids |-> IF n = leader THEN <<Noop(1)>> ELSE <<>>]
        /\ stable = [n \in Ids |-> 0]
        /\ role = [n \in Ids |-> IF n = leader THEN "leader" ELSE "follower"]
        /\ votes = [n \in Ids |-> {}]
        /\ match = [n \in Ids |-> [m \in Ids |-> 0]]
        /\ commit = [n \in Ids |-> 0]
        /\ wiped = {}
        /\ elected = {<<1, leader>>}
        /\ decided = <<>>
        /\ decidedIn = <<>>

Forget(n) == match' = [match EXCEPT ![n] = [m \in Ids |-> 0]]

-----------------------------------------------------------------------------
(* Elections *)

Campaign(n) ==
    /\ Alive(n) /\ role[n] # "leader" /\ term[n] < MaxTerm
    /\ n \in Voters(n)
    /\ n \notin Witness \/ Bug = "WitnessCampaigns"
    /\ term' = [term EXCEPT ![n] = @ + 1]
    /\ vote' = [vote EXCEPT ![n] = n]
    /\ role' = [role EXCEPT ![n] = "candidate"]
    /\ votes' = [votes EXCEPT ![n] = {n}]
    /\ stable' = [stable EXCEPT ![n] = Len(log[n])]
    /\ UNCHANGED <<log, match, commit, wiped, elected, decided, decidedIn>>

GrantVote(v, c) ==
    /\ Alive(v) /\ Alive(c) /\ v # c /\ role[c] = "candidate" /\ v \in Voters(c)
    /\ \/ term[c] > term[v]
       \/ term[c] = term[v] /\ vote[v] = None /\ role[v] = "follower"
    /\ UpToDate(log[c], log[v]) \/ Bug = "VoteWithoutLogCheck"
    /\ term' = [term EXCEPT ![v] = term[c]]
    /\ vote' = [vote EXCEPT ![v] = c]
    /\ role' = [role EXCEPT ![v] = "follower"]
    /\ votes' = [votes EXCEPT ![v] = {}, ![c] = @ \cup {v}]
    /\ stable' = [stable EXCEPT ![v] = Len(log[v])]
    /\ Forget(v)
    /\ UNCHANGED <<log, commit, wiped, elected, decided, decidedIn>>

\* A leader begins with an entry of its own term.
Win(c) ==
    /\ role[c] = "candidate" /\ Majority(votes[c], Voters(c)) /\ Len(log[c]) < MaxLog
    /\ role' = [role EXCEPT ![c] = "leader"]
    /\ votes' = [votes EXCEPT ![c] = {}]
    /\ log' = [log EXCEPT ![c] = Append(@, Noop(term[c]))]
    /\ stable' = [stable EXCEPT ![c] = IF Volatile THEN @ ELSE Len(log[c]) + 1]
    /\ match' = [match EXCEPT ![c] = [m \in Ids |-> IF m = c THEN stable'[c] ELSE 0]]
    /\ elected' = elected \cup {<<term[c], c>>}
    /\ UNCHANGED <<term, vote, commit, wiped, decided, decidedIn>>

-----------------------------------------------------------------------------
(* A leader's log *)

Extend(l, entry) ==
    /\ role[l] = "leader" /\ Len(log[l]) < MaxLog
    /\ log' = [log EXCEPT ![l] = Append(@, entry)]
    /\ IF Volatile
          THEN UNCHANGED <<stable, match>>
          ELSE /\ stable' = [stable EXCEPT ![l] = Len(log[l]) + 1]
               /\ match' = [match EXCEPT ![l][l] = Len(log[l]) + 1]
    /\ UNCHANGED <<term, vote, role, votes, commit, wiped, elected, decided, decidedIn>>

Propose(l) == Commands /\ Extend(l, Command(term[l]))

\* One member at a time, after the leader's first commit in its term and after the change before this one.
MayChange(l) ==
    /\ Changes # "none"
    /\ CommittedInTerm(l)
    /\ \A i \in ConfigurationIndexes(log[l]) : i <= commit[l] \/ Bug = "ChangesOverlap"

\* A new member comes under an id that was never used, and is sent the log; where members are only replaced, there is
\* somebody to be replaced.
AddLearner(l, n) ==
    /\ MayChange(l)
    /\ n \in Spare \ (Voters(l) \cup Learners(l)) /\ Alive(n)
    /\ Changes = "replace" => Voters(l) \cap wiped # {}
    /\ Extend(l, Configuration(term[l], Voters(l), Learners(l) \cup {n}))

\* It is promoted once it holds what is committed.
Promote(l, n) ==
    /\ MayChange(l)
    /\ n \in Learners(l)
    /\ match[l][n] >= commit[l] \/ Bug = "PromotedBeforeCaughtUp"
    /\ Extend(l, Configuration(term[l], Voters(l) \cup {n}, Learners(l) \ {n}))

RemoveVoter(l, n) ==
    /\ MayChange(l)
    /\ n \in Voters(l) \ {l}
    /\ Changes = "replace" => n \in wiped
    /\ Extend(l, Configuration(term[l], Voters(l) \ {n}, Learners(l)))

\* The leader's own write; it counts itself only now.
WriteOwn(l) ==
    /\ role[l] = "leader" /\ stable[l] < Len(log[l])
    /\ stable' = [stable EXCEPT ![l] = Len(log[l])]
    /\ match' = [match EXCEPT ![l][l] = Len(log[l])]
    /\ UNCHANGED <<term, vote, log, role, votes, commit, wiped, elected, decided, decidedIn>>

\* f takes the next entry (or none: then it hears the term and the commit index) and, once its log is durable, acknowledges
\* as much as matches; a crash may come between.
Replicate(l, f, more, durable) ==
    LET same == {i \in 0 .. Min(Len(log[l]), Len(log[f])) : Prefix(log[l], i) = Prefix(log[f], i)}
        agreed == IF Bug = "AppendWithoutCheck"
                     THEN Min(Len(log[l]), Len(log[f]))
                     ELSE CHOOSE i \in same : \A j \in same : j <= i
        matching == IF more THEN agreed + 1 ELSE agreed
        taken == IF more THEN Append(Prefix(log[f], agreed), log[l][matching]) ELSE log[f]
        kept == IF more THEN Min(stable[f], agreed) ELSE stable[f]
    IN /\ role[l] = "leader" /\ l # f /\ Alive(f) /\ f \in Voters(l) \cup Learners(l)
       /\ durable \/ Volatile
       /\ term[f] < term[l] \/ (term[f] = term[l] /\ role[f] # "leader")
       /\ matching <= Len(log[l])
       /\ log' = [log EXCEPT ![f] = taken]
       /\ stable' = [stable EXCEPT ![f] = IF durable THEN Len(taken) ELSE kept]
       /\ match' = [match EXCEPT ![l][f] = IF durable \/ Bug = "AcknowledgeBeforeDurable" THEN Max(@, matching) ELSE @,
                                 ![f] = [m \in Ids |-> 0]]
       /\ commit' = [commit EXCEPT ![f] = Max(@, Min(commit[l], matching))]
       /\ term' = [term EXCEPT ![f] = term[l]]
       /\ vote' = [vote EXCEPT ![f] = IF term[l] > term[f] THEN None ELSE @]
       /\ role' = [role EXCEPT ![f] = "follower"]
       /\ votes' = [votes EXCEPT ![f] = {}]
       /\ UNCHANGED <<wiped, elected, decided, decidedIn>>

\* A quorum of the voters holds the entry durably, and it is of the leader's own term.
Commit(l, i) ==
    /\ role[l] = "leader" /\ i > commit[l]
    /\ Majority({n \in Ids : match[l][n] >= i}, Voters(l))
    /\ log[l][i].term = term[l] \/ Bug = "CommitOldTermByCounting"
    /\ commit' = [commit EXCEPT ![l] = i]
    /\ IF i > Len(decided)
          THEN /\ decided' = decided \o SubSeq(log[l], Len(decided) + 1, i)
               /\ decidedIn' = decidedIn \o [j \in 1 .. i - Len(decided) |-> term[l]]
          ELSE UNCHANGED <<decided, decidedIn>>
    /\ UNCHANGED <<term, vote, log, stable, role, votes, match, wiped, elected>>

-----------------------------------------------------------------------------
(* Crashes and lost disks *)

Restart(n) ==
    /\ role[n] # "follower" \/ stable[n] < Len(log[n])
    /\ log' = [log EXCEPT ![n] = Prefix(@, stable[n])]
    /\ commit' = [commit EXCEPT ![n] = Min(@, stable[n])]
    /\ role' = [role EXCEPT ![n] = "follower"]
    /\ votes' = [votes EXCEPT ![n] = {}]
    /\ Forget(n)
    /\ UNCHANGED <<term, vote, stable, wiped, elected, decided, decidedIn>>

\* One disk at a time: the next may be lost as soon as whoever lost the last is replaced, and that is decided.
LoseDisk(n) ==
    /\ n \notin wiped /\ Cardinality(wiped) < MaxLost
    /\ InForce(decided).voters \cap wiped = {}
    /\ wiped' = wiped \cup {n}
    /\ term' = [term EXCEPT ![n] = 0]
    /\ vote' = [vote EXCEPT ![n] = None]
    /\ log' = [log EXCEPT ![n] = <<>>]
    /\ stable' = [stable EXCEPT ![n] = 0]
    /\ commit' = [commit EXCEPT ![n] = 0]
    /\ role' = [role EXCEPT ![n] = "follower"]
    /\ votes' = [votes EXCEPT ![n] = {}]
    /\ Forget(n)
    /\ UNCHANGED <<elected, decided, decidedIn>>

Next ==
    \/ \E n \in Ids : Campaign(n) \/ Win(n) \/ Propose(n) \/ WriteOwn(n) \/ Restart(n) \/ LoseDisk(n)
    \/ \E n, m \in Ids : GrantVote(n, m) \/ AddLearner(n, m) \/ Promote(n, m) \/ RemoveVoter(n, m)
    \/ \E l, f \in Ids : \E more, durable \in BOOLEAN : Replicate(l, f, more, durable)
    \/ \E l \in Ids : \E i \in 1 .. Len(log[l]) : Commit(l, i)

Spec == Init /\ [][Next]_vars
Symmetry == Permutations(Full) \cup Permutations(Spare)

-----------------------------------------------------------------------------
(* Invariants *)

TypeOK ==
    /\ term \in [Ids -> 0 .. MaxTerm]
    /\ vote \in [Ids -> Ids \cup {None}]
    /\ role \in [Ids -> {"follower", "candidate", "leader"}]
    /\ votes \in [Ids -> SUBSET Ids]
    /\ \A n \in Ids : stable[n] \in 0 .. Len(log[n]) /\ commit[n] \in 0 .. Len(log[n])
    /\ Len(decided) = Len(decidedIn)

ElectionSafety == \A a, b \in elected : a[1] = b[1] => a[2] = b[2]

LogMatching ==
    \A n, m \in Ids : \A i \in 1 .. Min(Len(log[n]), Len(log[m])) :
        log[n][i].term = log[m][i].term => Prefix(log[n], i) = Prefix(log[m], i)

\* What was committed in a term is in the log of the leader of every later one.
LeaderCompleteness ==
    \A l \in Ids : role[l] = "leader" =>
        \A i \in 1 .. Len(decided) : decidedIn[i] < term[l] => i <= Len(log[l]) /\ log[l][i] = decided[i]

\* The same one election ahead: whoever the living voters would elect now holds all that was committed.
ElectableAreComplete ==
    \A n \in Ids \ Witness :
        /\ Alive(n) /\ n \in Voters(n)
        /\ Majority({n} \cup {v \in Ids : Alive(v) /\ UpToDate(log[n], log[v])}, Voters(n))
        => Len(log[n]) >= Len(decided) /\ Prefix(log[n], Len(decided)) = decided

\* Nobody takes for committed, and so applies, anything but what was decided.
StateMachineSafety == \A n \in Ids : \A i \in 1 .. commit[n] : i <= Len(decided) /\ log[n][i] = decided[i]

\* What a leader counts for a node is on that node's disk, as long as it has one and has not followed another leader.
DurableBeforeAcknowledged ==
    \A l, n \in Ids : role[l] = "leader" /\ term[n] = term[l] /\ Alive(n) => match[l][n] <= stable[n]

\* An id whose disk was lost is never used again: no vote, no term, no entry; a new id takes its place.
WipedStaysSilent ==
    \A n \in wiped : term[n] = 0 /\ vote[n] = None /\ log[n] = <<>> /\ role[n] = "follower" /\ votes[n] = {}

\* Who votes under a new id has been a learner, and holds what was committed by then.
PromotedHasCaughtUp ==
    \A l \in Ids : role[l] = "leader" =>
        \A n \in (Spare \cap Voters(l)) \ wiped : \E i \in 1 .. stable[n] : n \in log[n][i].learners

WitnessNeverLeads == \A n \in Witness : role[n] = "follower"

\* The payload of a committed entry is on the disk of a node that keeps payloads.
PayloadSurvives ==
    \A i \in 1 .. Len(decided) : \E n \in Ids \ Witness : stable[n] >= i /\ log[n][i] = decided[i]

\* A leader that serves reads, and of which Leases promises that nobody was elected after it, knows all that is committed.
ReadFresh ==
    \A l \in Ids :
        /\ role[l] = "leader"
        /\ CommittedInTerm(l) \/ Bug = "ReadBeforeNoop"
        /\ \A e \in elected : e[1] <= term[l]
        => commit[l] >= Len(decided)

\* Not true, and meant to be found so: it shows that within the bounds a lost disk is replaced, and another one lost.
NeverReplaced == Cardinality(wiped) < 2
=============================================================================
