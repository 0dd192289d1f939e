"""Continues a run from what the store holds, whoever wrote it and wherever it stopped."""

from __future__ import annotations

from orchestrator_svc.graph.adopt import supersede_half_staged
from orchestrator_svc.graph.answer import take_up_budget, take_up_review
from orchestrator_svc.graph.cancel import cancel_run
from orchestrator_svc.graph.checkpoint import settle_waiting
from orchestrator_svc.graph.dispatch import (
    CALLED_STATES,
    WAITING_STATES,
    announce_attempt,
    fill_slots,
)
from orchestrator_svc.graph.doctor import admit, consult
from orchestrator_svc.graph.event import Decision
from orchestrator_svc.graph.failure import MAX_MESSAGE_CHARS, call_failed
from orchestrator_svc.graph.mutation import NodeChanges
from orchestrator_svc.graph.node import Failure, Node
from orchestrator_svc.graph.recovery import MAX_CRASH_REDISPATCHES
from orchestrator_svc.graph.run import ROOT_ID, Run
from orchestrator_svc.graph.setback import Setback
from orchestrator_svc.graph.settle import (
    children_settled,
    dependency_failed,
    end_project,
    finish,
    make_ready,
    revive,
    settle,
)
from orchestrator_svc.graph.text import storable
from orchestrator_svc.graph.types import (
    TERMINAL_NODE_STATES,
    ErrorClass,
    NodeState,
    NodeType,
    ProjectState,
    Stage,
    TaskType,
)

#: A node in one of these has no children that could still run: its plan was ended.
_WITHOUT_CHILDREN = frozenset(
    {NodeState.CANCELLED, NodeState.NEEDS_REPLAN, NodeState.READY, NodeState.RUNNING}
)


def begin(run: Run, now: float) -> Decision:
    """Start a new run or take up an interrupted one. Called once, before any event.

    Every prefix of the log is a state from which this goes on: a decision that was split over
    two batches is completed here when only the first became durable.
    """
    run.now = now
    if run.ended:
        return run.take_decision()
    if run.state is ProjectState.CANCELLING:
        cancel_run(run)
        return run.take_decision()
    if run.state is ProjectState.PAUSED:
        run.dormant = True
        return run.take_decision()
    if run.setback is not None and run.setback.is_outcome and not _fails(run, run.setback):
        _fail_run(run, run.setback)
        return run.take_decision()
    take_up(run, now)
    if run.state is ProjectState.PAUSING:
        run.patch_project(ProjectState.PAUSED)
    settle_waiting(run)
    fill_slots(run)
    settle_waiting(run)
    consult(run, now)
    settle_waiting(run)
    if run.state is ProjectState.PAUSING and not run.busy:
        run.patch_project(ProjectState.PAUSED)
    return run.take_decision()


def _fails(run: Run, setback: Setback) -> bool:
    """Return whether a setback is the outcome of one node, which can still fail."""
    node = run.nodes.get(setback.node_id)
    return node is not None and node.state not in TERMINAL_NODE_STATES


def _fail_run(run: Run, setback: Setback) -> None:
    """End a run of which the store takes nothing more, with what it said."""
    failure = Failure(ErrorClass.EXECUTION, storable(setback.reason, MAX_MESSAGE_CHARS))
    root = run.nodes.get(run.root_id)
    if root is None or root.state in TERMINAL_NODE_STATES:
        if run.state is ProjectState.PENDING:
            run.patch_project(ProjectState.RUNNING)
        run.patch_project(ProjectState.FAILED, error=failure)
    else:
        finish(run, root, state=NodeState.FAILED, error=failure)


def take_up(run: Run, now: float) -> None:
    """Bring every node to where it can go on, whatever the store holds."""
    run.dormant = False
    run.now = now
    if not run.root_id and not run.nodes:
        root = run.create(
            node_id=ROOT_ID, goal=run.goal, task_type=TaskType.WRITE, state=NodeState.READY
        )
        run.patch_project(ProjectState.RUNNING, root_id=root.node_id)
        run.queue.append(root.node_id)
    else:
        if run.state is ProjectState.PENDING:
            run.patch_project(ProjectState.RUNNING)
        if not admit(run, run.clock):
            return
        supersede_half_staged(run)
        for node in run.nodes.values():
            revive(run, node)
        run.queue.clear()  # each node finds its own place below
        run.held.clear()
        for node in list(run.nodes.values()):
            run.cut()
            if node.allowance.review_id and node.state not in TERMINAL_NODE_STATES:
                take_up_budget(run, node)
                run.cut()
            _take_up(run, node, run.clock)
        root = run.nodes[run.root_id]
        if root.state in TERMINAL_NODE_STATES and not run.ended and not run.open_orders:
            end_project(run, root)


