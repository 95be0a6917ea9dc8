"""The machine with its sessions, as the log drives it."""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import count
from types import FunctionType
from typing import Any

import pytest

from rayraft.machine.calls import decode_results, encode_call, unwrap
from rayraft.machine.objects import command
from rayraft.machine.replicated import ReplicatedMachine
from rayraft.machine.requests import (
    NEW_SESSION,
    Status,
    encode_opening,
    encode_request,
    pack,
    request_header,
    session_id,
)
from rayraft.raft.types import Entry, EntryKind
from tests.machine.gallery import WORDS
from tests.machine.support import Log, ask, replicated, saved, value


def notes(log: Log) -> list[object]:
    found: list[object] = ask(log.machine.machine, "all")
    return found


def a_log_with_some_work() -> tuple[Log, int]:
    """A session in which three notes were made; the client knows of the first."""
    log = Log(replicated())
    session = log.open_session()
    for number, answered in ((1, 0), (2, 0), (3, 1)):
        log.send(session, number, "note", f"note {number}", answered=answered)
    return log, session


def test_a_request_that_comes_twice_is_applied_once_and_answered_twice() -> None:
    log, session = a_log_with_some_work()
    again = log.send(session, 3, "note", "note 3")
    assert value(again) == 3
    assert notes(log) == ["note 1", "note 2", "note 3"]


def test_a_retry_with_other_content_gets_the_answer_of_the_first() -> None:
    log, session = a_log_with_some_work()
    assert value(log.send(session, 3, "note", "forged")) == 3
    assert "forged" not in notes(log)


def test_a_request_that_overtook_another_changes_nothing() -> None:
    log, session = a_log_with_some_work()
    assert log.send(session, 5, "note", "too early") == bytes([Status.OUT_OF_ORDER])
    assert notes(log) == ["note 1", "note 2", "note 3"]


def test_a_request_of_an_unknown_session_changes_nothing() -> None:
    log, session = a_log_with_some_work()
    assert log.send(session + 1, 1, "note", "stranger") == bytes([Status.SESSION_EXPIRED])
    assert len(notes(log)) == 3


def test_sessions_opened_in_one_entry_are_different() -> None:
    log = Log(replicated())
    answers = [answer for _, answer in log.commit(*(encode_request(NEW_SESSION, 9, 0, []) for _ in range(3)))]
    assert len(set(answers)) == 3
    assert NEW_SESSION not in [int.from_bytes(answer[1:], "little") for answer in answers]


def test_a_session_of_another_group_is_not_known() -> None:
    """By index and place alone the first client of every new group had the same one, and a process that had outlived a
    group of the same name had its commands applied in the place of the new client's, who was told that his were.
    """
    old, new = Log(replicated()), Log(replicated())
    [(_, opened)] = old.commit(encode_opening(7, 0))
    [(_, again)] = new.commit(encode_opening(8, 0))
    assert opened != again
    theirs, ours = (int.from_bytes(answer[1:], "little") for answer in (opened, again))
    assert new.send(theirs, 1, "note", "of an old process") == bytes([Status.SESSION_EXPIRED])
    assert new.send(ours, 1, "note", "mine")[0] == Status.OK
    assert notes(new) == ["mine"]


def test_an_opening_that_is_applied_twice_opens_two_sessions() -> None:
    """A late copy must not bring back a session that has ended, or its old commands would be applied again."""
    log = Log(replicated())
    [(_, one)], [(_, other)] = log.commit(encode_opening(7, 0)), log.commit(encode_opening(7, 0))
    assert one != other


def test_sessions_of_a_log_that_was_written_before_keep_their_ids() -> None:
    assert session_id(5, index=3, place=2) == 3 << 20 | 2


def test_many_commands_travel_in_one_request_and_one_that_fails_does_not_stop_the_others() -> None:
    log = Log(replicated())
    session = log.open_session()
    calls = [encode_call("note", ("a",), {}), encode_call("nonsense", (), {}), encode_call("note", ("b",), {})]
    [(_, answer)] = log.commit(encode_request(session, 1, 0, calls))
    first, second, third = decode_results(answer[1:])
    assert (unwrap(first), unwrap(third)) == (1, 2)
    with pytest.raises(TypeError, match="nonsense"):
        unwrap(second)


