"""Running a hypothesis state machine inside a test, the same way every time: for planted mistakes that it must find."""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test


def run_machine(machine: type[RuleBasedStateMachine], *, examples: int, steps: int) -> None:
    """``examples`` far above what a planted mistake needs: hypothesis also draws constants that it finds in the source,
    so that any edit changes which examples come first. Only a mistake that is not found uses all of them.
    """
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            derandomize=True,
            print_blob=False,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )
