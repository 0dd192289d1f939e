"""What holds back one node.

The links of a node are found from its state alone, so every state that a node can be stored in has
an answer here.
"""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator_svc.graph.blocker import Blocker, BlockerKind
from orchestrator_svc.graph.budget import Use
from orchestrator_svc.graph.node import Node
from orchestrator_svc.graph.review import WAITING_PREFIX
from orchestrator_svc.graph.scene import ACTIVE_STATES, Scene
from orchestrator_svc.graph.settings import BudgetPolicy
from orchestrator_svc.graph.types import (
    TERMINAL_NODE_STATES,
    TERMINAL_PROJECT_STATES,
    ErrorClass,
    NodeState,
    NodeType,
    ProjectState,
)


def node_blockers(scene: Scene, node: Node, now: float) -> Iterator[Blocker]:
    """Yield what holds a node back from its next move; nothing for a node that is DONE."""
    if node.state in TERMINAL_NODE_STATES:
        yield from _ended(scene, node)
    elif node.superseded:
        yield _leaf(scene, node, BlockerKind.CANCELLED, "a newer plan has replaced it")
    elif node.waiting_on.startswith(WAITING_PREFIX):
        review_id = node.waiting_on.removeprefix(WAITING_PREFIX)
        message = f"a human has to answer review {review_id}"
        remedy = f"ramify review list {scene.project_id}"
        yield _leaf(scene, node, BlockerKind.REVIEW, message, remedy)
    elif node.state is NodeState.PENDING:
        yield from _pending(scene, node, now)
    elif node.state is NodeState.PLAN_DONE:
        yield from _planned(scene, node, now)
    elif node.state in ACTIVE_STATES and _is_called(scene, node):
        yield _call(scene, node)
    else:
        yield _ready(scene, node, now)


def _pending(scene: Scene, node: Node, now: float) -> Iterator[Blocker]:
    found = False
    parent = scene.nodes.get(node.parent_id)
    if node.parent_id and parent is None:
        found = True
        message = f"its parent {node.parent_id} does not exist"
        yield _leaf(scene, node, BlockerKind.MISSING, message)
    elif parent is not None and parent.state is not NodeState.PLAN_DONE:
        found = True
        yield _parent(scene, node, parent)
    for dependency_id in node.depends_on:
        dependency = scene.nodes.get(dependency_id)
        if dependency is None:
            found = True
            message = f"{dependency_id}, which it depends on, does not exist"
            yield _leaf(scene, node, BlockerKind.MISSING, message)
        elif dependency.state is not NodeState.DONE:
            found = True
            yield _edge(
                scene,
                node,
                dependency,
                BlockerKind.DEPENDENCY,
                f"it needs the result of {dependency_id}, which is {dependency.state}",
            )
    if not found:
        yield _ready(scene, node, now)


def _parent(scene: Scene, node: Node, parent: Node) -> Blocker:
    if parent.state in TERMINAL_NODE_STATES or parent.state is NodeState.AGGREGATING:
        message = f"its parent {parent.node_id} is {parent.state} already, so it comes too late"
        return _leaf(scene, node, BlockerKind.UNKNOWN, message)
    message = f"its parent {parent.node_id} is {parent.state}: the plan is not in force yet"
    return _edge(scene, node, parent, BlockerKind.PARENT, message)


def _planned(scene: Scene, node: Node, now: float) -> Iterator[Blocker]:
    open_children = 0
    for child_id in node.children:
        child = scene.nodes.get(child_id)
        if child is None or child.superseded or child.state in TERMINAL_NODE_STATES:
            continue
        open_children += 1
        message = f"its child {child_id} is {child.state}"
        yield _edge(scene, node, child, BlockerKind.CHILDREN, message)
    if not open_children:
        yield _ready(scene, node, now)


