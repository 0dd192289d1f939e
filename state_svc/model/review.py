"""What a mutation does to a review (SEM 27). Pure.

Whoever closes a review first has closed it. A later decision is refused, and a later patch has
no effect: the orchestrator that lets a review expire cannot know what a human decides meanwhile.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from ramify.v1.error_pb2 import ErrorReason
from ramify.v1.mutation_pb2 import ReviewMutation
from ramify.v1.payload_pb2 import Payload
from ramify.v1.project_pb2 import Project
from ramify.v1.review_pb2 import (
    ProposedPlan,
    Review,
    ReviewCheckpoint,
    ReviewDecision,
    ReviewExpiryPolicy,
    ReviewPatch,
    ReviewResolution,
    ReviewState,
)
from ramify.v1.stage_pb2 import Stage, StageRecord
from state_svc.model import limits, transitions, validate
from state_svc.model.ids import is_id
from state_svc.model.node import set_micros
from state_svc.model.problem import Problem

WAITING_PREFIX = "review:"  #: of `waiting_on` of a node that waits for a review

_HASH_CHARS = 16  #: of an id that is too long to be kept in another one

_INVALID = ErrorReason.ERROR_REASON_INVALID_MUTATION
_ILLEGAL = ErrorReason.ERROR_REASON_ILLEGAL_TRANSITION
_CONFLICT = ErrorReason.ERROR_REASON_VERSION_CONFLICT
_CLOSED = ErrorReason.ERROR_REASON_REVIEW_CLOSED

OPEN = ReviewState.REVIEW_STATE_OPEN
_RESOLVED = ReviewState.REVIEW_STATE_RESOLVED
_EXPIRED = ReviewState.REVIEW_STATE_EXPIRED
_APPROVE = ReviewDecision.REVIEW_DECISION_APPROVE
_MODIFY = ReviewDecision.REVIEW_DECISION_REQUEST_MODIFICATION

#: What an expiry stands for; the other policies leave a review open.
_DECISIONS_OF_POLICIES = {
    ReviewExpiryPolicy.REVIEW_EXPIRY_POLICY_APPROVE: _APPROVE,
    ReviewExpiryPolicy.REVIEW_EXPIRY_POLICY_REJECT: ReviewDecision.REVIEW_DECISION_REJECT,
}
_OUTPUT_ONLY = (
    "overdue", "escalation_count", "decision", "instructions", "modified_plan", "comment",
    "actor", "version", "create_time", "update_time", "end_time",
)  # fmt: skip
_PATCHABLE = frozenset({"state", "expire_time", "overdue", "escalation_count"})


def _plan(value: ProposedPlan) -> str:
    count = len(value.tasks)
    most = limits.Limits().max_batch_mutations
    if not 1 <= count <= most:
        return f"has {count} tasks, 1 to {most} are allowed"
    for index, task in enumerate(value.tasks):
        found = validate.first_problem(task, _TASK_FIELDS)
        if not task.goal or not task.task_type:
            found = ("goal" if not task.goal else "task_type", "is needed")
        if found is not None:
            return f"task {index}: {found[0]} {found[1]}"
        if any(position >= count for position in task.depends_on):
            return f"task {index}: depends_on has positions from 0 to {count - 1}"
    return ""


_TASK_FIELDS: dict[str, validate.Check] = {
    "goal": validate.NODE_FIELDS["goal"],
    "task_type": validate.NODE_FIELDS["task_type"],
    "node_type": validate.NODE_FIELDS["node_type"],
    "depends_on": validate.NODE_FIELDS["depends_on"],
    "details": validate.check_values,
}

_CHECKS: dict[str, validate.Check] = {
    "checkpoint": validate.one_of(frozenset(ReviewCheckpoint.values()) - {0}),
    "state": validate.one_of(frozenset({OPEN})),
    "message": validate.check_text,
    "plan": _plan,
    "modified_plan": _plan,
    "verdict": validate.NODE_FIELDS["node_type"],
    "result": validate.NODE_FIELDS["result"],
    "agent_name": validate.check_name,
    "expire_time": validate.NODE_FIELDS["next_attempt_time"],
    "expiry_policy": validate.one_of(frozenset(ReviewExpiryPolicy.values())),
    "decision": validate.one_of(frozenset(ReviewDecision.values()) - {0}),
    "instructions": validate.check_text,
    "comment": validate.check_text,
    "actor": validate.check_name,
    "summary": validate.check_text,
}
#: Of a review as it is stored.
_STORED_CHECKS = _CHECKS | {
    "state": validate.one_of(frozenset(ReviewState.values()) - {0}),
    **dict.fromkeys(("create_time", "update_time", "end_time"), validate.check_time),
}


def apply_review(
    before: Review | None, mutation: ReviewMutation, *, node_exists: bool, micros: int
) -> tuple[Review, ReviewPatch | None] | None:
    """Return the review afterwards and what changed, None for a new one; None if nothing did.

    Raises `Problem`.
    """
    kind = mutation.WhichOneof("change")
    if kind == "create":
        return _create(before, mutation, node_exists, micros), None
    if before is None:
        raise Problem(_INVALID, "review.review_id", f"there is no {mutation.review_id!r}")
    if kind == "resolve":
        if before.state != OPEN:
            raise Problem(_CLOSED, "review.resolve", closed_by(before))
        _check_version(before, mutation)
        changed = _decision(before, mutation.resolve)
    elif kind == "patch":
        changed = _checked(mutation.patch)
        if before.state != OPEN:
            return None
        _check_version(before, mutation)
        changed = _effect(before, changed)
    else:
        raise Problem(_INVALID, "review.change", "one of create, patch and resolve is needed")
    if not changed.ByteSize():
        return None
    if changed.HasField("state"):
        set_micros(changed.end_time, micros)
    after = Review()
    after.CopyFrom(before)
    replay_review(after, changed, version=before.version + 1, micros=micros)
    _check_size(after, f"review.{kind}")
    return after, changed


def _create(
    before: Review | None, mutation: ReviewMutation, node_exists: bool, micros: int
) -> Review:
    review_id, request = mutation.review_id, mutation.create
    if not is_id(review_id):
        raise Problem(_INVALID, "review.review_id", f"{review_id!r} is not a valid id")
    if before is not None:
        raise Problem(_INVALID, "review.review_id", f"{review_id} exists; ids are never reused")
    if mutation.HasField("expected_version") and mutation.expected_version:
        raise Problem(_CONFLICT, "review.expected_version", f"{review_id} does not exist yet")
    if request.review_id not in ("", review_id):
        raise Problem(_INVALID, "review.create.review_id", "differs from review.review_id")
    if not node_exists:
        raise Problem(_INVALID, "review.create.node_id", f"there is no node {request.node_id!r}")
    present = {field.name for field, _ in request.ListFields()}
    for name in _OUTPUT_ONLY:
        if name in present:
            raise Problem(_INVALID, f"review.create.{name}", "cannot be set")
    found = validate.first_problem(request, _CHECKS)
    if found is None and not request.checkpoint:
        found = ("checkpoint", "is needed")
    if found is not None:
        raise Problem(_INVALID, f"review.create.{found[0]}", found[1])
    after = Review()
    after.CopyFrom(request)
    after.review_id = review_id
    after.state = OPEN
    after.attempt = max(1, after.attempt)
    after.version = 1
    set_micros(after.create_time, micros)
    set_micros(after.update_time, micros)
    _check_size(after, "review.create")
    return after


def stored_review_problem(review: Review) -> str:
    """Return what is wrong with a review that was not opened here; empty if nothing is."""
    found = validate.first_problem(review, _STORED_CHECKS)
    if found is not None:
        return f"{found[0]} {found[1]}"
    if not (is_id(review.node_id) and review.checkpoint and review.state):
        return "node_id, checkpoint or state is missing"
    return f"more than {limits.MAX_REVIEW_BYTES} bytes" * (
        review.ByteSize() > limits.MAX_REVIEW_BYTES
    )


def _decision(before: Review, request: ReviewResolution) -> ReviewPatch:
    found = validate.first_problem(request, _CHECKS)
    if found is None and not request.decision:
        found = ("decision", "is needed")
    asks = request.decision == _MODIFY
    if found is None and asks != bool(request.instructions.strip()):
        problem = "are needed" if asks else "are for REQUEST_MODIFICATION only"
        found = ("instructions", problem)
    approves_plan = request.decision == _APPROVE and before.HasField("plan")
    if found is None and request.HasField("modified_plan") and not approves_plan:
        found = ("modified_plan", "is only for approving a plan")
    if found is not None:
        raise Problem(_INVALID, f"review.resolve.{found[0]}", found[1])
    changed = ReviewPatch(state=_RESOLVED, decision=request.decision, actor=request.actor)
    if request.instructions:
        changed.instructions = request.instructions
    if request.comment:
        changed.comment = request.comment
    if request.HasField("modified_plan"):
        changed.modified_plan.CopyFrom(request.modified_plan)
    return changed


def _checked(request: ReviewPatch) -> ReviewPatch:
    for field, value in request.ListFields():
        if field.name not in _PATCHABLE:
            raise Problem(_INVALID, f"review.patch.{field.name}", "is set by state_svc only")
        if field.name == "expire_time" and (problem := _CHECKS["expire_time"](value)):
            raise Problem(_INVALID, "review.patch.expire_time", problem)
        if field.name == "state" and value not in transitions.REVIEW.names:
            raise Problem(_INVALID, "review.patch.state", f"{value} is not an allowed value")
    return request


def _effect(before: Review, request: ReviewPatch) -> ReviewPatch:
    """Return what a patch changes of an open review."""
    changed = ReviewPatch()
    if request.HasField("state") and request.state != before.state:
        allowed = transitions.REVIEW.to[before.state]
        if request.state == _RESOLVED or request.state not in allowed:
            name = transitions.REVIEW.names[request.state]
            raise Problem(_ILLEGAL, "review.patch.state", f"a patch cannot make a review {name}")
        if request.state == _EXPIRED:
            decision = _DECISIONS_OF_POLICIES.get(before.expiry_policy)
            if decision is None:
                problem = "the policy of the review leaves it open"
                raise Problem(_ILLEGAL, "review.patch.state", problem)
            changed.decision = decision
        changed.state = request.state
    if request.HasField("expire_time") and request.expire_time != before.expire_time:
        changed.expire_time.CopyFrom(request.expire_time)
    if request.HasField("overdue") and request.overdue != before.overdue:
        changed.overdue = request.overdue
    count = request.escalation_count
    if request.HasField("escalation_count") and count != before.escalation_count:
        changed.escalation_count = count
    return changed


def stage_of(review: Review, attempt: int, micros: int) -> StageRecord:
    """Return the record of the stage that a closed review was (S4.9).

    It has the review's own id, which no call of an agent has, and times of this service alone.
    What was proposed, and a plan that was sent instead, are in the review.
    """
    output: dict[str, object] = {"state": transitions.REVIEW.names[review.state]}
    if review.decision:
        output["decision"] = _decision_name(review)
    for name in ("instructions", "comment"):
        if text := getattr(review, name):
            output[name] = text
    if review.HasField("modified_plan"):
        output["modified_plan_tasks"] = len(review.modified_plan.tasks)
    stage = StageRecord(
        stage_id=review.review_id,
        node_id=review.node_id,
        attempt=attempt,
        stage=Stage.STAGE_REVIEW,
        agent_name=review.actor,
        input=Payload(content_type="text/plain", text=review.message),
        output=Payload(
            content_type="application/json", text=json.dumps(output, ensure_ascii=False)
        ),
        start_time=review.create_time,
        end_time=review.end_time,
    )
    took = review.end_time.ToMicroseconds() - review.create_time.ToMicroseconds()
    stage.duration.FromMicroseconds(max(0, took))
    set_micros(stage.create_time, micros)
    return stage


def _decision_name(review: Review) -> str:
    return ReviewDecision.Name(review.decision).removeprefix("REVIEW_DECISION_")


def _check_version(before: Review, mutation: ReviewMutation) -> None:
    expected = mutation.expected_version
    if mutation.HasField("expected_version") and expected != before.version:
        raise Problem(
            _CONFLICT,
            "review.expected_version",
            f"{before.review_id} has version {before.version}, not {expected}",
        )


def _check_size(review: Review, field: str) -> None:
    size = review.ByteSize()
    if size > limits.MAX_REVIEW_BYTES:
        problem = f"the review has {size} bytes, at most {limits.MAX_REVIEW_BYTES} are allowed"
        raise Problem(_INVALID, field, problem)


def closed_by(review: Review) -> str:
    """Say what closed a review, for who comes too late."""
    state = transitions.REVIEW.names[review.state]
    if not review.decision:
        return f"{review.review_id} is {state}"
    who = f" by {review.actor}" if review.actor else ""
    return f"{review.review_id} is {state}: {_decision_name(review)}{who}"


def replay_review(review: Review, effect: ReviewPatch, *, version: int, micros: int) -> None:
    """Put an effect from the log on a review. Nothing is checked (SEM 10)."""
    for field, value in effect.ListFields():
        _set(review, field.name, value)
    review.version = version
    set_micros(review.update_time, micros)


def _set(review: Review, name: str, value: Any) -> None:
    if hasattr(value, "CopyFrom"):
        getattr(review, name).CopyFrom(value)
    else:
        setattr(review, name, value)


def count_reviews(entity: Project, before: Review | None, after: Review) -> None:
    """Keep the counts in the project itself true; they are not part of its deltas."""
    was_open = before is not None and before.state == OPEN
    entity.open_review_count += (after.state == OPEN) - was_open
    entity.review_count += before is None


def reopened(reviews: Iterable[Review], suffix: str, micros: int) -> dict[str, Review]:
    """Return the reviews of a fork by the ids that they had: open ones under new ids (SEM 32).

    `suffix` is the new project's own, so that no id is one of the source's.
    """
    moved: dict[str, Review] = {}
    for review in reviews:
        copy = Review()
        copy.CopyFrom(review)
        if review.state == OPEN:
            copy.review_id = _renamed(review.review_id, suffix)
            copy.version = 1
            set_micros(copy.create_time, micros)
            set_micros(copy.update_time, micros)
        moved[review.review_id] = copy
    return moved


def _renamed(review_id: str, suffix: str) -> str:
    """Return another id for each: of a long one a part of its hash, if the suffix needs the room.

    What is cut is as long as ids can be, and what is not cut is shorter.
    """
    room = limits.MAX_ID_CHARS - len(suffix) - 1
    kept = room - _HASH_CHARS - 1
    if len(review_id) > kept:
        digest = hashlib.sha256(review_id.encode()).hexdigest()
        review_id = f"{review_id[:kept]}.{digest[:_HASH_CHARS]}"
    return f"{review_id}.{suffix}"
