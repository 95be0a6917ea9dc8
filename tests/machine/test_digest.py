"""The hash that tells whether replicas agree: equal exactly for equal states, in every process."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayraft.machine.digest import digest_of
from tests.machine import gallery
from tests.machine.support import QUICK

ROOT = Path(__file__).parents[2]

atoms = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=5)
states = st.recursive(
    atoms,
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(atoms, inner, max_size=4),
    max_leaves=8,
)
Digest = Callable[[Any], bytes]


def check_different_states_have_different_digests(digest: Digest = digest_of) -> None:
    seen: dict[bytes, Any] = {}
    for state in gallery.different():
        hashed = digest(state)
        assert hashed not in seen, f"{gallery.describe(state)} hashes like {gallery.describe(seen[hashed])}"
        seen[hashed] = state


def check_equal_states_have_equal_digests(digest: Digest = digest_of) -> None:
    for one, other in gallery.twins():
        assert digest(one) == digest(other), one


def test_different_states_have_different_digests() -> None:
    check_different_states_have_different_digests()


def test_equal_states_have_equal_digests_however_they_were_built() -> None:
    check_equal_states_have_equal_digests()


@QUICK
@given(states)
def test_a_state_that_came_from_a_snapshot_hashes_as_the_one_that_was_saved(state: Any) -> None:
    assert digest_of(pickle.loads(pickle.dumps(state))) == digest_of(state)


@pytest.mark.parametrize("state", [gallery.family("ann", "bob", "cid"), gallery.ring(3), gallery.TextState("a", "b")])
def test_objects_that_refer_to_each_other_hash_alike_after_a_snapshot(state: Any) -> None:
    assert digest_of(pickle.loads(pickle.dumps(state))) == digest_of(state)


def digests_elsewhere() -> list[str]:
    """What a process finds whose sets have another order than here."""
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    program = subprocess.run(
        [sys.executable, "-c", "from tests.machine import gallery; print(*gallery.all_digests(), sep='\\n')"],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
    )
    return program.stdout.splitlines()


def test_every_process_finds_the_same_digests() -> None:
    states = [*map(gallery.describe, gallery.different()), "a replica"]
    found = zip(states, gallery.all_digests(), digests_elsewhere(), strict=True)
    assert [state for state, here, there in found if here != there] == []
