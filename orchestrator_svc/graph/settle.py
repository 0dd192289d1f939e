"""What the end of a node means for its dependants, its parent and the project (SEM 25, 26)."""

from __future__ import annotations

from typing import Unpack

from orchestrator_svc.graph.forced import Action, Forced, Pattern
from orchestrator_svc.graph.mutation import NodeChanges
from orchestrator_svc.graph.node import Failure, Node
from orchestrator_svc.graph.replan import can_replan, replan
from orchestrator_svc.graph.run import Run
from orchestrator_svc.graph.text import storable
from orchestrator_svc.graph.types import (
    TERMINAL_NODE_STATES,
    ErrorClass,
    NodeState,
    OnDependencyFailure,
    ProjectState,
)

MAX_REASON_CHARS = 4_096
MAX_NAMED_NODES = 20  #: in the error of a PARTIAL run
MAX_NAMED_CHARS = 120  #: of the message of each of them


def finish(run: Run, node: Node, **changes: Unpack[NodeChanges]) -> None:
    """Move a node to a terminal state and settle everything that waited for it.

    A failure runs through all dependants and up the tree here, in one turn and without
    recursion, so a run never waits for something that cannot come.
    """
    run.patch(node, **changes)
    settle(run, node)


def settle(run: Run, node: Node) -> None:
    """Settle everything that waited for a node that has just ended."""
    ended = [node]
    while ended:
        node = ended.pop()
        run.forget_child_results(node)
        for dependant_id in node.dependants:
            dependant = run.nodes[dependant_id]
            dependant.unsettled -= 1
            if dependant.state is NodeState.PENDING:
                if node.state is NodeState.DONE:
                    make_ready(run, dependant)
                elif dependency_failed(run, dependant, node):
                    ended.append(dependant)
            elif dependant.state not in TERMINAL_NODE_STATES:
                _queue_again(run, dependant)
            elif node.state is NodeState.DONE:
                revive(run, dependant)
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
        run.cut()
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


def _queue_again(run: Run, node: Node) -> None:
    """Queue a node that lost its turn to a dependency which an order had opened again.

    One in a backoff is queued by its time.
    """
    if not node.unsettled and not run.is_early(node.next_attempt_time):
        run.queue.append(node.node_id)


def dependency_failed(run: Run, node: Node, cause: Node) -> bool:
    """Settle a PENDING node that needs `cause`, by policy; return whether it has ended (SEM 25)."""
    policy = run.on_dependency_failure(node)
    parent = run.nodes.get(node.parent_id)
    if policy is OnDependencyFailure.RUN:
        make_ready(run, node)
        return False
    run.cut()
    if policy is OnDependencyFailure.SKIP:
        run.patch(node, state=NodeState.CANCELLED, error=inherited(cause))
        return True
    replans = policy is OnDependencyFailure.REPLAN and parent is not None
    if parent is not None and replans and can_replan(run, parent):
        origin = _origin(run, cause)
        why = f": {origin.error_class}: {origin.message}" if origin else ""
        replan(run, parent, storable(f"{cause.node_id} failed{why}", MAX_REASON_CHARS))
        return False
    run.patch(node, state=NodeState.FAILED, error=inherited(cause))
    return True


def revive(run: Run, node: Node) -> None:
    """Queue a node that failed for a dependency which an operator has retried since.

    Does nothing for any other node: those that have begun have failed by themselves.
    """
    error, parent = node.error, run.nodes.get(node.parent_id)
    if (
        node.state is not NodeState.FAILED
        or node.agent_calls
        or node.superseded
        or error is None
        or error.error_class is not ErrorClass.DEPENDENCY_FAILED
        or parent is None
        or parent.state is not NodeState.PLAN_DONE
        or not all(_is_done(run, dependency_id) for dependency_id in node.depends_on)
    ):
        return
    run.cut()
    run.reopen(node)
    run.patch(node, state=NodeState.READY, error=None)
    run.queue.append(node.node_id)


def _is_done(run: Run, node_id: str) -> bool:
    node = run.nodes.get(node_id)
    return node is not None and node.state is NodeState.DONE


