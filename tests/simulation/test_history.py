"""What the simulated clients saw is checked as a history: it convicts a bug although no invariant looks at it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rayraft.history import Recording, Report
from rayraft.machine.sessions import SessionTable
from rayraft.replica.reading import Reading
from rayraft.simulation import SimulationFailed, simulate
from rayraft.simulation.invariants import Invariants
from rayraft.simulation.record import OPERATIONS_PER_KEY, Record
from tests.simulation.mutations import MUTATIONS

LIMIT = 30  # seeds


def first_failure(limit: int = LIMIT) -> SimulationFailed | None:
    for seed in range(limit):
        try:
            simulate(seed, seconds=15.0)
        except SimulationFailed as failure:
            return failure
    return None


def test_stale_reads_are_found_by_the_clients_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every node answers reads from its state, whoever leads; nobody looks but the clients."""

    def answer_at_once(self: Reading) -> None:
        reads, self._arrived = self._arrived, []
        for pending in reads:
            self._answer(pending, self._run(pending.queries))

    monkeypatch.setattr(Reading, "begin", answer_at_once)
    monkeypatch.setattr(Invariants, "read_answered", lambda self, *given: None)
    failure = first_failure()
    assert failure is not None
    assert failure.violation.name == "linearizable history"
    assert "can not be placed; expected was" in str(failure.violation)


def test_a_command_applied_twice_is_found_by_the_clients_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the model of the machine, which finds it first."""
    monkeypatch.setattr("rayraft.simulation.model.Model.apply", lambda self, entry, replies: "")
    for blind in ("command_answered", "read_answered", "_same_as_model"):
        monkeypatch.setattr(Invariants, blind, lambda *_: None)
    monkeypatch.setattr(SessionTable, "check", lambda self: None)
    monkeypatch.setattr("rayraft.simulation.run.Simulation._compare_states", lambda self: None)
    MUTATIONS["retry_applied_twice"](monkeypatch)
    assert SessionTable.answer.__name__ == "<lambda>"  # the bug is in place
    failure = first_failure()
    assert failure is not None
    assert failure.violation.name == "linearizable history"


def reports(monkeypatch: pytest.MonkeyPatch, seeds: range) -> list[tuple[Record, Report]]:
    found: list[tuple[Record, Report]] = []
    real: Callable[[Record], Report] = Record.check

    def check(self: Record) -> Report:
        found.append((self, real(self)))
        return found[-1][1]

    monkeypatch.setattr(Record, "check", check)
    for seed in seeds:
        simulate(seed, seconds=15.0)
    return found


def test_the_histories_are_worth_something_and_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many operations of every kind, none forgotten, and no key with so many that the search would be long."""
    found = reports(monkeypatch, range(10))
    kinds = set()
    for record, report in found:
        history = record._recording.history()
        assert all(not one.is_open for one in history.operations)  # a run ends when all is answered
        assert max(map(len, history.by_key().values()), default=0) <= OPERATIONS_PER_KEY
        assert report.steps < 100 * max(report.operations, 100)
        kinds |= {one.kind for one in history.operations}
    assert len(kinds) == 5
    assert sum(report.operations for _, report in found) > 500
    assert sum(report.keys for _, report in found) > 50


def test_a_history_that_is_not_linearizable_fails_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    end = Recording.end

    def forgetful(self: Recording, ticket: int, output: object = None) -> None:
        end(self, ticket, 0 if output == 10 else output)

    monkeypatch.setattr(Recording, "end", forgetful)
    failure = first_failure(10)
    assert failure is not None
    assert failure.violation.name == "linearizable history"
