"""What an open call tells its runner, from the loop and from threads."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator_svc.agents.base import AgentInput, Output, open_call, report, stop_wish
from orchestrator_svc.agents.scripted import ScriptedAgents
from orchestrator_svc.engine import activity as activity_module
from orchestrator_svc.engine.activity import Activity
from orchestrator_svc.engine.calls import call_agent
from orchestrator_svc.graph.event import Produced
from orchestrator_svc.graph.types import Stage
from orchestrator_svc.graph.usage import Usage
from tests.support.bound import WAIT_SECONDS


class Talker(ScriptedAgents):
    """An executor that reports from a thread and waits to be asked to stop."""

    async def execute(self, task: AgentInput) -> Output:
        await asyncio.to_thread(report, "halfway")
        await stop_wish().wait()
        return Output(text="stopped early")


async def test_a_note_from_a_thread_is_published_and_a_wish_to_stop_is_heard() -> None:
    noted: asyncio.Queue[str] = asyncio.Queue()
    activity = Activity(noted.put_nowait)
    before = activity.last_sign
    task = AgentInput.model_construct(project_id="p", node_id="n", options={})
    async with asyncio.timeout(WAIT_SECONDS), asyncio.TaskGroup() as group:
        call = group.create_task(call_agent(Talker(), Stage.EXECUTE, task, 20, activity))
        assert await noted.get() == "halfway"
        assert activity.last_sign >= before
        activity.stop_wish.set()
    outcome = call.result()
    assert isinstance(outcome, Produced)
    assert outcome.result.text == "stopped early"


async def test_notes_are_published_now_and_then_and_the_latest_one_wins() -> None:
    noted: list[str] = []
    activity = Activity(noted.append)
    for number in range(100):
        activity.report(f"step {number}")
    async with asyncio.timeout(WAIT_SECONDS):
        while not noted:  # noqa: ASYNC110 - a turn of the loop, no time
            await asyncio.sleep(0)
    activity.report("not yet")
    assert noted == ["step 99"]
    activity.close()
    assert activity.note == "not yet"


async def test_what_a_long_call_has_spent_is_published_while_it_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(activity_module, "USAGE_INTERVAL", 0.01)
    published = asyncio.Event()
    activity = Activity(lambda _: published.set())
    await asyncio.to_thread(activity.spend, Usage(1, 2, 3))
    async with asyncio.timeout(WAIT_SECONDS):
        await published.wait()
    assert activity.usage == Usage(1, 2, 3)
    published.clear()
    activity.spend(Usage(1, 2, 3))
    await asyncio.sleep(0)
    activity.close()
    assert activity._usage_timer is None, "a call that is over says it with its end"


async def test_outside_of_a_call_a_report_is_heard_by_nobody() -> None:
    assert open_call.get() is None
    report("hello")
    assert not stop_wish().is_set()
