"""One watcher: its place in the history, and the one message it is given at a time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ramify.v1.state_service_pb2 import WatchEndReason

if TYPE_CHECKING:
    from state_svc.watch.group import Group
    from state_svc.watch.hub import Channel


class Watcher:
    """A synced watcher is given messages by the hub; an unsynced one catches up from the store.

    It is given one message at a time, and the next only when it asks for it: whoever reads slowly
    gets fewer, fuller messages. `through` is what it has been given or what is known to show it
    nothing; `announced` is the last revision that a message has promised, so the next message
    begins at `announced + 1`. A watcher that falls behind what the project's feed still holds
    becomes unsynced and reads on from the store. Slow costs latency, not memory.
    """

    def __init__(self, channel: Channel, group: Group, patience: float) -> None:
        self.channel = channel
        self.group = group
        self.patience = patience  #: seconds that it lets others go first
        self.synced = False
        self.behind = False  #: it has lost its place in the feed since it was last synced
        self.reads_through = 0  #: the store's reader must get it there before it joins the feed
        self.due = False  #: it waits for its turn
        self.ending: WatchEndReason.ValueType | None = None
        self.through = self.announced = channel.feed.head
        self._message: bytes | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def has_mail(self) -> bool:
        """Whether a message waits to be sent."""
        return self._message is not None

    def start_at(self, revision: int) -> None:
        """Stand at a revision, unsynced."""
        self.through = self.announced = revision

    def put(self, message: bytes, last: int) -> None:
        """Take a message that ends at revision `last`; there must be room for it."""
        assert self._message is None
        self._message = message
        self.through = self.announced = last
        self._wake()

    def pop(self) -> bytes | None:
        """Return the message to send, None if there is none.

        It counts as sent: whoever pops must send it or end the watch.
        """
        message, self._message = self._message, None
        return message

    def drop(self, *, behind: bool) -> None:
        """Become unsynced; what was given so far is still sent."""
        self.synced = False
        self.behind = behind
        self._wake()

    def sent(self, revision: int) -> None:
        """Note a message, made outside the hub, that promises `revision`."""
        self.through = self.announced = revision

    def end(self, reason: WatchEndReason.ValueType) -> None:
        """Ask the watch to send what is left and stop."""
        self.ending = reason
        self._wake()

    async def wait(self, seconds: float) -> bool:
        """Wait for a message, the loss of the place or the end; False after `seconds`."""
        if self._has_news():
            return True
        loop = asyncio.get_running_loop()
        self._waiter = waiter = loop.create_future()
        timer = loop.call_later(seconds, self._wake)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiter = None
        return self._has_news()

    def _has_news(self) -> bool:
        return self._message is not None or self.ending is not None or not self.synced

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
