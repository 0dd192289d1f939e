"""What an agent is: five roles, the input they receive and the output they return.

An agent never sees the graph, the store or gRPC. It receives a frozen `AgentInput`, works, and
returns a value or raises `AgentError`. The runner persists what it returns.

An agent implements any of `Atomizer`, `Planner`, `Executor`, `Aggregator` and `Modifier`; a profile
(`profile.py`) maps each role, and for executors each task type, to one agent.

While a call is open the agent shows that it is alive with `report`, and may be asked to end early
through `stop_wish` (SEM 22). Before each request to a model provider it awaits `provider_call`
(S2, `rate_limit_rpm`). A call never blocks the event loop: blocking Python belongs into
`asyncio.to_thread`, which cannot be killed, or into a process of `processes/`, which can.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from orchestrator_svc.graph.budget import Budget
from orchestrator_svc.graph.plan import MAX_GOAL_CHARS, MIN_GOAL_CHARS
from orchestrator_svc.graph.trace import Body as TraceBody
from orchestrator_svc.graph.trace import ToolCall
from orchestrator_svc.graph.types import (
    ErrorClass,
    NodeType,
    OnDependencyFailure,
    OnExhausted,
    TaskType,
)
from orchestrator_svc.graph.usage import Usage

__all__ = [
    "AgentError",
    "AgentInput",
    "Aggregator",
    "Atomizer",
    "Budget",
    "CallMonitor",
    "ErrorClass",
    "Executor",
    "MAX_GOAL_CHARS",
    "MIN_GOAL_CHARS",
    "Modifier",
    "NO_MODIFIER",
    "NodeType",
    "OnDependencyFailure",
    "OnExhausted",
    "Output",
    "Plan",
    "PlannedTask",
    "Planner",
    "RelatedNode",
    "TaskType",
    "ToolCall",
    "TraceBody",
    "Verdict",
    "note_model",
    "note_tool",
    "open_call",
    "provider_call",
    "report",
    "spend",
    "stop_wish",
]

#: Why a plan is not changed on request; the human reads it.
NO_MODIFIER = "the agents of this profile change no plans: approve it with a plan of your own"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Output(_Frozen):
    """What a node produced: one body with its content type, and a short summary."""

    content_type: str = "text/plain"  #: a media type; `text/markdown`, `application/json` …
    text: str = ""  #: the body when it is text (JSON included)
    data: bytes = b""  #: the body when it is not text; then `text` is empty
    summary: str = Field(default="", max_length=2_000)  #: one or two sentences for readers


class RelatedNode(_Frozen):
    """Another node of the run, as an agent sees it."""

    node_id: str
    goal: str
    task_type: TaskType
    state: str  #: `NodeState` without its prefix, for example DONE or FAILED
    output: Output | None = None  #: present when the node is DONE
    error: str = ""  #: present when the node is FAILED
    shortened: bool = False  #: whether goal and output are cut to fit; then the text is plain
    details: dict[str, JsonValue] = Field(default_factory=dict)  #: what its planner attached


class Verdict(_Frozen):
    """An atomizer's answer."""

    node_type: NodeType
    reason: str = ""


class PlannedTask(_Frozen):
    """One child of a plan."""

    goal: str = Field(min_length=MIN_GOAL_CHARS, max_length=MAX_GOAL_CHARS)
    task_type: TaskType
    node_type: NodeType | None = None  #: None leaves the decision to the atomizer
    depends_on: tuple[int, ...] = ()  #: indices of siblings in `Plan.tasks`
    details: dict[str, JsonValue] = Field(default_factory=dict)  #: handed to the child's agent
    budget: Budget | None = None  #: limits on the child with everything below it
    reuse: str = ""  #: id of a DONE node of `AgentInput.previous` that does this already
    on_exhausted: OnExhausted | None = None  #: None: as the run's settings say
    on_dependency_failure: OnDependencyFailure | None = None
    max_retries: int | None = Field(default=None, ge=0, le=100)  #: None: the project's


class Plan(_Frozen):
    """A planner's answer: the children of a node, in order."""

    tasks: tuple[PlannedTask, ...] = Field(min_length=1)


class AgentInput(_Frozen):
    """Everything an agent may look at for one call (S4.7)."""

    project_id: str
    node_id: str
    attempt: int  #: 1-based dispatch number of the node
    goal: str
    task_type: TaskType
    node_type: NodeType | None = None  #: None until the atomizer or the plan has decided
    layer: int  #: 0 for the root
    max_depth: int  #: nodes at this layer are always executed, never planned
    overall_objective: str  #: the goal of the root
    ancestors: tuple[RelatedNode, ...] = ()  #: root first, parent last
    dependencies: tuple[RelatedNode, ...] = ()  #: settled nodes this one depends on, in order
    siblings: tuple[RelatedNode, ...] = ()  #: done ones before it in the plan, without results
    children: tuple[RelatedNode, ...] = ()  #: for aggregators: all children, in plan order
    details: dict[str, JsonValue] = Field(default_factory=dict)  #: what the planner attached
    options: dict[str, JsonValue] = Field(default_factory=dict)  #: the project's agent options
    replan_reason: str = ""  #: for planners: why the last plan, or the last try, is not good
    previous: tuple[RelatedNode, ...] = ()  #: for planners: the children of the replaced plan
    instructions: str = ""  #: what a human asked for in a review of an earlier answer
    proposal: Plan | None = None  #: for modifiers: the plan that is to be changed