def _ready(scene: Scene, node: Node, now: float) -> Blocker:
    """Return what holds back a node that could be dispatched as far as the tree is concerned."""
    due, failure = node.next_attempt_time, node.error
    live, settings = scene.live, scene.settings
    after = f" after {failure.error_class}: {failure.message}" if failure else ""
    if scene.state in (ProjectState.PAUSED, ProjectState.PAUSING):
        message = f"attempt {max(1, node.attempt)} begins when the project is resumed{after}"
        remedy = f"ramify resume {scene.project_id}"
        return _leaf(scene, node, BlockerKind.PAUSED, message, remedy)
    if due is not None and due > now:
        most = settings.max_retries if node.max_retries is None else node.max_retries
        limited = failure is not None and failure.error_class is ErrorClass.RATE_LIMIT
        return _leaf(
            scene,
            node,
            BlockerKind.RATE_LIMIT if limited else BlockerKind.BACKOFF,
            f"attempt {node.attempt} begins in {due - now:.1f} s "
            f"(retry {node.retry_count} of {most}){after}",
            (
                f"ramify retry {scene.project_id} {node.node_id}"  # does not wait for it
                if node.state is NodeState.READY
                else f"ramify watch {scene.project_id}"
            ),
            until=due,
        )
    if settings.max_execution_steps and scene.steps >= settings.max_execution_steps:
        message = f"max_execution_steps of {settings.max_execution_steps} is used up"
        remedy = "ramify run GOAL --set max_execution_steps=0"
        return _leaf(scene, node, BlockerKind.STEPS, message, remedy, live=live is not None)
    plans = node.node_type is NodeType.PLAN and node.state is not NodeState.PLAN_DONE
    breach = scene.accounts.breach(node, now, plans=plans)
    if breach is not None:
        return _budget(scene, node, breach)
    slots = settings.slots
    wave = "" if settings.enable_immediate_slot_fill else ", which are filled in waves"
    if live is not None:
        place = live.queue.get(node.node_id)
        if place is not None:
            message = f"{scene.busy} of {slots} slots are in use{wave}, "
            message += f"it is number {place + 1} in line"
            remedy = f"ramify run GOAL --set max_concurrent_nodes={2 * slots}"
            return _leaf(scene, node, BlockerKind.SLOT, message, remedy, live=True)
        decided = live.states.get(node.node_id, node.state)
        if decided is not node.state or node.node_id in live.calls:
            message = f"it becomes {decided}: decided, being made durable"
            return _leaf(scene, node, BlockerKind.CALL, message, live=True)
        if due is not None:  # its timer is on the way
            message = f"its backoff is over, attempt {node.attempt} begins{after}"
            return _leaf(scene, node, BlockerKind.BACKOFF, message, until=due, live=True)
        message = "nothing that is known holds it back; the doctor looks at it"
        return _leaf(scene, node, BlockerKind.UNKNOWN, message, live=True)
    if not scene.holder and scene.profile_problem:
        message = f"it could run, but no orchestrator executes it: {scene.profile_problem}"
        return _leaf(scene, node, BlockerKind.AGENT, message, "ramify up --config FILE")
    if not scene.holder and scene.no_room:
        message = f"it could run, but no orchestrator executes the project: {scene.no_room}"
        return _leaf(scene, node, BlockerKind.LEASE, message, "ramify up --config FILE")
    if not scene.holder:
        message = "it could run, but no orchestrator executes the project"
        return _leaf(scene, node, BlockerKind.LEASE, message, "ramify up")
    message = f"it waits for its turn: {scene.busy} of {slots} slots are in use"
    remedy = f"ramify run GOAL --set max_concurrent_nodes={2 * slots}"
    return _leaf(scene, node, BlockerKind.SLOT, message, remedy)


def _budget(scene: Scene, node: Node, breach: Use) -> Blocker:
    review_id = scene.nodes[breach.node_id].allowance.review_id
    if review_id:
        message = f"{breach}; a human has to answer review {review_id}"
        remedy = f"ramify review list {scene.project_id}"
    elif scene.settings.budget_policy is BudgetPolicy.PAUSE:
        message = f"{breach}; resuming the project allows as much again"
        remedy = f"ramify resume {scene.project_id}"
    else:
        message, remedy = str(breach), ""
    return _leaf(scene, node, BlockerKind.BUDGET, message, remedy)


