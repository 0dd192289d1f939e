"""Bounds how long a transfer stands still: it holds memory, or a place that others wait for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from typing import TypeVar

from state_svc.errors import InvalidRequest, Overloaded

IDLE_SECONDS = 60.0  #: that a client may take for one message

_Request = TypeVar("_Request")


async def received(requests: AsyncIterator[_Request]) -> AsyncGenerator[_Request, None]:
    """Yield what a client sends. Raises `InvalidRequest` if it sends nothing for too long."""
    while True:
        try:
            async with asyncio.timeout(IDLE_SECONDS):
                request = await anext(requests)
        except StopAsyncIteration:
            return
        except TimeoutError as error:
            problem = f"nothing came for {IDLE_SECONDS:g} seconds"
            raise InvalidRequest(field="data", problem=problem) from error
        yield request


async def sent(writing: Awaitable[None]) -> None:
    """Wait for a message to be sent. Raises `Overloaded` if the client does not read on."""
    try:
        async with asyncio.timeout(IDLE_SECONDS):
            await writing
    except TimeoutError as error:
        problem = f"the client has read nothing for {IDLE_SECONDS:g} seconds"
        raise Overloaded(problem=problem) from error
