"""A lab that can not fail proves nothing: each mistake of `mutations`, planted in the code, fails the lab it names.

Without it the same lab passes with the same seed, in its own file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.labs import mutations as m
from tests.labs import test_agreement as agreement
from tests.labs import test_keyvalue as keyvalue
from tests.labs import test_persistence as persistence
from tests.labs import test_snapshots as snapshots

SEEDS = range(30)  # mistakes that need luck are found by one or the other


def service(name: str) -> Callable[[int], None]:
    return lambda seed: keyvalue.run_service(seed, **keyvalue.VARIANTS[name])


# A mistake and the lab that finds it.
FINDS: list[tuple[m.Plant, str, Callable[[int], Any]]] = [
    (m.two_votes_in_a_term, "figure 8", persistence.test_figure_8),
    (m.votes_without_the_log_check, "persist 2", persistence.test_persist_2),
    (m.half_is_a_quorum, "fail no agree", agreement.test_fail_no_agree),
    (m.nothing_is_synced, "persist 1", persistence.test_persist_1),
    (m.terms_and_votes_are_not_written, "persist 2", persistence.test_persist_2),
    (m.old_terms_commit_by_counting, "figure 8", persistence.test_figure_8),
    (m.one_step_back_at_a_time, "backup", agreement.test_backup),
    (m.late_entries_erase_newer_ones, "unreliable agree", agreement.test_unreliable_agree),
    (m.everything_is_sent_again, "RPC bytes", agreement.test_rpc_bytes),
    (m.five_times_the_heartbeats, "count", agreement.test_count),
    (m.entries_are_applied_twice, "basic agree", agreement.test_basic_agree),
    (m.an_installed_snapshot_is_not_loaded, "snapshot install", snapshots.test_snapshot_install),
    (m.the_log_is_never_cut, "snapshot basic", snapshots.test_snapshot_basic),
    (m.snapshots_without_sessions, "service: snapshots, restarts", service("snapshots, restarts")),
    (m.retries_are_applied_again, "service: unreliable", service("unreliable")),
    (m.reads_are_not_confirmed, "one partition", keyvalue.test_one_partition),
]


@pytest.mark.parametrize(("plant", "name", "lab"), FINDS, ids=[f"{plant.__name__}-{name}" for plant, name, _ in FINDS])
def test_the_lab_finds(plant: m.Plant, name: str, lab: Callable[[int], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    for seed in SEEDS:
        try:
            lab(seed)
        except AssertionError:
            return
    pytest.fail(f"{name} passes with {plant.__name__}: {plant.__doc__}")
