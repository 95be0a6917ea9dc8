"""A sync fails: nobody can say what is on the disk now. The node stops, says why, and never syncs that file again."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.disks.support import Order, Solo, assert_kept, fiu_environment, solo
from tests.storage.helpers import start


def run_until_sync_fails(order: Order) -> tuple[Solo, str]:
    with solo(order, fiu_environment()) as running:
        errors = running.wait()
        assert running.process.returncode == 1, "it ends, and Ray starts it anew"
        return running, errors


@pytest.mark.parametrize("after", [1, 57])
def test_after_the_first_failed_sync_the_node_stops(tmp_path: Path, after: int) -> None:
    order = Order(directory=str(tmp_path / "node-1"), fail_sync_after=after, count=after + 100)
    running, errors = run_until_sync_fails(order)
    assert "sync failed" in errors, "it says why"
    assert order.directory in errors
    assert len(running.acknowledged) == after - 1, "nothing was acknowledged after it, though every later sync works"
    assert all(refusal.startswith("FAILED") and "sync failed" in refusal for refusal in running.refusals)
    assert_kept(order, running.acknowledged)


def test_the_store_never_tries_a_sync_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in fiu_environment().items():
        monkeypatch.setenv(name, value)
    body = (
        "from tests.disks.solo import fail_next_sync\n"
        "from rayraft.errors import DiskFailed\n"
        "store.write(HardState(1, 1, 0), [entry(1)]); store.sync()\n"
        "store.write(HardState(1, 1, 1), [entry(2)]); fail_next_sync()\n"
        "for action in (store.sync, store.sync, lambda: store.write(None, [entry(3)])):\n"
        "    try:\n"
        "        action()\n"
        "        print('done')\n"
        "    except DiskFailed as error:\n"
        "        print(error)\n"
        "sys.stdout.flush(); os._exit(0)\n"
    )
    output, _ = start(body, tmp_path / "log").communicate(timeout=120)
    first, second, third = output.splitlines()
    assert "sync failed" in first
    assert second.endswith("nothing more is written")
    assert third.endswith("nothing more is written")
