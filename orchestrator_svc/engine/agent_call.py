"""An agent call in flight: what was asked, by when, and what it has said and cost so far."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from orchestrator_svc.agents.base import AgentInput
from orchestrator_svc.engine.abandon import CANCELLED, AgentTask
from orchestrator_svc.engine.activity import Activity
from orchestrator_svc.graph.event import Call, CallEnded, Outcome
from orchestrator_svc.graph.scene import OpenCall


class AgentCall:
    """One call, from when its agent is asked to when it has ended. Owned by the runner."""

    __slots__ = ("_agent", "_began", "_started", "_took", "activity", "call", "task")

    def __init__(self, call: Call, task: AgentInput, activity: Activity, started: float) -> None:
        self.call = call
        self.task = task
        self.activity = activity
        self._started = started  #: Unix seconds
        self._began = time.monotonic()
        self._took: float | None = None  #: seconds, once the agent has answered
        self._agent: AgentTask | None = None

    @property
    def seconds(self) -> float:
        """How long it has taken so far."""
        return time.monotonic() - self._began if self._took is None else self._took

    def begin(
        self,
        work: Coroutine[Any, Any, Outcome],
        over: Callable[[AgentCall, Outcome | BaseException], None],
    ) -> None:
        """Let the agent work; `over` is called once, whatever it does (`AgentTask`)."""
        self._agent = AgentTask(work, lambda outcome: over(self, outcome))

    @contextmanager
    def asking(self, timeout: float) -> Iterator[None]:
        """Count as the call's time what its agent takes to answer, and bound it."""
        assert self._agent is not None
        self._began = time.monotonic()
        try:
            with self._agent.asking(timeout):
                yield
        finally:
            self._took = time.monotonic() - self._began

    def cancel(self) -> None:
        """Tell the agent to end."""
        if self._agent is not None:
            self._agent.cancel()

    def ended(self, outcome: Outcome) -> CallEnded:
        """Return what there is to say of the call now that it is over."""
        call, usage, seconds = self.call, self.activity.usage, self.seconds
        trace = self.activity.notes.finish(call, self.task, self._started, seconds, usage)
        counted = 0.0 if outcome is CANCELLED else seconds
        return CallEnded(call.node_id, call.number, outcome, counted, usage, trace)

    def shown(self, now: float) -> OpenCall:
        """Return the call as those see it who look on, at the Unix time `now`."""
        call, wait = self.call, self.activity.place_in()
        return OpenCall(
            call.stage,
            call.agent_name,
            self._started,
            call.timeout,
            silent=self.activity.silent_for(),
            provider_place=None if wait is None else now + wait,
        )
