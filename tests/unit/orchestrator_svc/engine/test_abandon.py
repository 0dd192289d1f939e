"""Agents that end when they are told to, and those that do not (SEM 20)."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator_svc.engine import abandon
from orchestrator_svc.engine.abandon import bounded
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


async def answer() -> Outcome:
    return DONE


async def clean_up(cleaned: list[str]) -> Outcome:
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(0)
        cleaned.append("done")
    return DONE


async def test_an_answer_is_passed_on() -> None:
    assert await bounded(answer(), 10.0) is DONE


async def test_a_cancelled_call_waits_for_its_agent_to_clean_up() -> None:
    cleaned: list[str] = []
    task = asyncio.create_task(bounded(clean_up(cleaned), 10.0))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cleaned == ["done"]


async def test_an_agent_that_swallows_its_cancellation_is_abandoned() -> None:
    stubborn = Stubborn()
    task = asyncio.create_task(bounded(stubborn.work(), 10.0, grace=0.0))
    await stubborn.began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await stubborn.told.wait()
    (left,) = abandon._abandoned
    stubborn.let_go.set()
    assert await left is DONE, "it ends by itself, and nobody reads it"
    await asyncio.sleep(0)
    assert not abandon._abandoned


async def test_an_agent_that_outlives_its_time_is_a_timeout() -> None:
    stubborn = Stubborn()
    outcome = await bounded(stubborn.work(), 0.0, grace=0.0)
    assert isinstance(outcome, Failed)
    assert outcome.error_class is ErrorClass.TIMEOUT
    stubborn.let_go.set()
    await asyncio.gather(*abandon._abandoned)
