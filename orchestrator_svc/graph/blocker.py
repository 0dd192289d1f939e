"""The links of a blocking chain: what holds back a project, and what holds back one node.

Each function looks one step far; `explain.py` follows the steps. The links of a node are found
from its state alone, so every state that a node can be stored in has an answer here.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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

SLOW_STORE_SECONDS = 1.0  #: a decision that is not durable for longer is a blocker


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


def project_blockers(scene: Scene, budgets: Sequence[Use] = ()) -> Iterator[Blocker]:
    """Yield what holds back the whole of a project that has not ended."""
    live, name = scene.live, scene.project_id
    if scene.state in TERMINAL_PROJECT_STATES:
        return
    if scene.state in (ProjectState.PAUSED, ProjectState.PAUSING):
        yield Blocker(
            kind=BlockerKind.PAUSED,
            blocked="",
            message=f"the project is {scene.state}: nothing is dispatched until it is resumed",
            since=scene.since,
            remedy=f"ramify resume {name}",
        )
        raises = scene.settings.budget_policy is BudgetPolicy.PAUSE
        for use in budgets:
            if raises and use.forbids(plans=True):
                yield Blocker(
                    kind=BlockerKind.BUDGET,
                    blocked="",
                    message=f"{use}; resuming the project allows as much again",
                    remedy=f"ramify resume {name}",
                    live=live is not None,
                )
    elif scene.state is ProjectState.CANCELLING:
        yield Blocker(
            kind=BlockerKind.CANCELLING,
            blocked="",
            message="the project is being cancelled: calls in flight are ended",
            since=scene.since,
            remedy=f"ramify watch {name}",
        )
    if not scene.holder and scene.profile_problem:
        yield Blocker(
            kind=BlockerKind.AGENT,
            blocked="",
            message=f"it waits for another orchestrator: {scene.profile_problem}",
            since=scene.since,
            remedy="ramify up --config FILE",
        )
    elif not scene.holder:
        yield Blocker(
            kind=BlockerKind.LEASE,
            blocked="",
            message="no orchestrator executes the project; one takes it up when it has room",
            since=scene.since,
            remedy="ramify up",
        )
    elif live is not None and not live.lease_valid:
        yield Blocker(
            kind=BlockerKind.LEASE,
            blocked="",
            message=f"{scene.holder} cannot renew its lease, so it begins no agent call",
            remedy="ramify stats",
            live=True,
        )
    elif live is not None and live.draining:
        yield Blocker(
            kind=BlockerKind.LEASE,
            blocked="",
            message=f"{scene.holder} is stopping; another orchestrator continues",
            remedy="ramify up",
            live=True,
        )
    if live is not None and live.unsent_seconds > SLOW_STORE_SECONDS:
        yield Blocker(
            kind=BlockerKind.STORE,
            blocked="",
            message=f"decisions wait for {live.unsent_seconds:.1f} s to become durable: "
            "the state service is away or cannot commit",
            remedy="ramify stats",
            live=True,
        )
    if scene.nodes and scene.root_id not in scene.nodes:
        yield Blocker(
            kind=BlockerKind.MISSING,
            blocked="",
            message=f"its root {scene.root_id!r} does not exist",
            since=scene.since,
            remedy=f"ramify show {name}",
        )
    if not scene.nodes and scene.holder:
        yield Blocker(
            kind=BlockerKind.CALL,
            blocked="",
            message=f"{scene.holder} is taking the project up",
            since=scene.since,
            remedy=f"ramify watch {name}",
        )


def node_blockers(scene: Scene, node: Node, now: float) -> Iterator[Blocker]:
    """Yield what holds a node back from its next move; nothing for a node that is DONE."""
    waiting_on = scene.waiting_on.get(node.node_id, "")
    if node.state in TERMINAL_NODE_STATES:
        yield from _ended(scene, node)
    elif node.superseded:
        yield _leaf(scene, node, BlockerKind.CANCELLED, "a newer plan has replaced it")
    elif waiting_on.startswith(WAITING_PREFIX):
        review_id = waiting_on.removeprefix(WAITING_PREFIX)
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
        message = "nothing that is known holds it back; the doctor looks at it"
        return _leaf(scene, node, BlockerKind.UNKNOWN, message, live=True)
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
