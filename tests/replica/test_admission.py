"""The leader's door: whatever arrives in whatever order, sessions stay in order and everyone gets one answer."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from rayraft.machine.requests import NEW_SESSION, RequestKey, Status, encode_request, reply, request_header
from rayraft.machine.sessions import SessionTable
from rayraft.replica.admission import MAX_EARLY, Admission

BUSY = reply(Status.BUSY)
NOT_LEADER = reply(Status.NOT_LEADER)
EXPIRED = reply(Status.SESSION_EXPIRED)


def request(session: int, number: int, answered: int = 0) -> bytes:
    return encode_request(session, number, answered, [])


class Door:
    """An admission with the log behind it; every arrival has a list that its answers go to."""

    def __init__(self, *sessions: int, max_sessions: int = 10) -> None:
        self.table = SessionTable(max_sessions)
        for session in sessions:
            self.table.open(session)
        self.admission = Admission(self.table)
        self.log: list[bytes] = []  # admitted, not yet applied
        self.arrivals: list[tuple[RequestKey, list[bytes]]] = []

    def arrive(self, session: int, number: int, answered: int = 0) -> list[bytes]:
        answers: list[bytes] = []
        self.arrivals.append(((session, number), answers))
        self.log += self.admission.admit(request(session, number, answered), answers.append)
        return answers

    def apply(self) -> bytes:
        """The oldest request of the log is applied."""
        header = request_header(self.log.pop(0))
        answer = self.table.answer(header)
        if answer is None:
            answer = reply(Status.OK, repr(header.key).encode())
            self.table.record(header, answer)
        self.admission.answered(header.key, answer)
        return answer

    def logged(self) -> list[RequestKey]:
        return [request_header(request).key for request in self.log]


def ok(session: int, number: int) -> bytes:
    return reply(Status.OK, repr((session, number)).encode())


# --- the rules one by one ---------------------------------------------------------------------------------------------


def test_a_request_that_came_too_early_waits_for_the_one_before_it() -> None:
    door = Door(5)
    for number in (3, 2):
        door.arrive(5, number)
    assert door.logged() == []
    door.arrive(5, 1)
    assert door.logged() == [(5, 1), (5, 2), (5, 3)]


def test_everyone_who_asks_for_the_same_request_gets_the_one_answer() -> None:
    door = Door(5)
    first, second = door.arrive(5, 1), door.arrive(5, 1)
    assert door.logged() == [(5, 1)]
    assert door.admission.open_requests == 1
    door.apply()
    assert first == second == door.arrive(5, 1) == [ok(5, 1)]


def test_an_early_request_that_comes_again_takes_the_place_of_its_first_copy() -> None:
    door = Door(5)
    first, second = door.arrive(5, 2), door.arrive(5, 2)
    assert (first, second) == ([BUSY], [])
    door.arrive(5, 1)
    door.apply(), door.apply()
    assert (first, second) == ([BUSY], [ok(5, 2)])


def test_too_many_early_requests_are_sent_back() -> None:
    door = Door(5)
    held = [door.arrive(5, number) for number in range(2, MAX_EARLY + 2)]
    assert door.arrive(5, MAX_EARLY + 2) == [BUSY]
    assert not any(held)


def test_a_leader_does_not_decide_alone_that_a_session_is_gone() -> None:
    """It may have been deposed unawares, and the session opened at its successor."""
    door = Door()
    answers = door.arrive(5, 4)
    assert answers == []
    assert door.logged() == [(5, 4)]
    assert door.apply() == EXPIRED
    assert answers == [EXPIRED]


def test_two_clients_that_open_sessions_do_not_get_the_same_one() -> None:
    door = Door()
    door.arrive(NEW_SESSION, 111)
    door.arrive(NEW_SESSION, 222)
    door.arrive(NEW_SESSION, 111)
    assert door.logged() == [(NEW_SESSION, 111), (NEW_SESSION, 222)]


def test_after_leadership_is_lost_a_retry_enters_the_log_again() -> None:
    door = Door(5)
    waiting, early = door.arrive(5, 1), door.arrive(5, 3)
    door.admission.refuse_all(NOT_LEADER)
    assert waiting == early == [NOT_LEADER]
    door.log.clear()  # rolled back
    door.arrive(5, 1)
    assert door.logged() == [(5, 1)]


def test_what_waits_in_a_session_that_is_gone_is_sent_back() -> None:
    door = Door(5, max_sessions=1)
    early = door.arrive(5, 2)
    door.table.open(6)
    door.admission.prune()
    assert early == [BUSY]


def test_pruning_forgets_only_what_the_table_knows() -> None:
    door = Door(5, 6)
    door.arrive(5, 1), door.arrive(6, 1)
    door.apply()
    door.admission.prune()
    door.arrive(5, 2), door.arrive(6, 2)
    assert door.logged() == [(6, 1), (5, 2), (6, 2)]


def test_bytes_that_are_no_request_are_refused() -> None:
    answers: list[bytes] = []
    assert Admission(SessionTable()).admit(b"short", answers.append) == []
    assert [answer[0] for answer in answers] == [Status.FAILED]


# --- any interleaving -------------------------------------------------------------------------------------------------


class DoorStory(RuleBasedStateMachine):
    """Arrivals, repeats, applies, expiries and changes of leadership in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.door = Door(1, 2, max_sessions=3)
        self.opened = 2
        self.admitted: dict[int, int] = {}  # the highest number of each session in the log
        self.replies: dict[RequestKey, set[bytes]] = {}

    @rule(data=st.data(), number=st.integers(1, 6))
    def a_request_arrives(self, data: st.DataObject, number: int) -> None:
        session = data.draw(st.integers(max(1, self.opened - 4), self.opened))  # the oldest of these have expired
        known = self.door.table.applied(session)
        before = len(self.door.log)
        self.door.arrive(session, number)
        for key in self.door.logged()[before:]:
            assert key[0] == session
            if known is not None:
                assert key[1] == max(known, self.admitted.get(session, 0)) + 1, "a number overtook another"
                self.admitted[session] = known = key[1]

    @rule(count=st.integers(1, 4))
    def the_log_is_applied(self, count: int) -> None:
        for _ in range(min(count, len(self.door.log))):
            answer = self.door.apply()
            assert answer[0] != Status.OUT_OF_ORDER, "the log got what the table refuses"

    @rule(kept=st.integers(0, 4))
    def leadership_is_lost_and_won_again(self, kept: int) -> None:
        """What was logged may be rolled back or not; the next leadership begins when the rest is applied."""
        self.door.admission.refuse_all(NOT_LEADER)
        assert self.door.admission.open_requests == 0
        assert all(answers for _, answers in self.door.arrivals), "somebody waits at a node that does not lead"
        del self.door.log[kept:]
        self.the_log_is_applied(len(self.door.log) or 1)
        self.admitted.clear()

    @rule()
    def a_session_is_opened(self) -> None:
        self.opened += 1
        self.door.table.open(self.opened)

    @rule()
    def the_log_is_cut(self) -> None:
        self.door.admission.prune()

    @invariant()
    def nobody_is_answered_twice_or_differently(self) -> None:
        self.door.table.check()
        for key, answers in self.door.arrivals:
            assert len(answers) <= 1, f"{key} was answered twice"
            self.replies.setdefault(key, set()).update(answer for answer in answers if answer[0] == Status.OK)
        for key, replies in self.replies.items():
            assert replies <= {ok(*key)}

    def teardown(self) -> None:
        self.leadership_is_lost_and_won_again(0)


TestDoorStory: Any = DoorStory.TestCase
TestDoorStory.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
