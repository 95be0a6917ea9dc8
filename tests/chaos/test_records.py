"""Journals of clients: what they hold after the death of a writer, and what counts as lost."""

from __future__ import annotations

from pathlib import Path

from rayraft.chaos.records import (
    Begun,
    Books,
    Ended,
    Failed,
    Journal,
    Record,
    Seen,
    Tail,
    lost_commands,
    repeated_commands,
)
from rayraft.chaos.run import longest_gap
from rayraft.history import Kind, Verdict, check
from rayraft.history.models import KeyValueEntry

SEEN = Seen(1.0, 2, 3, 77, "running", "leader", 4, 3, True, 1, 9, 8, 7, [1, 2, 3], "")


def append(number: int, item: str, begun: float, ended: float | None) -> list[Record]:
    """What a client writes down of one command, with or without an answer."""
    lines: list[Record] = [Begun(begun, "a", number, Kind.APPEND, "list", item)]
    return lines if ended is None else [*lines, Ended(ended, "a", number, number)]


def books(*records: Record) -> Books:
    found = Books()
    for record in records:
        found.add(record)
    return found


def test_a_journal_is_read_while_it_grows(tmp_path: Path) -> None:
    journal, tail = Journal(tmp_path / "a.jsonl"), Tail(tmp_path)
    records = [*append(1, "x", 1, 2), Failed(3, "a", 2, "CommandTimeout", False), SEEN]
    for record in records[:2]:
        journal.write(record)
    assert list(tail.news()) == records[:2]
    assert list(tail.news()) == []
    for record in records[2:]:
        journal.write(record)
    assert list(tail.news()) == records[2:]


def test_a_line_that_was_cut_off_is_no_record(tmp_path: Path) -> None:
    Journal(tmp_path / "a.jsonl").write(SEEN)
    with (tmp_path / "a.jsonl").open("ab") as file:
        file.write(b'{"type":"ended","at":1')
    assert list(Tail(tmp_path).news()) == [SEEN]


def test_histories_of_answers_and_of_silence() -> None:
    found = books(
        *append(1, "x", 1, 2),
        *append(2, "y", 3, None),
        Failed(4, "a", 2, "CommandTimeout", certain=False),
        Begun(5, "a", 3, Kind.READ, "list"),
        Ended(6, "a", 3, ["x"]),
        Begun(7, "a", 4, Kind.READ, "list"),
        Failed(8, "a", 4, "CommandTimeout", certain=True),
        Begun(9, "a", 5, Kind.CAS, "register", [None, "z"]),
        Ended(10, "a", 5, True),
    )
    history = found.history()
    assert [operation.is_open for operation in history.operations] == [False, True, False, False]
    assert check(history, KeyValueEntry()).verdict is Verdict.LINEARIZABLE
    assert found.errors == {"CommandTimeout": 2}
    assert [at for at, _ in found.acknowledged] == [2, 10]


def test_what_was_acknowledged_and_is_missing_is_lost() -> None:
    history = books(*append(1, "x", 1, 2), *append(2, "y", 3, 4), *append(3, "z", 5, None)).history()
    assert lost_commands(history, {"list": ("x", "y")}, read_at=9) == []
    assert [operation.input for operation in lost_commands(history, {"list": ("x",)}, read_at=9)] == ["y"]
    assert len(lost_commands(history, {}, read_at=9)) == 2
    assert lost_commands(history, {"list": ("x",)}, read_at=3.5) == [], "it was acknowledged after the reading"


def test_an_increment_that_is_missing_is_lost() -> None:
    records: list[Record] = []
    for number in (1, 2):
        records += [Begun(number, "a", number, Kind.INCREMENT, "n", 1), Ended(number + 0.5, "a", number, number)]
    history = books(*records).history()
    assert lost_commands(history, {"n": 2}, read_at=9) == []
    assert len(lost_commands(history, {"n": 1}, read_at=9)) == 1


def test_an_item_that_is_there_twice_was_applied_twice() -> None:
    assert repeated_commands({"list": ("x", "y"), "n": 2}) == []
    assert repeated_commands({"list": ("x", "y", "x")}) == ["list: x"]


def test_longest_gap() -> None:
    times = [1.0, 2.0, 5.0, 6.0]
    assert longest_gap(times, 1.0, 6.0) == (3.0, 2.0)
    assert longest_gap(times, 3.0, 4.0) == (3.0, 2.0), "it began before, and ended after"
    assert longest_gap([], 3.0, 4.0) == (1.0, 3.0)
