"""What happens to a run, and what a run asks its runner to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator_svc.graph.mutation import Mutation
from orchestrator_svc.graph.node import Result
from orchestrator_svc.graph.plan import DraftTask
from orchestrator_svc.graph.review import Answer
from orchestrator_svc.graph.trace import Trace
from orchestrator_svc.graph.types import CommandType, ErrorClass, NodeType, Stage
from orchestrator_svc.graph.usage import NO_USAGE, Usage


@dataclass(frozen=True, slots=True)
class Decided:
    """An atomizer answered."""

    node_type: NodeType


@dataclass(frozen=True, slots=True)
class Planned:
    """A planner answered; the plan is not checked yet."""

    tasks: tuple[DraftTask, ...]


@dataclass(frozen=True, slots=True)
class Produced:
    """An executor or an aggregator answered."""

    result: Result


@dataclass(frozen=True, slots=True)
class Failed:
    """An agent call ended without an answer."""

    error_class: ErrorClass
    message: str


Outcome = Decided | Planned | Produced | Failed


@dataclass(frozen=True, slots=True)
class CallEnded:
    """An agent call is over. Ignored unless it is the node's open call."""

    node_id: str
    number: int
    outcome: Outcome
    seconds: float = 0.0  #: how long it took
    usage: Usage = NO_USAGE  #: what it has cost
    trace: Trace | None = None  #: what is recorded of it; None if no agent was asked


@dataclass(frozen=True, slots=True)
class CallProgressed:
    """An agent said how far its call has come. Ignored unless it is the node's open call."""

    node_id: str
    number: int
    note: str
    usage: Usage = NO_USAGE  #: what it has cost so far


@dataclass(frozen=True, slots=True)
class CommandGiven:
    """An operator ordered something; the order is durable."""

    command_id: str
    command_type: CommandType
    node_id: str = ""  #: what it is about; empty: the project
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ReviewClosed:
    """A review was closed, by a human or by its policy; that is durable."""

    review_id: str
    answer: Answer


@dataclass(frozen=True, slots=True)
class TimeReached:
    """The time that `Run.next_due` named has come."""


@dataclass(frozen=True, slots=True)
class Draining:
    """The orchestrator stops: calls in flight were abandoned, give their nodes back."""

    calls: Mapping[str, CallEnded] = field(default_factory=dict)  #: those that had begun, by node


Event = CallEnded | CallProgressed | CommandGiven | ReviewClosed | TimeReached | Draining


class TurnFailed(Exception):
    """What a run does about an event has failed; the message is the cause, for people."""

    def __init__(self, node_id: str, cause: Exception) -> None:
        super().__init__(f"{type(cause).__name__}: {cause}")
        self.node_id = node_id  #: whose event it was


@dataclass(frozen=True, slots=True)
class Call:
    """An agent call to begin once the mutations decided with it are durable."""

    node_id: str
    number: int  #: the node's `agent_calls` when dispatched
    attempt: int
    stage: Stage
    agent_name: str
    timeout: float  #: seconds left of the attempt's time


@dataclass(slots=True)
class Decision:
    """What a run wants after some events: mutations first, effects once they are durable.

    Mutations are in groups; a group is never split over two batches, groups may be.
    """

    groups: list[list[Mutation]] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    cancels: list[str] = field(default_factory=list)  #: nodes whose open call is to be ended

    def __bool__(self) -> bool:
        return bool(self.groups or self.calls or self.cancels)
