"""Bounds how long a transfer waits for its client: it holds a place that others wait for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from typing import TypeVar

from google.protobuf.message import Message

from state_svc.errors import InvalidRequest, Overloaded

IDLE_SECONDS = 60.0  #: that a client may take for one message
LEAST_RATE = 16 << 10  #: bytes a second beyond that, over the whole transfer

_Request = TypeVar("_Request")


class Pace:
    """How long a transfer may still wait for its client. Pure.

    Time that the service itself takes does not count.
    """

    def __init__(self) -> None:
        self._waited = 0.0
        self._bytes = 0

    def add(self, waited: float, size: int) -> None:
        """Note a message of `size` bytes that the client took `waited` seconds for."""
        self._waited += waited
        self._bytes += size

    def patience(self) -> float:
        """Return the seconds that the next message may take; 0 or less: none."""
        return min(IDLE_SECONDS, IDLE_SECONDS + self._bytes / LEAST_RATE - self._waited)


async def received(requests: AsyncIterator[_Request]) -> AsyncGenerator[_Request, None]:
    """Yield what a client sends. Raises `InvalidRequest` if it stands still or is too slow."""
    pace = Pace()
    while True:
        began = time.monotonic()
        try:
            async with asyncio.timeout(pace.patience()):
                request = await anext(requests)
        except StopAsyncIteration:
            return
        except TimeoutError as error:
            raise InvalidRequest(field="data", problem=_problem("came", pace)) from error
        size = request.ByteSize() if isinstance(request, Message) else 0
        pace.add(time.monotonic() - began, size)
        yield request


async def sent(writing: Awaitable[None], size: int, pace: Pace) -> None:
    """Wait for a message of `size` bytes to be sent.

    Raises `Overloaded` if the client does not read on or is too slow.
    """
    began = time.monotonic()
    try:
        async with asyncio.timeout(pace.patience()):
            await writing
    except TimeoutError as error:
        raise Overloaded(problem=_problem("was read", pace)) from error
    pace.add(time.monotonic() - began, size)


def _problem(what: str, pace: Pace) -> str:
    if pace.patience() < IDLE_SECONDS:
        return f"less {what} than {LEAST_RATE} bytes a second"
    return f"nothing {what} for {IDLE_SECONDS:g} seconds"
