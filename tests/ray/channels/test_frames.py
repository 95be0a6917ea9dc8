"""Calls and answers as bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayraft.ray.channels.frames import OVERHEAD, Item, Kind, cut, pack, unpack

items = st.lists(st.builds(Item, st.integers(0, 2**64 - 1), st.sampled_from(Kind), st.binary(max_size=300)), max_size=8)


@given(items)
def test_what_is_packed_is_unpacked(found: list[Item]) -> None:
    frame = pack(found)
    assert list(unpack(frame)) == found
    assert len(frame) == sum(item.size for item in found)


@given(items.filter(bool), st.data())
def test_a_frame_that_was_cut_is_refused(found: list[Item], data: st.DataObject) -> None:
    frame = pack(found)
    borders = {sum(item.size for item in found[:count]) for count in range(len(found) + 1)}
    cut = data.draw(st.integers(0, len(frame) - 1).filter(lambda length: length not in borders))
    with pytest.raises(ValueError, match="ends"):
        list(unpack(frame[:cut]))


@given(st.binary(max_size=300), st.integers(OVERHEAD + 1, 200))
def test_what_is_cut_is_whole_in_its_parts(data: bytes, size: int) -> None:
    parts = list(cut(Item(7, Kind.SUBMIT, data), size))
    assert b"".join(part.data for part in parts) == data
    assert all(part.number == 7 and part.size <= size for part in parts)
    assert [part.kind for part in parts] == [Kind.PART] * (len(parts) - 1) + [Kind.SUBMIT]
    assert all(part.size == size for part in parts[:-1]), "no more parts than it takes"
    assert parts[-1].data or not data


def test_an_unknown_kind_is_refused() -> None:
    frame = bytearray(pack([Item(1, Kind.SUBMIT, b"x")]))
    frame[8] = 99
    with pytest.raises(ValueError, match="99"):
        list(unpack(bytes(frame)))
    assert len(frame) == OVERHEAD + 1
