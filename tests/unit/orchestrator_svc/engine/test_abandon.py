"""Agents that end when they are told to, and those that do not (SEM 20)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any

from orchestrator_svc.agents.base import AgentInput, Plan, PlannedTask
from orchestrator_svc.agents.scripted import ScriptedAgents
from orchestrator_svc.aside import LARGE, aside
from orchestrator_svc.engine import abandon
from orchestrator_svc.engine.abandon import CANCELLED, AgentTask
from orchestrator_svc.engine.activity import Activity
from orchestrator_svc.engine.calls import call_agent
from orchestrator_svc.graph.event import Failed, Outcome, Planned, Produced
from orchestrator_svc.graph.node import Result
from orchestrator_svc.graph.patience import Patience
from orchestrator_svc.graph.settings import Settings
from orchestrator_svc.graph.types import ErrorClass, Stage, TaskType
from tests.support.bound import WAIT_SECONDS

DONE = Produced(Result(text="done"))


class Stubborn:
    """An agent that goes on after a cancellation until it is let go."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.told = asyncio.Event()
        self.let_go = asyncio.Event()

    async def work(self) -> Outcome:
        self.began.set()
        while not self.let_go.is_set():
            try:
                await self.let_go.wait()
            except asyncio.CancelledError:
                self.told.set()
        return DONE


class Call:
    """An agent's task, and what it says when it is over."""

    def __init__(self, work: Coroutine[Any, Any, Outcome], grace: float = 60.0) -> None:
        self.said: list[Outcome | BaseException] = []
        self._over = asyncio.Event()
        self.agent = AgentTask(work, self._say, grace=grace)

    def _say(self, outcome: Outcome | BaseException) -> None:
        self.said.append(outcome)
        self._over.set()

    async def over(self) -> Outcome | BaseException:
        """Wait for the end of the call; return its one outcome."""
        await self._over.wait()
        (outcome,) = self.said
        return outcome


async def answer() -> Outcome:
    return DONE


async def fail() -> Outcome:
    raise KeyError("a defect of the shell")


async def clean_up(began: asyncio.Event, cleaned: list[str]) -> Outcome:
    try:
        began.set()
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(0)
        cleaned.append("done")
    return DONE


async def test_an_answer_is_passed_on() -> None:
    assert await Call(answer()).over() is DONE


async def test_an_exception_that_is_nobodys_outcome_is_passed_on() -> None:
    assert isinstance(await Call(fail()).over(), KeyError)


async def test_a_cancelled_call_waits_for_its_agent_to_clean_up() -> None:
    cleaned: list[str] = []
    began = asyncio.Event()
    call = Call(clean_up(began, cleaned))
    await began.wait()
    call.agent.cancel()
    assert not call.said
    assert await call.over() is CANCELLED
    assert cleaned == ["done"]


async def test_a_call_that_is_cancelled_before_it_begins_is_over_too() -> None:
    call = Call(answer())
    call.agent.cancel()
    assert await call.over() is CANCELLED


async def test_an_agent_that_swallows_its_cancellation_is_abandoned() -> None:
    stubborn = Stubborn()
    call = Call(stubborn.work(), grace=0.0)
    await stubborn.began.wait()
    call.agent.cancel()
    assert await call.over() is CANCELLED
    await stubborn.told.wait()
    (left,) = abandon._abandoned
    stubborn.let_go.set()
    assert await left is DONE, "it ends by itself, and nobody reads it"
    await asyncio.sleep(0)
    assert not abandon._abandoned
    assert call.said == [CANCELLED]


async def test_what_an_agent_answers_after_its_cancellation_is_read_by_nobody() -> None:
    stubborn = Stubborn()
    call = Call(stubborn.work())
    await stubborn.began.wait()
    call.agent.cancel()
    await stubborn.told.wait()
    stubborn.let_go.set()
    assert await call.over() is CANCELLED


async def test_an_agent_that_outlives_its_time_is_a_timeout() -> None:
    stubborn = Stubborn()

    async def asked() -> Outcome:
        with call.agent.asking(0.0):
            return await stubborn.work()

    call = Call(asked(), grace=0.0)
    outcome = await call.over()
    assert isinstance(outcome, Failed)
    assert outcome.error_class is ErrorClass.TIMEOUT
    stubborn.let_go.set()
    await asyncio.gather(*abandon._abandoned)


class Planner(ScriptedAgents):
    """Answers at once, with a plan that is too large for the loop."""

    async def plan(self, task: AgentInput) -> Plan:
        return Plan(tasks=(PlannedTask(goal="a part", task_type=TaskType.SEARCH),) * LARGE)


async def test_an_answer_in_time_is_none_too_late_because_of_what_is_made_of_it() -> None:
    """It waits in the line for the thread of `aside` behind another project's long turn."""
    loop, turn, after = asyncio.get_running_loop(), threading.Event(), asyncio.Event()
    other = asyncio.create_task(aside(LARGE, lambda: turn.wait(WAIT_SECONDS)))
    await asyncio.sleep(0)
    task = AgentInput(
        project_id="p",
        node_id="root",
        attempt=1,
        goal="a goal",
        task_type=TaskType.SEARCH,
        layer=0,
        max_depth=5,
        overall_objective="a goal",
    )
    timeout = 0.01

    async def work() -> Outcome:
        activity = Activity(lambda note: None)
        asking = call.agent.asking
        return await call_agent(
            Planner(), Stage.PLAN, task, timeout, activity, Patience(Settings()), asking
        )

    call = Call(work(), grace=0.0)
    loop.call_later(timeout, lambda: loop.call_later(timeout, after.set))  # later than its own
    await after.wait()
    assert not call.said
    turn.set()
    outcome = await call.over()
    assert isinstance(outcome, Planned)
    assert len(outcome.tasks) == LARGE
    assert await other


async def test_what_a_call_waits_for_before_its_agent_is_asked_is_not_the_agents_time() -> None:
    asked = asyncio.Event()

    async def work() -> Outcome:
        await asked.wait()  # as for a lease that is not renewed
        with call.agent.asking(WAIT_SECONDS):
            return DONE

    call = Call(work(), grace=0.0)
    after = asyncio.Event()
    asyncio.get_running_loop().call_later(0.0, after.set)
    await after.wait()
    assert not call.said
    asked.set()
    assert await call.over() is DONE