def lost_its_call(node: Node) -> bool:
    """Return whether an agent call of a freshly loaded node was decided and has no outcome."""
    called = node.state in CALLED_STATES and not node.waiting_on
    return called and node.next_attempt_time is None


def _take_up(run: Run, node: Node, now: float) -> None:
    parent = run.nodes.get(node.parent_id)
    if node.state in TERMINAL_NODE_STATES:
        return
    if node.waiting_on and run.reviews.get(node.review_id) is None:
        run.patch(node, waiting_on="")  # nobody was asked: begin anew
    if parent is not None and parent.state in _WITHOUT_CHILDREN:
        # A crash cut the end of a subtree short. Parents come before their children here.
        run.patch(node, state=NodeState.CANCELLED)
    elif run.setback is not None and run.setback.is_outcome and _is_about(run.setback, node):
        reason = storable(run.setback.reason, MAX_MESSAGE_CHARS)
        finish(run, node, state=NodeState.FAILED, error=Failure(ErrorClass.INVALID_OUTPUT, reason))
    elif node.waiting_on:
        take_up_review(run, node)
    elif lost_its_call(node):
        _redispatch(run, node, now)
    elif node.state in WAITING_STATES or node.state in CALLED_STATES:
        due = node.next_attempt_time
        if due is None or run.is_of_another_clock(due):
            run.queue.append(node.node_id)
        else:
            run.at(due, node)
    elif node.state is NodeState.PENDING:
        _settle_pending(run, node)
    elif node.state is NodeState.PLAN_DONE and not node.open_children:
        failure = children_settled(run, node)
        if failure is not None:
            finish(run, node, state=NodeState.FAILED, error=failure)


def _redispatch(run: Run, node: Node, now: float) -> None:
    """Give a node whose call has no outcome another attempt, without a retry.

    It counts as a crash unless the execution ended by a setback; one that is about this node is
    the outcome of its call.
    """
    setback = run.setback
    if setback is not None and _is_about(setback, node):
        message = f"its outcome cannot be stored: {setback.reason}"
        call_failed(run, node, _lost_stage(node), ErrorClass.INVALID_OUTPUT, message, now)
        return
    crashes = node.crash_redispatches + (setback is None or setback.is_crash)
    if crashes >= MAX_CRASH_REDISPATCHES:
        by = f", the last by: {setback.reason}" if setback else " by the end of the orchestrator"
        message = storable(f"{crashes} attempts in a row were cut off{by}", MAX_MESSAGE_CHARS)
        failure = Failure(ErrorClass.EXECUTION, message)
        finish(run, node, state=NodeState.FAILED, error=failure)
        return
    changes = NodeChanges(attempt=node.attempt + 1, crash_redispatches=crashes)
    if node.state is NodeState.AGGREGATING:
        changes["next_attempt_time"] = now
    announce_attempt(run, node, changes)
    run.queue.append(node.node_id)


def _is_about(setback: Setback, node: Node) -> bool:
    return setback.refused and setback.node_id == node.node_id


def _lost_stage(node: Node) -> Stage:
    """Return the stage of a call that a loaded node has lost."""
    if node.state is NodeState.AGGREGATING:
        return Stage.AGGREGATE
    if node.node_type is None:
        return Stage.ATOMIZE
    return Stage.PLAN if node.node_type is NodeType.PLAN else Stage.EXECUTE


def _settle_pending(run: Run, node: Node) -> None:
    for dependency_id in node.depends_on:
        dependency = run.nodes.get(dependency_id)
        if dependency and dependency.state in (NodeState.FAILED, NodeState.CANCELLED):
            if dependency_failed(run, node, dependency):
                settle(run, node)
            return
    make_ready(run, node)