def children_settled(run: Run, parent: Node) -> Failure | None:
    """Queue a PLAN_DONE node for its aggregation, or for a new plan if its policy asks for one.

    Return why it fails if it can have neither. Aggregations go first: they free memory and let
    whole branches go on.
    """
    if not parent.done_children:
        failure = _all_failed(run, parent)
        policy = run.on_dependency_failure(parent)
        if policy is OnDependencyFailure.REPLAN and can_replan(run, parent):
            run.cut()
            replan(run, parent, failure.message)
            return None
        return failure
    if run.exhausted:
        limit = run.settings.max_execution_steps
        return Failure(ErrorClass.LIMIT, f"max_execution_steps of {limit} is used up")
    run.queue.appendleft(parent.node_id)
    return None


def end_project(run: Run, root: Node) -> None:
    """Derive the project's terminal state from its tree (SEM 26).

    A paused run ends too when an order leaves nothing that could go on.
    """
    if run.state is ProjectState.PAUSED:
        run.patch_project(ProjectState.RUNNING)
    if root.state is NodeState.DONE:
        unfinished = [node for node in run.nodes.values() if not _counts_as_done(node)]
        if unfinished:
            error = _unfinished(run, unfinished)
            run.patch_project(ProjectState.PARTIAL, error=error)
        else:
            run.patch_project(ProjectState.COMPLETED)
    elif root.state is NodeState.CANCELLED:
        run.patch_project(ProjectState.CANCELLED)
    else:
        run.patch_project(ProjectState.FAILED, error=_origin(run, root))


def _counts_as_done(node: Node) -> bool:
    return node.state is NodeState.DONE or node.superseded or is_skipped(node)


def is_skipped(node: Node) -> bool:
    """Return whether the policy `skip` has ended a node, which counts as no failure."""
    error = node.error if node.state is NodeState.CANCELLED and not node.agent_calls else None
    return error is not None and error.error_class is ErrorClass.DEPENDENCY_FAILED


def _unfinished(run: Run, nodes: list[Node]) -> Failure:
    """Return what a PARTIAL run lacks: the nodes with which it began, each with its reason."""
    causes = [node for node in nodes if node.error is None or node.error.node_id in _own(node)]
    named = ", ".join(map(_named, causes[:MAX_NAMED_NODES]))
    more = f" and {len(causes) - MAX_NAMED_NODES} more" if len(causes) > MAX_NAMED_NODES else ""
    text = f"{len(nodes)} of {len(run.nodes)} nodes are not done: {named}{more}"
    failed = next((node.error for node in causes if node.error), None)
    return Failure(
        failed.error_class if failed else ErrorClass.CANCELLED,
        storable(text, MAX_REASON_CHARS),
        causes[0].node_id if causes else "",
    )


def _own(node: Node) -> tuple[str, str]:
    return "", node.node_id


def _named(node: Node) -> str:
    if node.error is None:
        return f"{node.node_id} {node.state}"
    message = node.error.message[:MAX_NAMED_CHARS]
    return f"{node.node_id} {node.state} ({node.error.error_class}: {message})"


def inherited(cause: Node) -> Failure:
    """Return the failure of a node that needed the result of `cause`."""
    origin = cause.error.node_id if cause.error and cause.error.node_id else cause.node_id
    return Failure(ErrorClass.DEPENDENCY_FAILED, f"needs the result of {cause.node_id}", origin)


def origin_below(run: Run, parent: Node) -> str:
    """Return the node with which the first failure among a node's children began, if any did."""
    first = _first_failure(run, parent)
    return first.node_id if first else ""


def _first_failure(run: Run, parent: Node) -> Failure | None:
    ended = [run.nodes[child_id] for child_id in parent.children if child_id in run.nodes]
    failed = [child for child in ended if child.state in TERMINAL_NODE_STATES and child.error]
    return _origin(run, failed[0]) if failed else None


def _all_failed(run: Run, parent: Node) -> Failure:
    first = _first_failure(run, parent)
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
