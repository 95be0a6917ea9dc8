"""Bugs planted in the checker and the readers: each must be caught by a check that the other tests use too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import Phase, given, settings

from rayraft.history import History, Kind, Limits, Operation, Verdict, check, checker, formats, models
from rayraft.history.checker import _Configuration, _Search
from rayraft.history.models import KeyValueEntry
from rayraft.history.recording import Recording
from tests.history import test_checker
from tests.history.anomalies import PAIRS
from tests.history.support import brute_force, histories

Patch = pytest.MonkeyPatch


def every_pair() -> None:
    for pair in PAIRS.values():
        assert check(History(pair.bad), pair.model).verdict is Verdict.VIOLATED
        assert check(History(pair.good), pair.model).verdict is Verdict.LINEARIZABLE


@settings(max_examples=800, deadline=None, derandomize=True, database=None, phases=[Phase.generate])
@given(histories(5))
def many_histories(history: History) -> None:
    found = check(history, KeyValueEntry(), Limits(steps=2_000)).verdict
    assert found is (Verdict.LINEARIZABLE if brute_force(history) else Verdict.VIOLATED)


# --- the search -------------------------------------------------------------------------------------------------------


def real_time_is_ignored(patch: Patch) -> None:
    def mutant(self: _Search, here: _Configuration) -> Iterator[tuple[int, Operation]]:
        rest = enumerate(self._closed[here.low :])
        return ((place, one) for place, one in rest if not here.done >> place & 1)

    patch.setattr(_Search, "_candidates", mutant)


def real_time_is_that_of_invocations(patch: Patch) -> None:
    """Only the first that is not done may come next."""
    candidates = _Search._candidates
    patch.setattr(_Search, "_candidates", lambda self, here: iter(list(candidates(self, here))[:1]))


def the_cache_forgets_the_state(patch: Patch) -> None:
    is_new = _Search._is_new
    patch.setattr(_Search, "_is_new", lambda self, here: is_new(self, here._replace(state=None)))


def the_cache_forgets_the_operations(patch: Patch) -> None:
    is_new = _Search._is_new
    patch.setattr(_Search, "_is_new", lambda self, here: is_new(self, here._replace(done=0)))


def the_cache_forgets_what_was_used(patch: Patch) -> None:
    is_new = _Search._is_new
    patch.setattr(_Search, "_is_new", lambda self, here: is_new(self, here._replace(used=0)))


def unknown_operations_certainly_happened(patch: Patch) -> None:
    """At the end of time, but they did."""
    init = _Search.__init__

    def mutant(self: _Search, operations: list[Operation], *rest: Any) -> None:
        late = {Kind.CAS: True, Kind.INCREMENT: 1}
        init(
            self,
            [
                msgspec.structs.replace(one, returned=1e9, output=late.get(one.kind))
                if one.is_open and one.kind is not Kind.READ
                else one
                for one in operations
            ],
            *rest,
        )

    patch.setattr(_Search, "__init__", mutant)


def unknown_operations_never_happened(patch: Patch) -> None:
    patch.setattr(_Search, "_with_unknown", lambda self, here, bound: iter(()))


def unknown_operations_happen_again_and_again(patch: Patch) -> None:
    with_unknown = _Search._with_unknown

    def mutant(self: _Search, here: _Configuration, bound: float) -> Iterator[_Configuration]:
        return (found._replace(used=here.used) for found in with_unknown(self, here, bound))

    patch.setattr(_Search, "_with_unknown", mutant)


def unknown_operations_precede_their_invocation(patch: Patch) -> None:
    with_unknown = _Search._with_unknown
    patch.setattr(_Search, "_with_unknown", lambda self, here, _: with_unknown(self, here, float("inf")))


def unknown_reads_count(patch: Patch) -> None:
    patch.setattr(Operation, "is_open", property(lambda self: self.returned is None and self.kind is not Kind.READ))
    patch.setattr(checker, "_by_return", lambda found: found[0] or 0.0)


def writes_do_not_wait_for_each_other(patch: Patch) -> None:
    """As if they only read: the first that fits is taken, and no other choice tried."""
    patch.setattr(Operation, "only_reads", property(lambda self: self.kind in (Kind.READ, Kind.WRITE)))


def a_refused_exchange_is_taken_for_an_exchange(patch: Patch) -> None:
    apply = models.Register.apply

    def mutant(self: models.Register, state: Any, operation: Operation) -> Any:
        if operation.kind is Kind.CAS and state != operation.input[0]:
            return operation.input[1], False
        return apply(self, state, operation)

    patch.setattr(models.Register, "apply", mutant)


def outputs_are_not_compared(patch: Patch) -> None:
    apply = models.KeyValueEntry.apply

    class Anything:
        def __eq__(self, _: object) -> bool:
            return True

        __hash__ = None  # type: ignore[assignment]

    patch.setattr(models.KeyValueEntry, "apply", lambda self, *given: (apply(self, *given)[0], Anything()))


def keys_are_thrown_together(patch: Patch) -> None:
    patch.setattr(History, "by_key", lambda self: {"all": self.operations})


def only_the_first_key_is_checked(patch: Patch) -> None:
    by_key = History.by_key
    patch.setattr(History, "by_key", lambda self: dict(list(by_key(self).items())[:1]))


SEARCH = [
    real_time_is_ignored,
    real_time_is_that_of_invocations,
    the_cache_forgets_the_state,
    the_cache_forgets_the_operations,
    unknown_operations_certainly_happened,
    unknown_operations_never_happened,
    unknown_operations_happen_again_and_again,
    unknown_operations_precede_their_invocation,
    unknown_reads_count,
    writes_do_not_wait_for_each_other,
    a_refused_exchange_is_taken_for_an_exchange,
    outputs_are_not_compared,
    keys_are_thrown_together,
    only_the_first_key_is_checked,
]


@pytest.mark.parametrize("plant", SEARCH)
def test_random_histories_catch(plant: Callable[[Patch], None], monkeypatch: Patch) -> None:
    plant(monkeypatch)
    with pytest.raises((AssertionError, TypeError)):
        many_histories()


def test_the_checks_pass_without_a_bug() -> None:
    many_histories()
    every_pair()


@pytest.mark.parametrize(
    "plant",
    [
        real_time_is_ignored,
        the_cache_forgets_the_state,
        the_cache_forgets_what_was_used,
        unknown_operations_never_happened,
        unknown_operations_happen_again_and_again,
        unknown_operations_precede_their_invocation,
        keys_are_thrown_together,
    ],
)
def test_the_anomalies_catch(plant: Callable[[Patch], None], monkeypatch: Patch) -> None:
    plant(monkeypatch)
    monkeypatch.setattr(checker, "decide", lambda operations, initial: None)  # which needs no search
    with pytest.raises(AssertionError):
        every_pair()


def test_a_limit_that_is_taken_for_a_verdict_is_caught(monkeypatch: Patch) -> None:
    monkeypatch.setattr(checker.Report, "verdict", property(lambda self: Verdict.LINEARIZABLE))
    with pytest.raises(AssertionError):
        test_checker.test_a_search_that_is_too_long_is_undecided(checker.Limits(steps=1000))


# --- the readers ------------------------------------------------------------------------------------------------------

LATE = """INFO  jepsen.util - 0 :invoke :write 1
INFO  jepsen.util - 0 :info :write :timed-out
INFO  jepsen.util - 1 :invoke :read nil
INFO  jepsen.util - 1 :ok :read nil
INFO  jepsen.util - 1 :invoke :read nil
INFO  jepsen.util - 1 :ok :read 1
"""
FAILED = LATE.replace(":info", ":fail")


def the_log_is_understood() -> None:
    for text, verdict in ((LATE, Verdict.LINEARIZABLE), (FAILED, Verdict.VIOLATED)):
        recorded = formats.parse(text)
        assert check(recorded.history, recorded.model).verdict is verdict


def a_timeout_is_an_answer(patch: Patch) -> None:
    complete = formats._complete

    def mutant(recording: Recording, ticket: int, kind: Kind, begun: Any, event: Any, absent: Any) -> None:
        complete(recording, ticket, kind, begun, event._replace(type=event.type.replace("info", "ok")), absent)

    patch.setattr(formats, "_complete", mutant)


def a_failure_may_have_happened(patch: Patch) -> None:
    patch.setattr(Recording, "drop", lambda self, ticket: None)


def a_timeout_did_not_happen(patch: Patch) -> None:
    complete = formats._complete

    def mutant(recording: Recording, ticket: int, kind: Kind, begun: Any, event: Any, absent: Any) -> None:
        complete(recording, ticket, kind, begun, event._replace(type=event.type.replace("info", "fail")), absent)

    patch.setattr(formats, "_complete", mutant)


@pytest.mark.parametrize("plant", [a_timeout_is_an_answer, a_failure_may_have_happened, a_timeout_did_not_happen])
def test_the_log_catches(plant: Callable[[Patch], None], monkeypatch: Patch) -> None:
    the_log_is_understood()
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        the_log_is_understood()
