"""`ReadRounds`: which reads a confirmed round answers, and at which index."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rayraft.raft.reads import ReadRounds, ReadState


def rounds_with(*tokens: str, max_open: int = 2) -> ReadRounds:
    rounds = ReadRounds(max_open)
    for token in tokens:
        rounds.add(token)
    return rounds


def test_without_reads_there_is_no_round() -> None:
    rounds = rounds_with()
    assert rounds.begin(commit=5) is None
    assert rounds.pending_id == 0
    assert rounds.confirm(99) == []


def test_reads_that_wait_together_share_a_round() -> None:
    rounds = rounds_with("a", "b")
    assert rounds.begin(commit=5) == 1
    assert rounds.confirm(1) == [ReadState(5, ["a", "b"])]


def test_a_read_never_joins_a_round_whose_heartbeats_have_left() -> None:
    rounds = rounds_with("early")
    rounds.begin(commit=5)
    rounds.add("late")
    assert rounds.confirm(1) == [ReadState(5, ["early"])]
    assert rounds.begin(commit=7) == 2
    assert rounds.confirm(2) == [ReadState(7, ["late"])]


def test_a_round_confirms_the_earlier_ones_at_their_own_index() -> None:
    rounds = rounds_with("a")
    rounds.begin(commit=5)
    rounds.add("b")
    rounds.begin(commit=6)
    assert rounds.confirm(2) == [ReadState(5, ["a"]), ReadState(6, ["b"])]


def test_an_older_answer_confirms_no_newer_round() -> None:
    rounds = rounds_with("a")
    assert rounds.begin(commit=5) == 1
    assert rounds.confirm(0) == []
    assert rounds.pending_id == 1


def test_reads_wait_while_enough_rounds_are_open() -> None:
    rounds = rounds_with("a", max_open=1)
    rounds.begin(commit=5)
    rounds.add("b")
    rounds.add("c")
    assert rounds.begin(commit=5) is None
    rounds.confirm(1)
    assert rounds.begin(commit=6) == 2
    assert rounds.confirm(2) == [ReadState(6, ["b", "c"])]


def test_a_confirmation_comes_once() -> None:
    rounds = rounds_with("a")
    rounds.begin(commit=5)
    assert rounds.confirm(1)
    assert rounds.confirm(1) == []


def test_dropping_names_every_read_that_is_open_or_waits() -> None:
    rounds = rounds_with("a", max_open=1)
    rounds.begin(commit=5)
    rounds.add("b")
    assert rounds.drop_all() == ["a", "b"]
    assert rounds.drop_all() == []
    assert rounds.begin(commit=5) is None


@given(st.lists(st.sampled_from(["read", "begin", "confirm", "commit", "drop"]), max_size=60), st.integers(1, 3))
def test_every_read_is_answered_or_dropped_once_at_an_index_no_older_than_itself(
    acts: list[str], max_open: int
) -> None:
    rounds, commit, began = ReadRounds(max_open), 0, {}
    settled: list[int] = []
    for act in [*acts, "confirm", "drop"]:
        if act == "read":
            began[len(began)] = commit
            rounds.add(len(began) - 1)
        elif act == "begin":
            rounds.begin(commit)
        elif act == "commit":
            commit += 1
        elif act == "drop":
            settled += rounds.drop_all()
        else:
            for state in rounds.confirm(rounds.pending_id):
                assert all(began[token] <= state.index <= commit for token in state.tokens)
                settled += state.tokens
        rounds.check()
    assert sorted(settled) == list(began)
