"""What is begun goes on by itself, and ends like any other wait."""

from __future__ import annotations

import asyncio

import pytest

from state_svc.rpc.begun import Begun


class Source:
    """Gives what is put into `future`, and notes how far the coroutine has come."""

    def __init__(self) -> None:
        self.future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.steps: list[str] = []

    async def get(self) -> str:
        self.steps.append("begun")
        try:
            value = await self.future
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.steps.append("cancelled")
            raise
        self.steps.append("ended")
        return value


async def test_it_begins_at_once_and_goes_on_when_it_is_awaited() -> None:
    source = Source()
    begun = Begun(source.get())
    assert source.steps == ["begun"]
    source.future.set_result("frame")
    assert source.steps == ["begun"]
    assert await begun == "frame"
    assert source.steps == ["begun", "ended"]


async def test_what_comes_later_wakes_the_task_that_awaits() -> None:
    source = Source()
    asyncio.get_running_loop().call_soon(source.future.set_result, "frame")
    assert await Begun(source.get()) == "frame"


async def test_what_need_not_wait_is_there() -> None:
    async def get() -> int:
        return 7

    assert await Begun(get()) == 7


async def test_an_error_is_raised_to_whoever_awaits() -> None:
    source = Source()
    begun = Begun(source.get())
    source.future.set_exception(ValueError("broken"))
    with pytest.raises(ValueError, match="broken"):
        await begun


async def test_a_cancellation_of_the_task_reaches_the_coroutine() -> None:
    source = Source()

    async def wait() -> str:
        begun = Begun(source.get())
        asyncio.get_running_loop().call_soon(task.cancel)
        return await begun

    task = asyncio.create_task(wait())
    with pytest.raises(asyncio.CancelledError):
        await task
    assert source.steps == ["begun", "cancelled"]
    assert source.future.cancelled()


async def test_giving_up_cancels_what_is_waited_for() -> None:
    source = Source()
    Begun(source.get()).cancel()
    assert source.future.cancelled()
