"""What follows a failure: one table by error class, and the backoff between attempts (S2.2)."""

from __future__ import annotations

import enum
from collections.abc import Callable

from orchestrator_svc.graph.types import ErrorClass

MAX_RETRY_DELAY = 300.0  #: seconds; cap of the backoff
MAX_CRASH_REDISPATCHES = 5  #: in a row; the fifth fails the node (SEM 21)


class Recovery(enum.Enum):
    """What to do about a failed agent call."""

    RETRY = enum.auto()  #: a new attempt after a backoff, up to `max_retries`
    FAIL = enum.auto()  #: another attempt would fail the same way


RECOVERY: dict[ErrorClass, Recovery] = {
    ErrorClass.TIMEOUT: Recovery.RETRY,
    ErrorClass.RATE_LIMIT: Recovery.RETRY,
    ErrorClass.CONNECTION: Recovery.RETRY,
    ErrorClass.INVALID_OUTPUT: Recovery.RETRY,
    ErrorClass.EXECUTION: Recovery.RETRY,
    ErrorClass.AUTH: Recovery.FAIL,
    ErrorClass.NO_EVIDENCE: Recovery.FAIL,
    ErrorClass.CANCELLED: Recovery.FAIL,
    ErrorClass.DEPENDENCY_FAILED: Recovery.FAIL,
    ErrorClass.LIMIT: Recovery.FAIL,
    ErrorClass.REJECTED: Recovery.FAIL,
}


def full_jitter(base: float, failures: int, cap: float, random: Callable[[], float]) -> float:
    """Return a delay drawn evenly from 0 to base·2^failures, at most `cap` or `base`.

    `failures` counts those before this one, so that the first delay is at most `base`.
    """
    return random() * min(max(cap, base), base * 2.0 ** min(failures, 64))
