"""A review as text: what is asked, what is proposed as a tree, what was decided. Pure."""

from collections.abc import Iterator, Mapping, Sequence

from google.protobuf.timestamp_pb2 import Timestamp

from ramify.cli.format import duration, one_line, plural, seconds_of
from ramify.cli.plan import action_text, outline
from ramify.v1.node_pb2 import NodeType, TaskType
from ramify.v1.plan_pb2 import Plan, PlanTask
from ramify.v1.review_pb2 import (
    ProposedPlan,
    ProposedTask,
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


def card(review: Review, now: float, given: Plan | None = None) -> Iterator[str]:
    """Yield the lines that show one review at a time, in seconds since 1970.

    `given` is the plan that the run was started with: it has what the tasks of a proposal do.
    """
    attempt = f", attempt {review.attempt}" if review.attempt > 1 else ""
    yield f"{review.review_id}  {state_name(review)}  {checkpoint_name(review)}{attempt}"
    who = f"{_role(review)} {review.agent_name}" if review.agent_name else "no agent"
    yield f"node {review.node_id}, {who}{_age(review, now)}"
    yield ""
    yield from review.message.splitlines()
    tasks = dict(_by_id(given.tasks)) if given is not None else {}
    proposal = list(_proposal(review, tasks))
    if proposal:
        yield ""
        yield from proposal
    decided = list(_decided(review, now, tasks))
    if decided:
        yield ""
        yield from decided


def _role(review: Review) -> str:
    """Return what the agent has to do with the question."""
    proposes = review.WhichOneof("proposal") is not None
    return "proposed by" if proposes else "agent"


def _by_id(tasks: Sequence[PlanTask]) -> Iterator[tuple[str, PlanTask]]:
    for task in tasks:
        yield task.id, task
        yield from _by_id(task.tasks)


def plan_tree(plan: ProposedPlan, given: Mapping[str, PlanTask]) -> Iterator[str]:
    """Yield one line per task, counted from 1 as `drop 2` counts them, and what groups hold."""
    count = len(plan.tasks)
    for number, task in enumerate(plan.tasks, 1):
        branch, guide = ("└─", "    ") if number == count else ("├─", "│   ")
        known = given.get(task.details["task"].string_value) if "task" in task.details else None
        needs = _after([position + 1 for position in task.depends_on])
        if task.reuse:
            needs += f", reuses {task.reuse}"
        goal = one_line(task.goal, _GOAL_WIDTH)
        yield f"{branch} {number}. {goal}  [{_kind(task, known)}{needs}]"
        if known is not None:
            yield from outline(known.tasks, guide)


def _kind(task: ProposedTask, known: PlanTask | None) -> str:
    """Return what a task does if it was given, else its type."""
    if known is not None:
        return action_text(known) or "group"
    kind = TaskType.Name(task.task_type).removeprefix("TASK_TYPE_").lower()
    return f"{kind}, to be planned" if task.node_type == NodeType.NODE_TYPE_PLAN else kind


def _after(numbers: Sequence[int]) -> str:
    return f", after {', '.join(map(str, numbers))}" if numbers else ""


def _proposal(review: Review, given: Mapping[str, PlanTask]) -> Iterator[str]:
    if review.HasField("plan"):
        yield f"plan of {plural(len(review.plan.tasks), 'task')}"
        yield from plan_tree(review.plan, given)
    elif review.HasField("verdict"):
        planned = review.verdict == NodeType.NODE_TYPE_PLAN
        yield "split it into parts" if planned else "do it in one step"
    elif review.HasField("result"):
        lines = review.result.text.splitlines() or [f"{len(review.result.data)} bytes"]
        yield from (f"│ {line}" for line in lines[:MAX_PREVIEW_LINES])
        if len(lines) > MAX_PREVIEW_LINES:
            yield f"│ … {len(lines) - MAX_PREVIEW_LINES} more lines (--json has them all)"


def _decided(review: Review, now: float, given: Mapping[str, PlanTask]) -> Iterator[str]:
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
        yield from plan_tree(review.modified_plan, given)
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
