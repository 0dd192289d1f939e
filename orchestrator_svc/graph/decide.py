"""What a run does about each event: one function of (run, event, now) per kind of event."""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator_svc.graph.adopt import adopt_plan
from orchestrator_svc.graph.answer import modification_failed, plan_problems, review_closed
from orchestrator_svc.graph.cancel import end_if_cancelled
from orchestrator_svc.graph.checkpoint import ask, asked_again, asks, expire, settle_waiting
from orchestrator_svc.graph.dispatch import (
    CALLED_STATES,
    WAITING_STATES,
    announce_attempt,
    begin_stage,
    fill_slots,
    may_dispatch,
    wait_for_room,
)
from orchestrator_svc.graph.doctor import consult, patrol
from orchestrator_svc.graph.event import (
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
    ReviewClosed,
    TimeReached,
    TurnFailed,
)
from orchestrator_svc.graph.failure import call_failed
from orchestrator_svc.graph.mutation import NodeChanges
from orchestrator_svc.graph.node import Node
from orchestrator_svc.graph.orders import carry_out, settle_end, settle_pause
from orchestrator_svc.graph.plan import MAX_BATCH_TASKS, DraftTask, fits_one_review
from orchestrator_svc.graph.recover import begin
from orchestrator_svc.graph.review import Checkpoint
from orchestrator_svc.graph.run import Run
from orchestrator_svc.graph.settle import finish
from orchestrator_svc.graph.text import storable
from orchestrator_svc.graph.types import (
    TERMINAL_NODE_STATES,
    CommandType,
    ErrorClass,
    NodeState,
    NodeType,
    ProjectState,
    Stage,
)
from orchestrator_svc.graph.usage import NO_USAGE, Usage

MAX_PROGRESS_CHARS = 255

#: What each stage may answer.
_EXPECTED: dict[Stage, type[Outcome]] = {
    Stage.ATOMIZE: Decided,
    Stage.PLAN: Planned,
    Stage.EXECUTE: Produced,
    Stage.AGGREGATE: Produced,
    Stage.MODIFY: Planned,
}


def decide(run: Run, events: Iterable[Event], now: float) -> Decision:
    """Apply events in order, fill the free slots, and return everything that follows."""
    run.now = now
    for event in events:
        run.cut()
        if isinstance(event, CallEnded | CallProgressed):
            _call_told(run, event)
        elif isinstance(event, TimeReached):
            run.queue.extend(node.node_id for node in run.pop_due(now))
            expire(run, now)
        elif isinstance(event, CommandGiven):
            carry_out(run, event, now)
        elif isinstance(event, ReviewClosed):
            review_closed(run, event)
        elif isinstance(event, Draining):
            _give_back(run, event, run.clock)
    settle_end(run)
    settle_pause(run)
    settle_waiting(run)
    fill_slots(run)
    settle_waiting(run)
    patrol(run, now)
    consult(run, now)
    settle_pause(run)  # once more: a used-up budget may have paused it
    settle_waiting(run)
    return run.take_decision()


def first_turn(run: Run, orders: Iterable[CommandGiven], now: float) -> Decision:
    """Take the first turn of a run that was loaded with these open orders.

    An order to cancel comes before all else: what taking the run up decides may be refused.
    """
    cancels = [order for order in orders if order.command_type is CommandType.CANCEL_PROJECT]
    if cancels and run.nodes and not run.ended and run.state is not ProjectState.CANCELLING:
        return decide(run, cancels, now)
    return begin(run, now)


def _call_told(run: Run, event: CallEnded | CallProgressed) -> None:
    """Hear what a call says. Raises `TurnFailed`, so that one node's answer harms no other."""
    try:
        if isinstance(event, CallEnded):
            _call_ended(run, event, run.clock)
        else:
            _call_progressed(run, event)
    except Exception as error:
        raise TurnFailed(event.node_id, error) from error


def _call_ended(run: Run, event: CallEnded, now: float) -> None:
    node = run.nodes.get(event.node_id)
    if node is None or not node.open_call or node.open_call != event.number:
        return
    stage = node.stage
    run.close_call(node, event.seconds)
    changes = _spent(run, node, event.usage)
    node.counted = NO_USAGE
    if changes:
        run.patch(node, **changes)
    outcome = event.outcome
    if stage is not None:
        run.add_stage(node, stage, event, late=_is_late(run, node, outcome))
    if run.ended:
        return
    if run.state is ProjectState.CANCELLING:
        if node.state not in TERMINAL_NODE_STATES:
            run.patch(node, state=NodeState.CANCELLED)
        end_if_cancelled(run)
    elif node.state not in CALLED_STATES:
        # It was cancelled or has to begin anew: a late answer changes nothing.
        if node.state in WAITING_STATES:
            run.queue.append(node.node_id)
    elif stage is not None and not isinstance(outcome, (_EXPECTED[stage], Failed)):
        message = f"the agent's answer is no {stage} answer"
        call_failed(run, node, stage, ErrorClass.INVALID_OUTPUT, message, now)
    elif isinstance(outcome, Decided):
        _decided(run, node, outcome.node_type, now)
    elif isinstance(outcome, Planned):
        _planned(run, node, outcome.tasks, stage or Stage.PLAN, now)
    elif isinstance(outcome, Failed) and stage is not None and asked_again(run, node, stage):
        modification_failed(run, node, outcome.message)
    elif isinstance(outcome, Produced) and (
        stage is Stage.AGGREGATE and asks(run, node, Checkpoint.AGGREGATION_REVIEW)
    ):
        ask(run, node, Checkpoint.AGGREGATION_REVIEW, outcome.result)
    elif isinstance(outcome, Produced):
        changes = NodeChanges(state=NodeState.DONE, result=outcome.result)
        if node.error is not None:
            changes["error"] = None
        if node.crash_redispatches:
            changes["crash_redispatches"] = 0
        finish(run, node, **changes)
    elif stage is not None:
        call_failed(run, node, stage, outcome.error_class, outcome.message, now)