class AgentError(Exception):
    """An agent could not do its work; `error_class` decides what happens next."""

    error_class = ErrorClass.EXECUTION
    message = ""

    def __init__(self, error_class: ErrorClass, message: str) -> None:
        """What is no text is made one; a class that nobody knows is EXECUTION, with its name."""
        text = str(message)
        try:
            self.error_class = ErrorClass(error_class)
        except ValueError:
            text = f"{error_class}: {text}"
        super().__init__(text)
        self.message = text


class CallMonitor(Protocol):
    """What an open call and its runner tell each other."""

    @property
    def stop_wish(self) -> asyncio.Event:
        """Set when the agent is asked to come to an end; owned by the loop."""

    def report(self, note: str) -> None:
        """Take note of a sign of life. Called from any thread."""

    def spend(self, usage: Usage) -> None:
        """Take note of what a part of the call has cost. Called from any thread."""

    async def provider_call(self) -> None:
        """Wait for the call's turn to ask a model provider. Called on the loop."""

    def note_model(self, model: str, prompt: str, response: str) -> None:
        """Take note of what a model was asked and answered. Called from any thread."""

    def note_tool(self, call: ToolCall) -> None:
        """Take note of the use of a tool. Called from any thread."""


#: The open call of the present task; threads of `asyncio.to_thread` see it too.
open_call: ContextVar[CallMonitor | None] = ContextVar("open_call", default=None)


def report(note: str = "") -> None:
    """Show that the open call is alive, from any thread; `note` says how far it has come.

    A note, one line, is shown to watchers now and then; the latest one wins.
    """
    monitor = open_call.get()
    if monitor is not None:
        monitor.report(note)


def spend(*, input_tokens: int = 0, output_tokens: int = 0, cost_micro_usd: int = 0) -> None:
    """Add to what the open call has cost, from any thread; also a sign of life.

    It counts whatever becomes of the call: a failed or cancelled one has cost its money too. A
    fraction counts as a whole. Raises `AgentError` (INVALID_OUTPUT) for what is no amount.
    """
    monitor = open_call.get()
    if monitor is not None:
        monitor.spend(Usage(input_tokens, output_tokens, cost_micro_usd))


def note_model(model: str, prompt: str, response: str) -> None:
    """Record what a model was asked and what it answered, for the trace of the open call.

    From any thread. Of several in one call the last counts.
    """
    monitor = open_call.get()
    if monitor is not None:
        monitor.note_model(model, prompt, response)


def note_tool(call: ToolCall) -> None:
    """Record the use of a tool for the trace of the open call, from any thread.

    Text that is too long is cut; of more than a record holds the first count.
    """
    monitor = open_call.get()
    if monitor is not None:
        monitor.note_tool(call)


async def provider_call() -> None:
    """Wait until `rate_limit_rpm` lets the open call ask a model provider; before each request."""
    monitor = open_call.get()
    if monitor is not None:
        await monitor.provider_call()


def stop_wish() -> asyncio.Event:
    """Return the event that asks the open call to end early with what it has."""
    monitor = open_call.get()
    return asyncio.Event() if monitor is None else monitor.stop_wish


@runtime_checkable
class Atomizer(Protocol):
    """Decides whether a node is atomic."""

    async def atomize(self, task: AgentInput) -> Verdict:
        """Return PLAN or EXECUTE; raise `AgentError` when it cannot decide."""


@runtime_checkable
class Planner(Protocol):
    """Splits a node into children."""

    async def plan(self, task: AgentInput) -> Plan:
        """Return at least one child; raise `AgentError` when the goal cannot be planned."""


@runtime_checkable
class Executor(Protocol):
    """Does the work of an atomic node."""

    async def execute(self, task: AgentInput) -> Output:
        """Return the node's result; raise `AgentError` when there is none."""


@runtime_checkable
class Aggregator(Protocol):
    """Folds the results of children into the result of their parent."""

    async def aggregate(self, task: AgentInput) -> Output:
        """Return the parent's result; failed children are among `task.children`."""


@runtime_checkable
class Modifier(Protocol):
    """Changes a plan as a human has asked."""

    async def modify(self, task: AgentInput) -> Plan:
        """Return `task.proposal` changed by `task.instructions`; raise `AgentError` if it cannot.

        What cannot be followed is an error, never the same plan again: the human reads the reason.
        """
