"""The table of rules in `spec/README.md` names actions of the models and functions of the code: they are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_CELL = re.compile(r"`([a-z_/]+\.py)`: ((?:`\w+`(?: \(`\w+`\))?(?:, )?)+)")
_NAME = re.compile(r"`(\w+)`")


def rows() -> list[tuple[str, str, str]]:
    """(rule, in the model, in the code)"""
    text = (ROOT / "spec" / "README.md").read_text()
    table = text.split("| rule | in the model | in the code |", 1)[1].split("\n\n", 1)[0]
    return [(rule, model, code) for _, rule, model, code, _ in (line.split("|") for line in table.splitlines()[2:])]


@pytest.mark.parametrize(("rule", "model", "code"), rows(), ids=lambda cell: cell.strip()[:40])
def test_what_the_table_names_is_there(rule: str, model: str, code: str) -> None:
    models = "\n".join(path.read_text() for path in (ROOT / "spec").glob("*.tla"))
    for action in set(_NAME.findall(model)) - {path.stem for path in (ROOT / "spec").glob("*.tla")}:
        assert re.search(rf"^{action}\b.*==", models, re.MULTILINE) or f"{action}," in models, action
    cells = _CELL.findall(code)
    assert cells, f"{rule}: no place in the code"
    for file, names in cells:
        source = (ROOT / "rayraft" / file).read_text()
        for name in _NAME.findall(names):
            assert re.search(rf"def {name}\(|self\.{name}\b", source), f"{name} is not in {file}"
