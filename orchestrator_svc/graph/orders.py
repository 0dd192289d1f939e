"""What an operator's order does to a run: it is applied or refused, and says what came of it.

An order is durable before it gets here (SEM 19). Its answer and the first of its effects are one
group, so they become durable together; effects that follow in later batches are completed by
`recover.take_up` if a crash comes between.
"""

from __future__ import annotations

from collections.abc import Callable

from orchestrator_svc.graph.cancel import cancel_node, cancel_run
from orchestrator_svc.graph.event import CommandGiven
from orchestrator_svc.graph.node import Node
from orchestrator_svc.graph.recover import take_up
from orchestrator_svc.graph.run import Run
from orchestrator_svc.graph.types import (
    TERMINAL_NODE_STATES,
    CommandState,
    CommandType,
    ProjectState,
)

MAX_NAMED_NODES = 20  #: in the answer to an order

_PAUSED = (ProjectState.PAUSING, ProjectState.PAUSED)


class Refused(Exception):
    """An order cannot have an effect; the text says why and what would work instead."""


def carry_out(run: Run, order: CommandGiven, now: float) -> None:
    """Apply or refuse an order. One that was answered before is ignored."""
    if order.command_id in run.commands:
        return
    record = run.answer_command(order.command_id)
    try:
        handler = _HANDLERS.get(order.command_type)
        if handler is None:
            raise Refused("this orchestrator does not know the order")
        if run.ended:
            raise Refused(f"the project is {run.state}")
        record.answer = handler(run, order, now)
    except Refused as refusal:
        record.state = CommandState.REFUSED
        record.answer = str(refusal)


def _cancel_project(run: Run, order: CommandGiven, now: float) -> str:
    if run.state is not ProjectState.CANCELLING:
        cancel_run(run)
    return ""


def _pause(run: Run, order: CommandGiven, now: float) -> str:
    _refuse_if_cancelling(run)
    if run.state not in _PAUSED:
        run.patch_project(ProjectState.PAUSING, pause_time=now)
    running = [node.node_id for node in run.nodes.values() if node.open_call]
    if not running:
        return "nothing runs"
    more = f" and {len(running) - MAX_NAMED_NODES} more" if len(running) > MAX_NAMED_NODES else ""
    calls = "1 agent call" if len(running) == 1 else f"{len(running)} agent calls"
    verb = "runs" if len(running) == 1 else "run"
    return f"{calls} still {verb}: {', '.join(running[:MAX_NAMED_NODES])}{more}"


def settle_pause(run: Run) -> None:
    """Complete a pause once the last call is over."""
    if run.state is ProjectState.PAUSING and not run.busy:
        run.cut()
        run.patch_project(ProjectState.PAUSED)


def _resume(run: Run, order: CommandGiven, now: float) -> str:
    _refuse_if_cancelling(run)
    if run.state not in _PAUSED:
        raise Refused(f"the project is {run.state}, not paused")
    paused_for = max(0.0, now - run.pause_time) if run.pause_time is not None else 0.0
    run.patch_project(ProjectState.RUNNING, pause_time=None)
    run.shift_timers(paused_for)
    run.accounts.grant(now)
    if run.dormant:
        take_up(run, now)
    return ""


def _cancel_node(run: Run, order: CommandGiven, now: float) -> str:
    _refuse_if_cancelling(run)
    node = _node_of(run, order)
    if node.state in TERMINAL_NODE_STATES:
        raise Refused(f"{node.node_id} is {node.state} already")
    if not node.parent_id:
        cancel_run(run)
        return "the root is the run: the run is cancelled"
    count = cancel_node(run, node)
    return f"{count} nodes are cancelled" if count > 1 else ""


def _refuse_if_cancelling(run: Run) -> None:
    if run.state is ProjectState.CANCELLING:
        raise Refused("the project is being cancelled")


def _node_of(run: Run, order: CommandGiven) -> Node:
    node = run.nodes.get(order.node_id)
    if node is None:
        raise Refused(f"there is no node {order.node_id!r}")
    return node


_HANDLERS: dict[CommandType, Callable[[Run, CommandGiven, float], str]] = {
    CommandType.CANCEL_PROJECT: _cancel_project,
    CommandType.PAUSE_PROJECT: _pause,
    CommandType.RESUME_PROJECT: _resume,
    CommandType.CANCEL_NODE: _cancel_node,
}
