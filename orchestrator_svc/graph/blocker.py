"""One link of a blocking chain.

`project_blocker.py` and `node_blocker.py` look one step far; `explain.py` follows the steps.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class BlockerKind(enum.StrEnum):
    """What something waits for; names equal those of the contract."""

    DEPENDENCY = "DEPENDENCY"
    PARENT = "PARENT"
    CHILDREN = "CHILDREN"
    REVIEW = "REVIEW"
    BACKOFF = "BACKOFF"
    RATE_LIMIT = "RATE_LIMIT"
    SLOT = "SLOT"
    BUDGET = "BUDGET"
    STEPS = "STEPS"
    LEASE = "LEASE"
    PAUSED = "PAUSED"
    CANCELLING = "CANCELLING"
    STORE = "STORE"
    CALL = "CALL"
    FAILURE = "FAILURE"
    CANCELLED = "CANCELLED"
    CYCLE = "CYCLE"
    AGENT = "AGENT"
    MISSING = "MISSING"
    UNKNOWN = "UNKNOWN"


@dataclass(slots=True, kw_only=True)
class Blocker:
    """One link: `blocked` (empty: the project) is held back by `by`, or by what `message` says."""

    kind: BlockerKind
    blocked: str
    message: str
    by: str = ""
    leads_on: bool = False  #: whether the reason is to be looked for at `by`
    since: float | None = None  #: Unix seconds
    until: float | None = None  #: Unix seconds; when it ends by itself
    remedy: str = ""
    live: bool = False
    depth: int = 0  #: links between it and the subject; set by `explain`
