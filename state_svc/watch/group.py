"""Watchers of one project that are sent the same bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from state_svc.codec.delta import MAX_BODY_BYTES, MAX_FRAME_BYTES, encode_watch_delta
from state_svc.codec.watch_frame import compress_frame
from state_svc.model.merge import Shown
from state_svc.watch.feed import Entry, Feed
from state_svc.watch.filter import FindSpec, encode_shown
from state_svc.watch.style import WatchStyle

if TYPE_CHECKING:
    import asyncio

    from state_svc.watch.watcher import Watcher


_MERGED_REVISIONS = 1_000  #: most revisions that are joined at one time
_CACHE_BYTES = 4 << 20  #: of encoded changes that differ from the stored ones
_CACHED_MESSAGES = 64


class TooLarge(Exception):
    """What comes next does not fit into one message; the store's reader cuts it."""


class Group:
    """Encodes each revision once for all of its watchers, and each message once per place.

    `idle` holds those that wait for news. Until `closed_until` they are let wait, unless enough
    changes have come in (`WatchStyle.hold_changes`).
    """

    def __init__(self, style: WatchStyle) -> None:
        self.style = style
        self.watchers: set[Watcher] = set()
        self.idle: dict[Watcher, None] = {}
        self.closed_until = 0.0  #: monotonic time
        self.waiting_changes = 0
        self.timer: asyncio.TimerHandle | None = None
        self.checksum: tuple[int, int] | None = None  #: (revision, checksum) of its view
        self._bodies: dict[int, bytes] = {}
        self._shown: dict[int, list[Shown]] = {}
        self._cached_bytes = 0
        self._messages: dict[tuple[int, int], tuple[bytes, int]] = {}
        self._head = 0

    def is_closed(self, now: float) -> bool:
        """Whether its watchers are let wait at monotonic time `now`."""
        return now < self.closed_until and self.waiting_changes < self.style.hold_changes

    def message(self, feed: Feed, first: int, after: int, find: FindSpec) -> tuple[bytes, int]:
        """Return the next message behind revision `after`, beginning its interval at `first`.

        And the revision that it ends at: the head, or less if that would be too large. Empty if
        nothing is shown of the revisions. Raises `TooLarge`.
        """
        if self._head != feed.head:
            self._forget(feed)
        place = (first, after)
        found = self._messages.get(place)
        if found is None:
            body, last = self._join(feed.after(after), find)
            if len(body) > MAX_BODY_BYTES:
                raise TooLarge
            message = encode_watch_delta(first, last, body) if body else b""
            if message and self.style.encoding:
                message = compress_frame(message, last)
            if len(self._messages) >= _CACHED_MESSAGES:
                self._messages.clear()
            found = self._messages[place] = (message, last)
        return found

    def _forget(self, feed: Feed) -> None:
        self._messages.clear()
        self._head = feed.head
        for revision in [r for r in self._shown if r <= feed.start]:
            del self._shown[revision]
        for revision in [r for r in self._bodies if r <= feed.start]:
            self._cached_bytes -= len(self._bodies.pop(revision))

    def _join(self, entries: list[Entry], find: FindSpec) -> tuple[bytes, int]:
        """Return the body of as many revisions as fit into one message, and the last of them."""
        if self.style.merges:
            return self._merge(entries, find)
        bodies: list[bytes] = []
        size = last = 0
        for entry in entries:
            body = self._body(entry, find)
            if bodies and size + len(body) > MAX_FRAME_BYTES:
                break
            if body:
                bodies.append(body)
                size += len(body)
            last = entry.applied.revision
        return b"".join(bodies), last

    def _body(self, entry: Entry, find: FindSpec) -> bytes:
        applied = entry.applied
        view_filter = self.style.filter
        if view_filter.is_default and not applied.commands and not applied.stages:
            return applied.body  # the bytes that went to the store
        body = self._bodies.get(applied.revision)
        if body is None:
            shown = view_filter.show(entry.changes, applied.images, find, applied.wholes)
            body = self._bodies[applied.revision] = encode_shown((applied.info,), shown)
            self._cached_bytes += len(body)
            if self._cached_bytes > _CACHE_BYTES:
                self._bodies.clear()
                self._cached_bytes = 0
        return body

    def _merge(self, entries: list[Entry], find: FindSpec) -> tuple[bytes, int]:
        joined: list[Shown] = []
        entries = entries[:_MERGED_REVISIONS]
        if len(self._shown) > _MERGED_REVISIONS:
            self._shown.clear()
        for entry in entries:
            applied = entry.applied
            shown = self._shown.get(applied.revision)
            if shown is None:
                shown = self.style.filter.show(entry.changes, applied.images, find, applied.wholes)
                self._shown[applied.revision] = shown
            joined += shown
        infos = (entry.applied.info for entry in entries)
        return encode_shown(infos, joined, coalesced=True), entries[-1].applied.revision
