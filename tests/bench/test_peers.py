"""The load generators of the peers say what they can not do, before they connect to anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from rayraft.bench.aims import quick
from rayraft.bench.peers import Etcd, NotInstalled, Shape, build_client
from rayraft.bench.sections import Plan
from rayraft.bench.sections.rivals import Contest
from rayraft.errors import RayraftError


@pytest.fixture
def client() -> Path:
    try:
        return build_client()
    except NotInstalled as why:
        pytest.skip(str(why))


@pytest.mark.slow  # the client may have to be built
@pytest.mark.timeout(900)
def test_a_transaction_larger_than_the_keys_is_refused(client: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It puts a key once only, so there is no such transaction: to look for free keys would never end."""
    monkeypatch.setattr("rayraft.bench.peers._first_line", lambda *_: "none runs")
    nobody = Etcd(["http://127.0.0.1:9"], client, [])
    with pytest.raises(RayraftError, match="120 puts need as many keys, not 64"):
        nobody.put(Shape(8, 120), 256, 64, 0.01)


@pytest.mark.parametrize("alone", [True, False])
def test_contests(alone: bool) -> None:
    """The quick bench does without the one that no aim speaks of."""
    names = [contest.name for contest in Contest.all(Plan(peers_alone=alone))]
    assert names == ["sequential"] * alone + ["batches of 120", "best batch", "1000 singly", "best singly", "callers"]
    assert not quick(Plan()).peers_alone
