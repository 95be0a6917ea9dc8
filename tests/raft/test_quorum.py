"""Quorums against the reference library's tables, against the definition, and against a wrong majority."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain, combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayraft.raft import quorum
from rayraft.raft.quorum import UNBOUNDED, VoteResult, committed_index, majority, vote_result
from rayraft.raft.types import Configuration, NodeId
from tests import scenarios
from tests.scenarios import Stanza

# --- the reference library's tables -----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", scenarios.scenario_files("quorum"))
def test_reference_tables(path: Path) -> None:
    stanzas = scenarios.read(path)
    assert stanzas
    for stanza in stanzas:
        assert ANSWERS[stanza.command](stanza) == stanza.expected[-1].strip(), stanza.where


def answer_committed(stanza: Stanza) -> str:
    match = {node: int(index) for node, index in answers_by_node(stanza, "idx").items()}
    index = committed_index(configuration_of(stanza), match)
    if index == UNBOUNDED:
        return "<empty majority quorum>∞"
    return str(index)


def answer_vote(stanza: Stanza) -> str:
    votes = {node: vote == "y" for node, vote in answers_by_node(stanza, "votes").items()}
    return "Vote" + vote_result(configuration_of(stanza), votes).name.title()


ANSWERS: dict[str, Callable[[Stanza], str]] = {"committed": answer_committed, "vote": answer_vote}


def configuration_of(stanza: Stanza) -> Configuration:
    """``cfg`` and ``cfgj``; ``cfgj=zero`` is the reference's way to ask for a joint code path with an empty half."""
    voters, outgoing = stanza.options.get("cfg", ()), stanza.options.get("cfgj", ())
    return Configuration(tuple(map(int, voters)), () if outgoing == ("zero",) else tuple(map(int, outgoing)))


def answers_by_node(stanza: Stanza, key: str) -> dict[NodeId, str]:
    """The values are listed for ``cfg``, then for what ``cfgj`` adds, in the order written; ``_`` is no answer."""
    configuration = configuration_of(stanza)
    nodes = dict.fromkeys(configuration.voters + configuration.outgoing)
    return {n: v for n, v in zip(nodes, stanza.options.get(key, ()), strict=True) if v != "_"}


def test_the_parser_reads_every_part_of_a_stanza() -> None:
    text = """# a comment
first 1 2 key=value list=(a, b) none=()
input
# no comment, since this is input
----
one line

second
----
----
blank

----
then the end
----
----
# and a comment to finish
third
----
"""
    first, second, third = scenarios.parse(text)
    assert (first.command, first.positional, first.where) == ("first", ("1", "2"), "scenario:2")
    assert first.options == {"key": ("value",), "list": ("a", "b"), "none": ()}
    assert first.option("key") == "value"
    assert first.input == ("input", "# no comment, since this is input")
    assert first.expected == ("one line",)
    assert second.expected == ("blank", "", "----", "then the end")
    assert (third.command, third.expected) == ("third", ())


@pytest.mark.parametrize("text", ["no separator", "open bracket=(1\n----\n", "twice a=1 a=2\n----\n"])
def test_the_parser_refuses_what_it_can_not_read(text: str) -> None:
    with pytest.raises(scenarios.ScenarioError, match=r"scenario:1"):
        list(scenarios.parse(text))


# --- the definition ---------------------------------------------------------------------------------------------------

node_sets = st.sets(st.integers(1, 7), max_size=7).map(lambda nodes: tuple(sorted(nodes)))
some_nodes = st.sets(st.integers(1, 7), min_size=1, max_size=7).map(lambda nodes: tuple(sorted(nodes)))
configurations = st.builds(Configuration, voters=some_nodes, outgoing=node_sets)
matches = st.dictionaries(st.integers(1, 7), st.integers(0, 9))
ballots = st.dictionaries(st.integers(1, 7), st.booleans())


def subsets(nodes: frozenset[NodeId]) -> Iterator[frozenset[NodeId]]:
    ordered = sorted(nodes)
    return map(frozenset, chain.from_iterable(combinations(ordered, size) for size in range(len(ordered) + 1)))


def is_quorum(configuration: Configuration, nodes: frozenset[NodeId]) -> bool:
    return vote_result(configuration, dict.fromkeys(nodes, True)) is VoteResult.WON


def check_overlap(one: Configuration, other: Configuration) -> None:
    """No quorum of ``one`` leaves a quorum of ``other`` outside it."""
    for nodes in subsets(one.all_voters()):
        if is_quorum(one, nodes):
            assert not is_quorum(other, other.all_voters() - nodes)


def check_committed_is_held(configuration: Configuration, match: dict[NodeId, int]) -> None:
    """By plain counting, in each half: more than half hold the committed index, and not so the next one."""
    index = committed_index(configuration, match)
    halves = [half for half in (configuration.voters, configuration.outgoing) if half]

    def held_everywhere(index: int) -> bool:
        return all(2 * sum(match.get(node, 0) >= index for node in half) > len(half) for half in halves)

    assert held_everywhere(index)
    assert not held_everywhere(index + 1)


