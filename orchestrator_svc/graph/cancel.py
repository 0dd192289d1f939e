"""Ends what is not over: the whole run, or one node with everything below it (SEM 20)."""

from __future__ import annotations

from orchestrator_svc.graph.node import Node
from orchestrator_svc.graph.run import Run
from orchestrator_svc.graph.settle import settle
from orchestrator_svc.graph.types import TERMINAL_NODE_STATES, NodeState, ProjectState


def cancel_run(run: Run) -> None:
    """Cancel what does not run and ask for the end of what does."""
    if run.state is not ProjectState.CANCELLING:
        run.patch_project(ProjectState.CANCELLING)
    run.queue.clear()
    for node in run.nodes.values():
        if node.open_call:
            run.cancel_call(node)
        elif node.state not in TERMINAL_NODE_STATES:
            run.cut()
            run.patch(node, state=NodeState.CANCELLED)
    end_if_cancelled(run)


def end_if_cancelled(run: Run) -> None:
    """End a run that is being cancelled once its last call is over."""
    if not run.busy:
        run.patch_project(ProjectState.CANCELLED)


def cancel_node(run: Run, node: Node) -> int:
    """Cancel a node and all below it at once; return how many nodes that were.

    Open calls are asked to end and keep their slots until they have; what they still answer is
    kept out, since their nodes are terminal. Dependants and the parent are settled as after a
    failure, last of all: that may end the run.
    """
    below = [item for item in run.descendants(node) if item.state not in TERMINAL_NODE_STATES]
    if node.open_call:
        run.cancel_call(node)
    run.patch(node, state=NodeState.CANCELLED)
    for item in below:
        run.cut()
        _stop(run, item)
    run.cut()
    settle(run, node)
    return len(below) + 1


def _stop(run: Run, node: Node) -> None:
    """Cancel one node of a subtree that is cancelled as a whole, so nobody needs to be told."""
    if node.open_call:
        run.cancel_call(node)
    run.patch(node, state=NodeState.CANCELLED)
    run.forget_child_results(node)
