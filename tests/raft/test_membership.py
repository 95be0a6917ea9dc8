"""Changes of membership against the reference library's files, by their properties, and against known mistakes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayraft.raft import membership
from rayraft.raft.membership import (
    Change,
    ChangeKind,
    ChangePending,
    ChangeRefused,
    check,
    check_fresh,
    decode_configuration,
    encode_configuration,
    enter_joint,
    leave_joint,
    needs_joint,
    prefer,
    simple,
)
from rayraft.raft.progress import Inflights, Progress
from rayraft.raft.ready import ProposalRefused
from rayraft.raft.types import Configuration, NodeId
from tests import scenarios
from tests.raft.test_quorum import check_overlap
from tests.scenarios import ScenarioError, Stanza, changes_of

# --- the reference library's files ------------------------------------------------------------------------------------

REFUSALS = {
    "config is already joint": "a joint configuration is in force",
    "can't apply simple config change in joint config": "a joint configuration is in force",
    "can't leave a non-joint config": "no joint configuration is in force",
    "can't make a zero-voter config joint": "there are no voters yet",
    "removed all voters": "no voter would be left",
    "more than one voter changed without entering joint config": "more than one voter would change at once",
}


@dataclass(slots=True)
class Group:
    """A configuration and, as the reference keeps them, the progress of each member since it became one."""

    configuration: Configuration = field(default_factory=Configuration)
    progress: dict[NodeId, Progress] = field(default_factory=dict)
    round: int = 0

    def answer(self, stanza: Stanza) -> list[str]:
        """What the files call for, in their own notation; every command counts as a round."""
        changes = changes_of(*stanza.input)
        match stanza.command:
            case "simple":
                after = simple(self.configuration, changes)
            case "enter-joint":
                auto_leave = stanza.option("autoleave", "false") == "true"
                after = enter_joint(self.configuration, changes, auto_leave=auto_leave)
            case "leave-joint":
                after = leave_joint(self.configuration)
            case unknown:
                raise ScenarioError(f"{stanza.where}: no such command: {unknown}")
        check(after)
        self.configuration = after
        self.progress = {
            node: self.progress.get(node) or Progress(node, max(self.round, 1), Inflights(1, 1), 0)
            for node in after.members()
        }
        return [describe(after), *(self.describe_progress(p) for p in self.progress.values())]

    def describe_progress(self, progress: Progress) -> str:
        state = f"{progress.node}: State{progress.state.name.title()} match={progress.match} next={progress.next}"
        return state + (" learner" if progress.node in self.configuration.learners else "")


def describe(configuration: Configuration) -> str:
    def listed(nodes: Sequence[NodeId]) -> str:
        return f"({' '.join(map(str, nodes))})"

    text = f"voters={listed(configuration.voters)}"
    if configuration.outgoing:
        text += f"&&{listed(configuration.outgoing)}"
    if configuration.learners:
        text += f" learners={listed(configuration.learners)}"
    if configuration.learners_next:
        text += f" learners_next={listed(configuration.learners_next)}"
    return text + (" autoleave" if configuration.auto_leave else "")


def run(stanzas: Sequence[Stanza]) -> int:
    """Compare every answer with what is expected; how many there were."""
    group = Group()
    for stanza in stanzas:
        expected = [line.strip() for line in stanza.expected]
        if len(expected) > 1:
            assert group.answer(stanza) == expected, stanza.where
        else:
            if expected[0] not in REFUSALS:
                raise ScenarioError(f"{stanza.where}: no such refusal: {expected[0]}")
            with pytest.raises(ChangeRefused, match=f"^{REFUSALS[expected[0]]}"):
                group.answer(stanza)
        group.round += 1
    return len(stanzas)


@pytest.mark.parametrize("path", scenarios.scenario_files("confchange"))
def test_reference_files(path: Path) -> None:
    assert run(scenarios.read(path)) > 0


@pytest.mark.parametrize("path", scenarios.scenario_files("confchange"))
def test_every_expected_line_is_compared(path: Path) -> None:
    """Changing any one of them makes the comparison fail."""
    stanzas = scenarios.read(path)
    for position, stanza in enumerate(stanzas):
        for line in range(len(stanza.expected)):
            expected = list(stanza.expected)
            expected[line] += "9"
            wrong = Stanza(stanza.command, stanza.positional, stanza.options, stanza.input, tuple(expected))
            with pytest.raises((AssertionError, ScenarioError)):
                run([*stanzas[:position], wrong])


# --- cases ------------------------------------------------------------------------------------------------------------


def test_witnesses_vote_and_never_become_anything_else() -> None:
    group = simple(Configuration((1, 2)), changes_of("w3"))
    assert (group.voters, group.witnesses) == ((1, 2, 3), (3,))
    assert simple(group, changes_of("w3")) == group
    for word in ("v3", "l3", "r3 v3", "r3 l3"):
        with pytest.raises(ChangeRefused, match="3 is a witness, and stays so"):
            simple(group, changes_of(word))
    for word in ("w2", "r2 w2", "l4 w4"):
        with pytest.raises(ChangeRefused, match="is no witness, and stays so"):
            simple(group, changes_of(word))
    joint = enter_joint(group, changes_of("r3 w4"), auto_leave=True)
    assert (joint.outgoing, joint.witnesses) == ((1, 2, 3), (3, 4)), "it votes as a witness until the half is left"
    assert leave_joint(joint).witnesses == (4,)
    with pytest.raises(ChangeRefused, match="stays so"):
        enter_joint(group, changes_of("r3 v3"), auto_leave=True)


def test_every_majority_stores_the_data() -> None:
    """Two witnesses of three could commit the removal of the only node that holds anything."""
    with pytest.raises(ChangeRefused, match="witnesses alone would be a majority"):
        simple(Configuration((1, 2), witnesses=(2,)), changes_of("w3"))
    with pytest.raises(ChangeRefused, match="witnesses alone would be a majority"):
        enter_joint(Configuration((1, 2, 3), witnesses=(3,)), changes_of("r1 w4"), auto_leave=True)
    assert simple(Configuration((1, 2, 3), witnesses=(3,)), changes_of("w4")).witnesses == (3, 4)


def test_somebody_must_be_able_to_lead() -> None:
    with pytest.raises(ChangeRefused, match="only witnesses would vote"):
        simple(Configuration((1, 2), witnesses=(2,)), changes_of("r1"))
    with pytest.raises(ChangeRefused, match="only witnesses would vote"):
        enter_joint(Configuration((1,)), changes_of("r1 w2 w3"), auto_leave=False)
    with pytest.raises(ChangeRefused, match="only witnesses would vote"):
        simple(Configuration(), changes_of("w1"))


def test_ids_are_never_used_again() -> None:
    group = simple(simple(Configuration((1, 2, 3)), changes_of("v7")), changes_of("r7"))
    assert (group.voters, group.highest_id) == ((1, 2, 3), 7)
    for word in ("v7", "l5", "w4", "v8 v6", "r3 v3"):
        with pytest.raises(ChangeRefused, match="take 8 or more"):
            check_fresh(group, changes_of(word))
    check_fresh(group, changes_of("v8 l9 r1 l2 v2 v0 u4"))
    assert simple(group, changes_of("v9 r9")).highest_id == 9, "also one that was a member only on the way"
    with pytest.raises(ChangeRefused, match="take 4 or more"):
        check_fresh(Configuration((1, 3)), changes_of("v2"))
    check_fresh(Configuration(), changes_of("v1"))


def test_preferred_are_members_that_can_lead() -> None:
    group = prefer(Configuration((1, 2, 3), learners=(4,), witnesses=(3,)), [4, 2, 4])
    assert group.preferred == (4, 2)
    check(group)
    assert simple(group, changes_of("r2")).preferred == (4,)
    assert enter_joint(group, changes_of("r2"), auto_leave=True).preferred == (4,)
    assert simple(group, changes_of("l2 v4 v2")).preferred == (4, 2)
    with pytest.raises(ChangeRefused, match="not a member"):
        prefer(group, [5])
    with pytest.raises(ChangeRefused, match="witness"):
        prefer(group, [3])


def test_a_demoted_voter_votes_until_the_joint_configuration_is_left() -> None:
    joint = enter_joint(Configuration((1, 2, 3)), changes_of("l3 v4"), auto_leave=False)
    assert (joint.learners, joint.learners_next) == ((), (3,))
    assert leave_joint(joint).learners == (3,)
    assert leave_joint(enter_joint(Configuration((1, 2, 3)), changes_of("l3 v3"), auto_leave=False)).learners == ()


@pytest.mark.parametrize("words", ["v5", "v5 r2"])
def test_who_comes_during_a_joint_phase_that_ends_by_itself_is_to_ask_again(words: str) -> None:
    """The phase of another operator's change: he who asked to leave it first had nothing that he could leave."""
    change = enter_joint if " " in words else simple
    options = {"auto_leave": True} if " " in words else {}
    for auto_leave, error in ((True, ChangePending), (False, ChangeRefused)):
        joint = enter_joint(Configuration((1, 2, 3)), changes_of("r3 v4"), auto_leave=auto_leave)
        with pytest.raises(ChangeRefused, match="a joint configuration is in force") as refused:
            change(joint, changes_of(words), **options)
        assert refused.type is error


