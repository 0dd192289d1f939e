"""Random trees with random failures, timeouts, cancels and crashes always end, and truthfully.

The core is driven under a virtual clock, which goes on while calls are open and during pauses.
Orders are given while nobody executes the run, too. Batches become durable one after the other,
some never: a crash keeps a prefix of what was decided, and another process takes the project up.
The ledger refuses whatever the contract does not allow.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator_svc.graph.budget import Budget
from orchestrator_svc.graph.decide import decide
from orchestrator_svc.graph.dispatch import CALLED_STATES
from orchestrator_svc.graph.event import (
    Call,
    CallEnded,
    CallProgressed,
    CommandGiven,
    Decided,
    Decision,
    Draining,
    Event,
    Failed,
    Outcome,
    Planned,
    Produced,
    TimeReached,
)
from orchestrator_svc.graph.node import Node, Result
from orchestrator_svc.graph.plan import DraftTask
from orchestrator_svc.graph.recover import begin
from orchestrator_svc.graph.recovery import MAX_REPLANS
from orchestrator_svc.graph.review import PLAN_CHECKPOINTS, Checkpoint, ReviewDecision
from orchestrator_svc.graph.run import Run
from orchestrator_svc.graph.settle import is_skipped
from orchestrator_svc.graph.types import (
    TERMINAL_NODE_STATES,
    TERMINAL_PROJECT_STATES,
    CommandState,
    CommandType,
    ErrorClass,
    NodeState,
    NodeType,
    OnDependencyFailure,
    ProjectState,
    Stage,
    TaskType,
)
from orchestrator_svc.graph.updates import UpdateBuffer
from orchestrator_svc.graph.usage import Usage
from tests.support.scenarios import (
    AGENT_ERRORS,
    DECISIONS,
    ORDERS,
    PROJECT_ORDERS,
    Scenario,
    scenarios,
)
from tests.unit.orchestrator_svc.driven import agent_names
from tests.unit.orchestrator_svc.ledger import Ledger

MAX_TURNS = 20_000
PROGRESS_RATE = 0.1
INTERRUPTION_RATE = 0.08  #: per turn, while there are crashes or drains left
UNHEARD_RATE = 0.3  #: of orders that are given before another process takes a crashed run up
LAPSES = [0.0, 0.0, 0.0, 0.5, 1_000.0]  #: seconds between two turns: mostly none, or much
MAX_TOKENS = 4  #: of a call
MAX_COST = 4  #: of a call, micro-dollars
#: States in which no time of a budget passes.
STILL = frozenset({ProjectState.WAITING, ProjectState.PAUSING, ProjectState.PAUSED})
MAX_ANSWERS = 200
MAX_RESUMES = 15  #: then a run that pauses again is cancelled


@dataclass
class Process:
    """One orchestrator process: a run, what it has decided, and its agent calls."""

    run: Run
    updates: UpdateBuffer
    pending: deque[tuple[list[list[object]], Decision | None]] = field(default_factory=deque)
    calls: dict[str, Call] = field(default_factory=dict)
    told: int = 0  #: closed reviews that were loaded or delivered


class Simulation:
    """A project from creation to its end, over as many processes as it takes."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.random = random.Random(scenario.seed)
        self.ledger = Ledger()
        self.now = 0.0
        self.crashes_left = scenario.crashes
        self.drains_left = scenario.drains
        self.orders_left = scenario.orders
        self.active = 0.0  #: seconds in which the time of budgets may have run
        self.resumes = 0
        self.answers = 0
        self.reopened = 0
        self.began: list[Call] = []
        self.unheard: list[CommandGiven] = []  #: durable before the take-up, and not told yet
        self.process = self.start()

    def loaded(self) -> Run:
        """Return the run as another process would read it now."""
        project = self.ledger.load()
        return Run(
            goal=project.goal,
            state=project.state,
            settings=self.scenario.settings,
            agent_names=agent_names,
            random=self.random.random,
            root_id=project.root_id,
            pause_time=project.pause_time,
            nodes=project.nodes,
            reviews=project.reviews,
        )

    def start(self, *, dispatches: bool = True) -> Process:
        run = self.loaded()
        run.draining = not dispatches
        updates = UpdateBuffer(run.settings)
        self.process = Process(run, updates, told=len(self.ledger.closed))
        self.unheard = self.ledger.open_commands()
        run.open_orders.update(order.command_id for order in self.unheard)
        self.decided(begin(run, self.now))
        while self.unheard:
            self.events(self.unheard.pop(0))
        return self.process

    def decided(self, decision: Decision) -> None:
        """Split a decision into batches at random places between its groups."""
        pauses = [o for o in self.unheard if o.command_type is CommandType.PAUSE_PROJECT]
        assert not (pauses and decision.calls), "a call begins after a durable pause"
        groups = self.process.updates.take(decision.groups, self.now)
        groups += self.process.updates.pop_due(self.now)
        if self.process.run.ended:
            groups += self.process.updates.flush()
        if decision and not groups:  # effects alone
            self.process.pending.append(([], decision))
        while groups:
            size = self.random.randint(1, len(groups))
            head, groups = groups[:size], groups[size:]
            self.process.pending.append((head, None if groups else decision))  # type: ignore[arg-type]

    def events(self, *events: Event) -> None:
        self.decided(decide(self.process.run, events, self.now))

    def play(self) -> None:
        """Let things happen until the project has ended and nothing is under way."""
        for turn in range(MAX_TURNS):
            if turn == self.scenario.cancel_at and not self.process.run.ended:
                command = CommandGiven(f"cancel-{turn}", CommandType.CANCEL_PROJECT)
                self.ledger.give(command)
                self.events(command)
            if not self.turn():
                if self.process.run.state is ProjectState.PAUSED:
                    self.check_paused()
                    self.resumes += 1
                    stop = self.resumes > MAX_RESUMES
                    kinds = CommandType.CANCEL_PROJECT, CommandType.RESUME_PROJECT
                    self.order(kinds[0] if stop else kinds[1])
                elif not self.reopen():
                    return
            elif self.orders_left and self.random.random() < self.scenario.order_rate:
                self.orders_left -= 1
                self.order(self.random.choice(ORDERS))
            self.progress(turn)
            self.lapse(self.random.choice(LAPSES))
            self.check_always()
            self.check_timers()
            self.check_nodes()
            self.check_loaded()
        raise AssertionError("the run does not end")

    def lapse(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
        states = {self.process.run.state, self.ledger.state}
        if self.process.pending or not states <= STILL:
            self.active += seconds

    def progress(self, turn: int) -> None:
        """Let an agent say how far it has come."""
        if self.process.calls and self.random.random() < PROGRESS_RATE:
            call = self.random.choice(list(self.process.calls.values()))
            self.events(CallProgressed(call.node_id, call.number, f"turn {turn}"))

    def order(self, kind: CommandType, *, told: bool = True) -> None:
        """Order something about any node, if the store still takes orders."""
        if self.ledger.state in TERMINAL_PROJECT_STATES or not self.ledger.nodes:
            return
        node_id = ""
        if "PROJECT" not in kind:
            node_id = self.random.choice([*self.ledger.nodes, "nobody"])
        order = CommandGiven(f"order-{len(self.ledger.orders)}", kind, node_id)
        self.ledger.give(order)
        if told and not self.process.run.ended:
            self.events(order)

    def reopen(self) -> bool:
        """Now and then, let an ended project run again; the order may be refused."""
        self.check_end()
        if not self.orders_left or self.ledger.state is ProjectState.CANCELLED:
            return False
        self.orders_left -= 1
        self.reopened += 1
        kind = self.random.choice([CommandType.RETRY_NODE, CommandType.REPLAN_NODE])
        node_id = self.random.choice(["root", "root", *self.ledger.nodes])
        self.ledger.reopen(CommandGiven(f"order-{len(self.ledger.orders)}", kind, node_id))
        self.start()
        return True

    def check_paused(self) -> None:
        """Nothing runs, and the pause can be seen."""
        assert self.ledger.state is ProjectState.PAUSED
        assert self.ledger.pause_time is not None
        assert not self.process.calls

    def turn(self) -> bool:
        """Do one of the things that are possible; False when there is none."""
        process = self.process
        possible = []
        if process.pending:
            possible += [self.make_durable] * 3
        if process.calls:
            possible += [self.end_call] * 2
        if process.told < len(self.ledger.closed):
            possible += [self.tell]
        if not possible:
            self.check_waiting()
            possible += self.waits()
        elif self.ledger.open_reviews() and self.random.random() < self.scenario.patience:
            possible = [self.answer]
        if not possible:
            return False
        interrupted = self.random.random() < INTERRUPTION_RATE
        if interrupted and self.crashes_left:
            self.crash()
        elif interrupted and self.drains_left:
            self.drain()
        else:
            self.random.choice(possible)()
        return True

    def waits(self) -> list[Callable[[], None]]:
        """Return what can still happen when nothing goes on by itself."""
        possible = []
        if self.process.run.next_due() is not None:
            possible.append(self.pass_time)
        if self.ledger.open_reviews() and self.ledger.state is not ProjectState.PAUSED:
            possible.append(self.answer)
        return possible

    def tell(self) -> None:
        """The watch brings the next closed review."""
        event = self.ledger.closed[self.process.told]
        self.process.told += 1
        self.events(event)

    def answer(self) -> None:
        """A human decides something about any open review."""
        review = self.random.choice(self.ledger.open_reviews())
        decision = self.random.choices(list(DECISIONS), list(DECISIONS.values()))[0]
        if self.answers > MAX_ANSWERS:
            decision = ReviewDecision.REJECT  # a human whose patience is used up
        self.answers += 1
        instructions, plan = "", None
        if decision is ReviewDecision.REQUEST_MODIFICATION:
            instructions = "otherwise, please"
        elif isinstance(review.proposal, tuple) and self.random.random() < 0.2:
            valid = self.random.random() < 0.7
            plan = (self.child(0, ()), self.child(1, (0,) if valid else (1,)))
        self.ledger.resolve(review.review_id, decision, instructions, plan)

    def check_waiting(self) -> None:
        """A run that needs a human says so."""
        state, run = self.ledger.state, self.process.run
        if not self.ledger.open_reviews() or run.ended or state is ProjectState.PAUSED:
            return
        backs_off = any(
            node.next_attempt_time is not None and node.state not in TERMINAL_NODE_STATES
            for node in self.ledger.nodes.values()
        )
        assert state is ProjectState.WAITING or backs_off, "nobody is told that a human is needed"

    def make_durable(self) -> None:
        groups, decision = self.process.pending.popleft()
        self.ledger.commit(groups)  # type: ignore[arg-type]
        if decision is None:
            return
        for call in decision.calls:
            node = self.process.run.nodes[call.node_id]
            if node.open_call != call.number:
                continue
            if node.state in CALLED_STATES:
                self.begin(call)
            else:
                outcome = Failed(ErrorClass.CANCELLED, "cancelled before it began")
                self.events(CallEnded(call.node_id, call.number, outcome))
        for node_id in decision.cancels:
            call_ = self.process.calls.pop(node_id, None)
            if call_ is not None:
                outcome = Failed(ErrorClass.CANCELLED, "cancelled")
                self.events(CallEnded(node_id, call_.number, outcome))

    def begin(self, call: Call) -> None:
        """An agent is called: everything that promises it must be durable."""
        node = self.ledger.nodes[call.node_id]
        expected = NodeState.AGGREGATING if call.stage is Stage.AGGREGATE else NodeState.RUNNING
        assert node.state is expected, "a call began before its claim was durable"
        assert (node.attempt, node.agent_calls) == (call.attempt, call.number)
        runs_anyway = self.scenario.settings.on_dependency_failure is OnDependencyFailure.RUN
        for dependency in node.depends_on:
            state = self.ledger.nodes[dependency].state
            assert state is NodeState.DONE or (runs_anyway and state in TERMINAL_NODE_STATES)
        if call.stage is Stage.AGGREGATE:
            children = [self.ledger.nodes[child] for child in node.children]
            assert all(child.state in TERMINAL_NODE_STATES for child in children)
            assert any(child.state is NodeState.DONE for child in children)
        self.check_budget(node)
        self.began.append(call)
        self.process.calls[call.node_id] = call
        assert len(self.process.calls) <= self.scenario.settings.slots

    def check_budget(self, node: Node) -> None:
        """No call begins above a limit but for what was in flight when it was decided."""
        settings = self.scenario.settings
        at: Node | None = node
        while at is not None:
            below = [n for n in self.ledger.nodes.values() if self.is_below(n, at)]
            whole = not at.parent_id
            limit = settings.budget_tokens if whole else 0
            limit = at.budget.tokens if at.budget else limit
            calls = len(self.process.calls) + len(self.process.pending) + 1
            used = sum(n.usage.tokens for n in below)
            assert not limit or used < limit + at.allowance.tokens + MAX_TOKENS * calls
            cost = settings.budget_cost_usd if whole else 0.0
            spent = sum(n.usage.cost_micro_usd for n in below) - MAX_COST * calls
            assert not cost or spent / 1e6 < cost + at.allowance.cost_usd
            at = self.ledger.nodes.get(at.parent_id)

    def is_below(self, node: Node, above: Node) -> bool:
        at: Node | None = node
        while at is not None and at is not above:
            at = self.ledger.nodes.get(at.parent_id)
        return at is above

    def end_call(self) -> None:
        node_id = self.random.choice(list(self.process.calls))
        call = self.process.calls.pop(node_id)
        outcome = self.outcome(call)
        usage = Usage(self.random.randint(0, MAX_TOKENS), 0, self.random.randint(0, MAX_COST))
        self.events(CallEnded(node_id, call.number, outcome, self.random.random(), usage))
        assert not self.process.run.treated, "the engine never needs the doctor"

    def pass_time(self) -> None:
        due = self.process.run.next_due()
        assert due is not None
        self.lapse(max(0.0, due - self.now))
        self.events(TimeReached())

    def crash(self) -> None:
        """Keep a prefix of what was decided; the calls are gone."""
        self.crashes_left -= 1
        self.keep(self.random.randint(0, len(self.process.pending)))
        if self.ledger.state not in TERMINAL_PROJECT_STATES and self.random.random() < 0.3:
            self.visit()
        if self.ledger.state not in TERMINAL_PROJECT_STATES:
            if self.orders_left and self.random.random() < UNHEARD_RATE:
                self.orders_left -= 1
                self.order(self.random.choice(ORDERS), told=False)
            self.start()

    def visit(self) -> None:
        """An orchestrator without the profile carries out what is ordered, and may crash too."""
        if self.orders_left and self.ledger.nodes:
            self.orders_left -= 1
            kind = self.random.choice([*ORDERS, *PROJECT_ORDERS])
            node_id = "" if "PROJECT" in kind else self.random.choice([*self.ledger.nodes])
            self.ledger.give(CommandGiven(f"order-{len(self.ledger.orders)}", kind, node_id))
        self.start(dispatches=False)
        self.events(Draining())
        assert all(not decision or not decision.calls for _, decision in self.process.pending)
        left = len(self.process.pending)
        self.keep(left if self.random.random() < 0.5 else self.random.randint(0, left))

    def keep(self, count: int) -> None:
        """Make so many of the next batches durable."""
        for _ in range(count):
            groups, _ = self.process.pending.popleft()
            self.ledger.commit(groups)  # type: ignore[arg-type]

    def drain(self) -> None:
        """Stop in order: everything decided becomes durable, the calls are given back."""
        self.drains_left -= 1
        self.process.run.draining = True
        self.events(Draining())
        self.keep(len(self.process.pending))
        self.start()

    def outcome(self, call: Call) -> Outcome:
        if self.random.random() < self.scenario.failure_rate:
            return Failed(self.random.choice(AGENT_ERRORS), "scripted")
        if self.random.random() < self.scenario.invalid_rate:
            return Planned((self.child(0, (1,)), self.child(1, (0,))))
        if call.stage is Stage.ATOMIZE:
            return Decided(self.random.choice(list(NodeType)))
        if call.stage in (Stage.PLAN, Stage.MODIFY):
            count = self.random.randint(2, self.scenario.width)
            return Planned(tuple(self.child(i, self.earlier(i)) for i in range(count)))
        return Produced(Result(text=call.node_id))

    def earlier(self, index: int) -> tuple[int, ...]:
        return tuple(i for i in range(index) if self.random.random() < 0.4)

    def child(self, index: int, depends_on: tuple[int, ...]) -> DraftTask:
        node_type = self.random.choice([None, NodeType.EXECUTE, NodeType.EXECUTE, NodeType.PLAN])
        tokens = 1 + self.random.randint(1, 3) * MAX_TOKENS
        limited = not self.scenario.settings.budget_tokens and self.random.random() < 0.1
        budget = Budget(tokens=tokens) if limited else None
        goal = f"part {index}"
        return DraftTask(goal, TaskType.SEARCH, node_type, depends_on, {"i": index}, budget)

    def check_always(self) -> None:
        for node in self.ledger.nodes.values():
            assert node.retry_count <= self.scenario.settings.max_retries
            assert node.replan_count <= MAX_REPLANS
        asked = [(r.node_id, r.checkpoint) for r in self.ledger.open_reviews()]
        assert len(asked) == len(set(asked)), "a question is asked twice at a time"
        for review in self.ledger.open_reviews():
            node = self.ledger.nodes[review.node_id]
            assert node.state not in TERMINAL_NODE_STATES
            if review.checkpoint is Checkpoint.BUDGET:
                assert node.allowance.review_id == review.review_id
                continue
            assert node.waiting_on == review.waiting_on
            below = (self.ledger.nodes[child_id].state for child_id in node.children)
            assert all(state in TERMINAL_NODE_STATES for state in below)

    def check_nodes(self) -> None:
        """A tree has no more nodes than were allowed, and each approval allows as many again."""
        limit, root = self.scenario.settings.budget_nodes, self.ledger.nodes.get("root")
        if not limit or root is None:
            return
        assert len(self.ledger.nodes) <= limit + root.allowance.nodes
        if self.process.pending or self.process.told < len(self.ledger.closed):
            return
        asked = [r for r in self.ledger.reviews.values() if r.checkpoint is Checkpoint.BUDGET]
        raised = [
            review
            for review in asked
            if review.node_id == "root" and review.message.startswith("a plan needs")
            if review.answer is not None and review.answer.decision is ReviewDecision.APPROVE
        ]
        if root.state not in TERMINAL_NODE_STATES:
            assert root.allowance.nodes >= limit * len(raised), "an approval has allowed nothing"

    def check_timers(self) -> None:
        """Nothing waits longer than it was meant to: pauses, calls and crashes add nothing."""
        run, keys = self.process.run, self.scenario.settings
        clock = self.now if run.pause_time is None else run.pause_time
        most = keys.retry_delay_seconds * 2 ** max(keys.max_retries, MAX_REPLANS)
        for node in run.nodes.values():
            due = node.next_attempt_time
            if due is not None and node.state not in TERMINAL_NODE_STATES:
                assert due <= clock + most, f"the backoff of {node.node_id} was lengthened"
        for review in run.reviews.open():
            if review.expire_time is not None:
                assert review.expire_time <= clock + keys.hitl_timeout_seconds
        for use in run.accounts.report(clock):
            if use.resource == "wall_seconds":
                assert use.used <= self.active + 1e-3, "a budget counts time of humans or pauses"

    def check_end(self) -> None:
        ledger, limit = self.ledger, self.scenario.settings.max_execution_steps
        assert ledger.state in TERMINAL_PROJECT_STATES
        states = ledger.states()
        assert all(state in TERMINAL_NODE_STATES for state in states.values())
        done = [node_id for node_id, state, _ in ledger.moves if state is NodeState.DONE]
        replanned = {
            order.node_id
            for order in ledger.orders.values()
            if order.command_type is CommandType.REPLAN_NODE
        }
        again = {node_id for node_id in done if done.count(node_id) > 1}
        assert again <= replanned, "a node was done twice without an order"
        numbers = [(call.node_id, call.number) for call in self.began]
        assert len(numbers) == len(set(numbers)), "a call was made twice"
        aggregations = [
            (call.node_id, call.attempt) for call in self.began if call.stage is Stage.AGGREGATE
        ]
        assert len(aggregations) == len(set(aggregations)), "two aggregations in one attempt"
        if limit:
            assert sum(node.agent_calls for node in ledger.nodes.values()) <= limit
        root = states["root"]
        if root is NodeState.CANCELLED or ledger.state is ProjectState.CANCELLED:
            assert ledger.commands or self.aborted()
        elif root is NodeState.DONE:
            complete = all(
                node.state is NodeState.DONE or node.superseded or is_skipped(node)
                for node in ledger.nodes.values()
            )
            assert (ledger.state is ProjectState.COMPLETED) == complete
            assert (ledger.state is ProjectState.PARTIAL) == (not complete)
        else:
            assert ledger.state is ProjectState.FAILED
            assert ledger.error is not None
        assert ledger.state is not ProjectState.COMPLETED or ledger.error is None
        self.check_reviews()
        for node in ledger.nodes.values():
            assert (node.state is NodeState.FAILED) <= (node.error is not None)
            assert (node.state is NodeState.DONE) <= (node.error is None)

    def check_loaded(self) -> None:
        """Another process would count as this one does: nothing is known in memory alone."""
        mine = self.process.run
        if self.process.pending or mine.ended or self.process.told < len(self.ledger.closed):
            return
        other = self.loaded()
        assert (other.state, other.steps) == (mine.state, mine.steps)
        assert other.nodes.keys() == mine.nodes.keys()
        for node_id, node in mine.nodes.items():
            if node.state in TERMINAL_NODE_STATES:
                continue
            assert counters(other.nodes[node_id]) == counters(node), node_id
        assert other.accounts.report(self.now) == mine.accounts.report(self.now)
        asked = {review.review_id for review in mine.reviews.open()}
        assert {review.review_id for review in other.reviews.open()} == asked

    def aborted(self) -> bool:
        """Whether a human has ended the run in a review."""
        answers = [review.answer for review in self.ledger.reviews.values()]
        return any(a is not None and a.decision is ReviewDecision.ABORT for a in answers)

    def check_reviews(self) -> None:
        """Nobody is asked any more, and nothing went on without the approval that it needed."""
        ledger, keys = self.ledger, self.scenario.settings
        assert not ledger.open_reviews()
        approved: set[tuple[str, bool]] = set()
        for review in ledger.reviews.values():
            decision = review.answer.decision if review.answer is not None else None
            taken = decision is ReviewDecision.APPROVE
            if review.checkpoint in PLAN_CHECKPOINTS and not keys.hitl_after_modified_plan:
                taken = taken or decision is ReviewDecision.REQUEST_MODIFICATION
            if taken:
                approved.add((review.node_id, review.checkpoint in PLAN_CHECKPOINTS))
        if not (keys.enable_hitl and keys.hitl_after_plan_generation):
            return
        for node_id, state, _ in ledger.moves:
            asked = not keys.hitl_root_plan_only or not ledger.nodes[node_id].parent_id
            if state is NodeState.PLAN_DONE and asked:
                assert (node_id, True) in approved, "a plan was carried out without an approval"


def counters(node: Node) -> tuple[object, ...]:
    """Return what a run counts about a node that is not over."""
    state = (node.state, node.attempt, node.agent_calls, node.retry_count, node.children)
    if node.state not in (NodeState.PLAN_DONE, NodeState.AGGREGATING):
        return (*state, node.unsettled)  # its children belong to a plan that is replaced
    return (*state, node.unsettled, node.open_children, node.done_children)


@settings(max_examples=400, deadline=None)
@given(scenarios)
def test_every_run_ends_legally_and_truthfully(scenario: Scenario) -> None:
    simulation = Simulation(scenario)
    simulation.play()
    simulation.check_end()


@settings(max_examples=100, deadline=None)
@given(scenarios, st.integers(1, 30))
def test_every_order_given_before_the_end_is_answered(scenario: Scenario, turns: int) -> None:
    simulation = Simulation(scenario)
    for _ in range(turns):
        simulation.turn()
    if simulation.ledger.state in TERMINAL_PROJECT_STATES or simulation.process.run.ended:
        return
    command = CommandGiven("order", CommandType.CANCEL_PROJECT)
    simulation.ledger.give(command)
    simulation.events(command)
    simulation.play()
    simulation.check_end()
    assert simulation.ledger.commands["order"] is CommandState.APPLIED
    assert simulation.ledger.state is ProjectState.CANCELLED
