"""`RaftLog`: the rules of a follower's and a leader's log, first as examples, then against a plain list."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rayraft.raft.log import RaftLog
from rayraft.raft.types import Entry, HardState, SnapshotMeta
from rayraft.storage.memory import MemoryLogStore
from tests.harness import EVERYTHING, entry, store_with


def log_with(*terms: int) -> RaftLog:
    return RaftLog(store_with(terms))


def terms_of(log: RaftLog) -> list[int | None]:
    return [log.term(index) for index in range(log.first_index(), log.last_index() + 1)]


def entries(first: int, *terms: int) -> list[Entry]:
    return [entry(index, term) for index, term in enumerate(terms, first)]


# --- examples ---------------------------------------------------------------------------------------------------------


def test_an_empty_log_matches_at_its_beginning() -> None:
    log = log_with()
    assert (log.first_index(), log.last_index(), log.last_term()) == (1, 0, 0)
    assert log.matches(0, 0)
    assert log.term(1) is None


def test_entries_after_a_match_are_appended() -> None:
    log = log_with(1, 1)
    assert log.accept(2, 1, entries(3, 2, 2)) == 4
    assert terms_of(log) == [1, 1, 2, 2]


@pytest.mark.parametrize(("prev_index", "prev_term"), [(3, 1), (2, 2), (9, 9)])
def test_entries_after_a_gap_or_a_difference_are_refused(prev_index: int, prev_term: int) -> None:
    log = log_with(1, 1)
    assert log.accept(prev_index, prev_term, entries(prev_index + 1, 2)) is None
    assert terms_of(log) == [1, 1]


def test_a_conflict_replaces_the_log_from_there_on() -> None:
    log = log_with(1, 1, 1, 1)
    assert log.accept(1, 1, entries(2, 1, 2)) == 3
    assert terms_of(log) == [1, 1, 2]
    assert (log.stable, log.offered) == (2, 2), "entry 3 is to be written again"
    assert log.offer() == entries(3, 2)


def test_entries_that_are_there_already_erase_nothing() -> None:
    log = log_with(1, 1, 1, 1)
    assert log.accept(1, 1, entries(2, 1)) == 2
    assert log.accept(0, 0, []) == 0
    assert terms_of(log) == [1, 1, 1, 1]
    assert log.offer() == []


def test_what_is_committed_is_never_replaced() -> None:
    log = log_with(1, 1)
    log.commit_to(2)
    with pytest.raises(AssertionError, match="conflicts with a committed one"):
        log.accept(1, 1, entries(2, 2))


def test_the_commit_index_never_passes_the_log_nor_goes_back() -> None:
    log = log_with(1, 1)
    assert log.commit_to(2)
    assert not log.commit_to(1)
    assert log.commit == 2
    with pytest.raises(AssertionError, match="was the log lost"):
        log.commit_to(3)


def test_applied_stays_within_what_is_committed() -> None:
    log = log_with(1, 1)
    log.commit_to(1)
    with pytest.raises(AssertionError):
        log.applied_to(2)
    log.applied_to(1)
    with pytest.raises(AssertionError):
        log.applied_to(0)


def test_a_restart_knows_the_commit_index_as_far_as_the_log_reaches() -> None:
    store = store_with([1, 1])
    store.write(HardState(1, 0, commit=2), [])
    assert RaftLog(store).commit == 2
    store.write(HardState(1, 0, commit=9), [])
    assert RaftLog(store).commit == 2


def test_each_entry_is_offered_once() -> None:
    log = log_with()
    log.append(entries(1, 1, 1))
    assert log.offer() == entries(1, 1, 1)
    log.append(entries(3, 1))
    assert log.offer() == entries(3, 1)
    assert log.offer() == []


def test_a_write_of_replaced_entries_makes_nothing_stable() -> None:
    log = log_with(1)
    log.append(entries(2, 2, 2))
    log.offer()
    log.accept(1, 1, entries(2, 3, 3))
    log.stable_to(3, 2)
    assert log.stable == 1
    log.offer()
    log.stable_to(3, 3)
    assert log.stable == 3


def test_reading_stops_at_the_limit_but_never_at_nothing() -> None:
    for log in (log_with(1, 1, 1), log_with()):
        if not log.last_index():
            log.append(entries(1, 1, 1, 1))
        size = entry(1, 1).size
        assert log.entries(1, 0) == entries(1, 1)
        assert log.entries(1, 2 * size) == entries(1, 1, 1)
        assert log.entries(1, 2 * size - 1) == entries(1, 1)
        assert log.entries(2, EVERYTHING, 3) == entries(2, 1)
        assert log.entries(4, EVERYTHING) == []


def test_a_follower_says_where_its_conflicting_term_begins() -> None:
    log = log_with(1, 1, 2, 2, 2, 3)
    assert log.conflict(9) == (0, 7), "too short"
    assert log.conflict(6) == (3, 6)
    assert log.conflict(4) == (2, 3)
    assert log.conflict(2) == (1, 1)
    log.commit_to(3)
    assert log.conflict(5) == (2, 4), "what is committed needs no search"


def test_a_leader_finds_the_last_entry_of_a_term() -> None:
    log = log_with(1, 1, 3, 3, 5)
    found = {term: log.last_index_of_term(term, upto=5) for term in range(1, 7)}
    assert found == {1: 2, 2: None, 3: 4, 4: None, 5: 5, 6: None}
    assert log.last_index_of_term(3, upto=3) == 3
    assert log.last_index_of_term(5, upto=4) is None


def test_a_log_is_up_to_date_by_term_first_and_length_second() -> None:
    log = log_with(1, 2, 2)
    assert [log.is_up_to_date(*last) for last in ((3, 2), (4, 2), (1, 3))] == [True] * 3
    assert [log.is_up_to_date(*last) for last in ((2, 2), (9, 1), (0, 0))] == [False] * 3


def test_memory_is_given_back_for_what_is_durable_and_applied() -> None:
    store = MemoryLogStore()
    log = RaftLog(store, cache_bytes=100)
    log.append(entries(1, *[1] * 20))
    store.write(HardState(1), log.offer())
    log.commit_to(20)
    log.applied_to(20)
    assert len(log._tail) == 20, "not yet durable"
    log.stable_to(20, 1)
    log.applied_to(20)
    assert sum(e.size for e in log._tail) <= 50
    assert log.entries(1, EVERYTHING)[0] == entry(1, 1), "read from the store"
    log.check()


def test_a_snapshot_starts_the_log_over() -> None:
    store = store_with([1, 1, 1])
    log = RaftLog(store)
    log.append(entries(4, 2))
    log.restore(SnapshotMeta(9, 3))
    assert (log.last_index(), log.last_term(), log.commit, log.stable) == (9, 3, 9, 9)
    assert log.accept(9, 3, entries(10, 3)) == 10, "even before the store has followed"
    store.install(SnapshotMeta(9, 3), HardState(3))
    log.applied_to(9)
    assert log.offer() == entries(10, 3)
    log.check()


# --- against a plain list ---------------------------------------------------------------------------------------------


class LogAgainstList(RuleBasedStateMachine):
    """The model: all entries since the beginning of time in a list, and five numbers."""

    @initialize(cache_bytes=st.sampled_from([0, 60, 200, 1 << 20]))
    def start(self, cache_bytes: int) -> None:
        self.store = MemoryLogStore()
        self.cache_bytes = cache_bytes
        self.log = RaftLog(self.store, cache_bytes=cache_bytes)
        self.model: list[Entry] = []
        self.term = 1
        self.commit = self.applied = self.stable = self.first = 0
        self.first = 1

    @rule(raise_term=st.booleans(), count=st.integers(1, 4))
    def lead(self, raise_term: bool, count: int) -> None:
        self.term += raise_term
        fresh = entries(len(self.model) + 1, *[self.term] * count)
        self.log.append(fresh)
        self.model += fresh

    @rule(data=st.data(), count=st.integers(0, 5))
    def follow(self, data: st.DataObject, count: int) -> None:
        """Entries of a leader that agrees up to some point at or after the commit index, and then differs or not."""
        prev = data.draw(st.integers(self.commit, len(self.model)))
        same = data.draw(st.integers(0, count))
        sent = self.model[prev : prev + same]
        if len(sent) < count and len(sent) == same and data.draw(st.booleans()):
            self.term += 1
            sent = sent + entries(prev + same + 1, *[self.term] * (count - same))
        assert self.log.accept(prev, self.term_at(prev), sent) == prev + len(sent)
        if sent and sent[-1] not in self.model:
            self.model[prev:] = sent
            self.stable = min(self.stable, prev + same)

    @rule(ahead=st.integers(1, 3), back=st.integers(0, 10))
    def refuse(self, ahead: int, back: int) -> None:
        last = len(self.model)
        assert self.log.accept(last + ahead, self.term, entries(last + ahead + 1, self.term)) is None
        prev = max(self.commit, last - back)
        if prev > self.commit:
            assert self.log.accept(prev, self.term + 1, []) is None
            term, first = self.log.conflict(prev)
            assert term == self.term_at(prev)
            assert first == max(self.commit + 1, min(e.index for e in self.model if e.term == term))

    @rule()
    def write(self) -> None:
        if fresh := self.log.offer():
            self.store.write(HardState(self.term, 0, self.commit), fresh)
            self.store.sync()
            self.log.stable_to(fresh[-1].index, fresh[-1].term)
        self.stable = len(self.model)

    @rule(steps=st.integers(0, 4))
    def commit_some(self, steps: int) -> None:
        self.commit = min(self.commit + steps, len(self.model))
        self.log.commit_to(self.commit)

    @rule(steps=st.integers(0, 4))
    def apply_some(self, steps: int) -> None:
        self.applied = min(self.applied + steps, self.commit)
        self.log.applied_to(self.applied)

    @rule(keep=st.integers(0, 2))
    def compact(self, keep: int) -> None:
        index = min(self.applied, self.stable)
        if index > self.store.snapshot().index:
            self.first = max(self.first, index + 1 - keep)
            self.store.compact(SnapshotMeta(index, self.term_at(index)), self.first)

    @rule(ahead=st.integers(1, 3))
    def install(self, ahead: int) -> None:
        """A snapshot that is ahead of the whole log."""
        self.term += 1
        index = len(self.model) + ahead
        self.model += entries(len(self.model) + 1, *[self.term] * ahead)
        snapshot = SnapshotMeta(index, self.term)
        self.log.restore(snapshot)
        self.store.install(snapshot, HardState(self.term, 0, index))
        self.log.applied_to(index)
        self.commit = self.applied = self.stable = index
        self.first = index + 1

    @precondition(lambda self: self.stable == len(self.model))
    @rule()
    def restart(self) -> None:
        self.store.write(HardState(self.term, 0, self.commit), [])
        self.store.sync()
        self.log = RaftLog(self.store, cache_bytes=self.cache_bytes)
        self.applied = self.store.snapshot().index
        assert self.log.commit == self.commit

    def term_at(self, index: int) -> int:
        return self.model[index - 1].term if index else 0

    @invariant()
    def watermarks_agree(self) -> None:
        self.log.check()
        self.store.check()
        assert (self.log.first_index(), self.log.last_index()) == (self.first, len(self.model))
        assert (self.log.commit, self.log.applied, self.log.stable) == (self.commit, self.applied, self.stable)
        assert self.log.last_term() == self.term_at(len(self.model))
        assert self.log._tail_bytes == sum(e.size for e in self.log._tail)

    @invariant()
    def entries_agree(self) -> None:
        """Read in pieces, across the border between store and memory."""
        found: list[Entry] = []
        while self.first + len(found) <= len(self.model):
            piece = self.log.entries(self.first + len(found), 45)
            assert piece, "the log ends too early"
            found += piece
        assert found == self.model[self.first - 1 :]
        assert [self.log.term(e.index) for e in found] == [e.term for e in found]
        assert self.log.term(self.first - 1) == self.term_at(self.first - 1)

    @invariant()
    def terms_are_found(self) -> None:
        held = self.model[self.first - 1 :]
        for term in {e.term for e in held} | {self.term + 1}:
            last = max((e.index for e in held if e.term == term), default=None)
            assert self.log.last_index_of_term(term, len(self.model)) == last


TestLogAgainstList = LogAgainstList.TestCase
TestLogAgainstList.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
