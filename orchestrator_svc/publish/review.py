"""Reviews in the words of the contract, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields

from orchestrator_svc.graph.budget import Budget
from orchestrator_svc.graph.mutation import OpenReview, ReviewMutation
from orchestrator_svc.graph.node import Result
from orchestrator_svc.graph.plan import DraftTask
from orchestrator_svc.graph.review import (
    Answer,
    Checkpoint,
    Review,
    ReviewDecision,
    ReviewState,
)
from orchestrator_svc.graph.settings import ExpiryPolicy
from orchestrator_svc.graph.types import NodeType, TaskType
from orchestrator_svc.publish.convert import read_payload, read_time, set_payload, set_time
from orchestrator_svc.publish.enums import (
    DEPENDENCY_OF,
    DEPENDENCY_POLICIES,
    EXHAUSTED_OF,
    EXHAUSTED_POLICIES,
    NODE_TYPES,
    TASK_TYPES,
)
from orchestrator_svc.publish.value import read_fields, set_value
from ramify.v1 import mutation_pb2, review_pb2
from ramify.v1.budget_pb2 import TaskBudget

_CHECKPOINTS = {c: review_pb2.ReviewCheckpoint.Value(f"REVIEW_CHECKPOINT_{c}") for c in Checkpoint}
_STATES = {s: review_pb2.ReviewState.Value(f"REVIEW_STATE_{s}") for s in ReviewState}
_POLICIES = {
    p: review_pb2.ReviewExpiryPolicy.Value(f"REVIEW_EXPIRY_POLICY_{p.name}") for p in ExpiryPolicy
}
_DECISIONS = {d: review_pb2.ReviewDecision.Value(f"REVIEW_DECISION_{d}") for d in ReviewDecision}
_CHECKPOINT_OF = {number: checkpoint for checkpoint, number in _CHECKPOINTS.items()}
_STATE_OF = {number: state for state, number in _STATES.items()}
_POLICY_OF = {number: policy for policy, number in _POLICIES.items()}
_DECISION_OF = {number: decision for decision, number in _DECISIONS.items()}
_NODE_TYPE_OF = {number: kind for kind, number in NODE_TYPES.items()}
_TASK_TYPE_OF = {number: kind for kind, number in TASK_TYPES.items()}


def review_message(mutation: ReviewMutation) -> mutation_pb2.Mutation:
    """Return the mutation as the contract has it."""
    message = mutation_pb2.Mutation()
    if isinstance(mutation, OpenReview):
        review = mutation.review
        message.review.review_id = review.review_id
        _set_opening(message.review.create, review)
        return message
    message.review.review_id = mutation.review_id
    patch = message.review.patch
    if mutation.state is not None:
        patch.state = _STATES[mutation.state]
        return message
    patch.overdue = mutation.overdue
    patch.escalation_count = mutation.escalations
    if mutation.expire_time is not None:
        set_time(patch.expire_time, mutation.expire_time)
    return message


def _set_opening(message: review_pb2.Review, review: Review) -> None:
    message.node_id = review.node_id
    message.checkpoint = _CHECKPOINTS[review.checkpoint]
    message.attempt = review.attempt
    message.message = review.message
    message.agent_name = review.agent_name
    message.expiry_policy = _POLICIES[review.expiry_policy]
    if review.expire_time is not None:
        set_time(message.expire_time, review.expire_time)
    proposal = review.proposal
    if isinstance(proposal, Result):
        set_payload(message.result, proposal)
        message.summary = proposal.summary
    elif isinstance(proposal, NodeType):
        message.verdict = NODE_TYPES[proposal]
    elif proposal is not None:
        set_plan(message.plan, proposal)


def set_plan(message: review_pb2.ProposedPlan, tasks: Sequence[DraftTask]) -> None:
    """Write a plan that is not carried out yet."""
    for task in tasks:
        item = message.tasks.add(goal=task.goal, task_type=TASK_TYPES[task.task_type])
        if task.node_type is not None:
            item.node_type = NODE_TYPES[task.node_type]
        item.depends_on.extend(task.depends_on)
        item.reuse = task.reuse
        if task.on_exhausted is not None:
            item.on_exhausted = EXHAUSTED_POLICIES[task.on_exhausted]
        if task.on_dependency_failure is not None:
            item.on_dependency_failure = DEPENDENCY_POLICIES[task.on_dependency_failure]
        for key, value in task.details.items():
            set_value(item.details[key], value)
        if task.budget:
            for field, limit in asdict(task.budget).items():
                setattr(item.budget, field, limit)
        if task.max_retries is not None:
            item.max_retries = task.max_retries


def read_plan(message: review_pb2.ProposedPlan) -> tuple[DraftTask, ...]:
    """Return a proposed plan."""
    return tuple(
        DraftTask(
            task.goal,
            _TASK_TYPE_OF.get(task.task_type, TaskType.CUSTOM),
            _NODE_TYPE_OF.get(task.node_type),
            tuple(task.depends_on),
            read_fields(task.details),
            _read_budget(task.budget) if task.HasField("budget") else None,
            task.reuse,
            EXHAUSTED_OF.get(task.on_exhausted),
            DEPENDENCY_OF.get(task.on_dependency_failure),
            task.max_retries if task.HasField("max_retries") else None,
        )
        for task in message.tasks
    )


def _read_budget(message: TaskBudget) -> Budget | None:
    """Return the limits of a proposed task; None if there are none, or none that is a number."""
    values = {field.name: getattr(message, field.name) for field in fields(Budget)}
    try:
        return Budget(**values) or None
    except ValueError:
        return None


def read_review(message: review_pb2.Review) -> Review:
    """Return a stored review."""
    review = Review(
        review_id=message.review_id,
        node_id=message.node_id,
        checkpoint=_CHECKPOINT_OF[message.checkpoint],
        attempt=message.attempt,
        message=message.message,
        agent_name=message.agent_name,
        expiry_policy=_POLICY_OF.get(message.expiry_policy, ExpiryPolicy.PARK),
        overdue=message.overdue,
        escalations=message.escalation_count,
    )
    if message.HasField("expire_time"):
        review.expire_time = read_time(message.expire_time)
    if message.HasField("plan"):
        review.proposal = read_plan(message.plan)
    elif message.HasField("verdict"):
        review.proposal = _NODE_TYPE_OF.get(message.verdict)
    elif message.HasField("result"):
        review.proposal = read_payload(message.result, message.summary)
    if message.state != review_pb2.ReviewState.REVIEW_STATE_OPEN:
        review.answer = read_answer(message)
    return review


def read_answer(message: review_pb2.Review | review_pb2.ReviewPatch) -> Answer:
    """Return how a review was closed, from the review or from the change that closed it."""
    plan = message.modified_plan
    return Answer(
        _STATE_OF.get(message.state, ReviewState.RESOLVED),
        _DECISION_OF.get(message.decision),
        message.instructions,
        read_plan(plan) if message.HasField("modified_plan") else None,
        message.actor,
        message.comment,
    )
