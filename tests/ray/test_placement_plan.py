"""Who lives where: the plan alone, without Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import rayraft
from rayraft.ray import placement
from rayraft.ray.placement import (
    MACHINE_LABEL,
    Disk,
    Machine,
    Place,
    Placement,
    eligible,
    machines_of,
    placement_of,
    plan,
    settle,
)
from rayraft.ray.survey import look, read_places, write_places
from rayraft.storage.identity import create_identity


def at(name: str) -> Place:
    return Place(MACHINE_LABEL, name)


def machine(name: str, address: str = "", **labels: str) -> Machine:
    labels[MACHINE_LABEL] = name
    return Machine(at(name), address or f"ip-{name}", f"host-{name}", labels, (f"id-{name}",))


def ray_node(address: str, *, machine: str = "", alive: bool = True) -> dict[str, Any]:
    return {
        "Alive": alive,
        "NodeManagerAddress": address,
        "NodeManagerHostname": f"host-{address}",
        "Labels": {MACHINE_LABEL: machine} if machine else {},
        "NodeID": f"id-{address}",
    }


THREE = [machine("a", zone="x"), machine("b", zone="y"), machine("c", zone="x")]


def check_plan(
    places: dict[int, Place], nodes: list[int], machines: list[Machine], rules: Placement, homes: dict[int, Place]
) -> None:
    """What every plan must keep, stated apart from how it is made."""
    assert sorted(places) == sorted(nodes)
    allowed = {found.place for found in eligible(machines, rules)}
    assert set(places.values()) <= allowed, "a node outside the machines that the placement allows"
    everyone = [*places.values(), *homes.values()]
    if not rules.allow_colocated:
        for place in places.values():
            assert everyone.count(place) == 1, "two nodes on one machine"


# --- machines ---------------------------------------------------------------------------------------------------------


def test_a_machine_goes_by_its_label_or_else_by_its_address_and_the_dead_do_not_count() -> None:
    found = machines_of(
        [ray_node("1.1", machine="m1"), ray_node("1.2"), ray_node("1.3", machine="m3", alive=False)], MACHINE_LABEL
    )
    assert [item.place for item in found] == [Place("", "1.2"), at("m1")]
    assert found[0].place.options() == {"resources": {"node:1.2": 0.001}}
    assert found[1].place.options() == {"label_selector": {MACHINE_LABEL: "m1"}}


def test_two_ray_nodes_of_one_machine_are_one_machine() -> None:
    assert len(machines_of([ray_node("1.1"), ray_node("1.1")], MACHINE_LABEL)) == 1


def test_two_hosts_under_one_label_are_refused() -> None:
    with pytest.raises(rayraft.BadConfiguration, match=r"host-1\.1.*host-1\.2"):
        machines_of([ray_node("1.1", machine="m"), ray_node("1.2", machine="m")], MACHINE_LABEL)


def test_what_was_bound_to_the_address_is_still_at_home_when_the_machine_got_a_label() -> None:
    assert machine("a", "1.1").is_at(Place("", "1.1"))
    assert not machine("a", "1.1").is_at(Place("", "1.2"))


@pytest.mark.parametrize(
    ("selector", "names"),
    [("x", "ac"), ("!x", "b"), ("in(x, y)", "abc"), ("!in(x,y)", ""), ("z", "")],
)
def test_labels_select_machines_as_rays_selectors_do(selector: str, names: str) -> None:
    assert "".join(found.name for found in eligible(THREE, Placement(where={"zone": selector}))) == names


def test_a_list_names_machines_by_label_address_or_host_and_gives_their_order() -> None:
    rules = placement_of(["host-c", "ip-a", "nobody"])
    assert [found.name for found in eligible(THREE, rules)] == ["c", "a"]


@pytest.mark.parametrize("given", ["m1", [1, 2], {"zone": 1}])
def test_other_placements_are_refused(given: Any) -> None:
    with pytest.raises(rayraft.BadConfiguration, match="placement must"):
        placement_of(given)


# --- plans ------------------------------------------------------------------------------------------------------------


def test_three_nodes_take_three_machines_in_the_order_of_the_list() -> None:
    assert plan("g", [1, 2, 3], THREE, placement_of(["c", "a", "b"]), {}) == {1: at("c"), 2: at("a"), 3: at("b")}


def test_too_few_machines_are_an_error_that_says_what_to_do() -> None:
    with pytest.raises(rayraft.NotEnoughMachines, match=r"needs 5 machines.*has 3 \(.*allow_colocated=True"):
        plan("g", [1, 2, 3, 4, 5], THREE, Placement(), {})
    with pytest.raises(rayraft.NotEnoughMachines, match=r"needs 1 more machine .*its other nodes use a, b, c"):
        plan("g", [4], THREE, Placement(), {1: at("a"), 2: at("b"), 3: at("c")})
    with pytest.raises(rayraft.NotEnoughMachines, match=r"has 2 that placement allows \([ac], [ac]\)"):
        plan("g", [1, 2, 3], THREE, Placement(where={"zone": "x"}), {})


def test_colocated_nodes_are_spread_evenly() -> None:
    places = plan("g", [1, 2, 3, 4, 5], THREE, Placement(allow_colocated=True), {})
    assert sorted(list(places.values()).count(at(name)) for name in "abc") == [1, 2, 2]


def test_groups_begin_on_different_machines() -> None:
    firsts = {plan(f"group-{number}", [1], THREE, Placement(), {})[1] for number in range(30)}
    assert firsts == {at("a"), at("b"), at("c")}


names = st.sampled_from("abcdefgh")
clusters = st.lists(names, unique=True).map(lambda found: [machine(name) for name in found])
rules = st.builds(Placement, allow_colocated=st.booleans(), machines=st.lists(names, unique=True).map(tuple))
homes_ = st.dictionaries(st.integers(1, 5), names.map(at), max_size=4)


@given(clusters, rules, homes_, st.integers(1, 5))
def test_every_plan_keeps_the_rules_and_none_is_missed(
    machines: list[Machine], rules: Placement, homes: dict[int, Place], count: int
) -> None:
    nodes = list(range(10, 10 + count))
    candidates = eligible(machines, rules)
    free = [item for item in candidates if item.place not in homes.values()]
    try:
        places = plan("g", nodes, machines, rules, homes)
    except rayraft.NotEnoughMachines:
        assert not candidates if rules.allow_colocated else len(free) < count
    else:
        check_plan(places, nodes, machines, rules, homes)


def test_a_plan_that_forgets_who_lives_where_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutation of rule 2: the homes of the others are not counted."""
    homes = {1: at("a"), 2: at("b")}
    monkeypatch.setattr(Machine, "is_at", lambda *_: False)
    places = plan("g", [3], THREE, placement_of(["a", "b", "c"]), homes)
    with pytest.raises(AssertionError, match="two nodes on one machine"):
        check_plan(places, [3], THREE, Placement(), homes)


