"""What an operator's order does to a run: it is applied or refused, and says what came of it.

An order is durable before it gets here (SEM 19). Its answer and the first of its effects are one
group, so they become durable together; effects that follow in later batches are completed by
`recover.take_up` if a crash comes between.
"""

from __future__ import annotations

from collections.abc import Callable

from orchestrator_svc.graph.cancel import cancel_node, cancel_run
from orchestrator_svc.graph.event import CommandGiven
from orchestrator_svc.graph.failure import fresh_counts
from orchestrator_svc.graph.mutation import NodeChanges
from orchestrator_svc.graph.node import Node
from orchestrator_svc.graph.recover import take_up
from orchestrator_svc.graph.replan import REPLANNABLE, replan
from orchestrator_svc.graph.run import Run
from orchestrator_svc.graph.settings import BudgetPolicy
from orchestrator_svc.graph.settle import end_project
from orchestrator_svc.graph.types import (
    TERMINAL_NODE_STATES,
    CommandState,
    CommandType,
    ErrorClass,
    NodeState,
    OnDependencyFailure,
    ProjectState,
)

MAX_NAMED_NODES = 20  #: in the answer to an order

_PAUSED = (ProjectState.PAUSING, ProjectState.PAUSED)
#: A node in one of these has taken, or is about to take, the results that it needs.
_WORKING = frozenset(
    {
        NodeState.READY,
        NodeState.RUNNING,
        NodeState.PLAN_DONE,
        NodeState.AGGREGATING,
        NodeState.NEEDS_REPLAN,
    }
)


class Refused(Exception):
    """An order cannot have an effect; the text says why and what would work instead."""


def carry_out(run: Run, order: CommandGiven, now: float) -> None:
    """Apply or refuse an order. One that was answered before is ignored."""
    if order.command_id in run.commands:
        return
    run.open_orders.discard(order.command_id)
    record = run.answer_command(order.command_id)
    try:
        handler = _HANDLERS.get(order.command_type)
        if handler is None:
            raise Refused("this orchestrator does not know the order")
        if run.ended:
            raise Refused(f"the project is {run.state}")
        record.answer = handler(run, order, now)
    except Refused as refusal:
        record.state = CommandState.REFUSED
        record.answer = str(refusal)


def settle_end(run: Run) -> None:
    """End a run that was reopened for an order which then had no effect."""
    root = run.nodes.get(run.root_id)
    if root is None or root.state not in TERMINAL_NODE_STATES or run.ended or run.dormant:
        return
    if not run.open_orders and run.state is not ProjectState.CANCELLING:
        run.cut()
        end_project(run, root)


def _cancel_project(run: Run, order: CommandGiven, now: float) -> str:
    if run.state is not ProjectState.CANCELLING:
        cancel_run(run)
    return ""


def _pause(run: Run, order: CommandGiven, now: float) -> str:
    _refuse_if_cancelling(run)
    if run.state not in _PAUSED:
        run.patch_project(ProjectState.PAUSING, pause_time=now)
    running = [node.node_id for node in run.nodes.values() if node.open_call]
    if not running:
        return "nothing runs"
    more = f" and {len(running) - MAX_NAMED_NODES} more" if len(running) > MAX_NAMED_NODES else ""
    calls = "1 agent call" if len(running) == 1 else f"{len(running)} agent calls"
    verb = "runs" if len(running) == 1 else "run"
    return f"{calls} still {verb}: {', '.join(running[:MAX_NAMED_NODES])}{more}"


def settle_pause(run: Run) -> None:
    """Complete a pause once the last call is over."""
    if run.state is ProjectState.PAUSING and not run.busy:
        run.cut()
        run.patch_project(ProjectState.PAUSED)


def _resume(run: Run, order: CommandGiven, now: float) -> str:
    _refuse_if_cancelling(run)
    if run.state not in _PAUSED:
        raise Refused(f"the project is {run.state}, not paused")
    paused_for = max(0.0, now - run.pause_time) if run.pause_time is not None else 0.0
    run.patch_project(ProjectState.RUNNING, pause_time=None)
    run.resume_budgets(paused_for, more=run.settings.budget_policy is BudgetPolicy.PAUSE)
    run.shift_timers(paused_for)
    if run.dormant:
        run.cut()
        take_up(run, now)
    return ""


def _cancel_node(run: Run, order: CommandGiven, now: float) -> str:
    _refuse_if_cancelling(run)
    node = _node_of(run, order)
    if node.state in TERMINAL_NODE_STATES:
        raise Refused(f"{node.node_id} is {node.state} already")
    if not node.parent_id:
        cancel_run(run)
        return "the root is the run: the run is cancelled"
    count = cancel_node(run, node)
    return f"{count} nodes are cancelled" if count > 1 else ""


