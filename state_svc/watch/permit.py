"""Bounds how many watchers hold a view at one time: each keeps all nodes of its project."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

MAX_REPLAYS = 4  #: views of the past that watchers hold in memory at one time
MAX_LARGE_SNAPSHOTS = 4  #: large views that are being sent at one time
MAX_SMALL_SNAPSHOTS = 400  #: other views that are being sent at one time
LARGE_VIEW_NODES = 5_000  #: a view of more nodes is large
STALL_SECONDS = 5.0  #: a watcher that takes longer to read a message makes room for others
EARNED_SECONDS = 1.0  #: patience that a message which was read brings back


def patience_left(left: float, waited: float) -> float:
    """Return the seconds that are left to a client which has taken `waited` for a message.

    So a client that reads, but slowly, uses up its time as well.
    """
    return min(STALL_SECONDS, max(0.0, left - waited) + EARNED_SECONDS)


class ViewPermit:
    """A watcher's permit to hold a view.

    It is lost while its client does not read and no other permit of the kind is free.
    """

    def __init__(self, slots: asyncio.Semaphore, forget: Callable[[], None]) -> None:
        self._slots = slots
        self._forget = forget  #: drops the view
        self._timer: asyncio.TimerHandle | None = None
        self._left = STALL_SECONDS
        self._sent_at = 0.0  #: time of the loop at which the message was given to gRPC
        self._sending = False
        self.held = False

    async def take(self) -> None:
        """Wait for the permit, unless it is held."""
        if not self.held:
            await self._slots.acquire()
            self.held = True
            self._left = STALL_SECONDS
            if self._sending:
                self._watch_client()

    def sending(self) -> None:
        """Note that a message is on its way; the permit may end if that takes long."""
        self._sending = True
        if self.held:
            self._watch_client()

    def sent(self) -> None:
        """Note that the client has read on."""
        self._sending = False
        if self._timer is not None:
            waited = asyncio.get_running_loop().time() - self._sent_at
            self._left = patience_left(self._left, waited)
        self._stop_timer()

    def give_back(self) -> None:
        """Give the permit back. Idempotent."""
        self._stop_timer()
        if self.held:
            self.held = False
            self._forget()
            self._slots.release()

    def _watch_client(self) -> None:
        loop = asyncio.get_running_loop()
        self._sent_at = loop.time()
        self._timer = loop.call_later(self._left, self._stalled)

    def _stalled(self) -> None:
        if self._slots.locked():
            self.give_back()
        else:  # others find a free one: ask again later
            self._timer = asyncio.get_running_loop().call_later(STALL_SECONDS, self._stalled)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
