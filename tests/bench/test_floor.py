"""The floors leave nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest
from rocksdict import Rdict

from rayraft.bench.floor import pipe
from rayraft.storage.rocks_open import options


@pytest.mark.cluster
def test_nobody_writes_to_the_directory_of_a_pipe_that_was_closed(ray_cluster: None, tmp_path: Path) -> None:
    with pipe(tmp_path, nodes=3, threads=2) as flow:
        flow(b"payload")
    for node in (1, 2, 3):  # each database lets itself be opened: its lock is free
        Rdict(str(tmp_path / f"pipe-{node}" / "rocksdb"), options(create=False)).close()
