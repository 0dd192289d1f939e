"""Where a human is asked: the switches, and the opening, expiry and withdrawal of reviews."""

from __future__ import annotations

from dataclasses import replace

from orchestrator_svc.graph.budget import Use
from orchestrator_svc.graph.mutation import NodeChanges
from orchestrator_svc.graph.node import Failure, Node
from orchestrator_svc.graph.review import (
    PLAN_CHECKPOINTS,
    Checkpoint,
    Proposal,
    Review,
    ReviewState,
    review_id,
)
from orchestrator_svc.graph.run import Run
from orchestrator_svc.graph.settings import ExpiryPolicy
from orchestrator_svc.graph.text import storable
from orchestrator_svc.graph.types import NodeType, ProjectState, Stage

MAX_MESSAGE_CHARS = 4_096
MAX_SHOWN_GOAL_CHARS = 200

_QUESTIONS = {
    Checkpoint.PLAN_GENERATION: "is this plan right for",
    Checkpoint.PLAN_MODIFICATION: "is the changed plan right for",
    Checkpoint.ATOMIZATION: "is this the right way to do",
    Checkpoint.BEFORE_EXECUTION: "shall this be executed:",
    Checkpoint.AGGREGATION_REVIEW: "is this the result of",
    Checkpoint.EXHAUSTED: "shall this be tried again:",
    Checkpoint.BUDGET: "shall as much again be allowed for",
}

#: Asked by a policy. Nothing is proposed, and silence never allows what would be tried or spent.
_ASKED_BY_POLICY = frozenset({Checkpoint.EXHAUSTED, Checkpoint.BUDGET})


def asks(run: Run, node: Node, checkpoint: Checkpoint) -> bool:
    """Return whether a human is asked at this checkpoint of this node."""
    settings = run.settings
    if not settings.enable_hitl:
        return False
    if checkpoint in PLAN_CHECKPOINTS:
        if settings.hitl_root_plan_only and node.parent_id:
            return False
        if checkpoint is Checkpoint.PLAN_GENERATION:
            return settings.hitl_after_plan_generation
        return settings.hitl_after_modified_plan
    if checkpoint is Checkpoint.ATOMIZATION:
        return settings.hitl_after_atomizer
    if checkpoint is Checkpoint.BEFORE_EXECUTION:
        return settings.hitl_before_execute and not _may_execute(run, node)
    return settings.hitl_aggregation_review


def _may_execute(run: Run, node: Node) -> bool:
    """Return whether a human has let the node be executed: a retry does not ask again.

    Another attempt after the executor's failure is the same.
    """
    review = run.reviews.get(node.review_id)
    if review is None or not review.lets_go_on:
        return False
    tried = review.checkpoint is Checkpoint.EXHAUSTED and node.node_type is NodeType.EXECUTE
    return tried or review.checkpoint is Checkpoint.BEFORE_EXECUTION


def ask(run: Run, node: Node, checkpoint: Checkpoint, proposal: Proposal, note: str = "") -> None:
    """Open a review; the node keeps its state and waits, without a slot.

    `note` says why the question comes again with the same proposal: then expiry never approves.
    """
    before = run.reviews.get(node.review_id)
    again = before is not None and before.asks_again and _same_place(before, checkpoint)
    attempt = before.attempt + 1 if before is not None and (note or again) else 1
    review = _review(run, node, checkpoint, note, attempt, proposal)
    changes = _waiting(node, review)
    if node.error is not None:
        changes["error"] = None
    run.open_review(node, review, changes)


def ask_to_try_again(run: Run, node: Node, failure: Failure) -> None:
    """Ask whether a node whose recoveries are used up gets a fresh start; it keeps its failure."""
    before = run.reviews.get(node.review_id)
    again = before is not None and before.checkpoint is Checkpoint.EXHAUSTED
    attempt = before.attempt + 1 if before is not None and again else 1
    note = f"{failure.error_class}: {failure.message}"
    review = _review(run, node, Checkpoint.EXHAUSTED, note, attempt)
    changes = _waiting(node, review)
    changes["error"] = failure
    run.open_review(node, review, changes)


def ask_for_more(run: Run, owner: Node, use: Use) -> None:
    """Ask whether a used-up budget is raised. What it forbids waits; its node does not."""
    review = _review(run, owner, Checkpoint.BUDGET, str(use))
    allowance = replace(owner.allowance, review_id=review.review_id)
    run.open_review(owner, review, NodeChanges(allowance=allowance, reviews=owner.reviews + 1))


