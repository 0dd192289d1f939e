"""Asks the planner of a node again, with the reasons (S4.6).

    RUNNING, PLAN_DONE, AGGREGATING, DONE or FAILED → NEEDS_REPLAN → RUNNING (plan) → PLAN_DONE

What is open below the node is cancelled at once. The children of the old plan are superseded
when the new one is adopted (`adopt.py`), except those that it reuses; until then they are what
the planner is shown.
"""

from __future__ import annotations

from orchestrator_svc.graph.mutation import NodeChanges
from orchestrator_svc.graph.node import Failure, Node
from orchestrator_svc.graph.recovery import MAX_REPLANS
from orchestrator_svc.graph.run import Run
from orchestrator_svc.graph.types import TERMINAL_NODE_STATES, NodeState

#: From these a node may become NEEDS_REPLAN; a test compares them with the contract.
REPLANNABLE = frozenset(
    {
        NodeState.RUNNING,
        NodeState.PLAN_DONE,
        NodeState.AGGREGATING,
        NodeState.DONE,
        NodeState.FAILED,
    }
)


def can_replan(run: Run, node: Node) -> bool:
    """Return whether a node may be planned again without an order."""
    return (
        node.replan_count < MAX_REPLANS
        and node.layer < run.max_layer(node)
        and node.state in REPLANNABLE
        and not run.exhausted
    )


def replan(
    run: Run,
    node: Node,
    reason: str,
    *,
    error: Failure | None = None,
    at: float | None = None,
    ordered: bool = False,
) -> None:
    """Move a node to NEEDS_REPLAN and let the planner be called, at time `at` or at once.

    An ordered replan sets the node's counts back; any other one is counted.
    """
    if node.state in TERMINAL_NODE_STATES:
        run.reopen(node)
    if node.open_call:
        run.cancel_call(node)
    changes = NodeChanges(
        state=NodeState.NEEDS_REPLAN,
        attempt=node.attempt + 1,
        replan_reason=reason,
        replan_count=0 if ordered else node.replan_count + 1,
    )
    if error is not None:
        changes["error"] = error
    if at is not None or node.next_attempt_time is not None:
        changes["next_attempt_time"] = at
    if node.crash_redispatches:
        changes["crash_redispatches"] = 0
    if node.review_id:
        changes["review_id"] = ""
    if ordered and node.retry_count:
        changes["retry_count"] = 0
    if ordered and node.timeout_count:
        changes["timeout_count"] = 0
    node.spent = 0.0
    run.patch(node, **changes)
    for item in run.descendants(node):
        if item.state not in TERMINAL_NODE_STATES:
            run.cut()
            if item.open_call:
                run.cancel_call(item)
            run.patch(item, state=NodeState.CANCELLED)
    if at is not None:
        run.at(at, node)
    elif not node.open_call:  # else its end does it
        run.queue.append(node.node_id)
