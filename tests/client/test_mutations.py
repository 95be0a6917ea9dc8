"""Bugs planted in the client on purpose: each must be caught by a check that the other tests use too."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from queue import Empty
from typing import Any

import pytest

from rayraft.client import client as module
from rayraft.client.client import FOREVER, Client, Lifeline
from rayraft.client.lane import Lane, Sent
from rayraft.client.results import Packet
from rayraft.errors import RayraftError
from rayraft.machine.requests import encode_request, request_commands
from rayraft.machine.sessions import SessionTable
from tests.client import test_client, test_handle

Plant = Callable[[pytest.MonkeyPatch], None]
PATIENCE = 0.5  # a planted bug may well show as a call without an answer


def bad_networks() -> None:
    for seed in range(4):
        test_client.check_exactly_once_and_in_order(seed, PATIENCE)


def sessions_forgotten() -> None:
    for seed in range(20):
        test_client.check_forgotten_sessions(seed, PATIENCE)


def numbers_anew_on_a_retry(patch: pytest.MonkeyPatch) -> None:
    """As if a request that is sent again were another one."""
    send = Client._send

    def renumbered(self: Client, lane: Lane, number: int, sent: Sent) -> None:
        if sent.attempt and number > 0 and lane.reads is None:
            lane.last_number += 1
            sent.data = encode_request(self._session, lane.last_number, 0, request_commands(sent.data))
        send(self, lane, number, sent)

    patch.setattr(Client, "_send", renumbered)


def opens_a_session_for_a_retry(patch: pytest.MonkeyPatch) -> None:
    """What was under way when a session ended is sent again in the next one."""

    def on_expired(self: Client, number: int, refused: Sent) -> None:
        lane = self._commands
        for sent in lane.sent.values():
            lane.waiting.extendleft(sent.packets)
        lane.sent, lane.last_number = {}, 0
        self._session, self._opening = 0, False
        self._wake.put(None)

    patch.setattr(Client, "_on_expired", on_expired)


def full_packets_overtake(patch: pytest.MonkeyPatch) -> None:
    def close_filling(self: Lane) -> None:
        if self.filling.calls:
            self.waiting.appendleft(self.filling)
            self.filling = Packet()

    patch.setattr(Lane, "close_filling", close_filling)


def confirms_what_it_has_not_heard(patch: pytest.MonkeyPatch) -> None:
    """The machine forgets replies that a retry still needs."""
    patch.setattr(
        module,
        "encode_request",
        lambda session, number, answered, calls: encode_request(session, number, max(0, number - 1), calls),
    )


def keeps_what_was_answered_in_the_account(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Client, "_forget", lambda self, packet: None)


def gives_up_after_one_attempt(patch: pytest.MonkeyPatch) -> None:
    def back_off(self: Client, sent: Sent) -> None:
        sent.due = module.FOREVER

    patch.setattr(Client, "_back_off", back_off)


@pytest.mark.parametrize(
    "plant",
    [
        numbers_anew_on_a_retry,
        full_packets_overtake,
        confirms_what_it_has_not_heard,
        keeps_what_was_answered_in_the_account,
        gives_up_after_one_attempt,
    ],
)
def test_a_bad_network_catches(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    with pytest.raises((AssertionError, RayraftError)):
        bad_networks()


def test_a_bad_network_catches_a_machine_that_forgot_to_deduplicate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SessionTable, "answer", lambda self, header: None)
    with pytest.raises((AssertionError, RayraftError)):
        bad_networks()


def caught_by(check: Callable[..., None], *args: Any) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check(*args)


def noticed(monkeypatch: pytest.MonkeyPatch, check: Callable[[], None]) -> None:
    """As `caught_by`, also by a call that never comes."""
    monkeypatch.setattr("tests.client.support.PATIENCE", PATIENCE)
    monkeypatch.setattr(test_client, "PATIENCE", PATIENCE)
    with pytest.raises((AssertionError, pytest.fail.Exception, RayraftError, Empty)):
        check()


def test_sending_lost_commands_again_in_a_new_session_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    opens_a_session_for_a_retry(monkeypatch)
    noticed(monkeypatch, test_client.check_what_a_forgotten_session_may_have_applied_fails)
    noticed(monkeypatch, sessions_forgotten)


def test_leaving_a_session_with_something_under_way_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    has_session = Client._has_session

    def careless(self: Client) -> bool:
        sent, self._commands.sent = self._commands.sent, {}
        try:
            return has_session(self)
        finally:
            self._commands.sent = sent

    monkeypatch.setattr(Client, "_has_session", careless)
    caught_by(test_client.check_a_session_with_something_under_way_is_not_left)


def test_sending_again_what_a_forgotten_session_may_have_applied_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    on_expired = Client._on_expired

    def careless(self: Client, number: int, refused: Sent) -> None:
        refused.attempt = 1
        on_expired(self, number, refused)

    monkeypatch.setattr(Client, "_on_expired", careless)
    noticed(monkeypatch, test_client.check_what_a_forgotten_session_may_have_applied_fails)


def test_leaving_without_a_word_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Client, "leave", Client.close)
    noticed(monkeypatch, test_client.check_a_client_that_leaves_ends_its_session)


def test_a_client_that_lingers_for_ever_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Client, "_ends", lambda self, now: FOREVER)
    noticed(monkeypatch, test_client.check_a_client_that_nobody_held_for_its_time_leaves)


def test_a_dropped_handle_that_fails_its_calls_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_handle, "PATIENCE", PATIENCE)

    def hold(self: Client) -> Lifeline:
        held = Lifeline()
        self._lifeline = weakref.ref(held, lambda _: self.close())
        return held

    monkeypatch.setattr(Client, "hold", hold)
    with pytest.raises((AssertionError, RayraftError, Empty)):
        test_handle.check_calls_of_a_dropped_handle_are_answered()


def test_a_dropped_handle_that_keeps_its_client_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_handle, "PATIENCE", PATIENCE)
    monkeypatch.setattr(Client, "hold", lambda self: Lifeline())
    store = test_handle.STORES["store"] = test_handle.Store()
    caught_by(test_handle.check_a_dropped_handle_ends_its_client, store)


def test_a_retired_client_that_waits_for_answers_only_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_handle, "PATIENCE", PATIENCE)
    monkeypatch.setattr(Client, "_ends", lambda self, now: FOREVER if self._open_calls else now)
    caught_by(test_handle.check_a_dropped_handle_of_a_group_that_is_gone_ends_its_client)


def test_a_retired_client_that_leaves_who_waits_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_handle, "PATIENCE", PATIENCE)
    monkeypatch.setattr(Client, "_ends", lambda self, now: now)
    with pytest.raises((AssertionError, Empty)):
        test_handle.check_a_client_goes_on_while_somebody_waits(test_handle.wait_in_a_thread)


def test_a_coroutine_that_leaves_its_place_behind_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_handle, "PATIENCE", PATIENCE)
    monkeypatch.setattr(Packet, "stop_awaiting", lambda self, loop, arrival: None)
    caught_by(test_handle.check_a_coroutine_that_gave_up_is_not_waited_for)


def test_an_answer_that_nobody_takes_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_client, "PATIENCE", PATIENCE)
    wait = Packet.wait

    def forgetful(self: Packet, timeout_s: float | None) -> bool:
        self.call = None
        return wait(self, PATIENCE)

    monkeypatch.setattr(Packet, "wait", forgetful)
    with pytest.raises((AssertionError, RayraftError, TimeoutError)):
        test_client.check_a_caller_who_waits_takes_its_answer()


@pytest.mark.parametrize("place", range(3))
def test_a_turn_to_wake_that_is_not_passed_on_is_caught(place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_client, "PATIENCE", PATIENCE)

    def leave_and_forget(self: Packet, waiter: Any) -> None:
        for queue in (self._waiters, self._to_wake):
            if waiter in queue:
                queue.remove(waiter)

    monkeypatch.setattr(Packet, "_stop_waiting", leave_and_forget)
    with pytest.raises((AssertionError, TimeoutError)):
        test_client.check_who_waits_no_longer_keeps_nobody_waiting(place)


def test_a_taker_who_is_not_counted_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    wait = Packet.wait

    def first_take_then_wait(self: Packet, timeout_s: float) -> bool:
        call, self.call = self.call, None
        if call is not None:
            call.wait(timeout_s)
        return wait(self, timeout_s)

    monkeypatch.setattr(Packet, "wait", first_take_then_wait)
    with pytest.raises(AssertionError):
        test_client.check_who_takes_the_answer_is_one_of_those_who_wait_for_it()


def test_results_that_move_up_when_a_call_is_withdrawn_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The place of a call that was withdrawn must stay empty, or its neighbour's result moves there."""
    seal = Packet.seal

    def closing_up(self: Packet) -> list[bytes]:
        self.calls = seal(self)
        return self.calls

    monkeypatch.setattr(Packet, "seal", closing_up)
    with pytest.raises((AssertionError, IndexError)):
        test_client.test_a_call_that_did_not_leave_is_withdrawn_and_certainly_has_no_effect()


def test_withdrawing_only_the_first_call_of_a_batch_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    withdraw = Packet.withdraw
    monkeypatch.setattr(Packet, "withdraw", lambda self, positions: withdraw(self, positions[:1]))
    caught_by(test_handle.check_a_batch_that_runs_out_of_time_has_no_effect_later, test_handle.Store())


def test_a_storm_of_copies_to_the_new_leader_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer to an old attempt must not set off another one."""
    on_answer = Client._on_answer

    def forgetful(self: Client, lane: Lane, number: int, sent: Sent, attempt: int, answer: Any) -> None:
        on_answer(self, lane, number, sent, sent.attempt, answer)

    monkeypatch.setattr(Client, "_on_answer", forgetful)
    caught_by(test_client.test_when_a_watch_tells_of_a_new_leader_everything_goes_there_once_and_in_order)
