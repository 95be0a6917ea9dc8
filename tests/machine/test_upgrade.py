"""A machine's class is replaced by a command of the log: the state migrates, on all replicas alike or on none."""

from __future__ import annotations

import io
import sys
import types
from collections.abc import Iterator
from typing import Any

import cloudpickle
import msgspec
import pytest

from rayraft.errors import BadCall, ClassNotLoadable, UpgradeFailed
from rayraft.machine import classes, objects
from rayraft.machine.calls import Raised, decode_results, encode_call, unwrap
from rayraft.machine.classes import PackedClass, load_class, loads_result, pack_class, unpack_class
from rayraft.machine.objects import UPGRADE, ObjectMachine, command, query
from rayraft.machine.replicated import ReplicatedMachine
from rayraft.machine.requests import encode_request, pack
from tests.machine.support import Log, ask, replicated, run, saved, value

SHOP = """
import dataclasses, enum
from rayraft import command, query
class Sold(enum.Enum):
    YES = 1
class OutOfStock(Exception):
    pass
@dataclasses.dataclass
class Item:
    name: str
    version = {version}
    def shout(self):
        return tag(self.name)
def tag(name):
    return name + "{mark}"
class Shop:
    def __init__(self):
        self.items = []
    @command
    def put(self, item):
        self.items.append(item)
        return [isinstance(item, Item), item.version, item == Item(item.name)]
    @command
    def take(self):
        raise OutOfStock("none")
    @query
    def shouts(self):
        return [(item.shout(), isinstance(item, Item)) for item in self.items]
    @query
    def first(self):
        return self.items[0], Sold.YES
"""


BASE = """
from rayraft import command
class Base:
    @command
    def put(self, coin):
        return 0
"""


class Purse:
    def __init__(self) -> None:
        self.coins: list[int] = []

    @command
    def put(self, coin: int) -> int:
        self.coins.append(coin)
        return len(self.coins)

    @command
    def count(self) -> int:
        return len(self.coins)


class Wallet:
    """What `Purse` becomes."""

    def __init__(self) -> None:
        self.total = 0

    @classmethod
    def __rayraft_migrate__(cls, old: Purse) -> Wallet:
        new = cls()
        new.total = sum(old.coins)
        return new

    @command
    def put(self, coin: int) -> int:
        self.total += coin
        return self.total

    @query
    def count(self) -> int:
        return self.total


class Sack(Wallet):
    """Takes the state over as it is: the hook that it inherits was for another upgrade."""


class Clumsy(Purse):
    @classmethod
    def __rayraft_migrate__(cls, old: Purse) -> Clumsy:
        old.coins.clear()
        raise ValueError("butterfingers")


class Thief(Purse):
    @classmethod
    def __rayraft_migrate__(cls, old: Purse) -> Purse:
        return old


class Hoarder(Purse):
    @classmethod
    def __rayraft_migrate__(cls, old: Purse) -> Hoarder:
        new = cls()
        new.coins = (coin for coin in old.coins)  # type: ignore[assignment]
        return new


class Bare:
    """Has no command."""


def full(cls: type = Purse) -> ObjectMachine:
    machine = ObjectMachine(cls)
    for coin in (5, 7):
        run(machine, "put", coin)
    return machine


def upgrade(machine: ObjectMachine, cls: type) -> Any:
    return run(machine, UPGRADE, machine.version, pack_class(cls))


def twin(machine: ObjectMachine, founding: type = Purse) -> ObjectMachine:
    """A node that starts from the snapshot of another one."""
    other = ObjectMachine(founding)
    other.restore(io.BytesIO(saved(machine)))
    return other


# --- what an upgrade does ---------------------------------------------------------------------------------------------


def test_the_hook_makes_the_new_object_of_the_old_one() -> None:
    machine = full()
    assert upgrade(machine, Wallet) == 1
    assert run(machine, "put", 1) == 13
    assert ask(machine, "count") == 13
    assert machine.methods == {"put": True, "count": False}


def test_without_a_hook_of_its_own_the_new_class_takes_the_attributes_over() -> None:
    machine = full()
    upgrade(machine, Wallet)
    upgrade(machine, Sack)
    assert (machine.version, ask(machine, "count")) == (2, 12)


def test_upgrading_to_the_old_class_rolls_back() -> None:
    machine = full()
    upgrade(machine, Sack)  # has no use for the coins, and keeps them
    upgrade(machine, Purse)
    assert run(machine, "count") == 2
    assert machine.version == 2


def test_what_the_new_class_has_not_is_refused_by_name_and_the_hint() -> None:
    machine = full()
    upgrade(machine, Wallet)
    with pytest.raises(
        BadCall, match=r"no such command or query: count.*: count \(a query\), put \(a command\); connect"
    ):
        run(machine, "count")


