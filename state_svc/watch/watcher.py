"""One watcher: its place in the history and its mailbox."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from ramify.v1.state_service_pb2 import WatchEndReason
from state_svc.watch.filter import ViewFilter

if TYPE_CHECKING:
    from state_svc.watch.hub import Channel

MAILBOX_FRAMES = 64
MAILBOX_BYTES = 4 << 20


class Watcher:
    """A synced watcher is fed by the hub; an unsynced one catches up from the store.

    `through` is what has been put into the mailbox or sent; `announced` is the last revision
    that a message has promised, so the next message begins at `announced + 1`. A full mailbox
    is dropped, not the data: the watcher becomes unsynced, stands again where the messages that
    were sent have left it, and reads the rest from the store. Slow costs latency, not memory.
    """

    def __init__(self, channel: Channel, view_filter: ViewFilter) -> None:
        self.channel = channel
        self.filter = view_filter
        self.synced = False
        self.ending: WatchEndReason.ValueType | None = None
        self.through = channel.published
        self.announced = channel.published
        self._sent = channel.published
        self._frames: deque[tuple[bytes, int]] = deque()
        self._bytes = 0
        self._wake = asyncio.Event()

    @property
    def has_mail(self) -> bool:
        """Whether a message waits to be sent."""
        return bool(self._frames)

    def start_at(self, revision: int) -> None:
        """Stand at a revision, unsynced."""
        self.through = self.announced = self._sent = revision

    def put(self, frame: bytes, last: int) -> bool:
        """Take a message that ends at revision `last`; False if the mailbox was full."""
        if len(self._frames) >= MAILBOX_FRAMES or self._bytes + len(frame) > MAILBOX_BYTES:
            self.drop()
            return False
        self._frames.append((frame, last))
        self._bytes += len(frame)
        self.through = self.announced = last
        self._wake.set()
        return True

    def drop(self) -> None:
        """Lose the mailbox: become unsynced and read on from what was sent."""
        self._frames.clear()
        self._bytes = 0
        self.synced = False
        self.through = self.announced = self._sent
        self._wake.set()

    def pop(self) -> bytes | None:
        """Return the next message to send, None if there is none now.

        It counts as sent: whoever pops must send it or end the watch.
        """
        if not self._frames:
            return None
        frame, self._sent = self._frames.popleft()
        self._bytes -= len(frame)
        return frame

    def sent(self, revision: int) -> None:
        """Note a message, made outside the mailbox, that promises `revision`."""
        self.through = self.announced = self._sent = revision

    def end(self, reason: WatchEndReason.ValueType) -> None:
        """Ask the watch to send what is left and stop."""
        self.ending = reason
        self._wake.set()

    async def wait(self, seconds: float) -> bool:
        """Wait for a message, the loss of the mailbox or the end; False after `seconds`."""
        if self._frames or self.ending or not self.synced:
            return True
        self._wake.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return False
        return True
