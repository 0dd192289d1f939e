"""Slots that owners take turns at: nobody waits behind all that somebody else has asked for."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class TurnQueue(Generic[T]):
    """Who waits, by owner. Owners are served in turn, each one's own in order. Pure."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[T]] = {}  #: by owner, whose turn is next first; none empty

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def add(self, owner: str, item: T) -> None:
        """Append to what an owner waits for; a new owner comes after all others."""
        self._waiting.setdefault(owner, deque()).append(item)

    def remove(self, owner: str, item: T) -> None:
        """Take out what is not waited for any more."""
        waiting = self._waiting.get(owner)
        if waiting is not None and item in waiting:
            waiting.remove(item)
            if not waiting:
                del self._waiting[owner]

    def pop(self) -> T | None:
        """Return what is next, and let its owner's next turn be the last; None if nobody waits."""
        if not self._waiting:
            return None
        owner = next(iter(self._waiting))
        waiting = self._waiting.pop(owner)
        item = waiting.popleft()
        if waiting:
            self._waiting[owner] = waiting
        return item


class FairSlots:
    """A semaphore whose waiters are served in turns of their owners. Owned by the event loop."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._queue: TurnQueue[asyncio.Future[None]] = TurnQueue()

    async def acquire(self, owner: str) -> None:
        """Wait for a slot, and take it."""
        if self._free:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.add(owner, turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release()  # it was given in the same moment
            else:
                self._queue.remove(owner, turn)
            raise

    def release(self) -> None:
        """Give a slot back: whose turn it is has it at once."""
        turn = self._queue.pop()
        while turn is not None and turn.done():  # cancelled, and not heard of yet
            turn = self._queue.pop()
        if turn is None:
            self._free += 1
        else:
            turn.set_result(None)
