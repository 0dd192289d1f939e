"""A node as its run holds it, with the counters that make readiness event-driven."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator_svc.graph.budget import NO_ALLOWANCE, Allowance, Budget
from orchestrator_svc.graph.forced import Forced
from orchestrator_svc.graph.types import (
    ErrorClass,
    NodeState,
    NodeType,
    OnDependencyFailure,
    OnExhausted,
    Stage,
    TaskType,
)
from orchestrator_svc.graph.usage import NO_USAGE, Usage

#: What a planner may attach to a child: JSON, as it comes back from the store.
Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]

NO_DETAILS: Mapping[str, Json] = {}


@dataclass(frozen=True, slots=True)
class Result:
    """What a node produced."""

    content_type: str = "text/plain"
    text: str = ""
    data: bytes = b""  #: the body when it is not text
    summary: str = ""
    digest: str = ""  #: names the body in the payload store; then it is not here
    is_text: bool = True  #: whether the body that `digest` names is text
    excerpt: str = ""  #: beginning of a text that is not here; never stored


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a node or a project failed."""

    error_class: ErrorClass
    message: str
    node_id: str = ""  #: where the failure began, if elsewhere


@dataclass(slots=True, kw_only=True)
class Node:
    """One task of the tree.

    The fields of the first part are stored; those of the second are the run's own and are
    rebuilt from the first part when a project is loaded.
    """

    node_id: str
    goal: str
    task_type: TaskType
    layer: int
    parent_id: str = ""
    depends_on: tuple[str, ...] = ()
    details: Mapping[str, Json] = field(default_factory=lambda: NO_DETAILS)
    state: NodeState = NodeState.PENDING
    node_type: NodeType | None = None
    attempt: int = 0  #: number of the current or announced dispatch
    retry_count: int = 0
    max_retries: int | None = None  #: None: the project's
    next_attempt_time: float | None = None  #: Unix seconds; set while no call may begin yet
    agent_name: str = ""
    result: Result | None = None  #: dropped once the parent has ended
    error: Failure | None = None
    sub_graph_id: str = ""
    children: tuple[str, ...] = ()  #: of the current plan, in plan order
    agent_calls: int = 0  #: dispatches so far; numbers them too
    usage: Usage = NO_USAGE  #: what the calls have cost
    crash_redispatches: int = 0  #: in a row, without an outcome between them (SEM 21)
    progress: str = ""  #: what the latest agent call said last about how far it had come
    superseded: bool = False
    budget: Budget | None = None  #: limits on its subtree, if the plan gave any
    allowance: Allowance = NO_ALLOWANCE  #: what became of that budget
    forced: Forced | None = None  #: the doctor's latest record about it
    waiting_on: str = ""  #: `review:ID` while a human is asked
    review_id: str = ""  #: latest review whose answer still matters
    reviews: int = 0  #: reviews so far; numbers them too
    plan_count: int = 0  #: plans adopted so far; numbers the sub-graphs
    replan_count: int = 0  #: replans since the last order, not counting ordered ones
    timeout_count: int = 0  #: of `retry_count`, those after a timeout
    replan_reason: str = ""  #: why the planner is asked again
    on_exhausted: OnExhausted | None = None  #: None: as the run's settings say
    on_dependency_failure: OnDependencyFailure | None = None

    unsettled: int = 0  #: dependencies that are not terminal
    open_children: int = 0  #: children of the current plan that are not terminal
    done_children: int = 0
    open_call: int = 0  #: number of the agent call in flight; 0 if there is none
    stage: Stage | None = None  #: of the open call
    counted: Usage = NO_USAGE  #: cost of the open call that `usage` has already
    spent: float = 0.0  #: seconds of this attempt's ended calls (SEM 22)
    place: int = 0  #: in the plan of its parent, when it was last looked up
    dependants: list[str] = field(default_factory=list)
