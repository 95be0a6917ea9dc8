"""What the bench does on the machine of a node."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest

import rayraft
from rayraft.bench import places
from rayraft.bench.places import on_machine_of, reports_of

pytestmark = pytest.mark.cluster


def test_something_is_done_where_the_node_is(
    start_group: Callable[..., rayraft.Handle], monkeypatch: pytest.MonkeyPatch
) -> None:
    [report] = reports_of(start_group(rayraft.KeyValue, "places", nodes=1))
    assert on_machine_of(report, os.getpid) == os.getpid(), "on this machine no task is needed"
    monkeypatch.setattr(places, "os", SimpleNamespace(uname=lambda: SimpleNamespace(nodename="elsewhere")))
    assert on_machine_of(report, os.getpid) != os.getpid()
    assert on_machine_of(report, os.path.exists, report.directory)
    with pytest.raises(rayraft.NoQuorum, match="is it down"):
        on_machine_of(replace(report, host="nowhere"), os.getpid)
