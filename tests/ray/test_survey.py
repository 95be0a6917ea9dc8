"""What several directories of one node mean for who comes up, and where: without Ray."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from rayraft.errors import WrongDirectory
from rayraft.ray import starting
from rayraft.ray.placement import MACHINE_LABEL, Machine, Place, Placement
from rayraft.ray.settings import Settings
from rayraft.ray.starting import Homes, Wanted
from rayraft.ray.survey import Found, Survey, _retire, leave_link, look
from rayraft.storage.identity import FoundingClass, Identity, create_identity, read_identity

FOUNDERS = (1, 2, 3)


def at(name: str) -> Place:
    return Place(MACHINE_LABEL, name)


def found(node: int, machine: str, places: Mapping[int, str] | None = None, **how: Any) -> Found:
    how = {"voters": FOUNDERS, "sealed": True} | how
    identity = Identity(group="g", cluster_id="c", node_id=node, disk_id=f"{node} on {machine}", **how)
    there = {other: at(name) for other, name in (places or {}).items()}
    return Found(node, f"/{machine}/node-{node}", identity, False, there)


def joined(node: int, machine: str, places: Mapping[int, str] | None = None) -> Found:
    return found(node, machine, places, voters=())


def removed(node: int, machine: str, places: Mapping[int, str] | None = None) -> Found:
    return found(node, machine, places, voters=(), removed=True)


def unfinished(node: int, machine: str) -> Found:
    return found(node, machine, voters=(), sealed=False)


def homes_of(monkeypatch: pytest.MonkeyPatch, **machines: list[Found]) -> Homes:
    """Who is brought up where, by what is on these machines."""
    there = [Machine(at(name), f"ip-{name}", name, {MACHINE_LABEL: name}, (f"id-{name}",)) for name in machines]
    survey = Survey({at(name): directories for name, directories in machines.items()})
    monkeypatch.setattr(starting, "alive_machines", lambda _: there)
    monkeypatch.setattr(starting, "survey", lambda *_: survey)
    founding = FoundingClass("C", (), (), "", (3, 10))
    return starting._find_homes(Wanted("g", 3, 0, "/{machine}", b"", {}, founding, Settings(), Placement()), 0.0)


@pytest.mark.parametrize("leftover", [removed(4, "m5", {4: "m5"}), unfinished(4, "m5")], ids=["removed", "unfinished"])
@pytest.mark.parametrize("seen", ["first", "last"])
def test_a_leftover_is_not_taken_for_the_voter_of_its_id(
    monkeypatch: pytest.MonkeyPatch, leftover: Found, seen: str
) -> None:
    others = {"m1": [found(1, "m1")], "m2": [found(2, "m2")], "m4": [joined(4, "m4")]}
    order = {"m5": [leftover]} | others if seen == "first" else others | {"m5": [leftover]}
    homes = homes_of(monkeypatch, **order)
    assert homes.places[4] == at("m4")
    assert not homes.unfinished


@pytest.mark.parametrize("leftover", [removed(4, "m5", {4: "m5"}), unfinished(4, "m5")], ids=["removed", "unfinished"])
def test_a_voter_whose_machine_is_away_waits_for_it_though_a_leftover_has_its_id(
    monkeypatch: pytest.MonkeyPatch, leftover: Found
) -> None:
    known = {1: "m1", 2: "m2", 4: "m4"}
    homes = homes_of(monkeypatch, m1=[found(1, "m1", known)], m2=[found(2, "m2", known)], m5=[leftover])
    assert homes.places[4] == at("m4")
    assert homes.absent[4] == "its machine m4 is away"


def test_what_an_interrupted_joining_left_is_not_brought_up_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    founders = {f"m{node}": [found(node, f"m{node}")] for node in FOUNDERS}
    homes = homes_of(monkeypatch, **founders, m4=[unfinished(4, "m4"), removed(5, "m4", {5: "m4"})])
    assert set(homes.places) == set(FOUNDERS)
    assert homes.unfinished == {4: "/m4/node-4"}


def test_a_founder_that_is_not_sealed_is_brought_up(monkeypatch: pytest.MonkeyPatch) -> None:
    homes = homes_of(monkeypatch, m1=[found(1, "m1")], m2=[found(2, "m2", sealed=False)], m3=[found(3, "m3")])
    assert set(homes.places) == set(FOUNDERS)


def test_two_disks_that_both_took_part_are_refused_with_what_tells_them_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {4: "m4"}
    with pytest.raises(WrongDirectory, match=r"\(m4, m5\).* remember it lives on m4; .* written last"):
        homes_of(monkeypatch, m1=[found(1, "m1", known)], m4=[joined(4, "m4")], m5=[joined(4, "m5")])


def test_the_ids_of_all_leftovers_are_used() -> None:
    empty = Found(9, "/m1/node-9", None, False, {})
    survey = Survey({at("m1"): [found(1, "m1"), empty], at("m5"): [removed(4, "m5"), unfinished(5, "m5")]})
    assert survey.used() == {1, 4, 5}


def test_a_link_leads_to_a_disk_elsewhere(tmp_path: Path) -> None:
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    create_identity(elsewhere, group="g", cluster_id="c", node_id=4, voters=())
    for _ in range(2):
        leave_link(str(data), at("m1"), 4, str(elsewhere))
    leave_link(str(data), at("m1"), 5, str(elsewhere))  # as on a machine that has another disk at the same path
    leave_link(str(data), at("m1"), 6, str(tmp_path / "not mounted"))
    assert {item.node: item.identity and item.identity.node_id for item in look(str(data))} == {4: 4, 6: None}


def test_a_disk_in_its_place_gets_no_link(tmp_path: Path) -> None:
    create_identity(tmp_path / "node-4", group="g", cluster_id="c", node_id=4, voters=())
    leave_link(str(tmp_path), at("m1"), 4, str(tmp_path / "node-4"))
    assert [path.is_symlink() for path in tmp_path.iterdir()] == [False]


def test_only_the_disk_of_that_node_and_cluster_is_marked(tmp_path: Path) -> None:
    create_identity(tmp_path, group="g", cluster_id="c", node_id=4, voters=())
    for node, cluster, marked in ((5, "c", False), (4, "other", False), (4, "c", True)):
        _retire(str(tmp_path), node, cluster)
        identity = read_identity(tmp_path)
        assert identity is not None
        assert identity.removed is marked
