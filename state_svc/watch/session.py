"""One watch from its start to its end: the messages of `WatchProject`, in order."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

from ramify.v1.state_service_pb2 import (
    Bookmark,
    Resync,
    ResyncReason,
    SnapshotChunk,
    WatchCreated,
    WatchEnded,
    WatchEndReason,
    WatchProjectRequest,
    WatchProjectResponse,
)
from state_svc.codec.delta import MAX_FRAME_BYTES
from state_svc.errors import CorruptRecord, RevisionAhead, RevisionCompacted
from state_svc.model.checksum import view_checksum
from state_svc.model.project import LiveProject
from state_svc.model.review import OPEN
from state_svc.store.base import StateStore
from state_svc.watch.catchup import CatchUp
from state_svc.watch.filter import ViewFilter
from state_svc.watch.hub import WatchHub
from state_svc.watch.watcher import Watcher

MAX_BOOKMARK_SECONDS = 10.0
_OPEN_COMMAND = 1


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
    ) -> None:
        self._hub = hub
        self._store = store
        self._project = project
        self._request = request
        self._filter = ViewFilter(request.filter)
        interval = request.bookmark_interval_ms / 1_000
        self._bookmark_seconds = interval or MAX_BOOKMARK_SECONDS

    async def messages(self) -> AsyncIterator[bytes]:
        """Yield encoded `WatchProjectResponse`s until the server stops.

        Raises `RevisionAhead`, `RevisionCompacted`, `Overloaded`, `CorruptRecord` or
        `StoreUnavailable`.
        """
        start = choose_start(self._request, self._project)
        watcher = self._hub.add(self._project, self._filter)
        try:
            yield self._created()
            if start.after is None:
                for message in self._begin(watcher, start.resync):
                    yield message
            else:
                watcher.start_at(start.after)
            async for message in self._follow(watcher):
                yield message
        finally:
            self._hub.remove(watcher)

    async def _follow(self, watcher: Watcher) -> AsyncIterator[bytes]:
        last_sent = time.monotonic()
        while True:
            if not watcher.synced and not self._hub.sync(watcher):
                if self._project.deleted:
                    yield self._ended(watcher, WatchEndReason.WATCH_END_REASON_PROJECT_DELETED)
                    return
                async for message in self._catch_up(watcher):
                    yield message
                    last_sent = time.monotonic()
                continue
            frame = watcher.pop()
            if frame is not None:
                yield frame
                last_sent = time.monotonic()
            elif watcher.ending is not None:
                yield self._ended(watcher, watcher.ending)
                return
            elif not await watcher.wait(last_sent + self._bookmark_seconds - time.monotonic()):
                bookmark = self._bookmark(watcher)
                if bookmark is not None:
                    yield bookmark
                    last_sent = time.monotonic()

    async def _catch_up(self, watcher: Watcher) -> AsyncIterator[bytes]:
        """Yield what the store has after the watcher's place, up to the present head.

        Or a resync and a snapshot, if the history from there on has been compacted since.
        """
        if self._dropped(watcher):
            compacted = self._project.view.compacted
            if self._request.fail_if_compacted:
                raise RevisionCompacted(revision=watcher.through, compacted_revision=compacted)
            for message in self._begin(watcher, ResyncReason.RESYNC_REASON_COMPACTED):
                yield message
            return
        catch_up = CatchUp(self._store, self._project, self._filter, watcher.through)
        try:
            async for message, promised in catch_up.messages(watcher.announced):
                if not message and promised is not None:
                    watcher.through = promised
                    continue
                if promised is not None:
                    watcher.sent(promised)
                yield message
        except CorruptRecord:
            # What is missing may have been dropped while it was read; the next round will tell.
            if not self._dropped(watcher) and not self._project.deleted:
                raise

    def _dropped(self, watcher: Watcher) -> bool:
        return watcher.through < self._project.view.compacted

    def _begin(self, watcher: Watcher, resync: ResyncReason.ValueType | None) -> Iterator[bytes]:
        if resync is not None:
            yield _encode(WatchProjectResponse(resync=Resync(reason=resync)))
        yield from self._snapshot(watcher)

    def _created(self) -> bytes:
        view = self._project.view
        return _encode(
            WatchProjectResponse(
                created=WatchCreated(
                    store_id=self._store.store_id,
                    project_uid=self._project.uid,
                    head_revision=view.revision,
                    compacted_revision=view.compacted,
                    filter=self._filter.request,
                )
            )
        )

    def _snapshot(self, watcher: Watcher) -> Iterator[bytes]:
        """Yield the view at the present head in chunks; the watcher stands there afterwards.

        The nodes are immutable, so the list stays the view at that revision while they are
        encoded, whatever is committed meanwhile.
        """
        view = self._project.view
        revision = view.revision
        nodes = self._filter.select(view.nodes.values(), watcher.channel.find)
        chunk = SnapshotChunk(revision=revision)
        if self._filter.shows_project:
            chunk.project.CopyFrom(view.entity)
        if self._filter.shows_commands:
            chunk.commands.extend(c for c in view.commands.values() if c.state == _OPEN_COMMAND)
        watcher.start_at(revision)
        size = chunk.ByteSize()
        for node in nodes:
            if size and size + len(node.data) > MAX_FRAME_BYTES:
                yield _encode(WatchProjectResponse(snapshot=chunk))
                chunk = SnapshotChunk(revision=revision, chunk=chunk.chunk + 1)
                size = 0
            chunk.nodes.append(node.to_node())
            size += len(node.data)
        if self._filter.shows_reviews:
            for review in [r for r in view.reviews.values() if r.state == OPEN]:
                length = review.ByteSize()
                if size and size + length > MAX_FRAME_BYTES:
                    yield _encode(WatchProjectResponse(snapshot=chunk))
                    chunk = SnapshotChunk(revision=revision, chunk=chunk.chunk + 1)
                    size = 0
                chunk.reviews.append(review)
                size += length
        chunk.last = True
        chunk.checksum = view_checksum(nodes)
        yield _encode(WatchProjectResponse(resume_revision=revision, snapshot=chunk))

    def _bookmark(self, watcher: Watcher) -> bytes | None:
        """Return a bookmark at the head; None if a message has come in first."""
        self._hub.flush(watcher.channel)
        if not watcher.synced or watcher.has_mail:
            return None
        revision = watcher.through
        watcher.sent(revision)
        bookmark = Bookmark(revision=revision, checksum=self._hub.checksum(watcher))
        return _encode(WatchProjectResponse(resume_revision=revision, bookmark=bookmark))

    def _ended(self, watcher: Watcher, reason: WatchEndReason.ValueType) -> bytes:
        return _encode(
            WatchProjectResponse(resume_revision=watcher.through, ended=WatchEnded(reason=reason))
        )


def _encode(message: WatchProjectResponse) -> bytes:
    return message.SerializeToString()
