"""Bugs planted in the replica on purpose: each must be caught by a check that the other tests use too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from rayraft.machine.requests import RequestKey, not_leader
from rayraft.raft.types import InstallSnapshotResponse, SnapshotMeta
from rayraft.replica.admission import Admission, Answer
from rayraft.replica.compaction import Compaction
from rayraft.replica.reading import Reading
from rayraft.replica.replica import Replica
from rayraft.replica.trail import Trail
from rayraft.replica.transfer import Pace, SnapshotSender
from rayraft.storage.memory import MemorySnapshotStore
from tests.replica import test_admission, test_replica, test_transfer
from tests.replica.support import Group

Plant = Callable[[pytest.MonkeyPatch], None]


def any_story_at_the_door() -> None:
    quick = settings(
        max_examples=200, stateful_step_count=20, deadline=None, database=None, phases=[Phase.generate],
        derandomize=True, print_blob=False,
    )  # fmt: skip
    run_state_machine_as_test(test_admission.DoorStory, settings=quick)


def numbers_overtake(patch: pytest.MonkeyPatch) -> None:
    """What came too early goes into the log with the next request, wherever it belongs."""
    admit = Admission.admit

    def impatient(self: Admission, request: bytes, answer: Answer) -> list[bytes]:
        admitted = admit(self, request, answer)
        for session, early in self._early.items():
            for number, (held, waiting) in early.items():
                self._waiting[session, number] = [waiting]
                admitted.append(held)
        self._early.clear()
        return admitted

    patch.setattr(Admission, "admit", impatient)


def a_retry_replaces_the_one_who_asked_first(patch: pytest.MonkeyPatch) -> None:
    answered = Admission.answered

    def only_the_last(self: Admission, key: RequestKey, data: bytes) -> None:
        if key in self._waiting:
            del self._waiting[key][:-1]
        answered(self, key, data)

    patch.setattr(Admission, "answered", only_the_last)


def answers_stay_after_they_were_given(patch: pytest.MonkeyPatch) -> None:
    def answered(self: Admission, key: RequestKey, data: bytes) -> None:
        for answer in self._waiting.get(key, ()):
            answer(data)

    patch.setattr(Admission, "answered", answered)


def early_ones_are_forgotten_with_leadership(patch: pytest.MonkeyPatch) -> None:
    refuse_all = Admission.refuse_all

    def forgetful(self: Admission, data: bytes) -> None:
        self._early.clear()
        refuse_all(self, data)

    patch.setattr(Admission, "refuse_all", forgetful)


def numbers_are_remembered_beyond_leadership(patch: pytest.MonkeyPatch) -> None:
    """What was rolled back would never be let in again."""
    refuse_all = Admission.refuse_all

    def remembering(self: Admission, data: bytes) -> None:
        proposed = self._proposed
        refuse_all(self, data)
        self._proposed = proposed

    patch.setattr(Admission, "refuse_all", remembering)


@pytest.mark.parametrize(
    "plant", [numbers_overtake, answers_stay_after_they_were_given, early_ones_are_forgotten_with_leadership]
)
def test_any_story_at_the_door_catches(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    caught_by(any_story_at_the_door)


def caught_by(check: Callable[..., None], *args: Any) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check(*args)


def test_forgetting_the_one_who_asked_first_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    a_retry_replaces_the_one_who_asked_first(monkeypatch)
    caught_by(test_admission.test_everyone_who_asks_for_the_same_request_gets_the_one_answer)


def test_remembering_what_was_rolled_back_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers_are_remembered_beyond_leadership(monkeypatch)
    caught_by(test_admission.test_after_leadership_is_lost_a_retry_enters_the_log_again)


def test_reads_that_are_not_confirmed_by_a_quorum_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The leader answers from its own state, believing that it still leads."""

    def begin(self: Reading) -> None:
        reads, self._arrived = self._arrived, []
        for pending in reads:
            if self._raft.serves:
                self._answer(pending, self._run(pending.queries))
            else:
                self._answer(pending, not_leader(self._raft.leader, self._raft.term))

    monkeypatch.setattr(Reading, "begin", begin)
    caught_by(test_replica.check_a_deposed_leader_serves_no_reads, Group(check_quorum=False))


