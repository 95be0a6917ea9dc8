"""The brute-force view of quorums that the invariants go by."""

from __future__ import annotations

import pytest

from rayraft.raft.types import Configuration
from rayraft.simulation.configurations import is_quorum, overlap


def test_a_majority_is_a_quorum_and_learners_do_not_count() -> None:
    group = Configuration((1, 2, 3), learners=(4, 5))
    assert is_quorum(group, {1, 3})
    assert not is_quorum(group, {3, 4, 5})


def test_a_joint_quorum_needs_both_majorities() -> None:
    joint = Configuration((3, 4, 5), outgoing=(1, 2, 3))
    assert is_quorum(joint, {2, 3, 4})
    assert not is_quorum(joint, {3, 4, 5})
    assert not is_quorum(joint, {1, 2, 3})


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (Configuration((1, 2, 3)), Configuration((1, 2, 3, 4)), True),  # one at a time (thesis §4.1)
        (Configuration((1, 2, 3)), Configuration((1, 2, 3, 4, 5)), False),  # two at once
        (Configuration((1, 2, 3)), Configuration((4, 5, 6), outgoing=(1, 2, 3)), True),  # by way of a joint phase
        (Configuration((4, 5, 6), outgoing=(1, 2, 3)), Configuration((4, 5, 6)), True),
        (Configuration((1, 2, 3)), Configuration((4, 5, 6)), False),
        (Configuration((1, 2, 3)), Configuration(), False),
    ],
)
def test_overlap(one: Configuration, other: Configuration, expected: bool) -> None:
    assert overlap(one, other) is expected
    assert overlap(other, one) is expected