def test_where_a_command_has_raised_is_told_once_and_kept_nowhere() -> None:
    """Nodes may have the code in different places: of these neither their states nor their snapshots may tell."""
    here, elsewhere = Log(replicated(Raises)), Log(replicated(moved(Raises, "/elsewhere/raises.py")))
    session = here.open_session()
    assert elsewhere.open_session() == session
    answers = [log.send(session, 1, "go") for log in (here, elsewhere)]
    assert [b"/elsewhere/raises.py" in answer for answer in answers] == [False, True]
    again = [log.send(session, 1, "go") for log in (here, elsewhere)]
    assert again[0] == again[1]
    assert answers[1].startswith(again[1])
    assert here.machine.digest() == elsewhere.machine.digest()
    assert saved(here.machine) == saved(elsewhere.machine)


class Raises:
    @command
    def go(self) -> None:
        raise ValueError("no")


def moved(cls: type, path: str) -> type:
    """The class as if its file were another one."""
    go = cls.go  # type: ignore[attr-defined]
    function = FunctionType(go.__code__.replace(co_filename=path), go.__globals__)
    return type(cls.__name__, (), {"go": command(function)})


def test_what_is_no_command_is_passed_over() -> None:
    machine = replicated()
    assert machine.apply(Entry(1, 1, EntryKind.NOOP)) == []


def test_a_malformed_request_in_the_log_is_refused_on_every_node_alike() -> None:
    log = Log(replicated())
    session = log.open_session()
    header = encode_request(session, 1, 0, [])[:24]
    assert request_header(header).key == (session, 1)
    for body in (b"", b"\xff", b"\x91", b"\x01", b"\x91" * 100_000, b"\x91\x91\xa1\xff"):
        [(_, answer)] = log.commit(header + body)
        assert answer[0] == Status.FAILED
    assert notes(log) == []


def test_the_clock_of_the_log_never_goes_back() -> None:
    log = Log(replicated())
    for time in (5, 3, 9, 1):
        log.commit(time=time)
    assert log.machine.time == 9


# --- recursion --------------------------------------------------------------------------------------------------------


class Deep:
    """Changes something on every way out of a recursion."""

    def __init__(self) -> None:
        self.reached: list[int] = []

    @command
    def down(self, levels: int) -> int:
        self._down(levels)
        return levels

    def _down(self, levels: int) -> None:
        if levels:
            self._down(levels - 1)
        else:
            self.reached.append(levels)


def deeper(calls: int, work: Callable[[], Any]) -> Any:
    return deeper(calls - 1, work) if calls else work()


def deeper_through_c(calls: int, work: Callable[[], Any]) -> Any:
    """These calls of C count, and have no frame."""
    found: list[Any] = []
    sorted([0], key=lambda _: found.append(deeper_through_c(calls - 1, work) if calls else work()) or 0)
    return found[0]


def in_a_thread(work: Callable[[], Any]) -> Any:
    done: list[Any] = []
    thread = threading.Thread(target=lambda: done.append(work()))
    thread.start()
    thread.join()
    return done[0]


def outcome_of_recursions() -> tuple[bytes, list[bytes]]:
    log = Log(replicated(Deep))
    session = log.open_session()
    answers = [log.send(session, number, "down", levels) for number, levels in enumerate(range(850, 1010), 1)]
    return log.machine.digest(), answers


@pytest.fixture
def recursion_limit() -> Iterator[int]:
    limit = sys.getrecursionlimit()
    yield limit
    sys.setrecursionlimit(limit)


@pytest.mark.usefixtures("recursion_limit")
def test_commands_may_recurse_equally_deep_whatever_thread_applies_them_at_whatever_depth() -> None:
    """They had what the stack of the thread had left, so that one replica raised RecursionError and another did not."""
    outcomes = [
        in_a_thread(outcome_of_recursions),
        outcome_of_recursions(),
        deeper(50, outcome_of_recursions),
        deeper_through_c(20, outcome_of_recursions),
    ]
    sys.setrecursionlimit(3000)  # a module of the user's has set it
    outcomes.append(outcome_of_recursions())
    assert all(outcome == outcomes[0] for outcome in outcomes)
    results = [decode_results(answer[1:])[0] for answer in outcomes[0][1]]
    assert results[0] == 850
    with pytest.raises(RecursionError):
        unwrap(results[-1])