@given(some_nodes, st.integers(1, 7))
def test_quorums_of_neighbouring_configurations_overlap(voters: tuple[NodeId, ...], changed: NodeId) -> None:
    neighbour = tuple(sorted(set(voters) ^ {changed}))
    if neighbour:
        check_overlap(Configuration(voters), Configuration(voters))
        check_overlap(Configuration(voters), Configuration(neighbour))


@given(some_nodes, some_nodes)
def test_joint_quorums_overlap_with_those_before_and_after(old: tuple[NodeId, ...], new: tuple[NodeId, ...]) -> None:
    joint = Configuration(voters=new, outgoing=old)
    check_overlap(joint, joint)
    check_overlap(joint, Configuration(old))
    check_overlap(joint, Configuration(new))


@given(configurations, matches)
def test_committed_index_is_held_by_a_quorum_and_the_next_is_not(
    configuration: Configuration, match: dict[NodeId, int]
) -> None:
    check_committed_is_held(configuration, match)


@given(node_sets, node_sets, matches, ballots)
def test_joint_result_is_the_lesser_of_its_halves(
    voters: tuple[NodeId, ...], outgoing: tuple[NodeId, ...], match: dict[NodeId, int], votes: dict[NodeId, bool]
) -> None:
    joint, first, second = Configuration(voters, outgoing), Configuration(voters), Configuration(outgoing)
    assert committed_index(joint, match) == min(committed_index(first, match), committed_index(second, match))
    assert vote_result(joint, votes) == min(vote_result(first, votes), vote_result(second, votes))


@given(configurations, matches, st.integers(1, 7), st.integers(0, 9))
def test_committed_index_grows_with_each_report(
    configuration: Configuration, match: dict[NodeId, int], node: NodeId, more: int
) -> None:
    later = match | {node: match.get(node, 0) + more}
    assert committed_index(configuration, later) >= committed_index(configuration, match)


@given(configurations, st.permutations(range(1, 8)), st.lists(st.booleans(), min_size=7, max_size=7))
def test_a_decided_vote_stays_decided(configuration: Configuration, order: list[NodeId], answers: list[bool]) -> None:
    votes: dict[NodeId, bool] = {}
    results = [vote_result(configuration, votes)]
    for node, answer in zip(order, answers, strict=True):
        votes[node] = answer
        results.append(vote_result(configuration, votes))
    decided = [result for result in results if result is not VoteResult.PENDING]
    assert decided, "everybody has answered"
    assert len(set(decided)) == 1
    assert results[-len(decided) :] == decided, "never back to pending"


@given(configurations, ballots)
def test_pending_means_that_either_may_still_happen(configuration: Configuration, votes: dict[NodeId, bool]) -> None:
    best, worst = (
        vote_result(configuration, dict.fromkeys(configuration.all_voters(), answer) | votes)
        for answer in (True, False)
    )
    assert (best is VoteResult.WON) == (vote_result(configuration, votes) is not VoteResult.LOST)
    assert (worst is VoteResult.LOST) == (vote_result(configuration, votes) is not VoteResult.WON)


@given(configurations, matches, ballots)
def test_learners_and_strangers_do_not_count(
    configuration: Configuration, match: dict[NodeId, int], votes: dict[NodeId, bool]
) -> None:
    with_learner = Configuration(configuration.voters, configuration.outgoing, learners=(8,), learners_next=(9,))
    heard_match, heard_votes = match | {8: 99, 9: 99, 10: 99}, votes | {8: True, 9: True, 10: True}
    assert committed_index(with_learner, heard_match) == committed_index(configuration, match)
    assert vote_result(with_learner, heard_votes) is vote_result(configuration, votes)


def test_an_empty_configuration_decides_everything() -> None:
    assert committed_index(Configuration(), {}) == UNBOUNDED
    assert vote_result(Configuration(), {}) is VoteResult.WON


# --- do the checks above see a mistake? -------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [lambda n: n // 2, lambda n: (n + 1) // 2], ids=["half", "half-rounded-up"])
def test_too_small_a_majority_is_caught(monkeypatch: pytest.MonkeyPatch, wrong: Callable[[int], int]) -> None:
    voters = Configuration((1, 2, 3, 4))
    check_overlap(voters, voters)
    check_committed_is_held(voters, {1: 5, 2: 5, 3: 3, 4: 3})
    monkeypatch.setattr(quorum, "majority", wrong)
    with pytest.raises(AssertionError):
        check_overlap(voters, voters)
    with pytest.raises(AssertionError):
        check_committed_is_held(voters, {1: 5, 2: 5, 3: 3, 4: 3})


def test_deciding_by_one_half_of_a_joint_configuration_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    joint, old = Configuration(voters=(4, 5, 6), outgoing=(1, 2, 3)), Configuration((1, 2, 3))
    monkeypatch.setattr(quorum, "min", max, raising=False)
    with pytest.raises(AssertionError):
        check_overlap(joint, old)


def test_too_large_a_majority_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quorum, "majority", lambda n: n)
    with pytest.raises(AssertionError):
        check_committed_is_held(Configuration((1, 2, 3)), {1: 5, 2: 5})


@pytest.mark.parametrize(("n", "expected"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (6, 4), (7, 4)])
def test_majority_is_the_least_number_above_half(n: int, expected: int) -> None:
    assert majority(n) == expected
