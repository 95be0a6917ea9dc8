"""Exactly once: the session table against a plain model of what each client has asked and been told."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rayraft.machine.requests import RequestHeader, Status, reply
from rayraft.machine.sessions import DEFAULT_TTL_MS, SessionTable

EXPIRED = reply(Status.SESSION_EXPIRED)
OUT_OF_ORDER = reply(Status.OUT_OF_ORDER)
MAX_SESSIONS = 3
MAX_REPLY_BYTES = 24  # six replies


def ok(session: int, number: int) -> bytes:
    return reply(Status.OK, b"%d.%d" % (session, number))


def apply(table: SessionTable, session: int, number: int, answered: int = 0) -> bytes:
    """What the log does with a request."""
    header = RequestHeader(session, number, answered)
    answer = table.answer(header)
    if answer is None:
        answer = ok(session, number)
        table.record(header, answer)
    return answer


# --- the rules one by one ---------------------------------------------------------------------------------------------


def test_a_retry_gets_the_first_answer_and_is_not_applied_again() -> None:
    table = SessionTable()
    table.open(5)
    assert apply(table, 5, 1) == ok(5, 1)
    assert table.answer(RequestHeader(5, 1, 0)) == ok(5, 1)
    assert table.applied(5) == 1


def test_a_number_that_overtook_another_is_sent_back() -> None:
    table = SessionTable()
    table.open(5)
    assert apply(table, 5, 2) == OUT_OF_ORDER
    assert table.applied(5) == 0


def test_replies_are_kept_until_the_client_has_confirmed_them() -> None:
    table = SessionTable()
    table.open(5)
    for number in (1, 2, 3):
        apply(table, 5, number)
    apply(table, 5, 4, answered=2)
    assert [apply(table, 5, number) for number in (1, 2, 3, 4)] == [EXPIRED, EXPIRED, ok(5, 3), ok(5, 4)]


def test_an_unknown_session_is_told_so_and_nothing_is_applied() -> None:
    table = SessionTable()
    assert apply(table, 9, 1) == EXPIRED
    assert table.applied(9) is None


def test_the_session_that_was_used_least_recently_goes_first() -> None:
    table = SessionTable(max_sessions=2)
    table.open(1)
    table.open(2)
    apply(table, 1, 1)
    table.open(3)
    assert [table.applied(session) for session in (1, 2, 3)] == [1, None, 0]


def test_a_table_brought_back_from_bytes_forgets_the_same_session_next() -> None:
    table = SessionTable(max_sessions=2)
    for session in (1, 2):
        table.open(session)
    apply(table, 1, 1)
    other = SessionTable(max_sessions=2)
    other.load(table.dump())
    for each in (table, other):
        each.open(3)
    assert other.dump() == table.dump()
    assert other.applied(2) is None


def test_the_digest_tells_tables_apart_and_ignores_how_a_reply_was_pickled_and_whether_it_is_kept() -> None:
    def table(*numbers: int, answered: int = 0, answer: bytes = b"same", max_reply_bytes: int = 100) -> bytes:
        made = SessionTable(max_reply_bytes=max_reply_bytes)
        for session in (1, 2):
            made.open(session)
            for number in numbers:
                made.record(RequestHeader(session, number, answered), answer)
        return made.digest()

    assert table(1, 2) == table(1, 2, answer=b"pickled otherwise") == table(1, 2, max_reply_bytes=1)
    assert len({table(), table(1), table(1, 2), table(1, 2, answered=1)}) == 4


OLDER_DIGEST = "00522b08c914741a0efaba67e61be841"
OLDER_DUMP = "92cd04b09292cf800000000000000794018101c40178cd04b0cd01f4920594068205c402723506c4027236cd04b0ce0036ee80"


def check_an_older_log_still_agrees() -> None:
    """Its digests were reckoned by an older version, which kept no ``confirmed``: a node that replays it compares."""
    table = SessionTable()
    table.advance(1000)
    long, brief = 5, 2**63 + 7
    table.open(long)
    table.open(brief, ttl=500)
    for number in (1, 2, 3):
        table.record(RequestHeader(long, number, 0), b"r%d" % number)
    table.advance(1200)
    table.record(RequestHeader(long, 4, 2), b"r4")
    table.record(RequestHeader(brief, 1, 0), b"x")
    table.record(RequestHeader(long, 5, 4), b"r5")
    table.record(RequestHeader(long, 6, 4), b"r6")
    older = SessionTable()
    older.load(bytes.fromhex(OLDER_DUMP))
    for each in (table, older):
        each.check()
        assert each.digest().hex() == OLDER_DIGEST


def test_an_older_log_still_agrees() -> None:
    check_an_older_log_still_agrees()


def test_a_session_that_was_idle_for_longer_than_its_time_to_live_is_gone() -> None:
    table = SessionTable()
    table.advance(100)
    table.open(1, ttl=50)
    table.open(2)
    table.advance(150)
    assert apply(table, 1, 1) == ok(1, 1)
    table.advance(200)
    assert table.applied(1) == 1
    table.advance(201)
    assert [table.applied(session) for session in (1, 2)] == [None, 0]
    table.advance(100 + DEFAULT_TTL_MS + 1)
    assert len(table) == 0
    table.check()


def test_asking_again_for_an_answer_does_not_keep_a_session_alive() -> None:
    """Some of these requests never reach the log, so they must not count on any replica."""
    table = SessionTable()
    table.open(1, ttl=10)
    apply(table, 1, 1)
    table.advance(9)
    assert apply(table, 1, 1) == ok(1, 1)
    table.advance(11)
    assert apply(table, 1, 1) == EXPIRED


def test_alarms_of_sessions_that_had_to_go_do_not_pile_up() -> None:
    table = SessionTable(max_sessions=3)
    for session in range(1, 100):
        table.open(session, ttl=session)
        table.check()
    table.advance(98)
    assert [table.applied(session) for session in (97, 98, 99)] == [None, 0, 0]


def test_a_session_that_was_ended_is_gone() -> None:
    table = SessionTable()
    table.open(1)
    apply(table, 1, 1)
    assert table.close(1)
    assert apply(table, 1, 2) == apply(table, 1, 1) == EXPIRED
    assert not table.close(1)
    table.check()
    table.advance(DEFAULT_TTL_MS + 1)
    assert len(table) == 0


def test_of_too_many_bytes_of_replies_those_of_who_was_silent_for_longest_go() -> None:
    """Their sessions stay: only a retry that comes as late as that finds no answer."""
    table = SessionTable(max_reply_bytes=10)
    for session in (1, 2, 3):
        table.open(session)
    for session in (1, 2, 1, 3):
        number = (table.applied(session) or 0) + 1
        table.record(RequestHeader(session, number, number - 1), b"four")
        table.check()
    assert [table.answer(RequestHeader(*key, 0)) for key in ((1, 2), (2, 1), (3, 1))] == [b"four", EXPIRED, b"four"]
    assert apply(table, 2, 2) == ok(2, 2)
    large = reply(Status.OK, bytes(100))
    table.record(RequestHeader(3, 2, 1), large)
    table.check()
    assert table.answer(RequestHeader(3, 2, 0)) == large, "the last one is kept, however large"
    assert table.answer(RequestHeader(2, 2, 0)) == EXPIRED


# --- any story at all -------------------------------------------------------------------------------------------------


class TableStory(RuleBasedStateMachine):
    """Requests of a few sessions arrive new, again, late and too early; sessions are opened, ended and fall out."""

    def __init__(self) -> None:
        super().__init__()
        self.table = SessionTable(MAX_SESSIONS, MAX_REPLY_BYTES)
        self.applied: dict[int, list[int]] = {}  # what was applied in each session that was ever opened
        self.confirmed: dict[int, int] = {}
        self.alive: list[int] = []  # least recently used first
        self.kept: dict[int, list[int]] = {}  # numbers whose replies are kept, by session
        self.time = 0
        self.deadline: dict[int, int] = {}
        self.ttl: dict[int, int] = {}

    @initialize()
    def the_first_client_opens_a_session(self) -> None:
        self.a_client_opens_a_session()

    @rule(ttl=st.sampled_from((4, 1000)))
    def a_client_opens_a_session(self, ttl: int = 1000) -> None:
        session = len(self.applied) + 1
        self.table.open(session, ttl)
        self.ttl[session], self.deadline[session] = ttl, self.time + ttl
        self.applied[session], self.confirmed[session], self.kept[session] = [], 0, []
        self.alive = [*self.alive, session][-MAX_SESSIONS:]

    @rule(data=st.data(), number=st.integers(0, 6), confirms=st.integers(0, 6))
    def a_request_is_applied(self, data: st.DataObject, number: int, confirms: int) -> None:
        session = data.draw(st.sampled_from(sorted(self.applied)))
        applied = self.applied[session]
        confirms = min(confirms, len(applied), number)
        answer = apply(self.table, session, number, confirms)
        if session not in self.alive:
            assert answer == EXPIRED
        elif number == len(applied) + 1:
            assert answer == ok(session, number)
            applied.append(number)
            self.confirmed[session] = max(self.confirmed[session], confirms)
            self.alive.remove(session)
            self.alive.append(session)
            self.deadline[session] = self.time + self.ttl[session]
            self.kept[session] = [kept for kept in self.kept[session] if kept > confirms] + [number]
            self._drop_replies()
        elif number > len(applied):
            assert answer == OUT_OF_ORDER
        else:
            assert answer == (ok(session, number) if number in self.kept[session] else EXPIRED)

    def _drop_replies(self) -> None:
        for session in self.alive[:-1]:
            kept = [(one, number) for one in self.alive for number in self.kept[one]]
            if sum(len(ok(*key)) for key in kept) > MAX_REPLY_BYTES:
                self.kept[session] = []

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def a_client_ends_its_session(self, data: st.DataObject) -> None:
        session = data.draw(st.sampled_from(self.alive))
        assert self.table.close(session)
        self.alive.remove(session)

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def a_client_asks_again_for_what_it_has_not_heard(self, data: st.DataObject) -> None:
        session = data.draw(st.sampled_from(self.alive))
        for number in self.kept[session]:
            assert apply(self.table, session, number) == ok(session, number), "a reply was lost to a retry"

    @rule(step=st.integers(-1, 4))
    def the_clock_of_the_log_goes_on(self, step: int) -> None:
        self.table.advance(self.time + step)
        self.time = max(self.time, self.time + step)
        self.alive = [session for session in self.alive if self.deadline[session] >= self.time]

    @rule()
    def a_replica_starts_from_a_snapshot(self) -> None:
        other = SessionTable(MAX_SESSIONS, MAX_REPLY_BYTES)
        other.load(self.table.dump())
        assert other.digest() == self.table.digest()
        self.table = other

    @invariant()
    def each_number_was_applied_once_and_in_order(self) -> None:
        self.table.check()
        for session, applied in self.applied.items():
            expected = len(applied) if session in self.alive else None
            assert self.table.applied(session) == expected


TestTableStory: Any = TableStory.TestCase
TestTableStory.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
