"""Histories in files: two formats of others, to be read, and rayraft's own. Which one it is, the content tells.

Jepsen's log of a register, tab or blank separated::

    INFO  jepsen.util - PROCESS :invoke :cas [3 0]

One EDN map a line, of a store of strings::

    {:process 9, :type :invoke, :f :append, :key "0", :value "x"}

In both the types are ``:invoke``, ``:ok``, ``:fail`` (certainly did not happen) and ``:info`` (unknown, as is what has
no completion). A cas that fails and repeats its arguments was refused by the comparison: that is an answer, and is
checked like one. With anything else in that place (``:timed-out``) it did not happen.

rayraft's own is JSON, one operation a line behind a header that names the model::

    {"rayraft_history":1,"model":"register"}
    {"client":1,"kind":"write","key":"x","input":5,"invoked":0.5,"returned":0.75}
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from rayraft.errors import BadHistory
from rayraft.history.models import MODELS, Model, Register, Text
from rayraft.history.operations import History, Kind, Operation
from rayraft.history.recording import Recording

Lines: TypeAlias = Iterable[tuple[int, str]]  # with their numbers
VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Recorded:
    """A history and the model that it is of."""

    model: Model
    history: History


class Format(enum.Enum):
    JEPSEN = "register log of Jepsen"
    EDN = "EDN of a store of strings"
    OWN = "rayraft"


def read(path: Path) -> Recorded:
    """Raises BadHistory, OSError."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BadHistory(f"{path.name} is no text: {error}") from error
    return parse(text, path.name)


def parse(text: str, name: str = "history") -> Recorded:
    """Raises BadHistory; ``name`` is what its message calls the text."""
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise BadHistory(f"{name} is empty")
    reader = _READERS[_format_of(lines[0], name)]
    at = _Place()
    try:
        return reader(at.through(lines))
    except ValueError as error:  # so are the errors of msgspec
        raise BadHistory(f"{name}, line {at.line}: {error}", line=at.line) from error


def write(path: Path, history: History, model: Model) -> None:
    """In rayraft's own format. Values must be such as JSON knows."""
    lines = [_Header(VERSION, model.name), *sorted(history.operations, key=lambda one: one.invoked)]
    path.write_bytes(msgspec.json.Encoder().encode_lines(lines))


def _format_of(first: tuple[int, str], name: str) -> Format:
    number, line = first
    if _JEPSEN_LINE.match(line):
        return Format.JEPSEN
    if re.match(r"\{\s*:", line):
        return Format.EDN
    if re.match(r'\{\s*"', line):
        return Format.OWN
    raise BadHistory(f"{name}, line {number}: none of the formats that are known begins like this", line=number)


class _Place:
    """Where a reader is, for what it complains about."""

    def __init__(self) -> None:
        self.line = 0

    def through(self, lines: Lines) -> Iterator[tuple[int, str]]:
        for number, line in lines:
            self.line = number
            yield number, line


# --- Jepsen -----------------------------------------------------------------------------------------------------------


class _Keyword(str):
    """``:name``, without its colon."""

    __slots__ = ()


class _Event(NamedTuple):
    """One line: what a process begins, or how it ended."""

    process: Any
    type: Any
    function: Any
    key: str
    value: Any


_JEPSEN_LINE: Final = re.compile(r"INFO\s+jepsen\.util\s+-\s+(.*)")
_TOKEN: Final = re.compile(
    r"""[\s,]*(?:(?P<string>"(?:[^"\\]|\\.)*")|(?P<integer>[-+]?\d+(?![^\s,\]}]))|:(?P<keyword>[^\s,\[\]{}"]+)"""
    r"""|(?P<symbol>(?:nil|true|false)(?![^\s,\]}]))|(?P<bracket>[\[\]]))[\s,]*"""
)
_SYMBOLS: Final = {"nil": None, "true": True, "false": False}
_ESCAPE: Final = re.compile(r"\\(u[0-9a-fA-F]{4}|.)")
_ESCAPED: Final = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_KINDS: Final = {"read": Kind.READ, "get": Kind.READ, "write": Kind.WRITE, "put": Kind.WRITE, "cas": Kind.CAS,
                 "append": Kind.APPEND}  # fmt: skip


def _read_jepsen(lines: Lines) -> Recorded:
    def events() -> Iterator[_Event]:
        for _, line in lines:
            found = _JEPSEN_LINE.fullmatch(line)
            if found is None:
                raise ValueError(f"no line of Jepsen's log: {line!r}")
            values = _edn(found[1])
            if len(values) != 4:
                raise ValueError(f"a process, a type, a function and a value are expected, not {found[1]!r}")
            process, type_, function, value = values
            yield _Event(process, type_, function, "register", value)

    return Recorded(Register(), _pair(events(), {Kind.READ, Kind.WRITE, Kind.CAS}, absent=None))


def _read_edn(lines: Lines) -> Recorded:
    def events() -> Iterator[_Event]:
        for _, line in lines:
            if not (line.startswith("{") and line.endswith("}")):
                raise ValueError(f"no EDN map: {line!r}")
            values = _edn(line[1:-1])
            fields = dict(zip(values[::2], values[1::2], strict=False))
            if len(values) != 2 * len(fields) or not {"process", "type", "f", "key", "value"} <= fields.keys():
                raise ValueError(f"a map of :process, :type, :f, :key and :value is expected, not {line!r}")
            yield _Event(fields["process"], fields["type"], fields["f"], str(fields["key"]), fields["value"])

    return Recorded(Text(), _pair(events(), {Kind.READ, Kind.WRITE, Kind.APPEND}, absent=""))


