"""The wing of the museum for members, witnesses, transfers, leases, reads and sessions.

Bugs that `tests.raft.test_mutations` shows to a story are planted from there: the simulator must find them by chance.
"""

from __future__ import annotations

from typing import Any

import msgspec

from rayraft.machine.requests import LAST, RequestHeader, Status, reply, request_header
from rayraft.machine.sessions import Dump, SessionTable
from rayraft.raft import leader as leader_module
from rayraft.raft import raft as raft_module
from rayraft.raft.configurations import Configurations
from rayraft.raft.elections import Elections
from rayraft.raft.leader import Leader
from rayraft.raft.lease import Freshness
from rayraft.raft.log import RaftLog
from rayraft.raft.membership import _Draft
from rayraft.raft.progress import Inflights, Progress
from rayraft.raft.raft import Raft
from rayraft.raft.reads import ForwardedReads, ReadState
from rayraft.raft.ready import RaftConfig
from rayraft.raft.types import Configuration, SnapshotMeta
from rayraft.replica.admission import Admission, Answer
from rayraft.replica.compaction import Compaction
from rayraft.replica.reading import PendingRead, Reading
from tests.raft import test_mutations as told
from tests.simulation.mutations import Patch, mutation

# --- members ----------------------------------------------------------------------------------------------------------


@mutation
def two_changes_pending(patch: Patch) -> None:
    """A change of members is taken while the one before it is not committed, or before the leader's no-op is."""
    patch.setattr(Leader, "propose_configuration", told.change_at_once)


@mutation
def change_before_the_noop(patch: Patch) -> None:
    """A leader changes the members before an entry of its own term is committed: the known bug of 2015."""
    patch.setattr(Leader, "propose_configuration", told.change_before_the_noop)


@mutation
def many_members_in_one_step(patch: Patch) -> None:
    """Several voters change at once without a joint phase."""

    def all_at_once(configuration: Configuration, changes: Any) -> Configuration:
        draft = _Draft.of(configuration)
        draft.apply(changes)
        return draft.finish()

    patch.setattr(raft_module, "needs_joint", lambda configuration, changes: False)
    patch.setattr(raft_module, "simple", all_at_once)


@mutation
def a_learner_counts(patch: Patch) -> None:
    """What a learner acknowledges counts for the quorum."""
    patch.setattr(Leader, "maybe_commit", told.count_learners)


@mutation
def a_removed_leader_counts_itself(patch: Patch) -> None:
    """A leader that is on its way out counts its own copy."""
    patch.setattr(Leader, "maybe_commit", told.count_the_removed_leader)


@mutation
def a_joint_phase_commits_by_one_half(patch: Patch) -> None:
    """The old voters decide alone until the joint phase is left."""
    patch.setattr(Leader, "maybe_commit", told.count_one_half)


@mutation
def a_truncated_configuration_stays_in_force(patch: Patch) -> None:
    """The configuration is not reverted when its entry is truncated."""
    patch.setattr(Configurations, "truncate", told.keep_what_was_truncated)


@mutation
def a_configuration_is_in_force_when_committed(patch: Patch) -> None:
    """The newest configuration is used only once it is committed, not as soon as it is in the log."""
    patch.setattr(Raft, "configuration", property(lambda self: self.log.configurations.at(self.log.commit)))


@mutation
def snapshot_with_the_newest_configuration(patch: Patch) -> None:
    """A snapshot carries the configuration in force, not that at its index."""
    patch.setattr(Configurations, "at", lambda self, index: self.newest)


@mutation
def a_removed_node_disturbs(patch: Patch) -> None:
    """Nobody tells a removed node, and its candidacies are taken seriously."""
    patch.setattr(Configurations, "has_removed", told.tell_nobody_of_removals)


@mutation
def a_removed_node_is_listened_to(patch: Patch) -> None:
    """A request for a vote, or a newer term, is taken in although it comes from a node that was removed."""
    patch.setattr(Raft, "_is_of_removed", lambda self, message: False)


@mutation
def a_removed_leader_leads_on(patch: Patch) -> None:
    """A leader whose removal is committed neither hands over nor steps down."""
    patch.setattr(Leader, "_resign", told.lead_on_although_removed)


@mutation
def a_learner_campaigns(patch: Patch) -> None:
    """Whoever hears no leader stands for election, voter or not."""
    patch.setattr(Elections, "_may_campaign", told.campaign_as_anyone)


# --- witnesses --------------------------------------------------------------------------------------------------------


@mutation
def a_witness_campaigns(patch: Patch) -> None:
    """A witness stands for election, and may lead without any data."""
    patch.setattr(Elections, "_may_campaign", told.campaign_as_a_witness)