# --- sessions that expire ---------------------------------------------------------------------------------------------


def check_sessions_expire_by_the_clock_of_the_log(patch: pytest.MonkeyPatch) -> None:
    """Replicas that apply the same log at other times of day, from its start or from a snapshot, drop the same ones."""
    machines: list[ReplicatedMachine] = []
    for restarts, start in ((False, 0.0), (False, 1e9), (True, 2e9)):
        wall = count(start, 3600.0)
        patch.setattr("time.time", lambda wall=wall: next(wall))
        log = Log(replicated())
        [(_, opened)] = log.commit(encode_opening(1, 500), time=1_000)
        brief = int.from_bytes(opened[1:], "little")
        [(_, opened)] = log.commit(encode_request(NEW_SESSION, 2, 0, []), time=1_000)
        lasting = int.from_bytes(opened[1:], "little")
        for number, time in ((1, 1_400), (2, 1_900)):
            assert value(log.send(brief, number, "note", number, time=time)) == number
        if restarts:
            log.machine, old = replicated(), log.machine
            log.machine.restore(io.BytesIO(saved(old)))
        gone = log.send(brief, 3, "note", "too late", time=2_401)
        assert gone == bytes([Status.SESSION_EXPIRED])
        assert value(log.send(lasting, 1, "note", 3, time=1_000 + 3_600_000)) == 3
        machines.append(log.machine)
    assert len({machine.digest() for machine in machines}) == 1


def test_sessions_expire_by_the_clock_of_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    check_sessions_expire_by_the_clock_of_the_log(monkeypatch)


# --- snapshots --------------------------------------------------------------------------------------------------------


def check_a_snapshot_carries_the_sessions(log: Log, session: int) -> None:
    """A replica that starts from the snapshot knows what was applied, and what was answered."""
    before = notes(log)
    digest = log.machine.digest()
    other = replicated()
    other.restore(io.BytesIO(saved(log.machine)))
    assert other.digest() == digest
    assert other.time == log.machine.time
    log.machine = other
    assert value(log.send(session, 3, "note", "note 3")) == 3, "a retry is applied again"
    assert notes(log) == before
    assert value(log.send(session, 4, "note", "note 4")) == 4


def test_a_replica_that_starts_from_a_snapshot_still_applies_once() -> None:
    check_a_snapshot_carries_the_sessions(*a_log_with_some_work())


def test_a_replica_from_a_snapshot_and_one_from_the_log_stay_equal() -> None:
    """Parts that one has shared and the other has copies of must not tell them apart."""
    log, session = a_log_with_some_work()
    other = Log(replicated())
    other.machine.restore(io.BytesIO(saved(log.machine)))
    other.index = log.index
    for number in (4, 5):
        for each in (log, other):
            each.send(session, number, "note_set", *WORDS)
    assert log.machine.digest() == other.machine.digest()


def test_replicas_that_differ_in_state_or_sessions_have_other_digests() -> None:
    log, session = a_log_with_some_work()
    digests = {log.machine.digest()}
    log.open_session()
    digests.add(log.machine.digest())
    log.send(session, 4, "nonsense")  # changes the session, not the state
    digests.add(log.machine.digest())
    log.machine.machine.apply(pack([encode_call("note", ("outside the log",), {})]))
    digests.add(log.machine.digest())
    assert len(digests) == 4


class Hoards:
    """Comes to hold what no snapshot can."""

    def __init__(self) -> None:
        self.items: list[Any] = []

    @command
    def take_lock(self) -> int:
        self.items.append(threading.Lock())
        return len(self.items)


def test_a_state_that_can_not_be_saved_is_an_error_of_the_attempt_and_work_goes_on() -> None:
    log = Log(replicated(Hoards))
    session = log.open_session()
    assert value(log.send(session, 1, "take_lock")) == 1
    with pytest.raises(TypeError, match="lock"):
        saved(log.machine)
    assert value(log.send(session, 2, "take_lock")) == 2
