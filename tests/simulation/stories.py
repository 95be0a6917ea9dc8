"""Exhibits of the museum that chance reaches seldom or never, and the named test that catches each without chance."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.raft import test_follower_reads as follower_reads
from tests.raft import test_lease as lease
from tests.raft import test_paper as paper
from tests.simulation import test_scenarios as scenarios

Story = Callable[[], Any]
ROOT = Path(__file__).parents[2]

STORIES: dict[str, Story] = {
    "old_snapshot_discarded_first": scenarios.test_a_crash_before_a_snapshot_is_recorded_leaves_the_one_before_it,
    "late_votes_count": paper.test_votes_of_an_earlier_term_do_not_count,
    "commit_past_what_is_verified": paper.test_a_heartbeat_claims_no_more_than_the_follower_is_known_to_hold,
    "answers_of_an_older_term_count": scenarios.test_an_answer_of_an_older_term_does_not_count,
    "a_write_of_replaced_entries_counts": (
        paper.test_a_write_of_entries_that_were_replaced_meanwhile_vouches_for_nothing
    ),
    "a_late_answer_serves_a_newer_read": follower_reads.test_repeated_and_late_answers_answer_nothing_else,
    "a_lease_without_the_drift_bound": partial(lease.test_clocks_within_the_bound_give_no_stale_read, 1.05, 0.96),
    "a_read_at_once_without_a_lease": lease.test_a_read_that_waits_for_no_turn_is_judged_by_the_time_at_which_it_came,
    "a_promise_broken_for_a_report": lease.test_a_promise_survives_the_report_that_the_leader_is_down,
    "no_promise_at_all": lease.test_a_promise_survives_the_report_that_the_leader_is_down,
    "fresh_as_of_the_arrival": lease.test_late_and_repeated_heartbeats_make_nobody_fresher_than_they_were,
    "a_promise_forgotten_at_a_restart": lease.test_a_promise_survives_a_restart,
    "a_promise_only_against_new_terms": lease.test_a_promise_holds_when_the_term_was_raised_by_somebody_else,
    "fresh_before_it_is_applied": lease.test_a_follower_whose_machine_is_slow_is_as_fresh_as_what_it_applied,
}


def name_of(story: Story) -> str:
    """As pytest takes it, to be run again."""
    test = story.func if isinstance(story, partial) else story
    return f"{Path(inspect.getfile(test)).relative_to(ROOT)}::{test.__name__}"