def test_a_refusal_is_a_refused_proposal() -> None:
    with pytest.raises(ProposalRefused):
        leave_joint(Configuration((1,)))


def test_a_configuration_of_an_older_version_can_be_read() -> None:
    old = msgspec.msgpack.encode(((1, 2), (), (3,), (), False))
    assert decode_configuration(old) == Configuration((1, 2), learners=(3,))


# --- properties -------------------------------------------------------------------------------------------------------

change_lists = st.lists(st.builds(Change, st.sampled_from(ChangeKind), st.integers(0, 5)), max_size=5)


@st.composite
def configurations(draw: st.DrawFn) -> Configuration:
    """Any settled configuration of up to five nodes."""
    anything = st.lists(st.sampled_from("vvlwn"), min_size=5, max_size=5)
    roles = draw(anything.filter(lambda roles: roles.count("v") >= max(1, roles.count("w"))))
    having = {role: tuple(node for node, own in enumerate(roles, 1) if own == role) for role in "vlw"}
    preferred = draw(st.lists(st.sampled_from(having["v"] + having["l"]), unique=True, max_size=2))
    return Configuration(
        tuple(sorted(having["v"] + having["w"])),
        learners=having["l"],
        witnesses=having["w"],
        preferred=tuple(preferred),
        highest_id=draw(st.sampled_from([0, 5])),
    )