def _is_called(scene: Scene, node: Node) -> bool:
    """Return whether an agent works on an active node, as far as one can know."""
    if scene.live is not None:
        return node.node_id in scene.live.calls
    return bool(scene.holder) and node.next_attempt_time is None


def _call(scene: Scene, node: Node) -> Blocker:
    call = scene.live.calls.get(node.node_id) if scene.live else None
    watch = f"ramify watch {scene.project_id}"
    if call is None:
        message = f"{node.agent_name or 'an agent'} works on it, attempt {node.attempt}"
        return _leaf(scene, node, BlockerKind.CALL, message, watch)
    settings, kind, until = scene.settings, BlockerKind.CALL, call.started + call.timeout
    message = f"{call.agent_name} works on it ({call.stage}), attempt {node.attempt}"
    if call.provider_place is not None:
        kind, until = BlockerKind.RATE_LIMIT, call.provider_place
        message += (
            f"; it waits for its turn at the provider, rate_limit_rpm {settings.rate_limit_rpm}"
        )
    elif settings.timeout_warning_seconds and call.silent >= settings.timeout_warning_seconds:
        message += f"; no sign of life for {call.silent:.0f} s"
    return Blocker(
        kind=kind,
        blocked=node.node_id,
        message=message,
        since=call.started,
        until=until,
        remedy=watch,
        live=True,
    )


def _ended(scene: Scene, node: Node) -> Iterator[Blocker]:
    show = f"ramify show {scene.project_id} {node.node_id}"
    if node.state is NodeState.CANCELLED:
        by = node.forced
        message = f"the doctor skipped it: {by.reason}" if by else "it was cancelled"
        yield _leaf(scene, node, BlockerKind.CANCELLED, message, show)
    elif node.state is NodeState.FAILED:
        failure = node.error
        origin = scene.nodes.get(failure.node_id) if failure else None
        text = f"{failure.error_class}: {failure.message}" if failure else "without a reason"
        if origin is not None and origin is not node and origin.state is NodeState.FAILED:
            message = f"it failed because of {origin.node_id}: {text}"
            yield _edge(scene, node, origin, BlockerKind.FAILURE, message)
        else:
            tries = f" after {node.attempt} attempts" if node.attempt > 1 else ""
            retry = f"ramify retry {scene.project_id} {node.node_id}"
            remedy = retry if _may_retry(scene, node) else show
            yield _leaf(scene, node, BlockerKind.FAILURE, f"it failed{tries}: {text}", remedy)


def _may_retry(scene: Scene, node: Node) -> bool:
    """Return whether RetryNode makes sense for a FAILED node (SEM 25)."""
    if scene.state in TERMINAL_PROJECT_STATES or scene.state is ProjectState.CANCELLING:
        return False
    if node.error is not None and node.error.error_class is ErrorClass.NO_EVIDENCE:
        return False
    parent = scene.nodes.get(node.parent_id)
    if parent is None or parent.state is NodeState.AGGREGATING:
        return False
    while parent is not None:
        if parent.state in TERMINAL_NODE_STATES:
            return False
        parent = scene.nodes.get(parent.parent_id)
    return True


def _edge(scene: Scene, node: Node, by: Node, kind: BlockerKind, message: str) -> Blocker:
    return Blocker(
        kind=kind,
        blocked=node.node_id,
        by=by.node_id,
        message=message,
        leads_on=True,
        since=scene.since_of.get(node.node_id),
    )


def _leaf(
    scene: Scene,
    node: Node,
    kind: BlockerKind,
    message: str,
    remedy: str = "",
    *,
    until: float | None = None,
    live: bool = False,
) -> Blocker:
    return Blocker(
        kind=kind,
        blocked=node.node_id,
        message=message,
        since=scene.since_of.get(node.node_id),
        until=until,
        remedy=remedy or f"ramify show {scene.project_id} {node.node_id}",
        live=live,
    )
