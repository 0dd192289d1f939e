"""Agents that end when they are told to, and those that do not (SEM 20)."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from orchestrator_svc.engine import abandon
from orchestrator_svc.engine.abandon import CANCELLED, AgentTask
from orchestrator_svc.graph.event import Failed, Outcome, Produced
from orchestrator_svc.graph.node import Result
from orchestrator_svc.graph.types import ErrorClass

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

    def __init__(
        self, work: Coroutine[Any, Any, Outcome], timeout: float = 60.0, grace: float = 60.0
    ) -> None:
        self.said: list[Outcome | BaseException] = []
        self._over = asyncio.Event()
        self.agent = AgentTask(work, timeout, self._say, grace=grace)

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
    outcome = await Call(stubborn.work(), timeout=0.0, grace=0.0).over()
    assert isinstance(outcome, Failed)
    assert outcome.error_class is ErrorClass.TIMEOUT
    stubborn.let_go.set()
    await asyncio.gather(*abandon._abandoned)
