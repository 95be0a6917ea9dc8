"""Calls and results as bytes.

A call is one MessagePack value: ``[method, *args]`` when all arguments are plain or flat containers of what is plain,
else the pickled call as bytes. The calls of a packet, one behind the other, are decoded in one go, and most of them
with no pickle at all.
"""

from __future__ import annotations

import io
import pickle
from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

import cloudpickle
import msgspec

from rayraft.errors import BadCall, CommandFailed
from rayraft.machine.classes import Name, loads_call, loads_result

PLAIN = frozenset({int, str, bytes, float, bool, type(None)})  # immutable, and quick to pickle
_PROTOCOL = 5
_MAX_FRAMES = 20
_MAX_WHERE = 4096
_PICKLE_BEGINS = 0x80
_STRINGS = frozenset({str})
_encode = msgspec.msgpack.Encoder().encode
_decode_list = msgspec.msgpack.Decoder(list[Any]).decode


class Call(NamedTuple):
    method: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Raised:
    """A result that is an exception, pickled on its own so that a strange one can not spoil its neighbours.

    ``where`` it was raised does not travel with it: see `encode_places`.
    """

    __slots__ = ("pickled", "where")

    def __init__(self, pickled: bytes) -> None:
        self.pickled = pickled
        self.where = ""

    @classmethod
    def of(cls, error: BaseException) -> Raised:
        try:
            pickled = cloudpickle.dumps(error.with_traceback(None), _PROTOCOL)
            # An exception may pickle and yet fail to load, or load as something else, at the caller's cost.
            travels = isinstance(pickle.loads(pickled), BaseException)
        except BaseException:  # pickling runs methods of the error, and they may raise anything
            travels = False
        if not travels:
            pickled = pickle.dumps(CommandFailed(f"{type(error).__name__}: {_text(error)}"), _PROTOCOL)
        return cls(pickled)

    def __reduce__(self) -> tuple[type[Raised], tuple[bytes]]:
        return Raised, (self.pickled,)

    def error(self) -> BaseException:
        error: BaseException = loads_result(self.pickled)
        if self.where and hasattr(error, "add_note"):  # from Python 3.11 on
            error.add_note(f"It was raised on a node of the group (most recent call last):\n{self.where}")
        return error


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException:
        return "(its message can not be shown)"


def where_raised(error: BaseException) -> str:
    """The innermost calls that led to ``error``, without the one that caught it.

    As in a traceback, but without the source: to read files takes ten times as long, and nodes may not have them.
    """
    lines: deque[str] = deque(maxlen=_MAX_FRAMES)
    trace = error.__traceback__.tb_next if error.__traceback__ is not None else None
    while trace is not None:
        code = trace.tb_frame.f_code
        lines.append(f'  File "{code.co_filename}", line {trace.tb_lineno}, in {code.co_name}')
        trace = trace.tb_next
    return "\n".join(lines)[-_MAX_WHERE:]


class Pickled:
    """A result that was frozen when its command returned: later commands may change the object it came from."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __reduce__(self) -> tuple[type[Pickled], tuple[bytes]]:
        return Pickled, (self.data,)


def is_flat(value: Any) -> bool:
    """Whether it is a list or a dictionary by strings of plain values: a shallow copy of it is a whole one."""
    kind = type(value)
    if kind is dict:
        return _STRINGS.issuperset(map(type, value)) and PLAIN.issuperset(map(type, value.values()))
    return kind is list and PLAIN.issuperset(map(type, value))


def _travels_plain(argument: Any) -> bool:
    return type(argument) in PLAIN or is_flat(argument)


def encode_call(method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    """Raises BadCall when an argument can not be serialised."""
    if not kwargs and (PLAIN.issuperset(map(type, args)) or all(map(_travels_plain, args))):
        try:
            return _encode((method, *args))
        except (OverflowError, UnicodeEncodeError):  # an int above 64 bits, half a surrogate pair: pickle takes them
            return _encode(pickle.dumps((method, args, kwargs), _PROTOCOL))
    try:
        # cloudpickle, because pickle would send classes of the caller's __main__ by a name that means nothing elsewhere
        data: bytes = cloudpickle.dumps((method, args, kwargs), _PROTOCOL)
    except Exception as error:
        raise BadCall(f"an argument of {method}() can not be serialised: {error}") from error
    return _encode(data)


def decode_calls(packet: bytes) -> list[Any]:
    """The calls of a packet (`rayraft.machine.requests.pack`): of each ``[method, *args]``, or its pickle as bytes.

    Raises msgspec.DecodeError for the packet as a whole.
    """
    try:
        return _decode_list(packet)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from error


def open_call(item: Any, names: Mapping[Name, type] = {}) -> Call:
    """The call that an item of `decode_calls` stands for, its arguments of the classes ``names`` where it has them.

    Raises BadCall, or whatever unpickling it raises.
    """
    if type(item) is bytes:
        return Call._make(loads_call(item, names))
    if type(item) is list and item and type(item[0]) is str:
        return Call(item[0], tuple(item[1:]), {})
    raise BadCall("not a call")


def decode_call(data: bytes) -> Call:
    """The reverse of `encode_call`, with whatever classes came by value; to look at it, not to apply it."""
    item = msgspec.msgpack.decode(data)
    return Call._make(pickle.loads(item)) if type(item) is bytes else open_call(item)


def freeze(result: Any) -> Any:
    """The result as it is now; plain values are immutable already."""
    if type(result) in PLAIN:
        return result
    if is_flat(result):
        return result.copy()
    return Pickled(cloudpickle.dumps(result, _PROTOCOL))


def encode_results(results: list[Any]) -> bytes:
    """Of results as `freeze` gives them, and `Raised`.

    MessagePack when all of them are plain or flat, which is much quicker; else pickle, told by its first byte.
    """
    try:
        return _encode(results)
    except (TypeError, OverflowError, UnicodeEncodeError):  # `Pickled`, `Raised`; and as in `encode_call`
        return pickle.dumps(results, _PROTOCOL)


def encode_places(places: Mapping[int, str]) -> bytes:
    """Where the results of these numbers were raised (`where_raised`): may follow encoded results.

    Nodes may have the code in different places, so it is kept nowhere.
    """
    return pickle.dumps(dict(places), _PROTOCOL) if places else b""


def decode_results(data: bytes) -> list[Any]:
    """One item per command: a plain value, a flat container, a `Pickled` or a `Raised`; see `unwrap`."""
    if data[0] != _PICKLE_BEGINS:  # a MessagePack list never begins so
        return _decode_list(data)
    stream = io.BytesIO(data)
    results: list[Any] = pickle.load(stream)
    if stream.tell() < len(data):
        for number, where in pickle.load(stream).items():
            results[number].where = where
    return results


def unwrap(result: Any) -> Any:
    """The value a caller gets, theirs to change; raises what the command raised."""
    if type(result) is Pickled:
        return loads_result(result.data)
    if type(result) is Raised:
        raise result.error()
    return result.copy() if type(result) in (dict, list) else result