@mutation
def a_witness_gets_data(patch: Patch) -> None:
    """Entries are sent to witnesses with all they carry."""
    patch.setattr(leader_module, "without_data", lambda entry: entry)


@mutation
def a_witness_gets_data_as_it_leaves(patch: Patch) -> None:
    """A witness that is being removed is no witness of the newest configuration: it gets the data."""
    send = Leader._send_append

    def mutant(self: Leader, progress: Progress) -> bool:
        progress.witness = progress.node in self._raft.configuration.witnesses
        return send(self, progress)

    patch.setattr(Leader, "_send_append", mutant)


@mutation
def a_witness_answers_reads(patch: Patch) -> None:
    """A witness runs queries on its machine, in which nothing ever happens."""
    patch.setattr(Raft, "is_witness", property(lambda self: False))


@mutation
def a_witness_campaigns_before_it_is_told(patch: Patch) -> None:
    """Only the configuration that is applied says who is a witness: it is late by as much as that lags."""
    at_applied = property(lambda self: self.id in self.log.configurations.at(self.log.applied).witnesses)
    patch.setattr(Raft, "is_witness", at_applied)
    patch.setattr(Elections, "_may_campaign", told.campaign_as_a_witness)


# --- transfers and leases ---------------------------------------------------------------------------------------------


@mutation
def a_lease_outlives_a_transfer(patch: Patch) -> None:
    """A leader that has ordered an election goes on to trust the promises that this election breaks."""
    patch.setattr(Leader, "_hand_over_if_ready", told.keep_the_lease)


@mutation
def a_lease_from_the_answer(patch: Patch) -> None:
    """A lease begins when an answer arrives, not when the heartbeat left that it answers."""
    on_response = Leader.on_heartbeat_response

    def mutant(self: Leader, message: Any) -> None:
        on_response(self, message)
        self.progress[message.src].confirmed_at = self._raft.now

    patch.setattr(Leader, "on_heartbeat_response", mutant)


@mutation
def a_promise_broken_for_a_report(patch: Patch) -> None:
    """The word that the leader's process is gone is worth more than the promise to it."""
    patch.setattr(Raft, "report_down", told.break_the_promise_for_a_report)


@mutation
def a_promise_forgotten_at_a_restart(patch: Patch) -> None:
    """A node that starts anew votes at once, whatever it has promised before."""
    patch.setattr(Raft, "__init__", told.forget_the_promise)


@mutation
def a_promise_only_against_new_terms(patch: Patch) -> None:
    """A voter that knows the candidate's term already gives its vote, whatever it has promised."""
    patch.setattr(Elections, "on_request_vote", told.promise_only_against_new_terms)


@mutation
def a_lease_without_the_drift_bound(patch: Patch) -> None:
    """A lease lasts as long as the promise that it rests on, as if all clocks went alike."""
    patch.setattr(RaftConfig, "lease_duration", told.lease_without_the_drift_bound)


@mutation
def no_promise_at_all(patch: Patch) -> None:
    """Leaders trust their lease, and nobody keeps still for it."""
    patch.setattr(Elections, "is_promised", lambda self: False)


# --- reads ------------------------------------------------------------------------------------------------------------


@mutation
def a_lease_that_never_ends(patch: Patch) -> None:
    """A lease read is served by whoever takes itself for the leader."""
    patch.setattr(
        Leader, "holds_lease", lambda self, now: self._raft.config.max_clock_drift is not None and self.established
    )


@mutation
def a_read_at_once_without_a_lease(patch: Patch) -> None:
    """Between two turns nobody looks at the lease."""

    def mutant(self: Raft, now: float) -> bool:
        trusting = self.config.max_clock_drift is not None
        return trusting and self.leading is not None and self.log.applied >= self.log.commit

    patch.setattr(Raft, "may_read", mutant)


@mutation
def a_follower_read_without_the_leader(patch: Patch) -> None:
    """A follower answers from its state as it is."""

    def mutant(self: Raft, token: Any) -> None:
        self._reads.append(ReadState(self.log.applied, [token]))

    patch.setattr(Raft, "follower_read", mutant)


@mutation
def a_late_answer_serves_a_newer_read(patch: Patch) -> None:
    """A follower takes any index that its leader sends for that of the reads which wait now."""
    patch.setattr(ForwardedReads, "answered", told.take_any_answer)


@mutation
def a_follower_read_before_it_is_applied(patch: Patch) -> None:
    """A read is answered when its index is known, not when the machine has reached it."""

    def mutant(self: Reading) -> None:
        waiting, self._confirmed = self._confirmed, []
        for pending in [token for state in waiting for token in state.tokens]:
            self._answer(pending, self._run(pending.queries))

    patch.setattr(Reading, "answer_ready", mutant)


