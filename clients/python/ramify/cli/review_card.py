"""A review as text: what is asked, what is proposed as a tree, what was decided. Pure."""

from collections.abc import Iterator, Sequence

from google.protobuf.timestamp_pb2 import Timestamp

from ramify.cli.format import duration, one_line, plural, seconds_of
from ramify.v1.node_pb2 import NodeType, TaskType
from ramify.v1.review_pb2 import (
    ProposedPlan,
    Review,
    ReviewCheckpoint,
    ReviewDecision,
    ReviewExpiryPolicy,
    ReviewState,
)

MAX_PREVIEW_LINES = 40
_GOAL_WIDTH = 110


def state_name(review: Review) -> str:
    """Return the state of a review without its prefix."""
    return ReviewState.Name(review.state).removeprefix("REVIEW_STATE_")


def checkpoint_name(review: Review) -> str:
    """Return the checkpoint in words: `plan generation`."""
    name = ReviewCheckpoint.Name(review.checkpoint).removeprefix("REVIEW_CHECKPOINT_")
    return name.lower().replace("_", " ")


def decision_name(review: Review) -> str:
    """Return what was decided, in words; empty if nothing was."""
    if not review.decision:
        return ""
    name = ReviewDecision.Name(review.decision).removeprefix("REVIEW_DECISION_")
    return name.lower().replace("_", " ")


def is_open(review: Review) -> bool:
    """Return whether a review waits for an answer."""
    return review.state == ReviewState.REVIEW_STATE_OPEN


def card(review: Review, now: float) -> Iterator[str]:
    """Yield the lines that show one review at a time, in seconds since 1970."""
    attempt = f", attempt {review.attempt}" if review.attempt > 1 else ""
    yield f"{review.review_id}  {state_name(review)}  {checkpoint_name(review)}{attempt}"
    who = f"{_role(review)} {review.agent_name}" if review.agent_name else "no agent"
    yield f"node {review.node_id}, {who}{_age(review, now)}"
    yield ""
    yield from review.message.splitlines()
    proposal = list(_proposal(review))
    if proposal:
        yield ""
        yield from proposal
    decided = list(_decided(review, now))
    if decided:
        yield ""
        yield from decided


def _role(review: Review) -> str:
    """Return what the agent has to do with the question."""
    proposes = review.WhichOneof("proposal") is not None
    return "proposed by" if proposes else "agent"


def plan_tree(plan: ProposedPlan) -> Iterator[str]:
    """Yield one line per task, counted from 1 as `drop 2` counts them."""
    count = len(plan.tasks)
    for number, task in enumerate(plan.tasks, 1):
        branch = "└─" if number == count else "├─"
        kind = TaskType.Name(task.task_type).removeprefix("TASK_TYPE_").lower()
        if task.node_type == NodeType.NODE_TYPE_PLAN:
            kind += ", to be planned"
        needs = _after([position + 1 for position in task.depends_on])
        if task.reuse:
            needs += f", reuses {task.reuse}"
        goal = one_line(task.goal, _GOAL_WIDTH)
        yield f"{branch} {number}. {goal}  [{kind}{needs}]"


def _after(numbers: Sequence[int]) -> str:
    return f", after {', '.join(map(str, numbers))}" if numbers else ""


def _proposal(review: Review) -> Iterator[str]:
    if review.HasField("plan"):
        yield f"plan of {plural(len(review.plan.tasks), 'task')}"
        yield from plan_tree(review.plan)
    elif review.HasField("verdict"):
        planned = review.verdict == NodeType.NODE_TYPE_PLAN
        yield "split it into parts" if planned else "do it in one step"
    elif review.HasField("result"):
        lines = review.result.text.splitlines() or [f"{len(review.result.data)} bytes"]
        yield from (f"│ {line}" for line in lines[:MAX_PREVIEW_LINES])
        if len(lines) > MAX_PREVIEW_LINES:
            yield f"│ … {len(lines) - MAX_PREVIEW_LINES} more lines (--json has them all)"


def _decided(review: Review, now: float) -> Iterator[str]:
    if is_open(review):
        if review.HasField("expire_time"):
            yield _expiry(review, now)
        return
    who = f" by {review.actor}" if review.actor else ""
    when = f" {_ago(review.end_time, now)}" if review.HasField("end_time") else ""
    yield f"{decision_name(review) or state_name(review).lower()}{who}{when}"
    if review.instructions:
        yield f"instructions: {review.instructions}"
    if review.HasField("modified_plan"):
        yield "with this plan instead:"
        yield from plan_tree(review.modified_plan)
    if review.comment:
        yield f"comment: {review.comment}"


def _expiry(review: Review, now: float) -> str:
    policy = ReviewExpiryPolicy.Name(review.expiry_policy).removeprefix("REVIEW_EXPIRY_POLICY_")
    left = seconds_of(review.expire_time) - now
    if review.overdue:
        times = f", escalated {review.escalation_count} times" if review.escalation_count else ""
        return f"overdue{times}; it stays open"
    acts = {"APPROVE": "approved", "REJECT": "rejected", "ESCALATE": "escalated"}
    return f"{acts.get(policy, 'overdue')} in {duration(left)} unless somebody answers"


def _age(review: Review, now: float) -> str:
    return f" {_ago(review.create_time, now)}" if review.HasField("create_time") else ""


def _ago(stamp: Timestamp, now: float) -> str:
    return f"{duration(now - seconds_of(stamp))} ago"