def _pair(events: Iterator[_Event], known: set[Kind], absent: Any) -> History:
    """Join each invocation to its completion; the order of the lines is the time. ``absent``: nil, when it is read."""
    recording = Recording()
    under_way: dict[Any, tuple[int, _Event]] = {}
    for event in events:
        if event.process == "nemesis":  # makes trouble, and asks for nothing
            continue
        kind = _KINDS.get(event.function)
        if kind not in known or kind is None:
            raise ValueError(f"no function of this format: {event.function!r}")
        if event.type == "invoke":
            if event.process in under_way:
                raise ValueError(f"process {event.process} invokes while an earlier operation of it is open")
            ticket = recording.begin(event.process, kind, event.key, _input(kind, event.value, type(absent)))
            under_way[event.process] = ticket, event
            continue
        if event.process not in under_way:
            raise ValueError(f"process {event.process} has nothing that could end")
        ticket, begun = under_way[event.process]
        if (begun.function, begun.key) != (event.function, event.key):
            raise ValueError(f"process {event.process} ends what it has not begun")
        _complete(recording, ticket, kind, begun, event, absent)
        if event.type != "info":  # a process of unknown fate is not used again
            del under_way[event.process]
    return recording.history()


def _input(kind: Kind, value: Any, of: type) -> Any:
    if kind is Kind.READ:
        return None
    if kind is Kind.CAS and not (isinstance(value, tuple) and len(value) == 2):
        raise ValueError(f"a cas takes [expected new], not {value!r}")
    if kind is not Kind.CAS and (isinstance(value, (_Keyword, tuple)) or (of is str and not isinstance(value, str))):
        raise ValueError(f"no value to {kind.value}: {value!r}")
    return value


def _complete(recording: Recording, ticket: int, kind: Kind, begun: _Event, event: _Event, absent: Any) -> None:
    refused = kind is Kind.CAS and event.value == begun.value
    if event.type == "ok":
        if kind is Kind.READ:
            if isinstance(event.value, (_Keyword, tuple)):
                raise ValueError(f"no value to have read: {event.value!r}")
            recording.end(ticket, absent if event.value is None else event.value)
        else:
            recording.end(ticket, True if kind is Kind.CAS else None)
    elif event.type == "fail" and refused:
        recording.end(ticket, False)
    elif event.type == "fail":
        recording.drop(ticket)
    elif event.type != "info":
        raise ValueError(f"no type of an event: {event.type!r}")


def _edn(text: str) -> list[Any]:
    """Scalars and vectors of them; a vector is a tuple."""
    found: list[Any] = []
    vector: list[Any] | None = None
    at = 0
    while at < len(text):
        token = _TOKEN.match(text, at)
        if token is None:
            raise ValueError(f"can not be read: {text[at:]!r}")
        at = token.end()
        if token["bracket"] is None:
            (found if vector is None else vector).append(_scalar(token))
        elif token["bracket"] == "[" and vector is None:
            vector = []
        elif token["bracket"] == "]" and vector is not None:
            found.append(tuple(vector))
            vector = None
        else:
            raise ValueError(f"brackets do not match in {text!r}")
    if vector is not None:
        raise ValueError(f"brackets do not match in {text!r}")
    return found


def _scalar(token: re.Match[str]) -> Any:
    if token["integer"] is not None:
        return int(token["integer"])
    if token["keyword"] is not None:
        return _Keyword(token["keyword"])
    if token["symbol"] is not None:
        return _SYMBOLS[token["symbol"]]
    return _ESCAPE.sub(_unescape, token["string"][1:-1])


def _unescape(found: re.Match[str]) -> str:
    escape = found[1]
    return chr(int(escape[1:], 16)) if len(escape) == 5 else _ESCAPED.get(escape, escape)


# --- our own ----------------------------------------------------------------------------------------------------------


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    rayraft_history: int
    model: str


def _read_own(lines: Lines) -> Recorded:
    rest = iter(lines)
    header = msgspec.json.decode(next(rest)[1], type=_Header)
    if header.rayraft_history != VERSION:
        raise ValueError(f"version {header.rayraft_history} of the format is not known")
    if header.model not in MODELS:
        raise ValueError(f"no model {header.model}: there are {', '.join(MODELS)}")
    decoder = msgspec.json.Decoder(Operation)
    return Recorded(MODELS[header.model], History([_hashable(decoder.decode(line)) for _, line in rest]))


def _hashable(read: Operation) -> Operation:
    if isinstance(read.input, (list, dict)) or isinstance(read.output, (list, dict)):
        read = msgspec.structs.replace(read, input=_frozen(read.input), output=_frozen(read.output))
    read.check()
    return read


def _frozen(value: Any) -> Any:
    if isinstance(value, dict):
        raise ValueError("a value can not be a map")
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


_READERS: Final[dict[Format, Callable[[Lines], Recorded]]] = {
    Format.JEPSEN: _read_jepsen,
    Format.EDN: _read_edn,
    Format.OWN: _read_own,
}
