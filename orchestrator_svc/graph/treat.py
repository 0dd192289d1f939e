"""The doctor's actions: legal moves in one group of mutations, each tagged with its record.

A move that a node's state does not allow is reached over those that it does (SEM 8), and an
action that makes no sense for a state becomes FAIL, so an action never leaves things as they are.
"""

from __future__ import annotations

from orchestrator_svc.graph.dispatch import WAITING_STATES
from orchestrator_svc.graph.forced import Action, Forced, Pattern
from orchestrator_svc.graph.mutation import NodeChanges
from orchestrator_svc.graph.node import Failure, Node, Result
from orchestrator_svc.graph.run import Run
from orchestrator_svc.graph.settle import children_settled, finish, inherited, make_ready
from orchestrator_svc.graph.text import storable
from orchestrator_svc.graph.types import (
    TERMINAL_NODE_STATES,
    ErrorClass,
    NodeState,
    ProjectState,
)

MAX_REASON_CHARS = 1_000
MAX_FORCED_RESULT_CHARS = 100_000

#: What comes before DONE on the way from a state that may not become DONE at once.
_BEFORE_DONE = {
    NodeState.PENDING: NodeState.RUNNING,
    NodeState.READY: NodeState.RUNNING,
    NodeState.NEEDS_REPLAN: NodeState.RUNNING,
    NodeState.PLAN_DONE: NodeState.AGGREGATING,
}


def treat(run: Run, node: Node, pattern: Pattern, action: Action, reason: str, now: float) -> None:
    """Carry an action out and settle what follows from it."""
    reason = storable(reason, MAX_REASON_CHARS)
    recount(run, node)
    if action is Action.RETRY and _retry(run, node, pattern, reason, now):
        return
    if action is Action.RESET_STATE and _reset(run, node, pattern, reason):
        return
    if action is Action.FORCE_COMPLETE and node.done_children:
        _complete(run, node, pattern, reason)
        return
    if action is Action.REPLAN and node.state is NodeState.NEEDS_REPLAN:
        forced = Forced(pattern, action, node.state, NodeState.READY, reason)
        run.patch(node, state=NodeState.READY, attempt=node.attempt + 1, forced=forced)
        run.queue.append(node.node_id)
        return
    if action is Action.SKIP:
        forced = Forced(pattern, action, node.state, NodeState.CANCELLED, reason)
        finish(run, node, state=NodeState.CANCELLED, forced=forced)
        return
    _fail(run, node, pattern, reason)


def recount(run: Run, node: Node) -> None:
    """Set a node's counters to what the tree says."""
    needed = [run.nodes[i] for i in node.depends_on if i in run.nodes]
    node.unsettled = sum(other.state not in TERMINAL_NODE_STATES for other in needed)
    children = [run.nodes[i] for i in node.children if i in run.nodes]
    current = [child for child in children if not child.superseded]
    node.open_children = sum(child.state not in TERMINAL_NODE_STATES for child in current)
    node.done_children = sum(child.state is NodeState.DONE for child in current)


def _retry(run: Run, node: Node, pattern: Pattern, reason: str, now: float) -> bool:
    """Give a node another turn; return whether that is possible."""
    before = node.state
    forced = Forced(pattern, Action.RETRY, before, before, reason)
    if before is NodeState.PLAN_DONE:
        run.patch(node, forced=forced)
        failure = children_settled(run, node)
        if failure is not None:
            finish(run, node, state=NodeState.FAILED, error=failure)
        return True
    if before is NodeState.AGGREGATING:
        run.patch(node, attempt=node.attempt + 1, next_attempt_time=now, forced=forced)
    elif before is NodeState.RUNNING:
        forced = Forced(pattern, Action.RETRY, before, NodeState.READY, reason)
        run.patch(node, state=NodeState.READY, attempt=node.attempt + 1, forced=forced)
    elif before in WAITING_STATES:
        run.patch(node, forced=forced)
    else:
        return False
    node.spent = 0.0
    run.queue.append(node.node_id)
    return True


def _reset(run: Run, node: Node, pattern: Pattern, reason: str) -> bool:
    """Give a node the state that its neighbours imply; return whether that is possible."""
    before = node.state
    forced = Forced(pattern, Action.RESET_STATE, before, NodeState.READY, reason)
    if before is NodeState.READY:
        run.patch(node, forced=forced)
        run.queue.append(node.node_id)
        return True
    if before is not NodeState.PENDING or node.unsettled or _broken_dependency(run, node):
        return False
    run.patch(node, forced=forced)
    make_ready(run, node)
    return True


def _complete(run: Run, node: Node, pattern: Pattern, reason: str) -> None:
    """End a node with the results of its children side by side: no aggregator has read them."""
    before = node.state
    forced = Forced(pattern, Action.FORCE_COMPLETE, before, NodeState.DONE, reason)
    step = _BEFORE_DONE.get(before)
    if step is not None:
        run.patch(node, state=step, attempt=max(1, node.attempt), forced=forced)
    parts = [
        f"{child.goal}\n\n{child.result.summary or child.result.text or child.result.excerpt}"
        for child in map(run.nodes.get, node.children)
        if child is not None and child.state is NodeState.DONE and child.result is not None
    ]
    text = storable("\n\n".join(parts), MAX_FORCED_RESULT_CHARS)
    changes = NodeChanges(state=NodeState.DONE, result=Result(text=text), forced=forced)
    if node.error is not None:
        changes["error"] = None
    finish(run, node, **changes)


def _fail(run: Run, node: Node, pattern: Pattern, reason: str) -> None:
    broken = _broken_dependency(run, node)
    if broken is not None:
        failure = inherited(broken)
    elif pattern is Pattern.CIRCULAR_DEPENDENCY:
        failure = Failure(ErrorClass.DEPENDENCY_FAILED, reason)
    else:
        failure = Failure(ErrorClass.EXECUTION, f"{pattern}: {reason}")
    forced = Forced(pattern, Action.FAIL, node.state, NodeState.FAILED, reason)
    finish(run, node, state=NodeState.FAILED, error=failure, forced=forced)


def _broken_dependency(run: Run, node: Node) -> Node | None:
    """Return a dependency that has ended without a result."""
    needed = (run.nodes[i] for i in node.depends_on if i in run.nodes)
    broken = (NodeState.FAILED, NodeState.CANCELLED)
    return next((other for other in needed if other.state in broken), None)


def fail_project(run: Run, reason: str) -> None:
    """End a run that cannot go on: skip what is open, fail the root and with it the project."""
    reason = storable(f"{Pattern.UNKNOWN}: {reason}", MAX_REASON_CHARS)
    failure = Failure(ErrorClass.EXECUTION, reason)
    root = run.nodes.get(run.root_id)
    for node in run.nodes.values():
        if node.state in TERMINAL_NODE_STATES or node is root:
            continue
        run.cut()
        forced = Forced(Pattern.UNKNOWN, Action.SKIP, node.state, NodeState.CANCELLED, reason)
        run.patch(node, state=NodeState.CANCELLED, forced=forced)
    run.cut()
    if root is not None and root.state not in TERMINAL_NODE_STATES:
        forced = Forced(Pattern.UNKNOWN, Action.FAIL, root.state, NodeState.FAILED, reason)
        finish(run, root, state=NodeState.FAILED, error=failure, forced=forced)
    if not run.ended:
        run.patch_project(ProjectState.FAILED, error=failure)
