"""A backup of a live group, and a new group from it: the state is that of a stated index, and nothing acknowledged
before the backup began is missing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

import rayraft
from rayraft.cli import app
from rayraft.history import Kind, Recording
from rayraft.storage.backup import verify_backup
from tests.ray.support import Ledger, Marker, assert_equal_states, report, signal_node, wait_until
from tests.storage.helpers import cut, flip

pytestmark = pytest.mark.cluster
Start = Callable[..., rayraft.Handle]


def restored(start_group: Start, path: Path, name: str, tmp_path: Path, **options: object) -> rayraft.Handle:
    """`rayraft.restore`, as a group that the fixture ends after the test."""
    start_group.names.append(name)  # type: ignore[attr-defined]
    options.setdefault("data_dir", tmp_path / name)
    options.setdefault("allow_colocated", True)
    options.setdefault("supervise", False)
    return rayraft.restore(path, name=name, **options)  # type: ignore[arg-type]


def test_a_backup_becomes_a_new_group(start_group: Start, tmp_path: Path) -> None:
    old = start_group(Ledger, "old", nodes=1)
    for amount in range(20):
        old.deposit("ann", amount)
    path = tmp_path / "ledger.backup"
    header = old.cluster.backup(path)
    old.deposit("ann", 1_000)  # after the backup
    assert verify_backup(path) == header
    assert (header.group, header.machine_name) == ("old", "tests.ray.support.Ledger")
    assert header.index >= 20
    new = restored(start_group, path, "new", tmp_path, nodes=1)
    assert new.balance_of("ann") == sum(range(20))
    assert new.deposit("ann", 5) == sum(range(20)) + 5
    reports = [handle.cluster.reports()[1] for handle in (old, new)]
    clusters = {report.identity.cluster_id for report in reports if isinstance(report, rayraft.ray.spec.NodeReport)}
    assert len(clusters) == 2, "the new group has an id of its own"
    with pytest.raises(rayraft.GroupExists):
        rayraft.restore(path, name="new", data_dir=tmp_path / "other")
    with pytest.raises(rayraft.WrongDirectory, match="belongs to another node"):
        restored(start_group, path, "again", tmp_path, nodes=1, data_dir=tmp_path / "old")
    flip(path, path.stat().st_size - 10)
    with pytest.raises(rayraft.DamagedBackup, match="checksum"):
        restored(start_group, path, "never", tmp_path)
    assert not (tmp_path / "never").exists()


@pytest.mark.slow
def test_a_backup_under_load_has_all_that_was_acknowledged_before_it(start_group: Start, tmp_path: Path) -> None:
    old = start_group(Ledger, "busy", timeout_s=60)
    path = tmp_path / "ledger.backup"
    with Marker(old, "m") as marker:
        marker.wait_for_more(100)
        before = list(marker.acknowledged)
        header = old.cluster.backup(path)
        after = len(marker.acknowledged)
        marker.wait_for_more(50)
    marker.assert_exactly_once()
    new = restored(start_group, path, "copy", tmp_path, timeout_s=60)
    seen = new.seen()
    assert set(before) <= set(seen), "acknowledged before the backup began"
    # One client marks one token after the other: the state is a prefix of them, as at one moment.
    tokens = [f"m-{number}" for number in range(1, len(seen) + 1)]
    assert seen == dict.fromkeys(tokens, 1)
    assert len(seen) <= after + 1
    assert_equal_states(new)
    recording = Recording(time.perf_counter)  # its history begins with what was restored
    recording.end(recording.begin("backup", Kind.INCREMENT, "tokens", len(seen)), len(seen))
    with Marker(new, "n", recording) as more:
        more.wait_for_more(30)
        signal_node(new, new.cluster.leader())
        more.wait_for_more(30)
    more.assert_exactly_once()
    found = wait_until(lambda: report(new, 1), what="a report of node 1")
    assert found.replica.first_index == header.index + 1
    # It can grow as any group: a node that joins gets the state by a snapshot.
    added = new.cluster.add_node()
    assert added == 4
    assert_equal_states(new)
    again = new.cluster.backup(tmp_path / "second.backup")
    assert again.index > header.index


@pytest.mark.slow
def test_a_large_state_is_streamed(start_group: Start, tmp_path: Path) -> None:
    old = start_group(rayraft.KeyValue, "large", timeout_s=60)
    reference = {f"key-{number}": bytes([number]) * 1_000_000 for number in range(24)}
    for key, value in reference.items():
        old.put(key, value)
    seen: list[tuple[int, int]] = []
    header = rayraft.ray.backup.take_backup(
        old.cluster, tmp_path / "large.backup", timeout_s=120, progress=lambda *at: seen.append(at)
    )
    assert len(seen) > 20
    assert seen[-1] == (header.snapshot_bytes, header.snapshot_bytes)
    old.cluster.shutdown()
    new = restored(start_group, tmp_path / "large.backup", "large", tmp_path, data_dir=tmp_path / "elsewhere")
    assert {key: new.get(key) for key in reference} == reference
    assert new.count() == len(reference)


@pytest.mark.slow
def test_a_restored_group_with_a_witness(start_group: Start, tmp_path: Path) -> None:
    old = start_group(Ledger, "plain", nodes=1)
    old.deposit("ann", 7)
    path = tmp_path / "backup"
    old.cluster.backup(path)
    new = restored(start_group, path, "witnessed", tmp_path, witnesses=1, timeout_s=60)
    assert new.cluster.configuration().witnesses == (3,)
    signal_node(new, 1)
    assert new.deposit("ann", 1) == 8
    assert new.balance_of("ann") == 8


@pytest.mark.slow
def test_a_restore_that_was_interrupted_is_not_taken_for_an_empty_group(
    start_group: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = start_group(Ledger, "source", nodes=1)
    old.deposit("ann", 7)
    path = tmp_path / "backup"
    old.cluster.backup(path)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(rayraft.ray.restore, "_plant", die)
        with pytest.raises(KeyboardInterrupt):
            restored(start_group, path, "half", tmp_path)
    with pytest.raises(rayraft.WrongDirectory, match="interrupted"):
        start_group(Ledger, "half")


@pytest.mark.slow
def test_the_command_line(start_group: Start, tmp_path: Path) -> None:
    old = start_group(Ledger, "shell", nodes=1)
    old.deposit("ann", 7)
    file = tmp_path / "shell.backup"

    def invoke(*arguments: object) -> tuple[int, str]:
        result = CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "200", "NO_COLOR": "1"})
        return result.exit_code, result.output

    code, output = invoke("backup", "shell", file, "--json")
    assert code == 0, output
    facts = json.loads(output)
    assert (facts["group"], facts["class"]) == ("shell", "tests.ray.support.Ledger")
    code, output = invoke("backup-info", file)
    assert code == 0
    assert "whole" in output
    assert str(facts["index"]) in output
    start_group.names.append("twin")  # type: ignore[attr-defined]
    code, output = invoke("restore", file, "--name", "twin", "--data-dir", tmp_path / "twin", "--nodes", 1)
    assert code == 0, output
    assert rayraft.connect("twin").balance_of("ann") == 7
    cut(file, 3)
    code, output = invoke("backup-info", file)
    assert code == 1
    assert "error:" in output
    code, output = invoke("restore", file, "--name", "third", "--data-dir", tmp_path / "third")
    assert code == 1
    assert "third" not in rayraft.ray.names.list_groups()
