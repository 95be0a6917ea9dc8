"""Plain puts that are made before the clock runs."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayraft.bench.journal import Journal
from rayraft.bench.rounds import Rounds
from rayraft.bench.witness import ABSENT, Witness, version_of
from rayraft.bench.ycsb import key_name
from rayraft.errors import CommandTimeout

KEYS = range(3, 60, 3)


def never() -> bool:
    return False


def test_values_are_those_of_the_witness() -> None:
    witness = Witness(64)
    for puts in islice(Rounds(witness, KEYS, 5, seed=1).take(None, never), 20):
        assert puts.names == [key_name(key) for key in puts.keys]
        assert puts.values == [witness._value(key, puts.version) for key in puts.keys]
        assert {version_of(value) for value in puts.values} == {puts.version}
        assert {witness.issued(key) for key in puts.keys} == {puts.version}


@given(st.integers(1, 25), st.integers(0, 200))
def test_as_many_as_are_wanted_in_whole_sets_and_every_key_as_often_as_the_others(size: int, total: int) -> None:
    sets = list(Rounds(Witness(16), KEYS, size, seed=2).take(total, never))
    assert sum(len(puts.keys) for puts in sets) == total
    assert all(len(puts.keys) == size for puts in sets[:-1])
    assert all(set(puts.keys) <= set(KEYS) for puts in sets)
    if size <= len(KEYS):
        assert all(len(set(puts.keys)) == len(puts.keys) for puts in sets)
        rounds = [Counter(key for puts in sets if puts.version == version for key in puts.keys)
                  for version in {puts.version for puts in sets}]  # fmt: skip
        assert all(set(found.values()) == {1} for found in rounds)


def test_versions_go_on_from_what_the_keys_had() -> None:
    witness = Witness(16)
    for _ in range(8):
        witness.next_value(KEYS[-1])
    sets = list(islice(Rounds(witness, KEYS, 9, seed=3).take(None, never), 5))
    assert [puts.version for puts in sets] == [8, 8, 9, 9, 10]


def test_of_more_puts_than_keys_all_keys_are_there() -> None:
    (puts,) = Rounds(Witness(16), KEYS, 3 * len(KEYS), seed=4).take(3 * len(KEYS), never)
    assert Counter(puts.keys) == dict.fromkeys(KEYS, 3)


@pytest.mark.parametrize("seed", [5, 6])
def test_the_order_is_the_seeds(seed: int) -> None:
    one, two = (next(Rounds(Witness(16), KEYS, 19, seed).take(None, never)).keys for _ in range(2))
    assert one == two != sorted(one)
    assert one != next(Rounds(Witness(16), KEYS, 19, seed + 2).take(None, never)).keys


@pytest.mark.parametrize("turns", [0, 1, 3, 4, 10])
def test_what_is_not_taken_before_the_end_was_never_issued(turns: int) -> None:
    witness = Witness(16)
    over = iter([False] * turns + [True]).__next__
    taken = [key for puts in Rounds(witness, KEYS, 5, seed=7).take(None, over) for key in puts.keys]
    assert len(taken) == 5 * turns
    assert {key for key in KEYS if witness.issued(key) != ABSENT} == set(taken)


def test_what_was_acknowledged_is_known_of_every_key_of_the_set() -> None:
    witness = Witness(16, journal=Journal(every=2))
    rounds = Rounds(witness, KEYS, 6, seed=8).take(None, never)
    first, second, third = islice(rounds, 3)
    first.acknowledge([0.0] * 6, [1.0] * 6, range(6))
    assert [witness.acknowledged(key) for key in first.keys] == [0] * 6
    second.acknowledge([0.0] * 6, [1.0] * 4, [0, 1, 3])
    assert [witness.acknowledged(key) for key in second.keys] == [0, 0, ABSENT, 0, ABSENT, ABSENT]
    again = next(rounds)
    assert again.keys == first.keys
    third.acknowledge([0.0] * 6, [1.0] * 6, range(6))  # asked for after it was sent, and answered late
    assert [witness.acknowledged(key) for key in third.keys] == [0] * 6
    again.acknowledge([2.0] * 6, [3.0] * 5, range(5))
    assert [witness.acknowledged(key) for key in again.keys] == [1] * 5 + [0]
    writes = [(int(note.key[4:]), note.input) for note in witness.journal.history().operations]
    expected = [(key, 0) for key in first.keys]
    expected += [(key, 0) for place, key in enumerate(second.keys[:4]) if place != 2]
    expected += [(key, 0) for key in third.keys] + [(key, 1) for key in again.keys[:5]]
    assert writes == [(key, version) for key, version in expected if key % 2 == 0]


def test_of_a_set_that_was_not_answered_nothing_is_acknowledged() -> None:
    witness = Witness(16)
    (puts,) = Rounds(witness, KEYS, 19, seed=9).take(19, never)
    puts.acknowledge([], [], [])
    puts.unsure(3, 1.0, CommandTimeout("no answer"))
    assert {witness.acknowledged(key) for key in KEYS} == {ABSENT}
    assert [(note.key, note.returned) for note in witness.journal.history().operations] == [
        (key_name(puts.keys[3]), None)
    ]
