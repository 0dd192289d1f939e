"""What the end of a node means for its dependants, its parent and the project (SEM 25, 26)."""

from __future__ import annotations

from typing import Unpack

from orchestrator_svc.graph.forced import Action, Forced, Pattern
from orchestrator_svc.graph.mutation import NodeChanges
from orchestrator_svc.graph.node import Failure, Node
from orchestrator_svc.graph.run import Run
from orchestrator_svc.graph.types import (
    TERMINAL_NODE_STATES,
    ErrorClass,
    NodeState,
    ProjectState,
)


def finish(run: Run, node: Node, **changes: Unpack[NodeChanges]) -> None:
    """Move a node to a terminal state and settle everything that waited for it.

    A failure runs through all dependants and up the tree here, in one turn and without
    recursion, so a run never waits for something that cannot come.
    """
    run.patch(node, **changes)
    ended = [node]
    while ended:
        node = ended.pop()
        run.forget_child_results(node)
        for dependant_id in node.dependants:
            dependant = run.nodes[dependant_id]
            if dependant.state is not NodeState.PENDING:
                continue
            if node.state is NodeState.DONE:
                dependant.unsettled -= 1
                make_ready(run, dependant)
            else:
                run.cut()
                run.patch(dependant, state=NodeState.FAILED, error=inherited(node))
                ended.append(dependant)
        if node.node_id == run.root_id:
            _skip_what_is_left(run)
            end_project(run, node)
            continue
        parent = run.nodes.get(node.parent_id)
        if parent is None:  # a stray that the doctor has ended
            continue
        parent.open_children -= 1
        if node.state is NodeState.DONE:
            parent.done_children += 1
        if parent.state is not NodeState.PLAN_DONE or parent.open_children:
            continue
        failure = children_settled(run, parent)
        if failure is not None:
            run.patch(parent, state=NodeState.FAILED, error=failure)
            ended.append(parent)


def _skip_what_is_left(run: Run) -> None:
    """Cancel what is open although the root has ended: only a tree from outside has such nodes."""
    for node in run.nodes.values():
        if node.state in TERMINAL_NODE_STATES or node.superseded:
            continue
        if node.open_call:
            run.cancel_call(node)
        reason = "the root has ended without it"
        forced = Forced(
            Pattern.PARENT_CHILD_SYNC, Action.SKIP, node.state, NodeState.CANCELLED, reason
        )
        run.patch(node, state=NodeState.CANCELLED, forced=forced)


def make_ready(run: Run, node: Node) -> None:
    """Queue a PENDING node if nothing holds it back any more."""
    parent = run.nodes.get(node.parent_id)
    if node.unsettled or (parent is not None and parent.state is not NodeState.PLAN_DONE):
        return
    run.cut()
    run.patch(node, state=NodeState.READY)
    run.queue.append(node.node_id)


def children_settled(run: Run, parent: Node) -> Failure | None:
    """Queue a PLAN_DONE node for its aggregation; return why it fails if it cannot have one.

    Aggregations go first: they free memory and let whole branches go on.
    """
    if not parent.done_children:
        return _all_failed(run, parent)
    if run.exhausted:
        limit = run.settings.max_execution_steps
        return Failure(ErrorClass.LIMIT, f"max_execution_steps of {limit} is used up")
    run.queue.appendleft(parent.node_id)
    return None


def end_project(run: Run, root: Node) -> None:
    """Derive the project's terminal state from its tree."""
    if root.state is NodeState.DONE:
        complete = all(
            node.state is NodeState.DONE for node in run.nodes.values() if not node.superseded
        )
        run.patch_project(ProjectState.COMPLETED if complete else ProjectState.PARTIAL)
    elif root.state is NodeState.CANCELLED:
        run.patch_project(ProjectState.CANCELLED)
    else:
        run.patch_project(ProjectState.FAILED, error=_origin(run, root))


def inherited(cause: Node) -> Failure:
    """Return the failure of a node that needed the result of `cause`."""
    origin = cause.error.node_id if cause.error and cause.error.node_id else cause.node_id
    return Failure(ErrorClass.DEPENDENCY_FAILED, f"needs the result of {cause.node_id}", origin)


def _all_failed(run: Run, parent: Node) -> Failure:
    ended = [run.nodes[child_id] for child_id in parent.children if child_id in run.nodes]
    failed = [child for child in ended if child.state in TERMINAL_NODE_STATES and child.error]
    first = _origin(run, failed[0]) if failed else None
    reason = f"; first: {first.message}" if first else ""
    return Failure(
        ErrorClass.DEPENDENCY_FAILED,
        f"none of {len(parent.children)} children is done{reason}",
        first.node_id if first else "",
    )


def _origin(run: Run, node: Node) -> Failure | None:
    """Return the failure that a node's failure comes from, with the place where it began."""
    error = node.error
    if error is None:
        return None
    origin = run.nodes.get(error.node_id)
    if origin is not None and origin.error is not None:
        return Failure(origin.error.error_class, origin.error.message, origin.node_id)
    return Failure(error.error_class, error.message, node.node_id)