def _review(
    run: Run,
    node: Node,
    checkpoint: Checkpoint,
    note: str,
    attempt: int = 1,
    proposal: Proposal = None,
) -> Review:
    settings = run.settings
    question = f"{_QUESTIONS[checkpoint]} “{node.goal[:MAX_SHOWN_GOAL_CHARS]}”?"
    most = MAX_MESSAGE_CHARS - len(question) - 1
    executes = checkpoint is Checkpoint.BEFORE_EXECUTION
    policy = settings.hitl_expiry_policy
    if policy is ExpiryPolicy.APPROVE and (note or checkpoint in _ASKED_BY_POLICY):
        policy = ExpiryPolicy.PARK
    timeout = settings.hitl_timeout_seconds
    return Review(
        review_id=review_id(node.node_id, node.reviews + 1),
        node_id=node.node_id,
        checkpoint=checkpoint,
        attempt=attempt,
        message=storable(note, most) + "\n" + question if note else question,
        proposal=proposal,
        agent_name=(
            run.agent_names(Stage.EXECUTE, node.task_type) if executes else node.agent_name
        ),
        expire_time=run.clock + timeout if timeout else None,
        expiry_policy=policy,
    )


def _waiting(node: Node, review: Review) -> NodeChanges:
    """Return what makes a node wait for the answer to a review."""
    changes = NodeChanges(
        waiting_on=review.waiting_on, review_id=review.review_id, reviews=node.reviews + 1
    )
    if node.next_attempt_time is not None:
        changes["next_attempt_time"] = None
    if node.crash_redispatches:
        changes["crash_redispatches"] = 0
    node.spent = 0.0  # the time until the next proposal is a new one
    return changes


def modifies(run: Run, node: Node) -> bool:
    """Return whether the node's plan is being changed on a human's request."""
    review = run.reviews.get(node.review_id)
    return review is not None and review.asks_again and review.checkpoint in PLAN_CHECKPOINTS


_STAGE_OF = {
    Checkpoint.PLAN_GENERATION: Stage.MODIFY,
    Checkpoint.PLAN_MODIFICATION: Stage.MODIFY,
    Checkpoint.ATOMIZATION: Stage.ATOMIZE,
    Checkpoint.BEFORE_EXECUTION: Stage.EXECUTE,
    Checkpoint.AGGREGATION_REVIEW: Stage.AGGREGATE,
}


def asked_again(run: Run, node: Node, stage: Stage) -> bool:
    """Return whether a human has asked this stage for another proposal."""
    review = run.reviews.get(node.review_id)
    if review is None or not review.asks_again:
        return False
    proposes = review.checkpoint is not Checkpoint.BEFORE_EXECUTION
    return proposes and _STAGE_OF.get(review.checkpoint) is stage


def instructions_of(run: Run, node: Node, stage: Stage) -> str:
    """Return what a human wants the agent of this stage to heed; empty if nothing."""
    review = run.reviews.get(node.review_id)
    if review is None or review.answer is None:
        return ""
    concerns = _STAGE_OF.get(review.checkpoint) is stage
    if review.checkpoint is Checkpoint.EXHAUSTED:
        concerns = True  # whatever the new attempt does
    return review.answer.instructions if concerns else ""


def _same_place(before: Review, checkpoint: Checkpoint) -> bool:
    if checkpoint in PLAN_CHECKPOINTS:
        return before.checkpoint in PLAN_CHECKPOINTS
    return before.checkpoint is checkpoint


def expire(run: Run, now: float) -> None:
    """Let the policy of every review whose time has come act.

    APPROVE and REJECT only ask for the end: a human may have decided at this moment, and then
    the watch tells that instead.
    """
    if run.pause_time is not None or run.ended:
        return
    for review in run.reviews.pop_due(now):
        run.cut()
        policy = review.expiry_policy
        if policy in (ExpiryPolicy.APPROVE, ExpiryPolicy.REJECT):
            run.reviews.expiring(review)
            run.patch_review(review, state=ReviewState.EXPIRED)
            continue
        review.overdue = True
        if policy is ExpiryPolicy.ESCALATE:
            review.escalations += 1
            review.expire_time = now + run.settings.hitl_timeout_seconds
        run.patch_review(review)
        run.reviews.arm(review)


def settle_waiting(run: Run) -> None:
    """Keep the project WAITING exactly while nothing can go on before a human answers.

    The time of its budgets stands still as long (SEM 27). A pause changes nothing of that: whether
    it goes on is decided when the run is resumed.
    """
    if run.draining or run.state not in (ProjectState.RUNNING, ProjectState.WAITING):
        return
    waits = run.reviews.any_open and run.is_idle
    state = ProjectState.WAITING if waits else ProjectState.RUNNING
    run.cut()
    if run.state is not state:
        run.patch_project(state)
    if run.stopped is not waits:
        run.stop_budgets(waits)
