"""What a node's log begins with is kept as it was, whatever becomes of its file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import cloudpickle
import pytest

from rayraft.errors import StorageError
from rayraft.machine import classes
from rayraft.machine.objects import ObjectMachine
from rayraft.ray import founding
from rayraft.ray.founding import FOUNDING_FILE, founding_machine, keep_founding
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
