"""What a supervisor decides, without Ray."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

from rayraft.ray import supervision
from rayraft.ray.supervision import (
    ABANDONED_SECONDS,
    HALFWAY_SECONDS,
    STRANGER_SECONDS,
    Begin,
    Decision,
    Dismiss,
    Finish,
    Health,
    Member,
    Restart,
    Revive,
    Rules,
    Silence,
    Stranger,
    Tell,
    View,
    Withdraw,
    check,
    decide,
)

RULES = Rules(replace_after=100.0, rebuild_after=10.0, restart_after=20.0)
NOW = 1000.0


def member(node: int, health: Health = Health.WELL, ill_for: float = 0.0, **rest: object) -> Member:
    return replace(Member(node=node, votes=True, health=health, since=NOW - ill_for), **rest)


def view(*others: Member, **rest: object) -> View:
    """Nodes 1 and 2 are well."""
    return replace(View((member(1), member(2), *others)), **rest)


def step(seen: View, rules: Rules = RULES) -> object:
    decision = decide(seen, rules, NOW)
    check(seen, rules, NOW, decision)
    return decision.step


def notes(seen: View, rules: Rules = RULES) -> str:
    decision = decide(seen, rules, NOW)
    assert decision.step is None
    return "; ".join(decision.notes)


def test_nothing_is_done_while_everybody_is_well() -> None:
    assert decide(view(member(3)), RULES, NOW) == Decision()


def test_a_node_that_stays_away_is_replaced_when_its_time_is_over() -> None:
    assert "replaced in 1 s" in notes(view(member(3, Health.AWAY, 99)))
    assert step(view(member(3, Health.AWAY, 100))) == Begin(3)


def test_a_damaged_disk_has_a_shorter_time() -> None:
    assert step(view(member(3, Health.DAMAGED, 10))) == Begin(3)
    assert "replaced in" in notes(view(member(3, Health.DAMAGED, 9)))


def test_never_is_an_answer() -> None:
    patient = Rules(replace_after=None, rebuild_after=None)
    assert "never replaced" in notes(view(member(3, Health.AWAY, 1e9)), patient)


def test_who_was_ill_first_comes_first() -> None:
    five = view(member(3), member(4, Health.AWAY, 150), member(5, Health.DAMAGED, 200))
    assert step(five) == Begin(5)


def test_without_a_majority_that_is_well_nobody_is_replaced() -> None:
    seen = View((member(1), member(2, Health.AWAY, 500), member(3, Health.AWAY, 500)))
    assert "only 1 of 3 voters" in notes(seen)
    assert "no leader" in notes(replace(view(member(3, Health.AWAY, 500)), led=False))


def test_without_a_free_machine_it_says_so() -> None:
    assert "no machine is free" in notes(view(member(3, Health.AWAY, 500, room=False)))


def test_a_change_of_somebody_else_is_waited_for() -> None:
    assert "under way" in notes(view(member(3, Health.AWAY, 500), changing=True))


def test_a_replacement_is_finished_by_whoever_sees_it() -> None:
    learner = member(4, votes=False, replaces=3)
    assert step(view(member(3, Health.AWAY, 500), learner)) == Finish(3, 4)


def test_a_replacement_is_withdrawn_when_the_old_node_is_back_or_somebody_else_took_the_place() -> None:
    assert step(view(member(3), member(4, votes=False, replaces=3))) == Withdraw(4)
    assert step(view(member(4, replaces=3), member(5, votes=False, replaces=3))) == Withdraw(5)
    two = view(member(3, Health.AWAY, 500), member(4, votes=False, replaces=3), member(5, votes=False, replaces=3))
    assert step(two) == Withdraw(5)


def test_a_replacement_that_does_not_come_up_is_given_up() -> None:
    old = member(3, Health.AWAY, 500)
    assert "does not answer" in notes(view(old, member(4, Health.AWAY, 5, votes=False, replaces=3)))
    slow = member(4, Health.AWAY, HALFWAY_SECONDS, votes=False, replaces=3)
    assert step(view(old, slow)) == Withdraw(4)


def test_a_node_that_took_a_place_is_a_member_like_any_other() -> None:
    assert step(view(member(4, replaces=3))) is None
    assert step(view(member(4, Health.AWAY, 500, replaces=3))) == Begin(4)


def test_an_actor_that_ray_gave_up_is_created_again_where_its_machine_is_up_also_without_a_leader() -> None:
    assert step(view(member(3, Health.GONE))) == Revive(3)
    assert step(view(member(3, Health.GONE), led=False)) == Revive(3)
    assert step(view(member(3, Health.GONE, 500, machine_up=False))) == Begin(3)


def silent(node: int, seconds: float, ended: int = 0, **rest: object) -> Member:
    return member(node, Health.AWAY, seconds, silence=Silence(NOW - seconds, ended), **rest)


def test_a_process_that_answers_nobody_is_ended_also_without_a_leader() -> None:
    assert step(view(silent(3, 20))) == Restart(3)
    assert step(view(silent(3, 20), led=False)) == Restart(3)
    assert step(view(silent(3, 19))) is None
    assert step(view(silent(3, 20, machine_up=False))) is None
    assert step(view(silent(3, 20)), Rules(restart_after=None)) is None


def test_a_process_that_was_ended_gets_twice_the_time() -> None:
    assert step(view(silent(3, 39, ended=1))) is None
    assert step(view(silent(3, 40, ended=1))) == Restart(3)
    assert step(view(silent(3, 99, ended=1000))) is None


def test_a_node_that_hangs_again_and_again_is_replaced() -> None:
    assert step(view(replace(silent(3, 5, ended=3), since=NOW - 100))) == Begin(3)


def test_a_removed_node_that_came_back_is_told() -> None:
    back = Stranger(3, was_member=True, since=NOW - STRANGER_SECONDS)
    assert step(view(member(4), strangers=(back,))) == Dismiss(3)
    assert step(view(member(4), strangers=(replace(back, since=NOW),))) is None
    assert step(view(member(4), forgotten=frozenset({3}))) == Tell(3)


def test_a_replacement_that_an_operator_began_is_finished_when_nobody_goes_on_with_it() -> None:
    new = member(4, votes=False, replaces=3, ordered=True)
    assert "an operator replaces node 3" in notes(view(member(3), new))
    assert "an operator replaces node 3" in notes(view(member(3, Health.AWAY, 500), new))
    old_order = replace(new, since=NOW - HALFWAY_SECONDS)
    assert step(view(member(3), old_order)) == Finish(3, 4)
    assert step(view(member(3), member(5, Health.AWAY, 500), member(6), old_order)) == Finish(3, 4), "then the next"
    assert step(view(member(4, replaces=3, ordered=True))) is None, "it is done"


def test_a_node_that_is_joining_is_left_alone_unless_it_was_forgotten() -> None:
    joining = Stranger(4, was_member=False, since=NOW - HALFWAY_SECONDS)
    assert step(view(member(3), strangers=(joining,))) is None
    assert step(view(member(3), strangers=(replace(joining, since=NOW - ABANDONED_SECONDS),))) == Dismiss(4)
    assert step(view(member(3), strangers=(replace(joining, replaces=3),))) == Dismiss(4)


# --- for every group --------------------------------------------------------------------------------------------------

ages = st.sampled_from([0.0, 5.0, 50.0, 500.0])
silences = st.builds(lambda age, ended: Silence(NOW - age, ended), ages, st.integers(0, 3))
members = st.lists(
    st.builds(
        lambda node, votes, health, age, up, room, replaces, ordered, silence: member(
            node,
            health,
            age,
            votes=votes,
            machine_up=up,
            room=room,
            replaces=replaces if replaces != node else 0,
            ordered=ordered,
            silence=silence,
        ),
        st.integers(1, 6),
        st.booleans(),
        st.sampled_from(Health),
        ages,
        st.booleans(),
        st.booleans(),
        st.sampled_from([0, 0, 0, 1, 2, 3]),
        st.booleans(),
        st.one_of(st.none(), st.none(), silences),
    ),
    unique_by=lambda found: found.node,
    max_size=6,
)
views = st.builds(
    lambda members, led, changing: View(tuple(members), led=led, changing=changing),
    members,
    st.sampled_from([True, True, True, False]),
    st.sampled_from([False, False, True]),
)
rules_ = st.builds(
    lambda away, damaged, hanging: Rules(replace_after=away, rebuild_after=damaged, restart_after=hanging),
    st.sampled_from([None, 0.0, 100.0]),
    st.sampled_from([None, 0.0, 10.0]),
    st.sampled_from([None, 0.0, 20.0]),
)


@given(views, rules_)
def test_every_decision_keeps_the_rules(seen: View, rules: Rules) -> None:
    check(seen, rules, NOW, decide(seen, rules, NOW))


def no_quorum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "_majority_is_well", lambda *_: True)


def itself_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "majority", lambda voters: voters // 2)


def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Rules, "patience", lambda *_: 0.0)


def operators_disturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "_may_be_tended", lambda *_: False)


def one_after_the_other_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "_go_on", lambda *_: None)


def restless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Silence, "patience", lambda *_: 0.0)


@pytest.mark.parametrize(
    "mutate", [no_quorum, itself_counted, impatient, operators_disturbed, one_after_the_other_forgotten, restless]
)
def test_a_decision_that_breaks_a_rule_is_caught(
    monkeypatch: pytest.MonkeyPatch, mutate: Callable[[pytest.MonkeyPatch], None]
) -> None:
    mutate(monkeypatch)

    def breaks(seen: View) -> bool:
        try:
            check(seen, RULES, NOW, decide(seen, RULES, NOW))
        except AssertionError:
            return True
        return False

    found = find(views, breaks, settings=settings(max_examples=5_000, database=None, phases=[Phase.generate]))
    with pytest.raises(AssertionError):
        check(found, RULES, NOW, decide(found, RULES, NOW))