@mutation
def a_stale_read_of_any_age(patch: Patch) -> None:
    """Nobody looks at how old the state may be."""

    def mutant(self: Reading, pending: PendingRead) -> None:
        self._answer(pending, self._run(pending.queries))

    patch.setattr(Reading, "_answer_stale", mutant)


@mutation
def fresh_as_of_the_arrival(patch: Patch) -> None:
    """A heartbeat vouches for the moment at which it arrives, however late that is."""
    patch.setattr(Raft, "_on_heartbeat", told.fresh_as_of_the_arrival)


@mutation
def fresh_before_it_is_applied(patch: Patch) -> None:
    """A follower counts as fresh as what it has heard of, also before its machine has applied that."""
    heard = Freshness.heard
    patch.setattr(Freshness, "heard", lambda self, commit, moment, applied: heard(self, applied, moment, applied))


# --- sessions ---------------------------------------------------------------------------------------------------------


@mutation
def the_time_of_the_log_goes_back(patch: Patch) -> None:
    """The log's time follows the clock of each new leader, also backwards."""
    advance = SessionTable.advance

    def mutant(self: SessionTable, time: int) -> None:
        self.time = min(self.time, time)
        advance(self, time)

    patch.setattr(SessionTable, "advance", mutant)


@mutation
def sessions_never_expire(patch: Patch) -> None:
    """The time to live is not looked at."""

    def mutant(self: SessionTable, time: int) -> None:
        self.time = max(self.time, time)

    patch.setattr(SessionTable, "advance", mutant)
    patch.setattr(SessionTable, "check", lambda self: None)


@mutation
def a_session_is_ended_by_its_leader_alone(patch: Patch) -> None:
    """The leader forgets a session when it is told that it will not be used again, and logs nothing."""
    admit = Admission.admit

    def mutant(self: Admission, request: bytes, answer: Answer) -> list[bytes]:
        header = request_header(request)
        if header.number == LAST:
            self._sessions.close(header.session)
            answer(reply(Status.OK))
            return []
        return admit(self, request, answer)

    patch.setattr(Admission, "admit", mutant)


@mutation
def a_session_expires_while_it_is_used(patch: Patch) -> None:
    """A session lives from its opening on, however busy it is."""
    record = SessionTable.record

    def mutant(self: SessionTable, header: RequestHeader, answer: bytes) -> None:
        used = self._sessions[header.session].used
        record(self, header, answer)
        self._sessions[header.session].used = used

    patch.setattr(SessionTable, "record", mutant)


@mutation
def snapshot_without_the_time(patch: Patch) -> None:
    """A node that starts from a snapshot has forgotten the log's time."""

    def dump(self: SessionTable) -> bytes:
        return msgspec.msgpack.encode(Dump(0, list(self._sessions.items())))

    patch.setattr(SessionTable, "dump", dump)


# --- the rest ---------------------------------------------------------------------------------------------------------


@mutation
def the_leader_counts_itself_too_early(patch: Patch) -> None:
    """A leader counts its own copy of an entry before that is durable."""
    patch.setattr(Leader, "maybe_commit", told.count_the_leader_too_early)


@mutation
def the_window_leaks(patch: Patch) -> None:
    """An answer frees only the message that it answers: each lost one narrows the window for ever."""
    patch.setattr(Inflights, "free_to", told.free_only_its_own)


@mutation
def lost_entries_are_not_sent_again(patch: Patch) -> None:
    """A leader waits for the answer to entries that were lost."""
    patch.setattr(Progress, "heartbeat_answered", told.never_notice_a_stall)


@mutation
def a_write_of_replaced_entries_counts(patch: Patch) -> None:
    """An old write that ends vouches for the entries that have replaced it meanwhile."""
    patch.setattr(RaftLog, "stable_to", told.believe_any_write)


@mutation
def a_snapshot_ends_before_the_commit(patch: Patch) -> None:
    """The state is saved under the index of the last entry in the log."""
    take = Compaction.take

    def mutant(self: Compaction) -> None:
        begin = self._snapshotter.begin

        def later(meta: SnapshotMeta, save: Any) -> None:
            index = self._raft.log.stable
            begin(SnapshotMeta(index, self._raft.log.term(index) or 0, meta.configuration), save)

        self._snapshotter.begin = later  # type: ignore[method-assign]
        try:
            take(self)
        finally:
            self._snapshotter.begin = begin  # type: ignore[method-assign]

    patch.setattr(Compaction, "take", mutant)


@mutation
def an_entry_is_applied_twice(patch: Patch) -> None:
    """What was handed out to be applied is forgotten when leadership changes."""
    become = Raft.become_follower

    def mutant(self: Raft, term: int, leader: int) -> None:
        become(self, term, leader)
        self._applying = max(self.store.snapshot().index, min(self._applying, self.log.applied - 1))

    patch.setattr(Raft, "become_follower", mutant)
