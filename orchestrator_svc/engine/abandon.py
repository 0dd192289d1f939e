"""Bounds how long an agent may take to end after it was told to (SEM 20).

An agent is cancelled cooperatively first: it gets `CANCEL_GRACE` seconds to clean up. One that
swallows the cancellation is abandoned: the run goes on without it, and whatever it still answers
is read by nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from orchestrator_svc.graph.event import Failed, Outcome
from orchestrator_svc.graph.types import ErrorClass
from orchestrator_svc.logs import get_logger

CANCEL_GRACE = 5.0  #: seconds
CANCELLED = Failed(ErrorClass.CANCELLED, "the call was cancelled")

#: Keeps what was abandoned alive until it ends: the loop itself holds tasks only weakly.
_abandoned: set[asyncio.Task[Outcome]] = set()

_log = get_logger(__name__)


class AgentTask:
    """The task of an agent call, which ends itself in time if the agent lets it.

    `over` is called exactly once, on the loop: with what came of the work, with `CANCELLED` if
    `cancel` came first, with an exception that is nobody's outcome, or when it is abandoned.
    """

    # Not in a task group: a group waits for ever for a task that swallows its cancellation.

    def __init__(
        self,
        work: Coroutine[Any, Any, Outcome],
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
        self._timer: asyncio.TimerHandle | None = None

    @contextmanager
    def asking(self, timeout: float) -> Iterator[None]:
        """Abandon an agent that is still asked at the end of its time, of which it is told.

        What comes before and after is not its time.
        """
        timer = self._task.get_loop().call_later(timeout + self._grace, self._outlived, timeout)
        try:
            yield
        finally:
            timer.cancel()

    def cancel(self) -> None:
        """Tell the agent to end; it gets its grace."""
        if self._told or self._task.done():
            return
        self._told = True
        self._timer = self._task.get_loop().call_later(self._grace, self._abandon, CANCELLED)
        self._task.cancel()

    def _ended(self, task: asyncio.Task[Outcome]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._told or task.cancelled():
            if not task.cancelled():
                task.exception()  # read, so that nobody reports it as lost
            self._say(CANCELLED)
        else:
            self._say(task.exception() or task.result())

    def _outlived(self, timeout: float) -> None:
        if self._told:
            return
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
