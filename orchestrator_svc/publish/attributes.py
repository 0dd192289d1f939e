"""The runner's own attributes of a node, in its `aux_data`.

`details`, `budget` and `max_retries` come from the plan; `allowance` is what became of a budget
since; `crash_redispatches`, the dispatches in a row that were cut off by a crash; `progress`, what
its agent said last about how far it had come; `review`, the latest review whose answer still
matters; and `reviews`, how many there were.
"""

from __future__ import annotations

import math
from dataclasses import fields

from orchestrator_svc.graph.budget import NO_ALLOWANCE, Allowance, Budget
from orchestrator_svc.graph.forced import Action, Forced, Pattern
from orchestrator_svc.graph.node import Json

DETAILS_KEY = "details"
MAX_RETRIES_KEY = "max_retries"
CRASHES_KEY = "crash_redispatches"
FORCED_KEY = "forced_by"
REVIEW_KEY = "review"
REVIEWS_KEY = "reviews"
BUDGET_KEY = "budget"
ALLOWANCE_KEY = "allowance"
PROGRESS_KEY = "progress"


def forced_record(forced: Forced) -> dict[str, Json]:
    """Return what is kept of a forced move."""
    return {
        "by": "doctor",
        "pattern": str(forced.pattern),
        "action": str(forced.action),
        "before": forced.before,
        "after": forced.after,
        "reason": forced.reason,
    }


def read_forced(record: Json) -> Forced | None:
    """Return the record of a forced move; None for what is no such record."""
    if not isinstance(record, dict):
        return None
    try:
        pattern, action = Pattern(str(record["pattern"])), Action(str(record["action"]))
        rest = [str(record[key]) for key in ("before", "after", "reason")]
    except (KeyError, ValueError):
        return None
    return Forced(pattern, action, *rest)


def read_budget(record: Json) -> Budget | None:
    """Return the limits that a plan gave; None for what are no limits."""
    names = [field.name for field in fields(Budget)]
    try:
        values = {name: record[name] for name in names} if isinstance(record, dict) else {}
        return Budget(**values) or None  # type: ignore[arg-type]
    except (KeyError, TypeError, ValueError):
        return None


def read_allowance(record: Json) -> Allowance:
    """Return what became of a budget; nothing for what is no such record."""
    if not isinstance(record, dict):
        return NO_ALLOWANCE
    review_id = record.get("review_id")
    return Allowance(
        since=_time(record.get("since")),
        stopped=_time(record.get("stopped")),
        tokens=int(_amount(record.get("tokens"))),
        cost_usd=_amount(record.get("cost_usd")),
        wall_seconds=_amount(record.get("wall_seconds")),
        nodes=int(_amount(record.get("nodes"))),
        short=int(_amount(record.get("short"))) or int(record.get("short") is True),
        final=record.get("final") is True,
        review_id=review_id if isinstance(review_id, str) else "",
    )


def _time(value: Json) -> float | None:
    return None if value is None else _amount(value)


def _amount(value: Json) -> float:
    """Return a number that is not negative; 0 for anything else."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf:
        return float(value)
    return 0.0
