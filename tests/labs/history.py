"""Whether a history of the labs' key-value service is linearizable: one function, `linearizable`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rayraft.history import operations as operations_of
from rayraft.history.checker import Verdict, check
from rayraft.history.models import Text
from rayraft.history.operations import Kind

NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class Operation:
    """One call of one client. Without an answer ``returned`` is NEVER, and it may or may not have taken place."""

    method: str  # put, append or get
    key: str
    argument: str
    result: str | None
    called: float
    returned: float = NEVER


KINDS = {"put": Kind.WRITE, "append": Kind.APPEND, "get": Kind.READ}


def linearizable(history: Iterable[Operation]) -> bool:
    operations = [
        operations_of.Operation(
            client=number,
            kind=KINDS[operation.method],
            key=operation.key,
            input=None if operation.method == "get" else operation.argument,
            output=operation.result,
            invoked=operation.called,
            returned=None if operation.returned == NEVER else operation.returned,
        )
        for number, operation in enumerate(history)
    ]
    report = check(operations_of.History(operations), Text())
    assert report.verdict is not Verdict.UNDECIDED, report
    return report.verdict is Verdict.LINEARIZABLE
