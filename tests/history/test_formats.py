"""The three formats: what they say is read as meant, and a line that is broken is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from rayraft.errors import BadHistory
from rayraft.history import History, Kind, Operation, Verdict, check
from rayraft.history.formats import parse, read, write
from rayraft.history.models import KeyValueEntry, Model, Register, Text
from tests.history import support
from tests.history.support import histories


def jepsen(*lines: str) -> str:
    return "".join(f"INFO  jepsen.util - {line}\n" for line in lines)


def edn(*fields: str) -> str:
    return "".join(f"{{{line}}}\n" for line in fields)


REGISTER = jepsen(
    "0\t:invoke\t:write\t3",
    "1\t:invoke\t:read\tnil",
    "0\t:ok\t:write\t3",
    "1\t:ok\t:read\t3",
    "2 :invoke :cas [3 -4]",
    "3 :invoke :cas [9 1]",
    "4 :invoke :write 8",
    "5 :invoke :read nil",
    "6 :invoke :write 7",
    ":nemesis :info :start nil",
    "2 :ok :cas [3 -4]",
    "3 :fail :cas [9 1]",
    "4 :info :write :timed-out",
    "5 :fail :read :timed-out",
    "6 :fail :write :refused",
    "7 :invoke :read nil",
    "7 :info :read :timed-out",
    "8 :invoke :cas [0 1]",
    "8 :fail :cas :timed-out",
    "9 :invoke :cas [1 2]",
)


def test_a_register_log() -> None:
    recorded = parse(REGISTER)
    assert isinstance(recorded.model, Register)
    found = {one.client: (one.kind, one.input, one.output, one.is_open) for one in recorded.history.operations}
    assert found == {
        0: (Kind.WRITE, 3, None, False),
        1: (Kind.READ, None, 3, False),
        2: (Kind.CAS, (3, -4), True, False),
        3: (Kind.CAS, (9, 1), False, False),  # refused by the comparison
        4: (Kind.WRITE, 8, None, True),
        7: (Kind.READ, None, None, True),  # the checker makes nothing of it
        9: (Kind.CAS, (1, 2), None, True),  # never completed
    }
    assert check(recorded.history, recorded.model).verdict is Verdict.LINEARIZABLE


def test_a_log_of_strings() -> None:
    text = edn(
        ':process 0, :type :invoke, :f :put, :key "a b", :value "x, \\"y\\" [1]\\n"',
        ':process 1, :type :invoke, :f :get, :key "a b", :value nil',
        ':type :ok, :process 0, :f :put, :value "x, \\"y\\" [1]\\n", :key "a b"',
        ':process 1 :type :ok :f :get :key "a b" :value ""',
        ':process 0, :type :invoke, :f :append, :key "7", :value "z"',
        ':process 0, :type :info, :f :append, :key "7", :value "z"',
        ':process 2, :type :invoke, :f :get, :key "7", :value nil',
        ':process 2, :type :ok, :f :get, :key "7", :value nil',
    ).replace("\n", "\r\n\r\n")
    recorded = parse(text)
    assert isinstance(recorded.model, Text)
    found = sorted((one.key, one.kind.value, one.input, one.output, one.is_open) for one in recorded.history.operations)
    assert found == [
        ("7", "append", "z", None, True),
        ("7", "read", None, "", False),
        ("a b", "read", None, "", False),
        ("a b", "write", 'x, "y" [1]\n', None, False),
    ]
    report = check(recorded.history, recorded.model)
    assert str(report) == "yes (4 operations, 2 keys)"


OWN = """{"rayraft_history":1,"model":"key-value"}
{"client":1,"kind":"append","key":"k","input":[1,[2]],"output":1,"invoked":0.5,"returned":1.5}

{"client":"b","kind":"cas","key":"k","input":[null,5],"invoked":2}
"""


def test_our_own() -> None:
    recorded = parse(OWN)
    assert isinstance(recorded.model, KeyValueEntry)
    assert recorded.history.operations == [
        Operation(1, Kind.APPEND, "k", (1, (2,)), 1, 0.5, 1.5),
        Operation("b", Kind.CAS, "k", (None, 5), None, 2),
    ]


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(histories())
def test_what_is_written_is_read_again(tmp_path: Path, history: History) -> None:
    path = tmp_path / "history.jsonl"
    write(path, history, KeyValueEntry())
    again = read(path)
    assert isinstance(again.model, KeyValueEntry)
    assert sorted(map(str, again.history.operations)) == sorted(map(str, history.operations))
    assert all(one in history.operations for one in again.history.operations)


@pytest.mark.parametrize("model", [Register(), Text()])
def test_the_model_is_written_too(tmp_path: Path, model: Model) -> None:
    write(tmp_path / "history", History([support.read("", 0, 1)]), model)
    assert type(read(tmp_path / "history").model) is type(model)


A = ':process 0, :type :invoke, :f :append, :key "0", :value "x"'


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("", 0, "is empty"),
        ("\n\nhello", 3, "none of the formats"),
        (jepsen("0 :invoke :read nil", "1 :invoke :push 1"), 2, "no function of this format: 'push'"),
        (jepsen("0 :invoke :append 1"), 1, "no function of this format"),
        (jepsen("0 :invoke :read nil", "0 :invoke :read nil"), 2, "an earlier operation of it is open"),
        (jepsen("0 :ok :read nil"), 1, "nothing that could end"),
        (jepsen("0 :invoke :read nil", "0 :ok :write 1"), 2, "ends what it has not begun"),
        (jepsen("0 :invoke :read nil", "0 :maybe :read 1"), 2, "no type of an event: 'maybe'"),
        (jepsen("0 :invoke :read nil", "0 :ok :read :what"), 2, "no value to have read"),
        (jepsen("0 :invoke :write [1 2]"), 1, "no value to write"),
        (jepsen("0 :invoke :cas [1 2 3]"), 1, "a cas takes"),
        (jepsen("0 :invoke :cas [1 2"), 1, "brackets do not match"),
        (jepsen("0 :invoke :cas 1 2]"), 1, "brackets do not match"),
        (jepsen("0 :invoke :read"), 1, "a process, a type, a function and a value"),
        (jepsen("0 :invoke :write 3x"), 1, "can not be read: '3x'"),
        (jepsen("0 :invoke :read nil") + "and so on", 2, "no line of Jepsen's log"),
        (jepsen("0 :invoke :write 1", "0 :info :write :timed-out", "0 :invoke :read nil"), 3, "is open"),
        (edn(A, ":process 1"), 2, "a map of :process"),
        (edn(A, A.replace("0,", "1,").replace('"x"', "5")), 2, "no value to append"),
        (edn(A)[:-2], 1, "no EDN map"),
        (edn(A) + '{"a": 1}', 2, "can not be read"),
        ('{"client": 1}', 1, "unknown field `client`"),
        (OWN.replace(":1,", ":2,", 1), 1, "version 2"),
        (OWN.replace("key-value", "queue"), 1, "no model queue"),
        (OWN.replace('"cas"', '"pop"'), 4, "Invalid enum value 'pop'"),
        (OWN.replace("1.5", "0.25"), 2, "before it was invoked"),
        (OWN.replace("[null,5]", "[5]"), 4, "the expected and the new value"),
        (OWN.replace("[1,[2]]", "[{}]"), 2, "can not be a map"),
        (OWN.replace("[1,[2]]", "[1"), 2, "JSON is malformed"),
    ],
)
def test_a_broken_line_is_named(text: str, line: int, problem: str) -> None:
    with pytest.raises(BadHistory, match="it") as caught:
        parse(text, "it")
    assert problem in str(caught.value)
    assert caught.value.line == line
    assert line == 0 or f"line {line}: " in str(caught.value)


def test_what_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadHistory, match="blob is no text"):
        read(tmp_path / "blob")
