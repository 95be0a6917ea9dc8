"""Bugs planted on purpose: each must be caught by a check that the other tests use too."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from typing import Any, BinaryIO

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from rayraft.machine import calls, digest, objects, sessions
from rayraft.machine.replicated import ReplicatedMachine
from rayraft.machine.requests import RequestHeader
from rayraft.machine.sessions import SessionTable
from tests.machine import test_digest, test_objects, test_replicated, test_sessions

Plant = Callable[[pytest.MonkeyPatch], None]


def caught_by(check: Callable[[], None]) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check()


def any_story_of_sessions() -> None:
    quick = settings(
        max_examples=200, stateful_step_count=30, deadline=None, database=None, phases=[Phase.generate],
        derandomize=True, print_blob=False,
    )  # fmt: skip
    run_state_machine_as_test(test_sessions.TableStory, settings=quick)


def no_deduplication(patch: pytest.MonkeyPatch) -> None:
    """A retry is taken for the next request."""
    answer = SessionTable.answer

    def lenient(self: SessionTable, header: RequestHeader) -> bytes | None:
        return None if header.session in self._sessions else answer(self, header)

    patch.setattr(SessionTable, "answer", lenient)


def numbers_may_overtake(patch: pytest.MonkeyPatch) -> None:
    answer = SessionTable.answer

    def lenient(self: SessionTable, header: RequestHeader) -> bytes | None:
        applied = self.applied(header.session)
        return None if applied is not None and header.number > applied else answer(self, header)

    patch.setattr(SessionTable, "answer", lenient)


def replies_dropped_too_early(patch: pytest.MonkeyPatch) -> None:
    """As if the client had confirmed everything before the newest request."""
    record = SessionTable.record
    patch.setattr(
        SessionTable,
        "record",
        lambda self, header, answer: record(self, header._replace(answered=header.number - 1), answer),
    )


def the_wrong_session_expires(patch: pytest.MonkeyPatch) -> None:
    """In order of opening, not of use."""
    record = SessionTable.record

    def keep_place(self: SessionTable, header: RequestHeader, answer: bytes) -> None:
        order = list(self._sessions)
        record(self, header, answer)
        self._sessions = {session: self._sessions[session] for session in order}

    patch.setattr(SessionTable, "record", keep_place)


def using_a_session_does_not_prolong_it(patch: pytest.MonkeyPatch) -> None:
    record = SessionTable.record

    def keep_time(self: SessionTable, header: RequestHeader, answer: bytes) -> None:
        used = self._sessions[header.session].used
        record(self, header, answer)
        self._sessions[header.session].used = used

    patch.setattr(SessionTable, "record", keep_time)


@pytest.mark.parametrize(
    "plant",
    [
        no_deduplication,
        numbers_may_overtake,
        replies_dropped_too_early,
        the_wrong_session_expires,
    ],
)
def test_the_story_of_sessions_catches(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    caught_by(any_story_of_sessions)


def test_a_session_that_lives_no_longer_for_being_used_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    using_a_session_does_not_prolong_it(monkeypatch)
    caught_by(test_sessions.test_a_session_that_was_idle_for_longer_than_its_time_to_live_is_gone)


def test_a_digest_of_another_form_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """It had every node that replayed a log of an older version take itself for wrong, and none would serve."""
    form = "The same, told in another way"
    monkeypatch.setattr(SessionTable, "digest", lambda self: form.encode() + bytes(self.dump()))
    caught_by(test_sessions.check_an_older_log_still_agrees)


def sessions_left_out_of_the_snapshot(patch: pytest.MonkeyPatch) -> None:
    def restore(self: ReplicatedMachine, stream: BinaryIO) -> None:
        stream.read(int.from_bytes(stream.read(8), "little"))
        self.machine.restore(stream)

    patch.setattr(ReplicatedMachine, "restore", restore)


def replies_left_out_of_the_snapshot(patch: pytest.MonkeyPatch) -> None:
    load = SessionTable.load

    def without_replies(self: SessionTable, data: bytes) -> None:
        load(self, data)
        for session in self._sessions.values():
            session.replies.clear()

    patch.setattr(SessionTable, "load", without_replies)


def sessions_expire_by_a_local_clock(patch: pytest.MonkeyPatch) -> None:
    advance = SessionTable.advance
    patch.setattr(SessionTable, "advance", lambda self, now: advance(self, int(time.time() * 1000)))


def times_of_use_left_out_of_the_snapshot(patch: pytest.MonkeyPatch) -> None:
    load = SessionTable.load

    def load_anew(self: SessionTable, data: bytes) -> None:
        load(self, data)
        for session in self._sessions.values():
            session.used = self.time + 1000
        self._set_alarms()

    patch.setattr(SessionTable, "load", load_anew)


def times_to_live_left_out_of_the_snapshot(patch: pytest.MonkeyPatch) -> None:
    load = SessionTable.load

    def load_with_defaults(self: SessionTable, data: bytes) -> None:
        load(self, data)
        for session in self._sessions.values():
            session.ttl = sessions.DEFAULT_TTL_MS
        self._set_alarms()

    patch.setattr(SessionTable, "load", load_with_defaults)


@pytest.mark.parametrize(
    "plant",
    [
        sessions_expire_by_a_local_clock,
        times_of_use_left_out_of_the_snapshot,
        times_to_live_left_out_of_the_snapshot,
    ],
)
def test_the_story_of_the_logs_clock_catches(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    caught_by(lambda: test_replicated.check_sessions_expire_by_the_clock_of_the_log(monkeypatch))


@pytest.mark.parametrize("plant", [sessions_left_out_of_the_snapshot, replies_left_out_of_the_snapshot])
def test_the_story_of_a_snapshot_catches(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    caught_by(test_replicated.test_a_replica_that_starts_from_a_snapshot_still_applies_once)


def a_set_is_hashed_by_its_size(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(digest, "_feed_set", lambda hasher, items, above: None)


def attributes_are_not_hashed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(digest, "_feed_object", lambda hasher, value, above: hasher.update(type(value).__qualname__.encode()))


@pytest.mark.parametrize("plant", [a_set_is_hashed_by_its_size, attributes_are_not_hashed])
def test_the_gallery_of_different_states_catches(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    caught_by(test_digest.check_different_states_have_different_digests)


def a_set_is_hashed_in_its_own_order(patch: pytest.MonkeyPatch) -> None:
    def in_order(hasher: Any, items: Any, above: Any) -> None:
        for item in items:
            hasher.update(digest.digest_of(item))

    patch.setattr(digest, "_feed_set", in_order)


def test_the_gallery_of_equal_states_catches_a_set_in_its_own_order(monkeypatch: pytest.MonkeyPatch) -> None:
    a_set_is_hashed_in_its_own_order(monkeypatch)
    caught_by(test_digest.check_equal_states_have_equal_digests)


def test_results_that_are_not_frozen_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "freeze", lambda result: result)
    caught_by(test_objects.test_a_result_is_what_it_was_when_its_command_returned)


def test_a_roll_back_on_the_same_object_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        objects.ObjectMachine, "_replace", lambda self, state: objects.set_object_state(self._object, state)
    )
    caught_by(lambda: test_objects.test_rolling_back_removes_attributes_that_the_command_made(test_objects.Drafts))


def test_methods_that_stay_bound_to_the_object_before_a_roll_back_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    bind = objects.ObjectMachine._bind

    def anew(self: objects.ObjectMachine) -> None:
        self._commands, self._queries = {}, {}
        bind(self)

    monkeypatch.setattr(objects.ObjectMachine, "_bind", anew)
    caught_by(test_objects.check_commands_behind_a_roll_back_count)


def test_exceptions_that_are_not_tried_before_they_are_sent_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def untried(error: BaseException) -> calls.Raised:
        return calls.Raised(pickle.dumps(error))

    monkeypatch.setattr(calls.Raised, "of", untried)
    with pytest.raises(TypeError):
        test_objects.test_an_exception_that_can_not_travel_is_described_and_spoils_no_neighbour("NeedsTwo")