# --- groups that were founded before ----------------------------------------------------------------------------------


def disk(node: int, name: str, disk_id: str = "") -> Disk:
    return Disk(node, at(name), disk_id or f"disk-{node}")


def test_each_node_comes_up_where_its_disk_is() -> None:
    found = settle("g", [1, 2, 3], [disk(1, "c"), disk(2, "a"), disk(3, "b")], THREE, Placement(), {})
    assert found == {1: at("c"), 2: at("a"), 3: at("b")}


def test_a_disk_that_was_carried_to_another_machine_is_followed() -> None:
    assert settle("g", [1], [disk(1, "c")], THREE, Placement(), {1: at("a")}) == {1: at("c")}


def test_a_node_whose_machine_is_away_waits_for_it_also_where_others_are_free() -> None:
    disks = [disk(1, "a"), disk(2, "b")]
    recorded = {1: at("a"), 2: at("b"), 3: at("z")}
    assert settle("g", [1, 2, 3], disks, THREE, Placement(), recorded)[3] == at("z")


def test_a_node_whose_machine_is_here_without_its_disk_comes_up_there_and_will_say_so() -> None:
    assert settle("g", [1, 2], [disk(1, "a")], THREE, Placement(), {1: at("a"), 2: at("b")})[2] == at("b")


def test_a_node_that_nobody_knows_gets_a_free_machine_or_none() -> None:
    assert settle("g", [1, 2], [disk(1, "a")], THREE[:2], Placement(), {}) == {1: at("a"), 2: at("b")}
    assert settle("g", [1, 2], [disk(1, "a")], THREE[:1], Placement(), {}) == {1: at("a")}


def test_on_a_shared_file_system_each_node_goes_where_it_was_or_where_there_is_room() -> None:
    everywhere = [disk(node, name) for node in (1, 2, 3) for name in "abc"]
    recorded = {1: at("b"), 2: at("c"), 3: at("a")}
    assert settle("g", [1, 2, 3], everywhere, THREE, Placement(), recorded) == recorded
    assert len(set(settle("g", [1, 2, 3], everywhere, THREE, Placement(), {}).values())) == 3


def test_two_disks_of_one_node_are_refused() -> None:
    with pytest.raises(rayraft.WrongDirectory, match=r"node 1 .*\(a, b\)"):
        settle("g", [1], [disk(1, "a", "one"), disk(1, "b", "two")], THREE, Placement(), {})


def test_a_node_that_moves_away_from_its_disk_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutation of rule 3: the recorded place is forgotten, and the node of an absent machine starts elsewhere."""
    recorded = {3: at("z")}
    assert settle("g", [3], [], THREE, Placement(), recorded) == {3: at("z")}
    assert settle("g", [3], [], THREE, Placement(), {}) != {3: at("z")}
    monkeypatch.setattr(placement, "plan", lambda *_: {3: at("a")})
    assert settle("g", [3], [], THREE, Placement(), recorded) == {3: at("z")}


# --- on the machine ---------------------------------------------------------------------------------------------------


def test_a_machine_tells_what_it_has(tmp_path: Path) -> None:
    create_identity(tmp_path / "node-1", group="g", cluster_id="c", node_id=1, voters=(1, 2, 3))
    write_places(tmp_path / "node-1", {2: at("b")})
    (tmp_path / "node-2").mkdir()
    (tmp_path / "node-3").mkdir()
    (tmp_path / "node-3" / "identity").write_bytes(b"rubbish")
    (tmp_path / "node-x").mkdir()
    one, two, three = look(str(tmp_path))
    assert one.identity is not None
    assert one.places == {2: at("b")}
    assert (two.identity, two.unclear) == (None, False)
    assert (three.identity, three.unclear) == (None, True)
    assert look(str(tmp_path / "nowhere")) == []


def test_a_record_of_places_that_is_damaged_says_nothing(tmp_path: Path) -> None:
    write_places(tmp_path, {1: at("a")})
    assert read_places(tmp_path) == {1: at("a")}
    data = bytearray((tmp_path / "places").read_bytes())
    data[3] ^= 1
    (tmp_path / "places").write_bytes(data)
    assert read_places(tmp_path) == {}