def test_commands_behind_the_upgrade_in_the_same_request_run_on_the_new_class() -> None:
    log = Log(replicated(Purse))
    session = log.open_session()
    value(log.send(session, 1, "put", 5))
    calls: list[tuple[Any, ...]] = [("put", 7), (UPGRADE, 0, pack_class(Wallet)), ("put", 1)]
    encoded = [encode_call(name, tuple(args), {}) for name, *args in calls]
    [(_, answer)] = log.commit(encode_request(session, 2, 0, encoded))
    assert [unwrap(result) for result in decode_results(answer[1:])] == [2, 1, 13]


# --- an upgrade that fails --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cls", "reason"),
    [
        (Clumsy, "ValueError: butterfingers"),
        (Thief, "returned Purse, not Thief"),
        (Hoarder, "pickle"),
        (Bare, "no method marked"),
    ],
)
def test_an_upgrade_that_fails_changes_nothing(cls: type, reason: str) -> None:
    machine = full()
    before = machine.digest()
    with pytest.raises(UpgradeFailed, match=reason):
        upgrade(machine, cls)
    assert machine.digest() == before
    assert (machine.version, machine.cls, run(machine, "put", 1)) == (0, Purse, 3)


def test_of_two_upgrades_at_once_one_wins() -> None:
    machine = full()
    upgrade(machine, Wallet)
    with pytest.raises(UpgradeFailed, match="version 1 by now, not 0"):
        run(machine, UPGRADE, 0, pack_class(Sack))


@pytest.mark.parametrize("packed", [b"", b"\xc1", pack_class(Wallet)[:-9]])
def test_a_malformed_class_fails_on_every_node_alike(packed: bytes) -> None:
    with pytest.raises(UpgradeFailed, match="malformed"):
        run(full(), UPGRADE, 0, packed)


def test_a_damaged_class_fails_on_every_node_alike() -> None:
    found = unpack_class(pack_class(Wallet))
    damaged = PackedClass(found.name, found.python, found.pickle, found.crc ^ 1)
    with pytest.raises(UpgradeFailed, match="checksum"):
        run(full(), UPGRADE, 0, msgspec.msgpack.encode(damaged))


def check_a_node_that_can_not_load_the_class_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    """It must not answer, nor go on: the others have the class, and their state is another one from here on."""
    module = types.ModuleType("only_elsewhere")
    exec(
        "from rayraft import command\nclass Base:\n    @command\n    def put(self, coin):\n        return 0",
        vars(module),
    )
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "only_elsewhere", module)
        packed = pack_class(type("Exotic", (module.Base,), {"__module__": __name__}))
    machine = full()
    before = machine.digest()
    with pytest.raises(ClassNotLoadable, match="only_elsewhere"):
        machine.apply(pack([encode_call(UPGRADE, (0, packed), {})]))
    assert machine.digest() == before


def test_a_node_that_can_not_load_the_class_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    check_a_node_that_can_not_load_the_class_stops(monkeypatch)


def test_a_node_that_can_not_load_the_class_and_goes_on_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "ClassNotLoadable", KeyError)  # so it counts as any error of a command
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        check_a_node_that_can_not_load_the_class_stops(monkeypatch)


class Importer(Purse):
    @classmethod
    def __rayraft_migrate__(cls, old: Purse) -> Importer:
        import no_such_module  # type: ignore[import-not-found]  # noqa: F401

        return cls()


def test_a_hook_that_misses_a_module_stops_the_node_too() -> None:
    with pytest.raises(ClassNotLoadable, match="no_such_module"):
        upgrade(full(), Importer)


def test_a_rehearsal_tells_before_anything_is_logged() -> None:
    machine = full()
    before, state = machine.digest(), machine.pickled_state()
    machine.rehearse(state, pack_class(Wallet))
    with pytest.raises(UpgradeFailed, match="butterfingers"):
        machine.rehearse(state, pack_class(Clumsy))
    assert machine.digest() == before


# --- snapshots, and nodes that come back ------------------------------------------------------------------------------


def check_a_snapshot_carries_the_class() -> None:
    machine = full()
    upgrade(machine, Wallet)
    other = twin(machine)
    assert other.digest() == machine.digest()
    assert (other.version, other.methods, ask(other, "count")) == (1, machine.methods, 12)
    packed = pack_class(Sack)  # once, as a log has it: it may pickle otherwise after it was loaded
    for each in (machine, other):
        run(each, UPGRADE, each.version, packed)
    assert other.digest() == machine.digest()
    assert other.version == 2


def test_a_snapshot_carries_the_class() -> None:
    check_a_snapshot_carries_the_class()


