"""The two versions of the class of a chaos run: to and fro, with all the data, and states of different shape."""

from __future__ import annotations

from rayraft.chaos.store import VERSIONS, CountingStore, Store
from rayraft.machine.classes import pack_class
from rayraft.machine.objects import UPGRADE, ObjectMachine
from tests.machine.support import ask, restored, run, saved


def test_upgrades_to_and_fro_keep_the_data() -> None:
    machine = ObjectMachine(Store)
    for version in range(1, 5):
        run(machine, "append", "list", version)
        run(machine, "increment", "number")
        assert run(machine, UPGRADE, version - 1, pack_class(VERSIONS[version % 2])) == version
        assert machine.cls is VERSIONS[version % 2]
        assert ask(machine, "scan") == [("list", tuple(range(1, version + 1))), ("number", version)]
        assert restored(Store, saved(machine)).digest() == machine.digest()


def test_the_states_differ_in_shape() -> None:
    old = Store()
    old.put("a", 1)
    new = CountingStore.__rayraft_migrate__(old)
    new.increment("a")
    assert old.__getstate__() == {"a": 2}, "it was given the state, not a copy"
    assert new.__getstate__() == {"data": {"a": 2}, "changes": {"a": 1}}
    assert Store.__rayraft_migrate__(new).get("a") == 2
