"""Bounds how long an agent may take to end after it was told to (SEM 20).

An agent is cancelled cooperatively first: it gets `CANCEL_GRACE` seconds to clean up. One that
swallows the cancellation is abandoned: the run goes on without it, and whatever it still answers
is read by nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from orchestrator_svc.graph.event import Failed, Outcome
from orchestrator_svc.graph.types import ErrorClass

CANCEL_GRACE = 5.0  #: seconds
CANCELLED = Failed(ErrorClass.CANCELLED, "the call was cancelled")

#: Keeps what was abandoned alive until it ends: the loop itself holds tasks only weakly.
_abandoned: set[asyncio.Task[Outcome]] = set()

_log = structlog.get_logger(__name__)


class AgentTask:
    """The task of an agent, which ends itself after `timeout` seconds if it can.

    `over` is called exactly once, on the loop: with what came of the work, with `CANCELLED` if
    `cancel` came first, with an exception that is nobody's outcome, or when it is abandoned.
    """

    # Not in a task group: a group waits for ever for a task that swallows its cancellation.

    def __init__(
        self,
        work: Coroutine[Any, Any, Outcome],
        timeout: float,
        over: Callable[[Outcome | BaseException], None],
        *,
        grace: float = CANCEL_GRACE,
    ) -> None:
        loop = asyncio.get_running_loop()
        self._over = over
        self._grace = grace
        self._told = False  #: whether it was cancelled from outside
        self._task = loop.create_task(work, name="agent")
        self._task.add_done_callback(self._ended)
        self._timer = loop.call_later(timeout + grace, self._outlived, timeout)

    def cancel(self) -> None:
        """Tell the agent to end; it gets its grace."""
        if self._told or self._task.done():
            return
        self._told = True
        self._timer.cancel()
        self._timer = self._task.get_loop().call_later(self._grace, self._abandon, CANCELLED)
        self._task.cancel()

    def _ended(self, task: asyncio.Task[Outcome]) -> None:
        self._timer.cancel()
        if self._told or task.cancelled():
            if not task.cancelled():
                task.exception()  # read, so that nobody reports it as lost
            self._say(CANCELLED)
        else:
            self._say(task.exception() or task.result())

    def _outlived(self, timeout: float) -> None:
        text = (
            f"no answer within {timeout:g} s, nor an end {self._grace:g} s after it was cancelled"
        )
        self._abandon(Failed(ErrorClass.TIMEOUT, text))

    def _abandon(self, outcome: Outcome) -> None:
        _log.warning("an agent ignores its cancellation and is abandoned")
        task = self._task
        task.remove_done_callback(self._ended)
        task.cancel()
        _abandoned.add(task)
        task.add_done_callback(_forget)
        self._say(outcome)

    def _say(self, outcome: Outcome | BaseException) -> None:
        over, self._over = self._over, _heard  # whoever listens holds this: no circle is left
        over(outcome)


def _heard(outcome: Outcome | BaseException) -> None:
    raise AssertionError(f"a call has ended twice, now with {outcome!r}")


def _forget(task: asyncio.Task[Outcome]) -> None:
    _abandoned.discard(task)
    if not task.cancelled():
        task.exception()  # read, so that nobody reports it as lost
