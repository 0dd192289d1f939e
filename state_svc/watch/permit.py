"""Bounds how many watchers rebuild a project's past at one time: each holds all of its nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

MAX_REPLAYS = 4  #: views of the past that watchers hold in memory at one time
STALL_SECONDS = 5.0  #: a watcher that takes longer to read a message makes room for others


class ReplayPermit:
    """A watcher's permit to hold a view of the past; lost while its client does not read."""

    def __init__(self, slots: asyncio.Semaphore, forget: Callable[[], None]) -> None:
        self._slots = slots
        self._forget = forget  #: drops the view
        self._timer: asyncio.TimerHandle | None = None
        self.held = False
        self._sending = False

    async def take(self) -> None:
        """Wait for the permit, unless it is held."""
        if not self.held:
            await self._slots.acquire()
            self.held = True
            if self._sending:
                self._watch_client()

    def sending(self) -> None:
        """Note that a message is on its way; the permit ends if that takes long."""
        self._sending = True
        if self.held:
            self._watch_client()

    def _watch_client(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(STALL_SECONDS, self.give_back)

    def sent(self) -> None:
        """Note that the client has read on."""
        self._sending = False
        self._stop_timer()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def give_back(self) -> None:
        """Give the permit back. Idempotent."""
        self._stop_timer()
        if self.held:
            self.held = False
            self._forget()
            self._slots.release()
