"""A wait that begins before its owner has time for it: what it waits for comes meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any, Generic, TypeVar

_Result = TypeVar("_Result")


class Begun(Generic[_Result]):
    """Runs a coroutine up to where it waits for a future; `await` goes on from there, once.

    A task would begin only when its maker waits, and cost a turn of the loop at its end. Whoever
    makes a `Begun` awaits it in the same task, or cancels it.
    """

    def __init__(self, coroutine: Coroutine[asyncio.Future[Any], None, _Result]) -> None:
        """Begin. Raises what the coroutine raises before it waits."""
        self._coroutine = coroutine
        self._waiting: asyncio.Future[Any] | None = None
        try:
            self._waiting = coroutine.send(None)
        except StopIteration as ended:
            self._result: _Result = ended.value

    def __await__(self) -> Generator[asyncio.Future[Any], None, _Result]:
        waiting = self._waiting
        if waiting is None:
            return self._result
        while True:
            try:
                try:
                    yield waiting
                except BaseException as error:  # such as a cancellation of the task
                    waiting = self._coroutine.throw(error)
                else:
                    waiting = self._coroutine.send(None)
            except StopIteration as ended:
                result: _Result = ended.value
                return result

    def cancel(self) -> None:
        """Give up what is waited for. Does nothing once it has come."""
        if self._waiting is not None:
            self._waiting.cancel()
