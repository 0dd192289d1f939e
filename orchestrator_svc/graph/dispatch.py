"""Which node runs next, and with which stage."""

from __future__ import annotations

from dataclasses import replace

from orchestrator_svc.graph.budget import Use
from orchestrator_svc.graph.checkpoint import ask, ask_for_more, asks, modifies
from orchestrator_svc.graph.mutation import NodeChanges
from orchestrator_svc.graph.node import Failure, Node
from orchestrator_svc.graph.review import Checkpoint, Review, ReviewDecision
from orchestrator_svc.graph.run import Run
from orchestrator_svc.graph.settings import BudgetPolicy, Settings
from orchestrator_svc.graph.settle import finish
from orchestrator_svc.graph.types import (
    TERMINAL_NODE_STATES,
    ErrorClass,
    NodeState,
    NodeType,
    ProjectState,
    Stage,
)

#: A node with an agent call is in one of these; another state means the call is not wanted.
CALLED_STATES = frozenset({NodeState.RUNNING, NodeState.AGGREGATING})

#: Nothing is at work on a node in one of these: it waits for its turn.
WAITING_STATES = frozenset({NodeState.READY, NodeState.NEEDS_REPLAN})


def may_dispatch(run: Run) -> bool:
    """Return whether calls may begin at all: not before every order that was loaded is heard.

    One of them may be a pause, which was durable before anything of this process (SEM 19, 20).
    """
    return run.state is ProjectState.RUNNING and not run.draining and not run.open_orders


def fill_slots(run: Run) -> None:
    """Dispatch waiting nodes, oldest first, while slots are free."""
    slots = free_slots(run)
    while run.queue and run.busy < slots and may_dispatch(run):
        run.cut()
        dispatch(run, run.nodes[run.queue.popleft()])


def free_slots(run: Run) -> int:
    """Return how many calls may be open now: in waves none before the last wave is over."""
    waits = run.busy and not run.settings.enable_immediate_slot_fill
    return 0 if waits else run.settings.slots


def dispatch(run: Run, node: Node) -> None:
    """Begin the node's next stage in a new slot, or fail what is left at the step limit.

    Does nothing for a node that has ended or begun since it was queued, or of which an order has
    opened a dependency or children again: their end queues it (`settle`). One that has failed
    since it was queued waits for the end of its backoff.
    """
    if node.open_call or node.unsettled:
        return
    if run.is_early(node.next_attempt_time):
        run.at(node.next_attempt_time or 0.0, node)
        return
    if node.waiting_on:
        review = run.reviews.get(node.review_id)
        if review is None or review.answer is None:
            return
        stage, changes = _after_review(node, review, run.settings)
    elif node.state is NodeState.READY:
        stage = first_stage(run, node)
        if modifies(run, node):
            stage = Stage.MODIFY
        changes = NodeChanges(state=NodeState.RUNNING, attempt=max(1, node.attempt))
        if stage is not Stage.ATOMIZE:
            executes = stage is Stage.EXECUTE
            changes["node_type"] = NodeType.EXECUTE if executes else NodeType.PLAN
    elif node.state is NodeState.NEEDS_REPLAN:
        stage = Stage.PLAN
        changes = NodeChanges(state=NodeState.RUNNING)
        if node.node_type is not NodeType.PLAN:
            changes["node_type"] = NodeType.PLAN
    elif node.state is NodeState.RUNNING:  # a pause came between its two stages
        stage = Stage.PLAN if node.node_type is NodeType.PLAN else Stage.EXECUTE
        changes = NodeChanges()
    elif node.state is NodeState.PLAN_DONE and not node.open_children:
        stage = Stage.AGGREGATE
        changes = NodeChanges(state=NodeState.AGGREGATING)
    elif node.state is NodeState.AGGREGATING:
        stage = Stage.AGGREGATE
        changes = NodeChanges()
    else:
        return
    begin_stage(run, node, stage, changes)


def _after_review(node: Node, review: Review, settings: Settings) -> tuple[Stage, NodeChanges]:
    """Return what an answer lets a node begin that waits for it."""
    changes = NodeChanges(waiting_on="")
    approved = review.answer is not None and review.answer.decision is ReviewDecision.APPROVE
    if review.checkpoint is Checkpoint.BEFORE_EXECUTION:
        if node.state is NodeState.READY:
            changes["state"] = NodeState.RUNNING
            changes["attempt"] = max(1, node.attempt)
        changes["node_type"] = NodeType.EXECUTE
        return Stage.EXECUTE, changes
    if review.checkpoint is Checkpoint.ATOMIZATION:
        if not approved or not isinstance(review.proposal, NodeType):
            return Stage.ATOMIZE, changes
        changes["node_type"] = review.proposal
        return Stage.PLAN if review.proposal is NodeType.PLAN else Stage.EXECUTE, changes
    if review.checkpoint is Checkpoint.AGGREGATION_REVIEW:
        changes["attempt"] = node.attempt + 1
        return Stage.AGGREGATE, changes
    return Stage.MODIFY, changes


