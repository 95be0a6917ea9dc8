"""What a node's log begins with is kept as it was, whatever becomes of its file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import cloudpickle
import msgspec
import pytest

from rayraft.errors import BadConfiguration, StorageError
from rayraft.machine import classes
from rayraft.machine.objects import ObjectMachine
from rayraft.ray import founding
from rayraft.ray.founding import FOUNDING_FILE, check_founding, describe, founding_machine, keep_founding
from rayraft.ray.survey import look
from rayraft.storage.identity import FoundingClass, create_identity, seal
from tests.machine.support import ask
from tests.machine.test_upgrade import Purse, shop

__all__ = ["shop"]
Shops = Callable[[int, str], ModuleType]


def check_the_founding_class_outlives_its_file(directory: Path, shop: Shops) -> None:
    given = cloudpickle.dumps((shop(1, "?").Shop, (), {}))
    keep_founding(str(directory), given)
    shop(2, "!")
    keep_founding(str(directory), given)  # by now it would be the new one
    cls, args, kwargs = cloudpickle.loads(founding_machine(str(directory)) or given)
    machine = ObjectMachine(cls, args, kwargs)
    machine._object.items.append(cls.put.__globals__["Item"]("tea"))
    assert ask(machine, "shouts") == [("tea?", True)]


def test_the_founding_class_outlives_its_file(tmp_path: Path, shop: Shops) -> None:
    check_the_founding_class_outlives_its_file(tmp_path, shop)


@pytest.mark.parametrize("broken", ["by reference", "the last one"])
def test_a_founding_class_that_is_not_kept_is_noticed(
    tmp_path: Path,
    shop: Shops,
    monkeypatch: pytest.MonkeyPatch,
    broken: str,
) -> None:
    if broken == "by reference":
        monkeypatch.setattr(classes.cloudpickle, "register_pickle_by_value", lambda module: None)
        monkeypatch.setattr(classes.cloudpickle, "unregister_pickle_by_value", lambda module: None)
    else:
        monkeypatch.setattr(founding.Path, "exists", lambda path: False)
    with pytest.raises(AssertionError):
        check_the_founding_class_outlives_its_file(tmp_path, shop)


def test_nothing_is_kept_before_the_first_upgrade_or_by_another_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert founding_machine(str(tmp_path)) is None
    keep_founding(str(tmp_path), cloudpickle.dumps((Purse, (), {})))
    assert founding_machine(str(tmp_path)) is not None
    monkeypatch.setattr(founding, "PYTHON", (3, 99))
    assert founding_machine(str(tmp_path)) is None


def test_a_damaged_founding_class_is_an_error(tmp_path: Path) -> None:
    keep_founding(str(tmp_path), cloudpickle.dumps((Purse, (), {})))
    content = bytearray((tmp_path / FOUNDING_FILE).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / FOUNDING_FILE).write_bytes(content)
    with pytest.raises(StorageError, match="can not be read"):
        founding_machine(str(tmp_path))


FOUNDED = describe(Purse)


def changed(**parts: object) -> FoundingClass:
    return msgspec.structs.replace(FOUNDED, **parts)


@pytest.mark.parametrize("other", [changed(name="Wallet"), changed(commands=()), changed(queries=("put", "more"))])
def test_another_class_is_not_let_near_a_log(other: FoundingClass) -> None:
    with pytest.raises(BadConfiguration, match=r"founded with the class Purse .*upgrade\(NewClass\)"):
        check_founding("bank", other, [FOUNDED])


@pytest.mark.parametrize(
    ("founded", "warned"),
    [
        ([FOUNDED, FOUNDED], 0),
        ([changed(code="edited")] * 3, 1),
        ([changed(code="edited", python=(3, 99))], 0),
        ([changed(code="")], 0),
        ([], 0),
    ],
)
def test_edited_code_is_warned_of_once_where_it_can_be_told(
    founded: list[FoundingClass], warned: int, caplog: pytest.LogCaptureFixture
) -> None:
    check_founding("bank", FOUNDED, founded)
    assert caplog.text.count("the code of Purse was edited since 'bank' was founded") == warned


def test_what_lies_on_a_disk_tells_which_class_was_founded_and_whether_that_is_kept(tmp_path: Path) -> None:
    directory = str(tmp_path / "node-1")
    create_identity(directory, group="bank", cluster_id="c0ffee", node_id=1, voters=(1,))
    seal(directory, FOUNDED)
    (found,) = look(str(tmp_path))
    assert found.identity is not None
    assert (found.identity.founding, found.keeps_class) == (FOUNDED, False)
    keep_founding(directory, cloudpickle.dumps((Purse, (), {})))
    assert look(str(tmp_path))[0].keeps_class