def test_a_snapshot_without_the_class_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        ObjectMachine, "save", lambda self, stream: cloudpickle.dump(objects.object_state(self._object), stream)
    )
    with pytest.raises(AssertionError):
        check_a_snapshot_carries_the_class()


def test_a_snapshot_from_before_the_upgrade_brings_the_old_class_back() -> None:
    machine = full()
    before, snapshot = machine.digest(), saved(machine)
    upgrade(machine, Wallet)
    machine.restore(io.BytesIO(snapshot))
    assert (machine.digest(), machine.version, machine.cls) == (before, 0, Purse)
    assert upgrade(machine, Wallet) == 1


def test_a_machine_that_was_never_upgraded_saves_what_it_always_saved() -> None:
    assert saved(full()) == cloudpickle.dumps({"coins": [5, 7]})


def test_the_digest_tells_two_classes_with_one_state_apart() -> None:
    one, other = full(), full()
    upgrade(one, Purse)
    assert one.digest() != other.digest()


def test_the_log_replayed_and_the_snapshot_restored_are_equal() -> None:
    log = Log(replicated(Purse))
    session = log.open_session()
    for number, (name, *args) in enumerate([("put", 5), (UPGRADE, 0, pack_class(Wallet)), ("put", 3)], 1):
        value(log.send(session, number, name, *args))
    late = ReplicatedMachine(ObjectMachine(Purse))
    late.restore(io.BytesIO(saved(log.machine)))
    assert late.digest() == log.machine.digest()


# --- a module that was edited in place --------------------------------------------------------------------------------


@pytest.fixture
def shop() -> Iterator[Any]:
    """`shop(version)`: as in a process that has imported that version of the module."""

    def import_it(version: int, mark: str) -> types.ModuleType:
        cloudpickle.cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID.clear()  # what another process would not know
        cloudpickle.cloudpickle._DYNAMIC_CLASS_TRACKER_BY_CLASS.clear()
        module = sys.modules["shop"] = types.ModuleType("shop")
        exec(SHOP.format(version=version, mark=mark), vars(module))
        return module

    yield import_it
    sys.modules.pop("shop", None)


def test_a_class_is_what_it_was_when_it_was_sent(shop: Any) -> None:
    """Its module has changed since, under the same names: helpers and the classes beside it count as well."""
    packed = pack_class(shop(1, "?").Shop)
    shop(2, "!")
    cls = load_class(packed, Purse).cls
    machine = ObjectMachine(cls)
    item = cls.put.__globals__["Item"]("tea")
    machine._object.items.append(item)
    assert ask(machine, "shouts") == [("tea?", True)]


def test_arguments_and_values_in_the_state_become_those_of_the_new_class(shop: Any) -> None:
    old = shop(1, "?")
    machine = ObjectMachine(old.Shop)
    assert run(machine, "put", old.Item("tea")) == [True, 1, True]
    packed = pack_class(shop(2, "!").Shop)
    sys.modules["shop"] = old  # a node that imported the module long ago
    assert run(machine, UPGRADE, 0, packed) == 1
    assert run(machine, "put", old.Item("milk")) == [True, 2, True], "an argument from a caller with the old module"
    assert ask(machine, "shouts") == [("tea!", True), ("milk!", True)]


def test_results_and_errors_are_of_the_classes_that_the_caller_has_imported(shop: Any) -> None:
    packed = pack_class(shop(1, "?").Shop)
    caller = shop(2, "!")
    cls = load_class(packed, Purse).cls
    item = cls.put.__globals__["Item"]("tea")
    found, sold = loads_result(cloudpickle.dumps((item, cls.first.__globals__["Sold"].YES)))
    assert found == caller.Item("tea")
    assert sold is caller.Sold.YES
    error = Raised.of(cls.take.__globals__["OutOfStock"]("none")).error()
    assert type(error) is caller.OutOfStock
    assert str(error) == "none"


def test_the_class_of_another_python_stands_for_the_one_of_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = full()
    upgrade(machine, Wallet)
    monkeypatch.setattr(classes, "PYTHON", (3, 99))
    with pytest.raises(ClassNotLoadable, match="sent by Python"):
        twin(machine, founding=Purse)
    again = twin(machine, founding=Wallet)  # what `start` is given on the new Python
    assert ask(again, "count") == 12
    assert again.version == 1


def test_what_can_not_travel_is_said_at_once() -> None:
    lock = __import__("threading").Lock()

    class Locked(Purse):
        @command
        def put(self, coin: int) -> int:
            with lock:
                return 0

    with pytest.raises(UpgradeFailed, match="Locked can not be sent"):
        pack_class(Locked)
