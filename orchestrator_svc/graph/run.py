"""One project's run: its tree, its counters, and the mutations it has decided but not handed on.

Owned by the project's runner alone. `Run` keeps the bookkeeping true; what to do about an event
is in `decide.py`, `settle.py`, `dispatch.py` and `recover.py`, which are functions of
(run, event, now) and change it only through the methods here.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from hashlib import sha256
from typing import Unpack

from orchestrator_svc.graph.budget import Accounts, Allowance, Budget, project_budget
from orchestrator_svc.graph.event import Call, CallEnded, Decision, Failed, Planned
from orchestrator_svc.graph.mutation import (
    AddStage,
    CreateNode,
    Mutation,
    NodeChanges,
    OpenReview,
    PatchCommand,
    PatchNode,
    PatchProject,
    PatchReview,
)
from orchestrator_svc.graph.node import Failure, Json, Node
from orchestrator_svc.graph.recovery import longest_delay
from orchestrator_svc.graph.review import Answer, Checkpoint, Review, ReviewBook, ReviewState
from orchestrator_svc.graph.setback import Setback
from orchestrator_svc.graph.settings import Settings
from orchestrator_svc.graph.staging import restore_children
from orchestrator_svc.graph.text import storable
from orchestrator_svc.graph.types import (
    TERMINAL_NODE_STATES,
    TERMINAL_PROJECT_STATES,
    CommandState,
    NodeState,
    NodeType,
    OnDependencyFailure,
    OnExhausted,
    ProjectState,
    Stage,
    TaskType,
)

ROOT_ID = "root"
_MAX_ID_CHARS = 128
_MAX_MESSAGE_CHARS = 4_096  #: of a stored failure
_MANY_TASKS = 1_000
_MANY_BUDGETS = 1_000  #: changed in one group

#: Name of the agent that a profile gives a stage and task type.
AgentNames = Callable[[Stage, TaskType], str]


class Run:
    """The state of one run and the decision being made about it."""

    def __init__(
        self,
        *,
        goal: str,
        state: ProjectState,
        settings: Settings,
        agent_names: AgentNames,
        random: Callable[[], float],
        root_id: str = "",
        pause_time: float | None = None,
        nodes: Iterable[Node] = (),
        reviews: Iterable[Review] = (),
    ) -> None:
        self.goal = goal
        self.state = state
        self.settings = settings
        self.agent_names = agent_names
        self.random = random  #: draws from [0, 1); decides backoffs only
        self.root_id = root_id
        self.pause_time = pause_time  #: Unix seconds; None unless PAUSING or PAUSED
        self.dormant = False  #: whether it was loaded PAUSED and nothing was taken up yet
        self.nodes: dict[str, Node] = {}
        self.queue: deque[str] = deque()  #: nodes that could run but have no slot
        self.held: dict[str, None] = {}  #: nodes that wait for a human to raise a budget, in order
        self.busy = 0  #: slots in use, which is agent calls decided and not ended
        self.steps = 0  #: agent-stage dispatches so far (SEM 23)
        self.draining = False  #: whether nothing new may be dispatched by this orchestrator
        self.exhausted = False  #: whether `max_execution_steps` refused a dispatch
        self.commands: set[str] = set()  #: orders already answered
        self.open_orders: set[str] = set()  #: loaded with the project and not carried out yet
        self.treated: dict[tuple[str, str], int] = {}  #: the doctor's actions by (pattern, node)
        self.patrol_at = 0  #: number of steps at which the doctor looks again
        self.patrol_ids: list[str] = []  #: nodes that it has yet to look at in this round
        self.setback: Setback | None = None  #: how its last execution in this process ended
        self.reviews = ReviewBook(reviews)
        self._timers: list[tuple[float, str]] = []
        self._decision = Decision()
        self._record: AddStage | None = None  #: the latest of the event at hand
        self._fresh_group = True
        self.now = 0.0  #: Unix seconds; time of the event that is being decided about
        loaded = list(nodes)
        restore_children(loaded)
        for node in loaded:
            self.nodes[node.node_id] = node
            self.steps += node.agent_calls
        for review in self.reviews.open():
            if review.checkpoint is Checkpoint.BUDGET and review.node_id in self.nodes:
                node = self.nodes[review.node_id]  # a fork has given the review another id
                node.allowance = replace(node.allowance, review_id=review.review_id)
        self.accounts = Accounts(project_budget(settings), self.nodes)
        self.stopped: bool | None = None  #: whether budgets' time stands still; None: just loaded
        for node in loaded:
            self._index(node)
        for node in loaded:
            if node.state in TERMINAL_NODE_STATES:
                self.forget_child_results(node)

    @property
    def clock(self) -> float:
        """Unix seconds at which every timer is set: it stands still while the run is paused.

        So a timer has all of its time left at the resumption, whenever in the pause it was set.
        """
        return self.now if self.pause_time is None else self.pause_time

    @property
    def ended(self) -> bool:
        """Whether the project is in a terminal state."""
        return self.state in TERMINAL_PROJECT_STATES

    def take_decision(self) -> Decision:
        """Return what was decided since the last call."""
        decision, self._decision = self._decision, Decision()
        self._fresh_group = True
        return decision

    def is_early(self, at: float | None) -> bool:
        """Return whether a backoff that ends at `at` is not over."""
        return at is not None and at > self.clock and not self.is_of_another_clock(at)

    def is_of_another_clock(self, at: float) -> bool:
        """Return whether no backoff that was drawn by this clock ends as late as `at`.

        It was written by one that is ahead, or before this one was set back, and counts as over.
        """
        return at > self.clock + longest_delay(self.settings.retry_delay_seconds)

    def next_due(self) -> float | None:
        """Return when `TimeReached` is to be sent, in Unix seconds; None if nothing waits."""
        if self.pause_time is not None:
            return None
        found = (self._next_attempt(), self.reviews.next_due())
        return min((due for due in found if due is not None), default=None)

    def _next_attempt(self) -> float | None:
        timers = self._timers
        while timers:
            due, node_id = timers[0]
            node = self.nodes[node_id]
            if node.next_attempt_time == due and node.state not in TERMINAL_NODE_STATES:
                return due
            heapq.heappop(timers)  # it has moved on, or ended before its next attempt
        return None

    @property
    def is_idle(self) -> bool:
        """Whether no call is open, none can begin and none will by itself."""
        return not self.busy and not self.queue and self._next_attempt() is None

    def pop_due(self, now: float) -> list[Node]:
        """Return the nodes whose backoff is over, and forget their timers."""
        due: list[Node] = []
        paused = self.pause_time is not None
        self.now = now
        while not paused and (at := self._next_attempt()) is not None and not self.is_early(at):
            due.append(self.nodes[heapq.heappop(self._timers)[1]])
        return due

    def at(self, time: float, node: Node) -> None:
        """Ask for `TimeReached` at `time`, the node's `next_attempt_time`."""
        heapq.heappush(self._timers, (time, node.node_id))

    def shift_timers(self, seconds: float) -> None:
        """Let every backoff that a pause has interrupted go on for what was left of it."""
        queued = set(self.queue)
        self._timers.clear()
        for node in self.nodes.values():
            due = node.next_attempt_time
            if due is None or node.state in TERMINAL_NODE_STATES or node.node_id in queued:
                continue
            if seconds:
                self.cut()
                self.patch(node, next_attempt_time=due + seconds)
            if not self.dormant:
                self.at(due + seconds, node)
        for review in self.reviews.open():
            if seconds and review.next_due is not None and review.expire_time is not None:
                self.cut()
                review.expire_time += seconds
                self.patch_review(review)
                self.reviews.arm(review)

    # Mutations

    def cut(self) -> None:
        """Allow the batch to be split before the next mutation."""
        self._record = None
        self._fresh_group = True

    def _emit(self, mutation: Mutation) -> None:
        groups = self._decision.groups
        if self._fresh_group:
            groups.append([mutation])
            self._fresh_group = False
        else:
            groups[-1].append(mutation)

    def create(
        self,
        *,
        node_id: str,
        goal: str,
        task_type: TaskType,
        state: NodeState,
        parent: Node | None = None,
        depends_on: tuple[str, ...] = (),
        details: Mapping[str, Json] | None = None,
        node_type: NodeType | None = None,
        budget: Budget | None = None,
        on_exhausted: OnExhausted | None = None,
        on_dependency_failure: OnDependencyFailure | None = None,
        max_retries: int | None = None,
    ) -> Node:
        """Add a node. Its dependencies are known, or created in the same group and indexed."""
        node = Node(
            node_id=node_id,
            goal=goal,
            task_type=task_type,
            node_type=node_type,
            layer=parent.layer + 1 if parent else 0,
            parent_id=parent.node_id if parent else "",
            depends_on=depends_on,
            state=state,
            details=details or {},
            budget=budget,
            on_exhausted=on_exhausted,
            on_dependency_failure=on_dependency_failure,
            max_retries=max_retries,
        )
        self.nodes[node_id] = node
        self.accounts.enter(node)
        self._emit(
            CreateNode(
                node_id,
                goal,
                self.goal,
                task_type,
                node_type,
                node.layer,
                node.parent_id,
                depends_on,
                state,
                node.details,
                budget,
                on_exhausted,
                on_dependency_failure,
                max_retries,
            )
        )
        return node

    def index_plan(self, node: Node, children: list[Node], kept: set[str]) -> None:
        """Count the children of a new plan and their dependencies, all of which exist now.

        Those that are `kept` of the last plan are indexed already.
        """
        node.open_children = 0
        node.done_children = 0
        for child in children:
            if child.node_id not in kept:
                self._index(child)
            elif child.state is NodeState.DONE:
                node.done_children += 1
            else:
                node.open_children += 1

    def reopen(self, node: Node) -> None:
        """Count a node that has ended as open again; the move itself follows.

        The time of its budget begins anew, and a human who has refused to raise it is asked again.
        """
        allowance = replace(node.allowance, since=None, stopped=None, final=False, short=0)
        if allowance != node.allowance:
            self.patch(node, allowance=allowance)
        parent = self.nodes.get(node.parent_id)
        if parent is not None and not node.superseded:
            parent.open_children += 1
            if node.state is NodeState.DONE:
                parent.done_children -= 1
        for dependant_id in node.dependants:
            self.nodes[dependant_id].unsettled += 1

    def descendants(self, node: Node) -> Iterator[Node]:
        """Yield everything below a node by its present plan, parents before their children."""
        waiting = [node]
        while waiting:
            for child_id in waiting.pop().children:
                child = self.nodes.get(child_id)
                if child is not None:
                    yield child
                    waiting.append(child)

    def max_layer(self, node: Node) -> int:
        """Return the deepest layer that may be below a node; nodes there cannot be planned."""
        return self.accounts.max_layer(node, self.settings.max_recursion_depth)

    def on_exhausted(self, node: Node) -> OnExhausted:
        """Return the policy in force for a node whose recoveries are used up."""
        return node.on_exhausted or self.settings.on_exhausted

    def on_dependency_failure(self, node: Node) -> OnDependencyFailure:
        """Return the policy in force for a node that needs what has failed."""
        return node.on_dependency_failure or self.settings.on_dependency_failure

    def _index(self, node: Node) -> None:
        for dependency_id in node.depends_on:
            dependency = self.nodes.get(dependency_id)
            if dependency is None:
                continue
            dependency.dependants.append(node.node_id)
            if dependency.state not in TERMINAL_NODE_STATES:
                node.unsettled += 1
        parent = self.nodes.get(node.parent_id)
        if parent is not None and not node.superseded:
            if node.state not in TERMINAL_NODE_STATES:
                parent.open_children += 1
            elif node.state is NodeState.DONE:
                parent.done_children += 1

    def place_of(self, node: Node) -> int:
        """Return the place of a node in its parent's plan, from 0; looked up once for all."""
        parent = self.nodes.get(node.parent_id)
        children = parent.children if parent is not None else ()
        if not (node.place < len(children) and children[node.place] == node.node_id):
            for place, child_id in enumerate(children):
                child = self.nodes.get(child_id)
                if child is not None:
                    child.place = place
        return node.place

    def patch(self, node: Node, **changes: Unpack[NodeChanges]) -> None:
        """Change fields of a node, here and in the store.

        A node that moves on waits for no review any more, and one that has ended needs no answer.
        The number of calls and what they have cost are one field of the contract.
        """
        state = changes.get("state")
        if state is not None and node.review_id:
            if node.waiting_on and "waiting_on" not in changes:
                changes["waiting_on"] = ""
                self._withdraw(node.review_id)
            if state in TERMINAL_NODE_STATES:
                changes["review_id"] = ""
        if state in TERMINAL_NODE_STATES and node.allowance.review_id:
            self._withdraw(node.allowance.review_id)
            changes["allowance"] = replace(node.allowance, review_id="")
        if "usage" in changes:
            changes.setdefault("agent_calls", node.agent_calls)
        elif "agent_calls" in changes and node.usage:
            changes["usage"] = node.usage
        for name, value in changes.items():
            setattr(node, name, value)
        self._emit(PatchNode(node.node_id, changes))

    def patch_project(
        self,
        state: ProjectState,
        *,
        root_id: str = "",
        error: Failure | None = None,
        pause_time: float | None = None,
    ) -> None:
        """Move the project to another state; a pause's time is kept until the pause is over."""
        self.state = state
        if root_id:
            self.root_id = root_id
        if state is ProjectState.PAUSED:
            pause_time = self.pause_time
        self.pause_time = pause_time
        self._emit(PatchProject(state, root_id, error, pause_time))

    def answer_command(self, command_id: str) -> PatchCommand:
        """Record that an order is applied; return the record, to be completed in this turn."""
        self.commands.add(command_id)
        record = PatchCommand(command_id, CommandState.APPLIED)
        self._emit(record)
        return record

    # Reviews

    def open_review(self, node: Node, review: Review, changes: NodeChanges) -> None:
        """Ask a human about a node, in one revision with the changes that say so."""
        if "review_id" in changes:
            self.reviews.forget(node.review_id)
        self.reviews.add(review)
        self._emit(OpenReview(review))
        self.patch(node, **changes)

    def patch_review(self, review: Review, state: ReviewState | None = None) -> None:
        """Write the marks of an open review, or ask for its end."""
        self._emit(
            PatchReview(
                review.review_id, state, review.overdue, review.escalations, review.expire_time
            )
        )

    def _withdraw(self, review_id: str) -> None:
        review = self.reviews.get(review_id)
        if review is not None and review.answer is None:
            self.reviews.close(review, Answer(ReviewState.WITHDRAWN))
            self.patch_review(review, ReviewState.WITHDRAWN)

    # Budgets

    def hold(self, node: Node) -> None:
        """Let a node wait for the answer to a question about a budget, without a place in line."""
        self.held[node.node_id] = None

    def release_held(self) -> None:
        """Queue what waits for such an answer; `dispatch` may hold it again."""
        self.queue.extend(self.held)
        self.held.clear()

    def resume_budgets(self, paused: float, *, more: bool) -> None:
        """Write what the end of a pause changes of the budgets, in the group of the resumption.

        Of more than `_MANY_BUDGETS`, those that a crash keeps from being written count the pause as
        their time.
        """
        self._patch_allowances(self.accounts.resumed(paused, self.now, more=more))

    def stop_budgets(self, humans_only: bool) -> None:
        """Let the time of budgets stand still while the run waits for nothing but humans."""
        self.stopped = humans_only
        self._patch_allowances(self.accounts.waiting(self.now, humans_only=humans_only))

    def _patch_allowances(self, changed: list[tuple[Node, Allowance]]) -> None:
        for number, (node, allowance) in enumerate(changed, 1):
            self.patch(node, allowance=allowance)
            if number % _MANY_BUDGETS == 0:
                self.cut()

    # Stage records

    def add_stage(self, node: Node, stage: Stage, event: CallEnded, *, late: bool) -> None:
        """Record a stage that is over, in the batch of its outcome (SEM 28)."""
        if event.trace is None:
            return
        outcome, error = event.outcome, None
        if isinstance(outcome, Failed):
            message = storable(outcome.message, _MAX_MESSAGE_CHARS)
            error = Failure(outcome.error_class, message)
        self._record = AddStage(
            stage_id(node.node_id, event.number),
            node.node_id,
            stage,
            event.trace,
            error,
            late,
        )
        self._emit(self._record)
        if isinstance(outcome, Planned) and len(outcome.tasks) > _MANY_TASKS:
            self.cut()  # the children may fill a batch of their own

    def stage_failed(self, node: Node, failure: Failure) -> None:
        """Say in the record of the node's stage, just added, that its outcome was a failure."""
        record = self._record
        if record is not None and record.node_id == node.node_id:
            record.error = failure

    # Agent calls

    def open_call(self, node: Node, stage: Stage, agent_name: str) -> None:
        """Take a slot for a call that the mutation before has announced."""
        node.open_call = node.agent_calls
        node.stage = stage
        self.busy += 1
        self.steps += 1
        timeout = max(0.0, self.settings.node_execution_timeout_seconds - node.spent)
        self._decision.calls.append(
            Call(node.node_id, node.agent_calls, node.attempt, stage, agent_name, timeout)
        )

    def close_call(self, node: Node, seconds: float) -> None:
        """Give the slot of an ended call back."""
        node.open_call = 0
        node.stage = None
        node.spent += seconds
        self.busy -= 1

    def cancel_call(self, node: Node) -> None:
        """Ask for the end of a node's open call; `CallEnded` follows."""
        self._decision.cancels.append(node.node_id)

    def forget_child_results(self, parent: Node) -> None:
        """Free what only the siblings and the aggregator of an ended parent could read."""
        for child_id in parent.children:
            child = self.nodes.get(child_id)
            if child is not None:
                child.result = None


def stage_id(node_id: str, number: int) -> str:
    """Return the id of the record of a node's call, the same whoever makes it."""
    suffix = f".s{number}"
    if len(node_id) + len(suffix) > _MAX_ID_CHARS:
        node_id = sha256(node_id.encode()).hexdigest()
    return node_id + suffix
