"""Watches one agent call for signs of life; warns, asks it to stop, cancels it (SEM 22)."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from orchestrator_svc.agents.base import AgentInput
from orchestrator_svc.engine.activity import Activity
from orchestrator_svc.graph.patience import Patience, Step
from orchestrator_svc.logs import get_logger

_log = get_logger(__name__)


class Watchdog:
    """A context around a call. Ends it through its deadline, so that one place decides."""

    def __init__(
        self, activity: Activity, patience: Patience, deadline: asyncio.Timeout, task: AgentInput
    ) -> None:
        self.bitten_after: float | None = None  #: seconds of silence that ended the call
        self._activity = activity
        self._patience = patience
        self._deadline = deadline
        self._task = task
        self._step = Step.CALM
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        self._look_in(self._patience.first_look)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._timer = None
        silent = self._activity.silent_for()
        step = self._patience.step(silent)
        if step > self._step:
            self._act(step, silent)
        self._step = step
        if step < Step.CANCELLED:
            self._look_in(self._patience.next_look(silent))

    def _look_in(self, seconds: float | None) -> None:
        if seconds is not None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._look)

    def _act(self, step: Step, silent: float) -> None:
        _log.warning(
            "agent call gives no sign of life",
            project_id=self._task.project_id,
            node_id=self._task.node_id,
            seconds=round(silent, 3),
            step=step.name.lower(),
        )
        if step is Step.CANCELLED:
            if not self._deadline.expired():
                self.bitten_after = silent
                self._deadline.reschedule(asyncio.get_running_loop().time())
            return
        note = f"no sign of life for {silent:.0f} s"
        if step is Step.ASKED:
            self._activity.stop_wish.set()
            note += ", asked to stop"
        self._activity.remark(note)
