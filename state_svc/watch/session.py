"""One watch from its start to its end: the messages of `WatchProject`, in order."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from ramify.v1.state_service_pb2 import (
    Bookmark,
    Coalescing,
    Resync,
    ResyncReason,
    WatchCreated,
    WatchEnded,
    WatchEndReason,
    WatchProjectRequest,
    WatchProjectResponse,
)
from state_svc.codec.watch_frame import compress_frame
from state_svc.errors import CorruptRecord, RevisionAhead, RevisionCompacted
from state_svc.model.project import LiveProject
from state_svc.store.base import StateStore
from state_svc.watch.catchup import CatchUp
from state_svc.watch.hub import WatchHub
from state_svc.watch.style import BroadcastDefaults, choose_style
from state_svc.watch.watcher import Watcher
from state_svc.watch.whole_view import ViewGone, WholeView

MAX_BOOKMARK_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Start:
    """Where a watch begins."""

    after: int | None  #: revision to begin behind; None: a snapshot first
    resync: ResyncReason.ValueType | None = None  #: why a snapshot comes unasked


def choose_start(request: WatchProjectRequest, project: LiveProject) -> Start:
    """Return where to begin (SEM 13, 30). Raises `RevisionAhead` or `RevisionCompacted`."""
    head = project.view.revision
    if request.project_uid and request.project_uid != project.uid:
        return Start(None, ResyncReason.RESYNC_REASON_PROJECT_REPLACED)
    kind = request.WhichOneof("start")
    if kind == "head":
        return Start(head)
    if kind not in ("after_revision", "from_beginning"):
        return Start(None)
    after = request.after_revision
    if after > head:
        raise RevisionAhead(revision=after, head_revision=head)
    compacted = project.view.compacted
    if after >= compacted:
        return Start(after)
    if request.fail_if_compacted:
        raise RevisionCompacted(revision=after, compacted_revision=compacted)
    return Start(None, ResyncReason.RESYNC_REASON_COMPACTED)


class WatchSession:
    """Turns one request into messages. Cancelled from outside when the client goes away."""

    def __init__(
        self,
        hub: WatchHub,
        store: StateStore,
        project: LiveProject,
        request: WatchProjectRequest,
        defaults: BroadcastDefaults = BroadcastDefaults(),  # noqa: B008 - immutable
    ) -> None:
        self._hub = hub
        self._store = store
        self._project = project
        self._request = request
        self._style = choose_style(request, project.view.entity.settings, defaults)
        interval = request.bookmark_interval_ms / 1_000
        self._bookmark_seconds = interval or MAX_BOOKMARK_SECONDS
        self._last_bookmark = time.monotonic()

    async def messages(self) -> AsyncGenerator[bytes, None]:
        """Yield encoded `WatchProjectResponse`s until the server stops.

        Raises `RevisionAhead`, `RevisionCompacted`, `Overloaded`, `CorruptRecord` or
        `StoreUnavailable`.
        """
        start = choose_start(self._request, self._project)
        watcher = self._hub.add(self._project, self._style, self._request.priority)
        try:
            if start.after is not None:
                watcher.start_at(start.after)
            yield self._created()
            if start.after is None:
                async with aclosing(self._begin(watcher, start.resync)) as messages:
                    async for message in messages:
                        yield message
                self._last_bookmark = time.monotonic()
            async with aclosing(self._follow(watcher)) as messages:
                async for message in messages:
                    yield message
        except _Deleted:
            yield _ended(0, WatchEndReason.WATCH_END_REASON_PROJECT_DELETED)
        finally:
            self._hub.remove(watcher)

    async def _follow(self, watcher: Watcher) -> AsyncGenerator[bytes, None]:
        hub = self._hub
        while True:
            if not watcher.synced and not watcher.has_mail and not hub.sync(watcher):
                if self._project.deleted:
                    yield _ended(watcher.through, WatchEndReason.WATCH_END_REASON_PROJECT_DELETED)
                    return
                async with aclosing(self._catch_up(watcher)) as messages:
                    async for message in messages:
                        yield message
                continue
            message_given = watcher.pop()
            if message_given is not None:
                yield message_given
                continue
            if watcher.ending is not None:
                hub.give(watcher)
                if watcher.synced and not watcher.has_mail:
                    yield _ended(watcher.through, watcher.ending)
                    return
                continue
            due_in = self._bookmark_due_in()
            if due_in > 0:
                hub.ask(watcher)
                if await watcher.wait(due_in):
                    continue
            async with aclosing(self._mark(watcher)) as messages:
                async for message in messages:
                    yield message

    def _bookmark_due_in(self) -> float:
        return self._last_bookmark + self._bookmark_seconds - time.monotonic()

    async def _catch_up(self, watcher: Watcher) -> AsyncGenerator[bytes, None]:
        """Yield what the store has after the watcher's place, up to the present head.

        Or a resync and a snapshot, if the history from there on has been compacted since. Where
        the filter shows nothing for long, or much must be prepared, bookmarks say how far it is:
        a client that took silence for a dead connection would begin again and never arrive.
        """
        if self._dropped(watcher):
            compacted = self._project.view.compacted
            if self._request.fail_if_compacted:
                raise RevisionCompacted(revision=watcher.through, compacted_revision=compacted)
            resync = ResyncReason.RESYNC_REASON_COMPACTED
            async with aclosing(self._begin(watcher, resync)) as snapshot:
                async for message_given in snapshot:
                    yield message_given
            return
        merges = self._style.merges or (
            watcher.behind and self._style.coalescing == Coalescing.COALESCING_BEHIND
        )
        catch_up = CatchUp(
            self._store,
            self._project,
            self._style.filter,
            watcher.through,
            self._hub.replays,
            announced=watcher.announced,
            patience=self._bookmark_seconds,
            merges=merges,
        )
        try:
            async with aclosing(catch_up.messages()) as messages:
                async for message, promised in messages:
                    if message:
                        if promised is not None:
                            watcher.sent(promised)
                        yield self._packed(message, promised or 0)
                    elif promised is not None:
                        watcher.through = promised
                    if promised is not None and self._bookmark_due_in() <= 0:
                        watcher.announced = catch_up.announced = promised
                        yield self._bookmark(promised, None)
        except CorruptRecord:
            # What is missing may have been dropped while it was read; the next round will tell.
            if not self._dropped(watcher) and not self._project.deleted:
                raise

    def _dropped(self, watcher: Watcher) -> bool:
        return watcher.through < self._project.view.compacted

    async def _begin(
        self, watcher: Watcher, resync: ResyncReason.ValueType | None
    ) -> AsyncGenerator[bytes, None]:
        """Yield the view at the present head in chunks; the watcher stands there afterwards.

        Begins anew if the history is compacted while the client does not read. An empty message
        says that the service lives. Raises `RevisionCompacted` in place of a resync if that was
        asked for, and `_Deleted`.
        """
        while True:
            if resync is not None:
                yield _encode(WatchProjectResponse(resync=Resync(reason=resync)))
            whole = WholeView(
                self._store,
                self._project,
                self._style.filter,
                self._hub.snapshots,
                patience=self._bookmark_seconds,
            )
            try:
                async with aclosing(whole.messages()) as messages:
                    async for message, promised in messages:
                        if promised:
                            watcher.start_at(promised)
                        yield self._packed(message, promised) if message else b""
                return
            except ViewGone:
                if self._project.deleted:
                    raise _Deleted from None
                compacted = self._project.view.compacted
                if self._request.fail_if_compacted:
                    raise RevisionCompacted(
                        revision=whole.revision, compacted_revision=compacted
                    ) from None
                resync = ResyncReason.RESYNC_REASON_COMPACTED

    def _packed(self, message: bytes, promised: int) -> bytes:
        return compress_frame(message, promised) if self._style.encoding else message

    def _created(self) -> bytes:
        view, style = self._project.view, self._style
        return _encode(
            WatchProjectResponse(
                created=WatchCreated(
                    store_id=self._store.store_id,
                    project_uid=self._project.uid,
                    head_revision=view.revision,
                    compacted_revision=view.compacted,
                    filter=style.filter.request,
                    mode=style.filter.mode,
                    coalescing=style.coalescing,
                    max_interval_ms=round(style.hold_seconds * 1_000),
                    encoding=style.encoding,
                )
            )
        )

    async def _mark(self, watcher: Watcher) -> AsyncGenerator[bytes, None]:
        """Yield what the watcher has not seen, and a bookmark behind it.

        Nothing if it must read that from the store first.
        """
        self._hub.give(watcher)
        if not watcher.synced:
            return
        revision = watcher.through
        if watcher.has_mail:
            checksum = self._hub.known_checksum(watcher)
            message = watcher.pop()
            if message is not None:
                yield message
        else:
            checksum = await self._hub.checksum(watcher)
            watcher.sent(revision)
        yield self._bookmark(revision, checksum)

    def _bookmark(self, revision: int, checksum: int | None) -> bytes:
        self._last_bookmark = time.monotonic()
        bookmark = Bookmark(revision=revision, checksum=checksum)
        return _encode(WatchProjectResponse(resume_revision=revision, bookmark=bookmark))


class _Deleted(Exception):
    """The project was deleted while it was sent."""


def _ended(promised: int, reason: WatchEndReason.ValueType) -> bytes:
    return _encode(WatchProjectResponse(resume_revision=promised, ended=WatchEnded(reason=reason)))


def _encode(message: WatchProjectResponse) -> bytes:
    return message.SerializeToString()