def successors(before: Configuration, changes: Sequence[Change]) -> Iterator[tuple[Configuration, Configuration]]:
    """Each step that the functions allow from ``before``, as a pair."""
    with contextlib.suppress(ChangeRefused):
        yield before, simple(before, changes)
    try:
        joint = enter_joint(before, changes, auto_leave=True)
    except ChangeRefused:
        return
    yield before, joint
    yield joint, leave_joint(joint)


def check_steps(before: Configuration, changes: Sequence[Change]) -> None:
    check(before)
    for one, other in successors(before, changes):
        check(other)
        check_overlap(one, other)
        check_overlap(other, one)
        assert other.highest_id >= max(*one.members(), *other.members(), one.highest_id)


def check_joint_is_one_by_one(before: Configuration, changes: Sequence[Change]) -> None:
    """Joint consensus gets where simple changes get, wherever these are legal and no id comes back."""
    after = before
    try:
        check_fresh(before, changes)
        for change in changes:
            after = simple(after, [change])
    except ChangeRefused:
        return
    result = leave_joint(enter_joint(before, changes, auto_leave=False))
    assert result == msgspec.structs.replace(after, highest_id=result.highest_id)
    assert result.highest_id == max(after.highest_id, *before.members())


@given(configurations(), change_lists)
def test_consecutive_configurations_overlap_and_hold_the_invariants(
    before: Configuration, changes: list[Change]
) -> None:
    check_steps(before, changes)


@given(configurations(), change_lists)
def test_joint_consensus_gets_where_simple_changes_get(before: Configuration, changes: list[Change]) -> None:
    check_joint_is_one_by_one(before, changes)


