"""What a decision changes, before `publish/convert.py` puts it into the contract's words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypedDict

from orchestrator_svc.graph.budget import Allowance, Budget
from orchestrator_svc.graph.forced import Forced
from orchestrator_svc.graph.node import Failure, Json, Result
from orchestrator_svc.graph.review import Review, ReviewState
from orchestrator_svc.graph.trace import Trace
from orchestrator_svc.graph.types import (
    CommandState,
    NodeState,
    NodeType,
    OnDependencyFailure,
    OnExhausted,
    ProjectState,
    Stage,
    TaskType,
)
from orchestrator_svc.graph.usage import Usage


class NodeChanges(TypedDict, total=False):
    """New values by field of `Node`; None empties an optional field."""

    state: NodeState
    node_type: NodeType
    attempt: int
    retry_count: int
    next_attempt_time: float | None
    agent_name: str
    result: Result
    error: Failure | None
    sub_graph_id: str
    children: tuple[str, ...]
    agent_calls: int
    usage: Usage
    crash_redispatches: int
    allowance: Allowance
    forced: Forced
    waiting_on: str
    review_id: str
    reviews: int
    superseded: bool
    plan_count: int
    replan_count: int
    timeout_count: int
    replan_reason: str
    progress: str


@dataclass(slots=True)
class CreateNode:
    """A new node, as it is stored first."""

    node_id: str
    goal: str
    overall_objective: str
    task_type: TaskType
    node_type: NodeType | None
    layer: int
    parent_id: str
    depends_on: tuple[str, ...]
    state: NodeState
    details: Mapping[str, Json]
    budget: Budget | None = None
    on_exhausted: OnExhausted | None = None
    on_dependency_failure: OnDependencyFailure | None = None
    max_retries: int | None = None


@dataclass(slots=True)
class PatchNode:
    """New values of some fields of one node."""

    node_id: str
    changes: NodeChanges


@dataclass(slots=True)
class PatchProject:
    """New values of some fields of the project."""

    state: ProjectState
    root_node_id: str = ""
    error: Failure | None = None
    pause_time: float | None = None  #: Unix seconds; None: not paused any more


@dataclass(slots=True)
class PatchCommand:
    """What became of an order."""

    command_id: str
    state: CommandState
    answer: str = ""


@dataclass(slots=True)
class OpenReview:
    """A new review, as it is stored first."""

    review: Review


@dataclass(slots=True)
class PatchReview:
    """New marks of an open review; nothing if it is closed by then."""

    review_id: str
    state: ReviewState | None  #: EXPIRED or WITHDRAWN; None: as it is
    overdue: bool
    escalations: int
    expire_time: float | None


@dataclass(slots=True)
class AddStage:
    """The record of a stage that is over."""

    stage_id: str
    node_id: str
    stage: Stage
    trace: Trace
    error: Failure | None = None
    late: bool = False  #: the outcome came too late to count


def concerned(mutation: Mutation) -> str:
    """Return the node that is at fault if a mutation cannot be stored; empty if none is.

    A child that cannot be created is its planner's fault.
    """
    if isinstance(mutation, CreateNode):
        return mutation.parent_id or mutation.node_id
    if isinstance(mutation, PatchNode | AddStage):
        return mutation.node_id
    return mutation.review.node_id if isinstance(mutation, OpenReview) else ""


GraphMutation = CreateNode | PatchNode | PatchProject | PatchCommand
ReviewMutation = OpenReview | PatchReview
Mutation = GraphMutation | ReviewMutation | AddStage
