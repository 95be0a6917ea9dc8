"""The workloads have the published mixes, and the distributions the published shapes. All from fixed seeds."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import accumulate, islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayraft.bench.ycsb import (
    SCRAMBLED_ITEMS,
    VALUE_SIZE,
    WORKLOADS,
    ZIPFIAN_CONSTANT,
    Chooser,
    Distribution,
    Operation,
    Workload,
    Zipfian,
    key_name,
    scramble,
    value,
    zeta,
)

PUBLISHED = {
    "A": {Operation.READ: 0.5, Operation.UPDATE: 0.5},
    "B": {Operation.READ: 0.95, Operation.UPDATE: 0.05},
    "C": {Operation.READ: 1.0},
    "D": {Operation.READ: 0.95, Operation.INSERT: 0.05},
    "F": {Operation.READ: 0.5, Operation.READ_MODIFY_WRITE: 0.5},
    "W": {Operation.UPDATE: 1.0},
}
DRAWS = 50_000


def sigmas(observed: int, share: float, draws: int = DRAWS) -> float:
    """How many standard deviations a count is away from its expectation."""
    return abs(observed - draws * share) / max(1.0, math.sqrt(draws * share * (1 - share)))


# --- mixes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_mix_is_the_published_one(name: str) -> None:
    counts = Counter(kind for kind, _ in Chooser(WORKLOADS[name], 1000, seed=1).take(DRAWS))
    assert set(counts) == set(PUBLISHED[name])
    for kind, share in PUBLISHED[name].items():
        assert sigmas(counts[kind], share) < 4


def test_every_workload_is_listed_under_its_name() -> None:
    assert set(WORKLOADS) == set(PUBLISHED)
    assert all(name == workload.name for name, workload in WORKLOADS.items())


def test_shares_must_add_up() -> None:
    with pytest.raises(ValueError, match="add up"):
        Workload("X", "too little", read=0.5)
    with pytest.raises(ValueError, match="add up"):
        Workload("X", "negative", read=1.5, update=-0.5)


def test_inserts_need_the_latest_distribution() -> None:
    with pytest.raises(ValueError, match="latest"):
        Workload("X", "inserts nobody reads", read=0.5, insert=0.5)


# --- determinism and clients ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(WORKLOADS))
def test_a_seed_gives_the_same_operations_again(name: str) -> None:
    first, again, other = (Chooser(WORKLOADS[name], 1000, seed).take(500) for seed in (7, 7, 8))
    assert first == again
    assert first != other


def test_the_same_operations_on_every_machine() -> None:
    """Figures written down once: a change of Python or of the code that moves them breaks comparisons over time."""
    assert [key for _, key in Chooser(WORKLOADS["C"], 1_000_000, seed=1).take(5)] == [
        923762,
        438179,
        809358,
        462478,
        229533,
    ]
    assert scramble(0) == 0xE220A8397B1DCDAF  # the first output of SplitMix64 from state 0


def test_all_ways_to_draw_continue_one_stream() -> None:
    whole = Chooser(WORKLOADS["D"], 100).take(30)
    chooser = Chooser(WORKLOADS["D"], 100)
    assert [*chooser.take(10), *(next(chooser) for _ in range(10)), *islice(chooser, 10)] == whole


def test_clients_draw_differently_and_never_insert_the_same_key() -> None:
    streams = [Chooser(WORKLOADS["D"], 100, client=client, clients=3).take(2000) for client in range(3)]
    inserted = [[key for kind, key in stream if kind is Operation.INSERT] for stream in streams]
    together = [key for keys in inserted for key in keys]
    assert len(set(together)) == len(together)
    assert min(together) == 100
    assert all(len(keys) > 50 for keys in inserted)


@pytest.mark.parametrize(("records", "client", "clients"), [(0, 0, 1), (1, 1, 1), (1, -1, 1)])
def test_impossible_choosers_are_refused(records: int, client: int, clients: int) -> None:
    with pytest.raises(ValueError, match=r"record|client"):
        Chooser(WORKLOADS["A"], records, client=client, clients=clients)


# --- distributions ----------------------------------------------------------------------------------------------------


@given(st.integers(1, 5000), st.floats(0.05, 0.995))
def test_zeta_is_the_sum(n: int, constant: float) -> None:
    assert zeta(n, constant) == pytest.approx(sum(i**-constant for i in range(1, n + 1)), rel=1e-9)


def test_zeta_of_the_scrambled_items_is_the_one_ycsb_precomputed() -> None:
    assert zeta(SCRAMBLED_ITEMS, ZIPFIAN_CONSTANT) == pytest.approx(26.46902820178302, rel=1e-9)


@pytest.mark.parametrize("items", [1, 2, 3, 10, 1000])
def test_zipfian_follows_the_power_law(items: int) -> None:
    rng, zipfian = random.Random(3), Zipfian(items)
    counts = Counter(zipfian.rank(rng.random()) for _ in range(DRAWS))
    shares = [(rank + 1) ** -ZIPFIAN_CONSTANT / zeta(items, ZIPFIAN_CONSTANT) for rank in range(items)]
    assert set(counts) <= set(range(items))
    for rank in range(min(2, items)):
        assert sigmas(counts[rank], shares[rank]) < 4
    seen = accumulate(counts[rank] / DRAWS for rank in range(items))
    assert max(abs(have - want) for have, want in zip(seen, accumulate(shares), strict=True)) < 0.025


@given(st.integers(1, 2000), st.lists(st.floats(0, 1, exclude_max=True), min_size=2).map(sorted))
def test_ranks_are_in_range_and_grow_with_the_number_drawn(items: int, uniform: list[float]) -> None:
    zipfian = Zipfian(items)
    ranks = [zipfian.rank(u) for u in [0.0, *uniform, 1 - 2**-53]]
    assert ranks == sorted(ranks)
    assert ranks[0] == 0
    assert ranks[-1] == items - 1


@given(st.integers(1, 100), st.integers(0, 100), st.floats(0, 1, exclude_max=True))
def test_growing_gives_the_larger_zipfian(items: int, more: int, u: float) -> None:
    grown, fresh = Zipfian(items), Zipfian(items + more)
    for _ in range(more):
        grown.grow()
    assert grown.items == fresh.items
    assert abs(grown.rank(u) - fresh.rank(u)) <= 1  # rounding, where u is a boundary


def test_scrambled_zipfian_keeps_the_shares_and_spreads_the_keys() -> None:
    records = 1000
    counts = Counter(key for _, key in Chooser(WORKLOADS["C"], records, seed=5).take(DRAWS))
    whole = zeta(SCRAMBLED_ITEMS, ZIPFIAN_CONSTANT)
    hottest = [scramble(rank) % records for rank in range(2)]
    assert [key for key, _ in counts.most_common(2)] == hottest
    for rank, key in enumerate(hottest):
        rest = 1 / records  # some of the other items share the key
        assert counts[key] / DRAWS == pytest.approx((rank + 1) ** -ZIPFIAN_CONSTANT / whole + rest, rel=0.1)
    assert len(counts) == records, "no record is left out"
    lower_half = sum(count for key, count in counts.items() if key < records // 2)
    assert 0.4 < lower_half / DRAWS < 0.6


def test_uniform_is_flat() -> None:
    workload = replace(WORKLOADS["W"], distribution=Distribution.UNIFORM)
    counts = Counter(key for _, key in Chooser(workload, 50, seed=2).take(DRAWS))
    assert set(counts) == set(range(50))
    assert all(sigmas(count, 1 / 50) < 4.5 for count in counts.values())


def test_latest_prefers_recent_inserts() -> None:
    records = 1000
    ages = Counter(ages_of_reads(Chooser(WORKLOADS["D"], records, seed=4).take(DRAWS), records))
    reads = sum(ages.values())
    newest_share = 1 / zeta(2 * records, ZIPFIAN_CONSTANT)  # the key space grew from 1000 to some 3500 meanwhile
    assert ages[0] / reads == pytest.approx(newest_share, rel=0.15)
    assert ages[0] > ages[1] > ages[10] > ages[100]
    assert sum(count for age, count in ages.items() if age < 100) > 0.5 * reads


def ages_of_reads(operations: list[tuple[Operation, int]], records: int) -> Iterator[int]:
    """How many keys were newer than the one read. A read never asks for what was not inserted before."""
    newest = records - 1
    for kind, key in operations:
        if kind is Operation.INSERT:
            assert key == newest + 1
            newest = key
        else:
            assert 0 <= key <= newest
            yield newest - key


@given(st.integers(1, 1000), st.integers(0, 3), st.sampled_from(sorted(WORKLOADS)))
def test_reads_touch_only_loaded_keys_and_own_inserts(records: int, client: int, name: str) -> None:
    known = set(range(records))
    for kind, key in Chooser(WORKLOADS[name], records, client=client, clients=4).take(200):
        if kind is Operation.INSERT:
            assert key not in known
            known.add(key)
        assert key in known


# --- records ----------------------------------------------------------------------------------------------------------


def test_key_names_sort_like_their_indexes() -> None:
    assert key_name(42) == "user000000000042"
    assert sorted(map(key_name, [1000, 5, 999])) == [key_name(5), key_name(999), key_name(1000)]


def test_values_have_their_size_and_come_from_the_seed() -> None:
    assert len(value(random.Random(1))) == VALUE_SIZE == 1000
    assert value(random.Random(1), 64) == value(random.Random(1), 64) != value(random.Random(2), 64)
