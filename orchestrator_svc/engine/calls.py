"""One agent call: asks the agent, bounds its time, and makes an outcome of whatever happens."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from orchestrator_svc.agents.base import (
    NO_MODIFIER,
    AgentError,
    AgentInput,
    Modifier,
    Plan,
    open_call,
)
from orchestrator_svc.agents.profile import AgentSet
from orchestrator_svc.aside import aside
from orchestrator_svc.engine.activity import Activity
from orchestrator_svc.engine.context import outcome_of
from orchestrator_svc.engine.trace import output_body
from orchestrator_svc.engine.watchdog import Watchdog
from orchestrator_svc.errors import leaves
from orchestrator_svc.graph.event import Failed, Outcome
from orchestrator_svc.graph.patience import Patience
from orchestrator_svc.graph.settings import Settings
from orchestrator_svc.graph.types import ErrorClass, Stage
from orchestrator_svc.logs import get_logger

MAX_CAUSE_CHARS = 500
_PATIENCE = Patience(Settings())

_log = get_logger(__name__)


async def call_agent(
    agents: AgentSet,
    stage: Stage,
    task: AgentInput,
    timeout: float,
    monitor: Activity,
    patience: Patience = _PATIENCE,
    asking: Callable[[float], AbstractContextManager[object]] = nullcontext,
) -> Outcome:
    """Return what came of a call. Raises only `CancelledError`, when this task is cancelled.

    On timeout, be it of the attempt or of the patience with a silent agent, the agent is
    cancelled and waited for: an agent must not swallow the cancellation. `asking` is entered with
    the timeout while the agent is asked; what is made of its answer takes time of its own, in the
    line for the thread of `aside`.
    To be called in a task of its own: `monitor` stays the open call of that task.
    """
    open_call.set(monitor)
    deadline = asyncio.timeout(timeout)
    watchdog = Watchdog(monitor, patience, deadline, task)
    try:
        async with deadline:
            with asking(timeout), watchdog:
                answer = await _ask(agents, stage, task)
    except TimeoutError as error:
        if watchdog.bitten_after is not None:
            silence = f"no sign of life for {watchdog.bitten_after:g} s"
            return Failed(ErrorClass.TIMEOUT, silence)
        if deadline.expired():
            return Failed(ErrorClass.TIMEOUT, f"no answer within {timeout:g} s")
        return _unexpected(task, stage, error)
    except AgentError as error:
        return Failed(error.error_class, error.message)
    except asyncio.CancelledError:
        current = asyncio.current_task()
        if current is not None and current.cancelling():
            raise
        return Failed(ErrorClass.CANCELLED, "the agent cancelled its own call")
    except Exception as error:
        return _unexpected(task, stage, error)
    try:
        extent = len(answer.tasks) if isinstance(answer, Plan) else 1
        output, outcome = await aside(extent, lambda: (output_body(answer), outcome_of(answer)))
    except Exception as error:  # an answer that was made without its checks
        text = f"the answer cannot be read: {_shown(error)}"
        return Failed(ErrorClass.INVALID_OUTPUT, text[:MAX_CAUSE_CHARS])
    monitor.notes.output = output
    return outcome


async def _ask(agents: AgentSet, stage: Stage, task: AgentInput) -> object:
    if stage is Stage.EXECUTE:
        return await agents.execute(task)
    if stage is Stage.PLAN:
        return await agents.plan(task)
    if stage is Stage.AGGREGATE:
        return await agents.aggregate(task)
    if stage is Stage.MODIFY:
        if not isinstance(agents, Modifier):
            raise AgentError(ErrorClass.EXECUTION, NO_MODIFIER)
        return await agents.modify(task)
    return await agents.atomize(task)


def _unexpected(task: AgentInput, stage: Stage, error: Exception) -> Outcome:
    """An agent raised what it should not: a failure of its work, with the trace in the log."""
    for cause in leaves(error):
        if isinstance(cause, AgentError):
            return Failed(cause.error_class, cause.message)
    _log.warning(
        "agent raised an unexpected exception",
        project_id=task.project_id,
        node_id=task.node_id,
        stage=str(stage),
        traceback="".join(traceback.format_exception(error)),
    )
    return Failed(ErrorClass.EXECUTION, _shown(next(leaves(error)))[:MAX_CAUSE_CHARS])


def _shown(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # what an error says of itself may be an agent's code too
        text = "it cannot be shown"
    return f"{type(error).__name__}: {text}"