def test_a_leader_that_takes_requests_before_its_no_op_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Replica, "_holding", lambda self: False)
    caught_by(test_replica.test_a_new_leader_holds_requests_until_it_knows_what_was_committed_before)


def test_refusing_only_the_reads_at_hand_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse_all(self: Replica, data: bytes) -> None:
        self._admission.refuse_all(data)
        for _, answer in self._requests:
            answer(data)
        arrived, self._reading._arrived = self._reading._arrived, []
        for pending in arrived:
            self._reading._answer(pending, data)
        self._requests = []

    monkeypatch.setattr(Replica, "refuse_all", refuse_all)
    caught_by(test_replica.test_when_a_node_stops_everyone_who_waits_is_told_once)


def test_a_snapshot_that_is_not_verified_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def finish(self: MemorySnapshotStore, meta: Any) -> None:
        self._saved[meta.index, meta.term] = bytes(self._parts.pop((meta.index, meta.term)))

    monkeypatch.setattr(MemorySnapshotStore, "finish", finish)
    with pytest.raises(Exception, match=r"."):
        test_transfer.test_chunks_of_two_leaders_that_saved_the_same_index_are_not_mixed()


def test_chunks_that_are_appended_wherever_they_belong_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def receive(self: MemorySnapshotStore, meta: Any, offset: int, data: bytes, total: int = 0) -> int:
        part = self._parts.setdefault((meta.index, meta.term), bytearray())
        part += data
        return len(part)

    monkeypatch.setattr(MemorySnapshotStore, "receive", receive)
    caught_by(test_transfer.test_chunks_that_come_twice_or_too_late_are_put_in_place_once)


def test_a_log_behind_a_snapshot_that_is_bounded_in_entries_alone_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Trail.__init__
    monkeypatch.setattr(Trail, "__init__", lambda self, max_entries, max_bytes: made(self, max_entries, 1 << 60))
    with pytest.raises(AssertionError):
        test_replica.check_the_log_behind_a_snapshot_is_bounded_in_bytes()


def no_pace(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Pace, "spend", lambda self, size, now: None)


def unused_time_is_saved_up_for_ever(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("rayraft.replica.transfer.BURST", 1e9)


def one_follower_before_the_others(patch: pytest.MonkeyPatch) -> None:
    on_response = SnapshotSender.on_response

    def to_the_front(self: SnapshotSender, message: InstallSnapshotResponse) -> bool | None:
        whole = on_response(self, message)
        self._ready = dict.fromkeys(sorted(self._ready))
        return whole

    patch.setattr(SnapshotSender, "on_response", to_the_front)


@pytest.mark.parametrize("plant", [no_pace, unused_time_is_saved_up_for_ever, one_follower_before_the_others])
def test_the_story_of_the_pace_catches(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        test_transfer.check_transfers_keep_to_the_pace_and_take_turns()


def test_a_newer_snapshot_that_ends_a_transfer_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    record = Compaction._record

    def discard_at_once(self: Compaction) -> bool:
        done = record(self)
        self._snapshots.discard_except(self._store.snapshot())
        return done

    monkeypatch.setattr(Compaction, "_record", discard_at_once)
    with pytest.raises((AssertionError, KeyError)):
        test_transfer.check_a_newer_snapshot_does_not_end_a_transfer()


def test_forgetting_what_is_half_received_at_the_start_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    discard_except = MemorySnapshotStore.discard_except

    def discard_all(self: MemorySnapshotStore, keep: SnapshotMeta) -> None:
        discard_except(self, keep)
        self._parts.clear()

    monkeypatch.setattr(MemorySnapshotStore, "discard_except", discard_all)
    with pytest.raises(AssertionError):
        test_transfer.check_a_transfer_goes_on_where_a_follower_that_started_anew_has_got_to()
