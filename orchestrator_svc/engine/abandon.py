"""Bounds how long an agent may take to end after it was told to (SEM 20).

A call is cancelled cooperatively first: its agent gets `CANCEL_GRACE` seconds to clean up. One
that swallows the cancellation is abandoned: the run goes on without it, and whatever it still
answers is read by nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog

from orchestrator_svc.graph.event import Failed, Outcome
from orchestrator_svc.graph.types import ErrorClass

CANCEL_GRACE = 5.0  #: seconds

#: Keeps what was abandoned alive until it ends: the loop itself holds tasks only weakly.
_abandoned: set[asyncio.Task[Outcome]] = set()

_log = structlog.get_logger(__name__)


async def bounded(
    work: Coroutine[Any, Any, Outcome], timeout: float, *, grace: float = CANCEL_GRACE
) -> Outcome:
    """Return what came of `work`, which ends itself after `timeout` seconds if it can.

    When this task is cancelled, so is `work`, and `CancelledError` goes on once it has ended or
    was abandoned.
    """
    # Not in a task group: a group waits for ever for a task that swallows its cancellation.
    task = asyncio.create_task(work, name="agent")
    try:
        await asyncio.wait((task,), timeout=timeout + grace)
        if task.done():
            return task.result()
        text = f"no answer within {timeout:g} s, nor an end {grace:g} s after it was cancelled"
        return Failed(ErrorClass.TIMEOUT, text)
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.wait((task,), timeout=grace)
        raise
    finally:
        if not task.done():
            _abandon(task)


def _abandon(task: asyncio.Task[Outcome]) -> None:
    _log.warning("an agent ignores its cancellation and is abandoned")
    task.cancel()
    _abandoned.add(task)
    task.add_done_callback(_forget)


def _forget(task: asyncio.Task[Outcome]) -> None:
    _abandoned.discard(task)
    if not task.cancelled():
        task.exception()  # read, so that nobody reports it as lost
