"""One bit flips where it is said to, in files that a process has open."""

from __future__ import annotations

from pathlib import Path

import pytest

from rayraft.chaos.damage import Part, flip
from rayraft.chaos.machines import BedError
from rayraft.errors import DamagedLog, DamagedSnapshot
from rayraft.raft.types import SnapshotMeta
from rayraft.storage.snapshots import FileSnapshotStore
from tests.storage.helpers import killed, opened

WRITE = """
for index in range(1, 50):
    store.write(HardState(1, 1, index - 1), [entry(index)])
    store.sync()
"""


@pytest.mark.parametrize("part", [Part.LOG, Part.HARD_STATE])
def test_a_log_with_a_flipped_bit_does_not_open(tmp_path: Path, part: Part) -> None:
    killed(tmp_path / "log", WRITE)
    files = list((tmp_path / "log" / "rocksdb").glob("*.log"))
    before = {path: path.read_bytes() for path in files}
    damaged = flip(tmp_path, part)
    differing = [
        (path, a ^ b) for path in files for a, b in zip(before[path], path.read_bytes(), strict=True) if a != b
    ]
    assert differing == [(damaged, 1)]
    with pytest.raises(DamagedLog), opened(tmp_path / "log"):
        pass


def test_every_snapshot_is_damaged(tmp_path: Path) -> None:
    store = FileSnapshotStore(tmp_path / "snapshots")
    metas = [SnapshotMeta(7, 1), SnapshotMeta(9, 1)]
    for meta in metas:
        store.save(meta, lambda stream: stream.write(b"state" * 20))  # type: ignore[arg-type,return-value]
    flip(tmp_path, Part.SNAPSHOT)
    for meta in metas:
        with pytest.raises(DamagedSnapshot):
            store.verify(meta)


@pytest.mark.parametrize("part", Part)
def test_where_there_is_nothing_to_damage_it_says_so(tmp_path: Path, part: Part) -> None:
    with pytest.raises(BedError):
        flip(tmp_path, part)