@given(configurations(), change_lists)
def test_simple_is_refused_for_its_size_exactly_when_joint_is_needed(
    before: Configuration, changes: list[Change]
) -> None:
    try:
        joint = enter_joint(before, changes, auto_leave=False)
    except ChangeRefused:
        with pytest.raises(ChangeRefused):
            simple(before, changes)
        return
    if needs_joint(before, changes):
        with pytest.raises(ChangeRefused, match="more than one voter"):
            simple(before, changes)
    else:
        assert simple(before, changes) == leave_joint(joint)


@given(configurations(), change_lists)
def test_a_configuration_survives_its_entry(before: Configuration, changes: list[Change]) -> None:
    for _, after in successors(before, changes):
        assert decode_configuration(encode_configuration(after)) == after


# --- do the checks above see a mistake? -------------------------------------------------------------------------------


def test_two_voters_at_once_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    before, changes = Configuration((1, 2, 3)), changes_of("v4 v5")
    check_steps(before, changes)
    monkeypatch.setattr(membership, "len", lambda _: 1, raising=False)
    with pytest.raises(AssertionError):
        check_steps(before, changes)


def test_a_joint_configuration_without_the_old_voters_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(configuration: Configuration, changes: Sequence[Change], *, auto_leave: bool) -> Configuration:
        draft = membership._Draft.of(configuration)
        draft.apply(changes)
        draft.outgoing = set(draft.voters)
        return draft.finish()

    before, changes = Configuration((1, 2, 3)), changes_of("v4 v5")
    check_steps(before, changes)
    monkeypatch.setitem(globals(), "enter_joint", forgetful)
    with pytest.raises(AssertionError):
        check_steps(before, changes)


def test_a_demotion_that_forgets_the_learner_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(configuration: Configuration) -> Configuration:
        return membership.leave_joint(msgspec.structs.replace(configuration, learners_next=()))

    before, changes = Configuration((1, 2, 3)), changes_of("l3")
    check_joint_is_one_by_one(before, changes)
    monkeypatch.setitem(globals(), "leave_joint", forgetful)
    with pytest.raises(AssertionError):
        check_joint_is_one_by_one(before, changes)


def test_a_learner_that_counts_as_a_voter_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def add_learner_as_voter(self: membership._Draft, changes: Sequence[Change]) -> None:
        for change in changes:
            self.voters.add(change.node)
            self.learners.add(change.node)

    before, changes = Configuration((1, 2, 3)), changes_of("l4")
    check_steps(before, changes)
    monkeypatch.setattr(membership._Draft, "apply", add_learner_as_voter)
    with pytest.raises(AssertionError, match="2:"):
        check_steps(before, changes)


@pytest.mark.parametrize(
    ("broken", "number"),
    [
        (Configuration((2, 1)), 1),
        (Configuration((1, 1)), 1),
        (Configuration((0, 1)), 1),
        (Configuration((1, 2), learners=(2,)), 2),
        (Configuration((1,), (1, 2), learners=(2,)), 2),
        (Configuration((1, 2), (1, 2), learners_next=(2,)), 2),
        (Configuration((1,), (1, 2), learners_next=(3,)), 3),
        (Configuration((1,), auto_leave=True), 4),
        (Configuration((1,), witnesses=(2,)), 5),
        (Configuration((1,), witnesses=(1,)), 5),
        (Configuration((1, 2, 3), witnesses=(2, 3)), 5),
        (Configuration((1,), (2,), witnesses=(2,)), 5),
        (Configuration((1, 5), highest_id=4), 6),
        (Configuration((1,), preferred=(1, 1)), 7),
        (Configuration((1,), preferred=(2,)), 7),
        (Configuration((1, 2), witnesses=(2,), preferred=(2,)), 7),
        (Configuration(learners=(1,)), 8),
    ],
)
def test_check_names_the_invariant_that_is_broken(broken: Configuration, number: int) -> None:
    with pytest.raises(AssertionError, match=f"^{number}:"):
        check(broken)


def test_check_takes_what_is_no_group_yet() -> None:
    check(Configuration())
    assert list(Configuration().members()) == []
