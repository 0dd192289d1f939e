"""A silent call is reported, asked to stop, cancelled; a call waits for its provider place."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from orchestrator_svc.agents.base import AgentInput, Output, provider_call, report, stop_wish
from orchestrator_svc.agents.scripted import ScriptedAgents
from orchestrator_svc.engine.activity import Activity
from orchestrator_svc.engine.calls import call_agent
from orchestrator_svc.graph.event import Failed, Outcome, Produced
from orchestrator_svc.graph.patience import Patience
from orchestrator_svc.graph.rate import RateWindow
from orchestrator_svc.graph.settings import Settings
from orchestrator_svc.graph.types import ErrorClass, Stage
from tests.support.bound import WAIT_SECONDS

NEVER = Settings(timeout_warning_seconds=0, timeout_soft_seconds=0, timeout_hard_seconds=0)
TASK = AgentInput.model_construct(project_id="p", node_id="n", options={})


class Silent(ScriptedAgents):
    """Says nothing until it is asked to stop."""

    async def execute(self, task: AgentInput) -> Output:
        await stop_wish().wait()
        return Output(text="what I have")


class Deaf(ScriptedAgents):
    """Says nothing and hears nothing."""

    async def execute(self, task: AgentInput) -> Output:
        await asyncio.Event().wait()
        return Output()


class Lively(ScriptedAgents):
    """Works on for longer than any threshold, and says so."""

    async def execute(self, task: AgentInput) -> Output:
        for _ in range(25):
            report()
            await asyncio.sleep(0.1)
        return Output(text="done")


async def call(agents: ScriptedAgents, settings: Settings, notes: list[str]) -> Outcome:
    """Return what comes of a call under these thresholds."""
    async with asyncio.timeout(WAIT_SECONDS):
        activity = Activity(notes.append)
        patience = Patience(settings)
        return await call_agent(agents, Stage.EXECUTE, TASK, 20, activity, patience)


async def test_a_silent_agent_is_asked_to_stop_and_keeps_what_it_has() -> None:
    outcome = await call(Silent(), replace(NEVER, timeout_soft_seconds=0.01), [])
    assert isinstance(outcome, Produced)
    assert outcome.result.text == "what I have"


async def test_an_agent_that_does_not_stop_is_cancelled_hard() -> None:
    notes: list[str] = []
    settings = replace(
        NEVER,
        timeout_warning_seconds=0.01,
        timeout_soft_seconds=1.0,
        timeout_hard_seconds=2.0,
    )
    outcome = await call(Deaf(), settings, notes)
    assert isinstance(outcome, Failed)
    assert outcome.error_class is ErrorClass.TIMEOUT
    assert "no sign of life for" in outcome.message
    assert notes, "watchers were warned"
    assert all("no sign of life" in note for note in notes)


async def test_signs_of_life_start_the_count_anew() -> None:
    outcome = await call(Lively(), replace(NEVER, timeout_hard_seconds=2.0), [])
    assert isinstance(outcome, Produced)


async def test_the_time_of_the_attempt_ends_a_lively_call_too() -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        activity = Activity(lambda _: None)
        outcome = await call_agent(Lively(), Stage.EXECUTE, TASK, 0.01, activity, Patience(NEVER))
    assert isinstance(outcome, Failed)
    assert outcome.message == "no answer within 0.01 s"


@pytest.mark.execution_key("rate_limit_rpm")
async def test_a_call_waits_for_its_place_at_the_provider_and_is_not_silent_then() -> None:
    class Asking(ScriptedAgents):
        asked = 0

        async def execute(self, task: AgentInput) -> Output:
            for _ in range(3):
                await provider_call()
                self.asked += 1
            return Output(text="done")

    for most, asked in ((2, 2), (3, 3)):
        agents = Asking()
        activity = Activity(lambda _: None, RateWindow(most))
        async with asyncio.TaskGroup() as group:
            open_ = group.create_task(call_agent(agents, Stage.EXECUTE, TASK, 20, activity))
            while agents.asked < asked:  # noqa: ASYNC110 - a turn of the loop, no time
                await asyncio.sleep(0)
            for _ in range(20):
                await asyncio.sleep(0)
            assert agents.asked == asked
            assert open_.done() == (asked == 3)
            if not open_.done():
                activity.last_sign -= 1_000
                assert activity.silent_for() == 0.0
            open_.cancel()