def first_stage(run: Run, node: Node) -> Stage:
    """Return what a READY node's attempt begins with (DESIGN §6, life of a node)."""
    settings = run.settings
    if node.layer >= run.max_layer(node):
        return Stage.EXECUTE
    if node.node_type is not None:
        return Stage.PLAN if node.node_type is NodeType.PLAN else Stage.EXECUTE
    if not node.parent_id and settings.force_root_node_planning:
        return Stage.PLAN
    return Stage.EXECUTE if settings.skip_atomization else Stage.ATOMIZE


def begin_stage(run: Run, node: Node, stage: Stage, changes: NodeChanges) -> None:
    """Announce a call together with `changes`; the runner begins it once that is durable."""
    if stage is Stage.EXECUTE and asks(run, node, Checkpoint.BEFORE_EXECUTION):
        if node.node_type is not NodeType.EXECUTE:
            run.patch(node, node_type=NodeType.EXECUTE)
        ask(run, node, Checkpoint.BEFORE_EXECUTION, None)
        return
    limit = run.settings.max_execution_steps
    if limit and run.steps >= limit:
        exhaust(run, node)
        return
    breach = run.accounts.breach(node, run.now, plans=stage is Stage.PLAN)
    if breach is not None:
        _refuse(run, node, changes, breach)
        return
    allowance = run.accounts.begun(node, run.now)
    if allowance is not None:
        changes["allowance"] = allowance
    agent_name = run.agent_names(stage, node.task_type)
    changes["agent_calls"] = node.agent_calls + 1
    if agent_name != node.agent_name:
        changes["agent_name"] = agent_name
    if node.next_attempt_time is not None:
        changes["next_attempt_time"] = None
    run.patch(node, **changes)
    run.open_call(node, stage, agent_name)


def _refuse(run: Run, node: Node, changes: NodeChanges, breach: Use) -> None:
    """Do with a node whose call no budget covers what the project's policy says."""
    owner, policy = run.nodes[breach.node_id], run.settings.budget_policy
    if policy is BudgetPolicy.FAIL or owner.allowance.final:
        failure = Failure(ErrorClass.LIMIT, str(breach))
        finish(run, node, state=NodeState.FAILED, error=failure)
        return
    between = node.state is NodeState.RUNNING  # its two stages; no call is in flight
    if between and node.next_attempt_time is None:
        stage = NodeChanges(next_attempt_time=run.clock)
        if "node_type" in changes:
            stage["node_type"] = changes["node_type"]
        run.patch(node, **stage)
    run.cut()
    if policy is BudgetPolicy.ASK:
        run.hold(node)
        if not owner.allowance.review_id:
            ask_for_more(run, owner, breach)
        return
    run.queue.appendleft(node.node_id)
    if run.state is ProjectState.RUNNING:
        run.patch_project(ProjectState.PAUSING, pause_time=run.now)


def wait_for_room(run: Run, node: Node, count: int) -> bool:
    """Let a node whose plan has more nodes than a budget leaves wait for what the policy says.

    Return whether it does; otherwise the plan is refused. The planner is called again then, with
    what the tree is like by that time.
    """
    use = run.accounts.no_room(node, count, run.clock)
    if use is None or run.settings.budget_policy is BudgetPolicy.FAIL:
        return False
    owner = run.nodes[use.node_id]
    if owner.allowance.final:
        return False
    use = replace(use, short=count)
    run.stage_failed(node, Failure(ErrorClass.LIMIT, str(use)))
    run.patch(owner, allowance=replace(owner.allowance, short=count))
    announce_attempt(run, node, NodeChanges(attempt=node.attempt + 1))
    run.queue.appendleft(node.node_id)
    return True


def exhaust(run: Run, node: Node) -> None:
    """Fail `node` and everything else that would need a dispatch; calls in flight go on."""
    limit = run.settings.max_execution_steps
    failure = Failure(ErrorClass.LIMIT, f"max_execution_steps of {limit} is used up")
    run.exhausted = True
    finish(run, node, state=NodeState.FAILED, error=failure)
    for other in list(run.nodes.values()):
        waits_for_children = other.state is NodeState.PLAN_DONE and other.open_children
        if other.state in TERMINAL_NODE_STATES or other.open_call or waits_for_children:
            continue
        if other.state is NodeState.AGGREGATING and other.waiting_on:
            continue  # its result is there and only needs a human
        run.cut()
        finish(run, other, state=NodeState.FAILED, error=failure)


def announce_attempt(run: Run, node: Node, changes: NodeChanges) -> None:
    """Write the number of a node's next attempt; a RUNNING node goes back to READY (SEM 8)."""
    if node.state is NodeState.RUNNING:
        changes["state"] = NodeState.READY
    node.spent = 0.0
    run.patch(node, **changes)
