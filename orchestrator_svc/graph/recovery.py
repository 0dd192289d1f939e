"""What follows a failed agent call: one table by error class and stage (S2.2, S2.3).

A recovery has a limit of its own; once that is used up, or where the table has none, the policy
`on_exhausted` decides (`failure.py`). What has no recovery and no policy is in `FINAL`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

from orchestrator_svc.graph.types import ErrorClass, Stage

MAX_RETRY_DELAY = 300.0  #: seconds; cap of the backoff
MAX_CRASH_REDISPATCHES = 5  #: in a row; the fifth fails the node (SEM 21)
MAX_REPLANS = 2  #: new plans of a node, not counting those that an operator orders


class Recovery(enum.Enum):
    """What to do about a failed agent call."""

    RETRY = enum.auto()  #: a new attempt after a backoff, up to `max_retries`
    TIMEOUT = enum.auto()  #: the same, up to `max_recovery_attempts` of the `max_retries` too
    REPLAN = enum.auto()  #: the planner again, with the reasons, after a backoff; `MAX_REPLANS`
    FAIL = enum.auto()  #: another attempt would fail the same way


_BY_CLASS = {
    ErrorClass.TIMEOUT: Recovery.TIMEOUT,
    ErrorClass.RATE_LIMIT: Recovery.RETRY,
    ErrorClass.CONNECTION: Recovery.RETRY,
    ErrorClass.INVALID_OUTPUT: Recovery.RETRY,
    ErrorClass.EXECUTION: Recovery.RETRY,
}
_BY_CLASS_AND_STAGE = {
    (ErrorClass.INVALID_OUTPUT, Stage.PLAN): Recovery.REPLAN,
    (ErrorClass.EXECUTION, Stage.PLAN): Recovery.REPLAN,
}

#: What to do first, for every error class in every stage.
RECOVERY: dict[tuple[ErrorClass, Stage], Recovery] = {
    (error_class, stage): _BY_CLASS.get(error_class, Recovery.FAIL)
    for error_class in ErrorClass
    for stage in Stage
} | _BY_CLASS_AND_STAGE

#: Decisions and facts that no policy changes.
FINAL = frozenset(
    {
        ErrorClass.NO_EVIDENCE,
        ErrorClass.CANCELLED,
        ErrorClass.DEPENDENCY_FAILED,
        ErrorClass.LIMIT,
        ErrorClass.REJECTED,
    }
)


def longest_delay(base: float) -> float:
    """Return the cap of backoffs of this base, in seconds."""
    return max(MAX_RETRY_DELAY, base)


def full_jitter(base: float, failures: int, cap: float, random: Callable[[], float]) -> float:
    """Return a delay drawn evenly from 0 to base·2^failures, at most `cap` or `base`.

    `failures` counts those before this one, so that the first delay is at most `base`.
    """
    return random() * min(max(cap, base), base * 2.0 ** min(failures, 64))
