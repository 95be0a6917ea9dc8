"""The settings of a client."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real

from rayraft.errors import BadConfiguration


def check_timeout(timeout_s: object) -> None:
    """Raises BadConfiguration."""
    if not isinstance(timeout_s, Real) or not float(timeout_s) > 0:
        raise BadConfiguration(f"timeout_s must be a number of seconds above 0, not {timeout_s!r}")


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """Settings of one client process. Sizes in bytes, times in seconds."""

    # Requests on their way while calls trickle in. Few: what arrives meanwhile travels together.
    window: int = 1
    # Requests on their way at most. What waits leaves beside others once it is as much as they are together, and at
    # least `packet_bytes` (or `packet_calls` calls), or fills a request. More hides the latency of each.
    max_window: int = 8
    packet_bytes: int = 192 << 10
    packet_calls: int = 2_000
    # What waits travels in requests of this size. Larger ones spare calls; smaller ones are answered sooner.
    request_bytes: int = 512 << 10
    # Calls that may be open; a caller beyond that waits for room (Overloaded after its deadline).
    max_open_bytes: int = 64 << 20
    max_open_calls: int = 200_000
    max_call_bytes: int = 16 << 20  # while one that is much larger is written, followers may miss their leader
    # How long an attempt may be without an answer before it is repeated.
    attempt_timeout: float = 5.0
    # The same of a query that any node can answer; doubled with each attempt.
    hedge_after: float = 0.25
    # How long to wait before asking again a node that could not serve.
    backoff: float = 0.005
    max_backoff: float = 0.2
    # How long the group remembers this client after its last command, by the log's time. A client that was idle for
    # half of that takes a new session, which is safe while nothing is under way.
    session_ttl: float = 3600.0
    # How long the client of handles that were passed to this process stays when the last of them is gone: the next
    # task in it finds a client that has connected already.
    linger: float = 30.0

    def __post_init__(self) -> None:
        if not 1 <= self.window <= self.max_window:
            raise BadConfiguration(f"window ({self.window}) must be between 1 and max_window ({self.max_window})")
        if self.request_bytes < 1:
            raise BadConfiguration(f"request_bytes must be at least 1, not {self.request_bytes}")
        if not 0.001 <= self.session_ttl < 1e9:
            raise BadConfiguration(f"session_ttl must be at least 0.001 s and below 1e9 s, not {self.session_ttl}")
