"""Small files that are replaced whole, also by several at once."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from rayraft.storage import files
from rayraft.storage.files import forget_temporary, write_file


def test_two_who_write_one_file_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second took the file of the first from under it: two upgrades at once have failed so."""
    path, sync = tmp_path / "file", os.fsync

    def fsync(fd: int) -> None:
        monkeypatch.setattr(files.os, "fsync", sync)
        write_file(path, b"of the second")
        sync(fd)

    monkeypatch.setattr(files.os, "fsync", fsync)
    write_file(path, b"of the first")
    assert path.read_bytes() == b"of the first"
    assert list(tmp_path.iterdir()) == [path]


def test_what_can_not_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "no space")

    path = tmp_path / "file"
    write_file(path, b"old")
    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_has_left_is_removed(tmp_path: Path) -> None:
    write_file(tmp_path / "file", b"old")
    (tmp_path / "file.0123abcd.tmp").write_bytes(b"ne")
    forget_temporary(tmp_path)
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]
