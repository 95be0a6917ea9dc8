"""The file of a backup: whole or refused, whatever byte of it is damaged or missing."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayraft.errors import DamagedBackup, DiskFailed
from rayraft.storage import backup as backup_module
from rayraft.storage.backup import BackupHeader, BackupWriter, open_backup, verify_backup
from rayraft.storage.snapshot_format import HEADER_BYTES, write_snapshot

CONTENT = bytes(range(256)) * 20


def snapshot(header: BackupHeader, content: bytes = CONTENT) -> bytes:
    file = io.BytesIO()
    write_snapshot(file, header.meta, lambda stream: stream.write(content) and None)
    return file.getvalue()


def header(**changed: object) -> BackupHeader:
    values: dict[str, object] = {
        "group": "bank", "cluster_id": "c1", "index": 70, "term": 3, "taken_at": 1.5, "machine_name": "Ledger",
        "machine": b"pickled", "rayraft": "0.1.0", "snapshot_bytes": HEADER_BYTES + len(CONTENT),
    }  # fmt: skip
    return BackupHeader(**(values | changed))  # type: ignore[arg-type]


def write(path: Path, head: BackupHeader | None = None, parts: int = 3) -> bytes:
    head = head or header()
    data = snapshot(head)
    size = len(data) // parts + 1
    with BackupWriter(path) as writer:
        writer.write_header(head)
        for offset in range(0, len(data), size):
            writer.write(data[offset : offset + size])
        writer.commit()
    return path.read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write(tmp_path_factory.mktemp("backup") / "file")


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write(path)
    assert verify_backup(path) == header()
    with open_backup(path) as (found, file):
        assert found == header()
        assert file.read() == snapshot(header())
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_flipped_bit_is_found(whole: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(whole) - 1))
    damaged = bytearray(whole)
    damaged[place] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path_factory.getbasetemp() / "flipped"
    path.write_bytes(damaged)
    with pytest.raises(DamagedBackup):
        verify_backup(path)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_shorter_or_longer_file_is_refused(
    whole: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "cut"
    kept = data.draw(st.integers(0, len(whole) - 1))
    path.write_bytes(whole[:kept] if data.draw(st.booleans()) else whole + whole[: kept + 1])
    with pytest.raises(DamagedBackup):
        verify_backup(path)


@pytest.mark.parametrize("content", [b"", b"a text\n", bytes(1000)])
def test_a_foreign_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(DamagedBackup, match="no backup of rayraft"):
        verify_backup(path)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DamagedBackup, match="nowhere"):
        verify_backup(tmp_path / "nowhere")


def test_a_snapshot_of_another_index_is_refused(tmp_path: Path) -> None:
    with BackupWriter(tmp_path / "file") as writer:
        writer.write_header(header(index=71))
        writer.write(snapshot(header()))
        with pytest.raises(DamagedBackup, match="71"):
            writer.commit()
    assert list(tmp_path.iterdir()) == []


def test_an_old_backup_stays_when_a_new_one_fails(tmp_path: Path) -> None:
    path = tmp_path / "file"
    old = write(path)

    def fail() -> None:
        with BackupWriter(path) as writer:
            writer.write_header(header())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_bytes() == old
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_what_a_killed_backup_has_left_is_in_nobodys_way(tmp_path: Path) -> None:
    """In a container the next one has the same process id."""
    (tmp_path / f"file.{os.getpid()}.tmp").write_text("half of it")
    write(tmp_path / "file")
    assert verify_backup(tmp_path / "file") == header()


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DiskFailed, match="nowhere"):
        BackupWriter(tmp_path / "nowhere" / "file")


def test_a_reader_without_checksums_would_not_notice(
    whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutation: what the tests above rest on."""
    path = tmp_path / "file"
    path.write_bytes(whole[:-5] + b"\xff" + whole[-4:])
    monkeypatch.setattr(backup_module, "verify_snapshot", lambda file, *_: file.read())
    assert verify_backup(path) == header()
