"""Drives a run by hand: every decision is durable at once, calls wait to be answered."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Unpack

from orchestrator_svc.graph.decide import decide
from orchestrator_svc.graph.event import (
    Call,
    CallEnded,
    CommandGiven,
    Decision,
    Event,
    Failed,
    Outcome,
    Planned,
    Produced,
    TimeReached,
)
from orchestrator_svc.graph.mutation import NodeChanges
from orchestrator_svc.graph.node import Node, Result
from orchestrator_svc.graph.plan import DraftTask
from orchestrator_svc.graph.recover import begin
from orchestrator_svc.graph.review import ReviewDecision
from orchestrator_svc.graph.run import Run
from orchestrator_svc.graph.settings import Settings
from orchestrator_svc.graph.types import (
    CommandState,
    CommandType,
    ErrorClass,
    NodeState,
    NodeType,
    ProjectState,
    Stage,
    TaskType,
)
from tests.unit.orchestrator_svc.ledger import Ledger

DEFAULTS = Settings(max_execution_steps=0, max_retries=2, retry_delay_seconds=8.0)


def draft(
    goal: str = "part", *depends_on: int, node_type: NodeType | None = NodeType.EXECUTE
) -> DraftTask:
    """Return a proposed child."""
    return DraftTask(goal, TaskType.SEARCH, node_type, depends_on, {})


def plan_of(*tasks: DraftTask) -> Planned:
    """Return a planner's answer."""
    return Planned(tasks)


def done(text: str = "done") -> Produced:
    """Return an executor's or aggregator's answer."""
    return Produced(Result(text=text))


def failed(error_class: ErrorClass = ErrorClass.EXECUTION) -> Failed:
    """Return a failure."""
    return Failed(error_class, "it broke")


def agent_names(stage: Stage, task_type: TaskType) -> str:
    """Name agents by what they do."""
    return f"{stage}-{task_type}"


def load_run(ledger: Ledger, settings: Settings = DEFAULTS) -> Run:
    """Return the run of what the ledger holds."""
    project = ledger.load()
    return Run(
        goal=project.goal,
        state=project.state,
        settings=settings,
        agent_names=agent_names,
        random=lambda: 0.5,
        root_id=project.root_id,
        pause_time=project.pause_time,
        nodes=project.nodes,
        reviews=project.reviews,
    )


class Driven:
    """A run with its ledger and its open calls by node."""

    def __init__(self, ledger: Ledger | None = None, settings: Settings = DEFAULTS) -> None:
        self.ledger = ledger or Ledger()
        self.settings = settings
        self.now = 1_000.0
        self.calls: dict[str, Call] = {}
        self.cancelled: list[str] = []
        self.last: Decision = Decision()
        self.run = load_run(self.ledger, settings)
        self._take(begin(self.run, self.now))

    def _take(self, decision: Decision) -> None:
        self.last = decision
        if decision.groups:
            self.ledger.commit(decision.groups)
        for call in decision.calls:
            assert call.node_id not in self.calls
            self.calls[call.node_id] = call
        self.cancelled += decision.cancels

    def event(self, *events: Event) -> Decision:
        """Hand events to the run."""
        self._take(decide(self.run, events, self.now))
        return self.last

    def answer(self, node_id: str, outcome: Outcome, seconds: float = 0.0) -> Decision:
        """End a node's open call."""
        call = self.calls.pop(node_id)
        return self.event(CallEnded(node_id, call.number, outcome, seconds))

    def answer_all(self, node_ids: Iterable[str], outcome: Outcome) -> None:
        """End several calls alike."""
        for node_id in list(node_ids):
            self.answer(node_id, outcome)

    def cancel(self, command_id: str = "c") -> Decision:
        """Order the end of the project."""
        command = CommandGiven(command_id, CommandType.CANCEL_PROJECT)
        self.ledger.give(command)
        return self.event(command)

    def order(self, kind: CommandType, node_id: str = "") -> tuple[CommandState, str]:
        """Give an order; return what became of it."""
        command_id = f"order-{len(self.ledger.orders)}"
        command = CommandGiven(command_id, kind, node_id, "because")
        self.ledger.give(command)
        self.event(command)
        return self.ledger.commands[command_id], self.ledger.answers.get(command_id, "")

    def decide(
        self,
        review_id: str,
        decision: ReviewDecision,
        instructions: str = "",
        modified_plan: tuple[DraftTask, ...] | None = None,
    ) -> Decision:
        """Answer a review."""
        return self.event(self.ledger.resolve(review_id, decision, instructions, modified_plan))

    def tell(self) -> Decision:
        """Hand on what the store closed by itself."""
        told, self.ledger.closed = self.ledger.closed, []
        return self.event(*told)

    def reopen(self, kind: CommandType, node_id: str) -> tuple[CommandState, str]:
        """Reopen an ended project by an order; return what became of it."""
        order = CommandGiven(f"order-{len(self.ledger.orders)}", kind, node_id)
        self.ledger.reopen(order)
        self.crash()
        return self.ledger.commands[order.command_id], self.ledger.answers[order.command_id]

    def wait(self) -> Decision:
        """Let the time of the next backoff come."""
        due = self.run.next_due()
        assert due is not None
        self.now = due
        return self.event(TimeReached())

    def crash(self) -> None:
        """Lose everything that is not durable, open calls included, and take the run up again."""
        self.calls.clear()
        self.run = load_run(self.ledger, self.settings)
        orders = self.ledger.open_commands()
        self.run.open_orders.update(order.command_id for order in orders)
        self._take(begin(self.run, self.now))
        self.event(*orders)

    def project(self) -> ProjectState:
        """Return the durable state of the project."""
        return self.ledger.state

    def state(self, node_id: str) -> NodeState:
        """Return the durable state of a node."""
        return self.ledger.nodes[node_id].state

    def node(self, node_id: str) -> Node:
        """Return a durable node."""
        return self.ledger.nodes[node_id]

    def moves_of(self, node_id: str) -> list[NodeState]:
        """Return the states a node has been in, in order."""
        return [state for id_, state, _ in self.ledger.moves if id_ == node_id]


def planned(*tasks: DraftTask, settings: Settings = DEFAULTS) -> Driven:
    """Return a run whose root has been planned."""
    driven = Driven(settings=settings)
    driven.answer("root", plan_of(*tasks))
    return driven


def with_node(node_state: NodeState, **changes: Unpack[NodeChanges]) -> Driven:
    """Return a run whose child `root.1.0` is stored in a state, taken up by a fresh process."""
    driven = planned(draft(), draft())
    child = driven.ledger.nodes["root.1.0"]
    child.state = node_state
    for name, value in changes.items():
        setattr(child, name, value)
    driven.crash()
    return driven


def ids(prefix: str, numbers: Sequence[int]) -> list[str]:
    """Return the ids of children."""
    return [f"{prefix}.1.{number}" for number in numbers]
