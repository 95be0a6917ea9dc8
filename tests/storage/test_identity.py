"""A data directory says whose it is, and is refused by everyone else."""

from __future__ import annotations

import zlib
from pathlib import Path

import msgspec
import pytest

from rayraft.errors import DiskFailed, StorageError, WrongDirectory
from rayraft.raft.types import Configuration
from rayraft.storage.identity import FoundingClass, Identity, check_identity, create_identity, read_identity, seal


def found(directory: Path, node_id: int = 2) -> Identity:
    return create_identity(directory, group="bank", cluster_id="c0ffee", node_id=node_id, voters=(1, 2, 3))


def test_missing_and_empty_directories_have_none(tmp_path: Path) -> None:
    assert read_identity(tmp_path / "missing") is None
    assert read_identity(tmp_path) is None
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "identity.tmp").write_bytes(b"half")  # of an older version
    (tmp_path / "identity.0123abcd.tmp").write_bytes(b"half")
    assert read_identity(tmp_path) is None


def test_roundtrip_and_sealing(tmp_path: Path) -> None:
    directory = tmp_path / "group" / "node"
    identity = found(directory)
    assert read_identity(directory) == identity
    assert not identity.sealed
    assert identity.configuration == Configuration(voters=(1, 2, 3))
    sealed = seal(directory)
    assert sealed.sealed
    assert sealed.disk_id == identity.disk_id
    assert read_identity(directory) == sealed == seal(directory)


def test_the_class_that_the_log_begins_with_is_that_of_the_sealing(tmp_path: Path) -> None:
    """A founding that was interrupted may be completed with another one: nothing was logged before."""
    assert found(tmp_path).founding is None
    founding = FoundingClass("Purse", ("put",), ("total",), "ab12", (3, 11))
    assert seal(tmp_path, founding).founding == founding
    assert seal(tmp_path).founding == founding
    assert read_identity(tmp_path) == seal(tmp_path)


def test_an_identity_of_before_has_no_class(tmp_path: Path) -> None:
    found(tmp_path)
    content = msgspec.json.decode((tmp_path / "identity").read_bytes().splitlines()[0])
    del content["founding"]
    line = msgspec.json.encode(content)
    (tmp_path / "identity").write_bytes(b"%s\n%08x\n" % (line, zlib.crc32(line)))
    identity = read_identity(tmp_path)
    assert identity is not None
    assert identity.founding is None


def test_every_disk_has_its_own_id(tmp_path: Path) -> None:
    assert found(tmp_path / "a").disk_id != found(tmp_path / "b").disk_id


def test_occupied_directories_are_refused(tmp_path: Path) -> None:
    found(tmp_path / "a")
    with pytest.raises(WrongDirectory, match="node 2 of group 'bank'"):
        found(tmp_path / "a", node_id=3)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "photo.jpg").touch()
    with pytest.raises(WrongDirectory, match=r"photo\.jpg"):
        found(tmp_path / "b")
    with pytest.raises(WrongDirectory, match=r"photo\.jpg"):
        read_identity(tmp_path / "b")


def test_data_without_an_identity_is_not_empty(tmp_path: Path) -> None:
    found(tmp_path)
    (tmp_path / "log").mkdir()
    (tmp_path / "identity").unlink()
    with pytest.raises(WrongDirectory, match="no identity"):
        read_identity(tmp_path)


def test_sealing_needs_an_identity(tmp_path: Path) -> None:
    with pytest.raises(WrongDirectory, match="no identity"):
        seal(tmp_path)


@pytest.mark.parametrize("keep", [0, 10, -1])
def test_cut_identity(tmp_path: Path, keep: int) -> None:
    found(tmp_path)
    path = tmp_path / "identity"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(StorageError, match="damaged"):
        read_identity(tmp_path)


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    found(tmp_path)
    path = tmp_path / "identity"
    good = path.read_bytes()
    for position in range(len(good)):
        path.write_bytes(good[:position] + bytes([good[position] ^ 4]) + good[position + 1 :])
        with pytest.raises(StorageError):
            read_identity(tmp_path)


def test_unusable_paths(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DiskFailed, match="reading it failed"):  # which a node tries again
        read_identity(tmp_path / "file")
    with pytest.raises(DiskFailed):
        found(Path("/proc/no/such/place"))


def test_check(tmp_path: Path) -> None:
    identity = found(tmp_path)
    check_identity(identity, directory="disk", group="bank", cluster_id="c0ffee", node_id=2)
    check_identity(identity, directory="disk", group="bank", cluster_id=None, node_id=2)
    with pytest.raises(WrongDirectory, match="group is 'bank', expected 'shop'"):
        check_identity(identity, directory="disk", group="shop", cluster_id=None, node_id=2)
    with pytest.raises(WrongDirectory, match="node_id is 2, expected 1"):
        check_identity(identity, directory="disk", group="bank", cluster_id="c0ffee", node_id=1)
    with pytest.raises(WrongDirectory, match="cluster_id is 'c0ffee', expected 'decaf'"):
        check_identity(identity, directory="disk", group="bank", cluster_id="decaf", node_id=2)
