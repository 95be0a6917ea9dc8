"""Nodes on several machines: each where its disk is, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest

import rayraft
from rayraft.ray.cluster import Origin
from rayraft.ray.spec import NodeReport
from tests.ray.machines import alone, machines
from tests.ray.support import Ledger, report, running_nodes, wait_until

pytestmark = pytest.mark.cluster


def homes(handle: rayraft.Handle) -> dict[int, str]:
    reports = handle.cluster.reports().items()
    return {node: str(found.home) for node, found in reports if isinstance(found, NodeReport)}


def test_too_few_machines_are_refused_before_anything_is_written(ray_cluster: None, tmp_path: Path) -> None:
    with pytest.raises(rayraft.NotEnoughMachines, match=r"needs 3 machines .* has 1 .*allow_colocated=True"):
        rayraft.start(Ledger, name="crowd", data_dir=tmp_path / "crowd")
    assert not (tmp_path / "crowd").exists()
    with pytest.raises(rayraft.NoSuchGroup):
        rayraft.connect("crowd")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_machines_go_and_come_back_and_each_node_stays_with_its_disk(tmp_path: Path) -> None:
    alone(go_and_come_back, tmp_path)


def go_and_come_back(path: Path) -> None:
    options = {"data_dir": path / "{machine}", "placement": ["m1", "m2", "m3"], "supervise": False, "timeout_s": 60}
    with machines(4) as cluster:
        with pytest.raises(rayraft.NotEnoughMachines, match="has 3 that placement allows"):
            rayraft.start(Ledger, name="five", nodes=5, **options)
        ledger = rayraft.start(Ledger, name="spread", **options)
        assert ledger.cluster.found.origin is Origin.NEW
        assert homes(ledger) == {1: "m1", 2: "m2", 3: "m3"}
        assert sorted(found.parent.parent.name for found in path.rglob("identity")) == ["m1", "m2", "m3"]
        with pytest.raises(rayraft.NotEnoughMachines, match="1 more machine"):
            ledger.cluster.add_node()
        ledger.deposit("ann", 1)

        cluster.lose("m3")
        assert ledger.deposit("ann", 1) == 2
        cluster.add("m3")
        wait_until(lambda: report(ledger, 3) is not None, what="the return of node 3")
        assert homes(ledger) == {1: "m1", 2: "m2", 3: "m3"}
        wait_until(lambda: running_nodes(ledger) == [1, 2, 3], what="three nodes that run")
        ledger.cluster.shutdown()

        cluster.lose("m2")
        again = rayraft.start(Ledger, name="spread", **options)
        assert again.cluster.found.origin is Origin.RESUMED
        assert again.cluster.found.lost == {2: "its machine m2 is away"}
        assert again.balance_of("ann") == 2
        assert homes(again) == {1: "m1", 3: "m3"}
        cluster.add("m2")
        wait_until(lambda: running_nodes(again) == [1, 2, 3], what="node 2 on the machine that came later")
        assert homes(again) == {1: "m1", 2: "m2", 3: "m3"}
        assert rayraft.start(Ledger, name="spread", **options).cluster.found.origin is Origin.RUNNING
        again.cluster.shutdown()