def _is_late(run: Run, node: Node, outcome: Outcome) -> bool:
    """Return whether an answer changes nothing any more (SEM 20); a cancelled call gives none."""
    if isinstance(outcome, Failed) and outcome.error_class is ErrorClass.CANCELLED:
        return False
    over = run.ended or run.state is ProjectState.CANCELLING
    return over or node.state not in CALLED_STATES


def _call_progressed(run: Run, event: CallProgressed) -> None:
    node = run.nodes.get(event.node_id)
    if node is not None and node.open_call and node.open_call == event.number:
        changes = _spent(run, node, event.usage)
        changes["progress"] = storable(event.note, MAX_PROGRESS_CHARS)
        run.patch(node, **changes)


def _spent(run: Run, node: Node, usage: Usage) -> NodeChanges:
    """Charge what the node's call has cost beyond what is counted; return what that changes."""
    more = usage - node.counted
    if not more:
        return NodeChanges()
    node.counted = usage
    run.accounts.charge(node, more)
    return NodeChanges(usage=node.usage + more)


def _decided(run: Run, node: Node, node_type: NodeType, now: float) -> None:
    if asks(run, node, Checkpoint.ATOMIZATION):
        ask(run, node, Checkpoint.ATOMIZATION, node_type)
        return
    if not may_dispatch(run):
        # Its `next_attempt_time` says that no call is in flight between its two stages.
        run.patch(node, node_type=node_type, next_attempt_time=now, review_id="")
        run.queue.append(node.node_id)
        return
    stage = Stage.PLAN if node_type is NodeType.PLAN else Stage.EXECUTE
    begin_stage(run, node, stage, NodeChanges(node_type=node_type))


def _planned(run: Run, node: Node, tasks: tuple[DraftTask, ...], stage: Stage, now: float) -> None:
    modified = stage is Stage.MODIFY
    again = modified or node.children  # changed on request, or made anew
    checkpoint = Checkpoint.PLAN_MODIFICATION if again else Checkpoint.PLAN_GENERATION
    asked = asks(run, node, checkpoint)
    problems = plan_problems(run, node, tasks)
    if asked and not fits_one_review(tasks):
        problems.append(f"a plan to be reviewed has at most {MAX_BATCH_TASKS} tasks and 2.5 MB")
    elif problems and stage is Stage.PLAN and _waits_for_room(run, node, tasks):
        return
    if problems:
        text = "invalid plan: " + "; ".join(problems)
        if modified and asked_again(run, node, Stage.MODIFY):
            modification_failed(run, node, text)
        else:
            call_failed(run, node, stage, ErrorClass.INVALID_OUTPUT, text, now)
        return
    if asked:
        ask(run, node, checkpoint, tasks)
    else:
        adopt_plan(run, node, tasks)


def _waits_for_room(run: Run, node: Node, tasks: tuple[DraftTask, ...]) -> bool:
    """Let a plan that a budget of nodes alone forbids wait, if it may; return whether it does."""
    if plan_problems(run, node, tasks, room=False):
        return False
    return wait_for_room(run, node, sum(not task.reuse for task in tasks))


def _give_back(run: Run, event: Draining, now: float) -> None:
    """Announce a new attempt of every node whose call was abandoned: not a crash, not a retry.

    An AGGREGATING node gets a `next_attempt_time`, which says that no call of it is in flight.
    """
    run.draining = True
    run.queue.clear()
    for node in run.nodes.values():
        if not node.open_call:
            continue
        stage = node.stage
        run.close_call(node, 0.0)
        run.cut()
        call = event.calls.get(node.node_id)
        if call is not None:
            changes = _spent(run, node, call.usage)
            if changes:
                run.patch(node, **changes)
        node.counted = NO_USAGE
        if call is not None and stage is not None:
            run.add_stage(node, stage, call, late=False)
        if node.state not in CALLED_STATES:
            continue
        changes = NodeChanges(attempt=node.attempt + 1)
        if node.state is NodeState.AGGREGATING:
            changes["next_attempt_time"] = now
        announce_attempt(run, node, changes)