def _retry_node(run: Run, order: CommandGiven, now: float) -> str:
    _refuse_if_cancelling(run)
    node = _node_of(run, order)
    if node.state is NodeState.READY and node.next_attempt_time is not None:
        run.patch(node, next_attempt_time=None)
        run.queue.append(node.node_id)
        return "its backoff is over"
    if node.state is not NodeState.FAILED:
        raise Refused(f"{node.node_id} is {node.state}, not FAILED{_other_way(node)}")
    _refuse_if_settled_above(run, node)
    if node.error is not None and node.error.error_class is ErrorClass.NO_EVIDENCE:
        raise Refused(
            f"{node.node_id} found no evidence, which another attempt cannot change; "
            f"ReplanNode {node.parent_id or node.node_id} makes another plan"
        )
    _refuse_if_unmet(run, node)
    run.reopen(node)
    changes = NodeChanges(state=NodeState.READY, attempt=node.attempt + 1, **fresh_counts(node))
    if node.next_attempt_time is not None:
        changes["next_attempt_time"] = None
    node.spent = 0.0
    run.patch(node, **changes)
    if _failed_in_aggregation(node):
        for state in (NodeState.RUNNING, NodeState.PLAN_DONE):
            run.patch(node, state=state)
        run.queue.append(node.node_id)
        return "its plan is kept, the results of its children are aggregated again"
    if not node.open_call:  # else its end does it
        run.queue.append(node.node_id)
    return ""


def _failed_in_aggregation(node: Node) -> bool:
    """Return whether a node's plan was carried out: no other one is asked for (S1.4)."""
    carried_out = node.done_children and not node.open_children
    return bool(carried_out and not node.replan_reason and not node.open_call)


def _refuse_if_unmet(run: Run, node: Node) -> None:
    """Refuse to begin a node before everything that it needs has ended as its policy asks."""
    runs_anyway = run.on_dependency_failure(node) is OnDependencyFailure.RUN
    for dependency_id in node.depends_on:
        dependency = run.nodes[dependency_id]
        ended = dependency.state in TERMINAL_NODE_STATES
        if dependency.state is NodeState.DONE or (runs_anyway and ended):
            continue
        remedy = ""
        if dependency.state is NodeState.FAILED:
            remedy = f"; RetryNode {dependency_id} lets both go on"
        raise Refused(f"{node.node_id} needs {dependency_id}, which is {dependency.state}{remedy}")


def _other_way(node: Node) -> str:
    if node.state is NodeState.DONE:
        return f"; ReplanNode {node.node_id} makes a new plan"
    if node.state is NodeState.CANCELLED:
        return (
            f" and that is final; ReplanNode {node.parent_id or node.node_id} makes a new node, "
            "ForkProject goes back to an earlier revision"
        )
    return ""


def _replan_node(run: Run, order: CommandGiven, now: float) -> str:
    _refuse_if_cancelling(run)
    node = _node_of(run, order)
    if node.layer >= run.max_layer(node):
        raise Refused(
            f"{node.node_id} is at the deepest layer and cannot have a plan; "
            f"RetryNode {node.node_id}, or ReplanNode {node.parent_id or node.node_id}"
        )
    if node.state not in REPLANNABLE:
        raise Refused(f"{node.node_id} is {node.state}, there is nothing to plan anew")
    _refuse_if_settled_above(run, node)
    _refuse_if_unmet(run, node)
    users = [run.nodes[i] for i in node.dependants if run.nodes[i].state in _WORKING]
    if users:
        raise Refused(
            f"{users[0].node_id} works with the result of {node.node_id} and is "
            f"{users[0].state}; ReplanNode {node.parent_id} plans both anew"
        )
    replan(run, node, order.reason or "an operator asked for a new plan", ordered=True)
    return ""


def _refuse_if_settled_above(run: Run, node: Node) -> None:
    """Refuse what no ancestor could take into account any more (SEM 25)."""
    if node.superseded:
        raise Refused(
            f"{node.node_id} belongs to a plan that was replaced; ReplanNode {node.parent_id}"
        )
    ancestors = []
    above = run.nodes.get(node.parent_id)
    while above is not None:
        ancestors.append(above)
        above = run.nodes.get(above.parent_id)
    for above in reversed(ancestors):
        if above.state in TERMINAL_NODE_STATES or above.state is NodeState.AGGREGATING:
            raise Refused(
                f"{above.node_id} above it is {above.state}; ReplanNode {above.node_id} takes it "
                "up again, ForkProject goes back to an earlier revision"
            )
        if above.state is not NodeState.PLAN_DONE:
            raise Refused(f"{above.node_id} above it is {above.state}: it gets a new plan")


def _refuse_if_cancelling(run: Run) -> None:
    if run.state is ProjectState.CANCELLING:
        raise Refused("the project is being cancelled")


def _node_of(run: Run, order: CommandGiven) -> Node:
    node = run.nodes.get(order.node_id)
    if node is None:
        raise Refused(f"there is no node {order.node_id!r}")
    return node


_HANDLERS: dict[CommandType, Callable[[Run, CommandGiven, float], str]] = {
    CommandType.CANCEL_PROJECT: _cancel_project,
    CommandType.PAUSE_PROJECT: _pause,
    CommandType.RESUME_PROJECT: _resume,
    CommandType.CANCEL_NODE: _cancel_node,
    CommandType.RETRY_NODE: _retry_node,
    CommandType.REPLAN_NODE: _replan_node,
}
