"""A watcher on the bare stub that checks every promise of the contract on every message."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self

import grpc
import grpc.aio
import zstandard

from ramify.v1.mutation_pb2 import Change, Delta
from ramify.v1.project_pb2 import Project
from ramify.v1.state_service_pb2 import WatchProjectRequest, WatchProjectResponse
from tests.support.bound import WAIT_SECONDS
from tests.support.view import NodeView

if TYPE_CHECKING:
    from ramify.v1.state_service_pb2_grpc import StateServiceAsyncStub


class WatchLog:
    """What a watcher has been told, checked message by message.

    Ordered and unique: changes come by (revision, index), none twice. Reliable: the interval of
    each message begins where the last one ended. Atomic: a revision is in one message only,
    which follows from the two. Bookmarks: the checksum is that of the view built here.
    """

    def __init__(self) -> None:
        self.messages: list[WatchProjectResponse] = []
        self.changes: dict[int, list[Change]] = {}  #: by revision
        self.view: NodeView | None = None  #: None while the past is not known
        self.project: Project | None = None
        self.announced = 0  #: everything through here was delivered
        self.resume = 0  #: last non-zero `resume_revision`
        self.bookmarks = 0
        self.compressed = 0
        self.coalesced = 0
        self.resyncs: list[int] = []
        self.ended = False
        self._chunk: int | None = None
        self._fragments: list[Delta] = []
        self._view_revision = 0

    def begin(self, request: WatchProjectRequest) -> None:
        """Note where a new watch begins; what was told before stays."""
        start = request.WhichOneof("start")
        if start == "after_revision":
            self.announced = request.after_revision
            if not request.after_revision:
                self.view = NodeView()
        elif start == "from_beginning":
            self.announced = 0
            self.view = NodeView()
        self.ended = False
        self._fresh = True

    def take(self, message: WatchProjectResponse) -> None:
        """Check and note one message."""
        if message.HasField("compressed"):
            self.compressed += 1
            message = _inflate(message)
        kind = message.WhichOneof("message")
        assert not self.ended, "a message after `ended`"
        assert (kind == "created") == self._fresh, "`created` comes first and once"
        self._fresh = False
        if kind == "created":
            assert message.resume_revision == 0
        elif kind == "delta":
            self._take_delta(message.delta, message.resume_revision)
        elif kind == "snapshot":
            self._take_chunk(message)
        elif kind == "bookmark":
            self._take_bookmark(message)
        elif kind == "resync":
            assert message.resume_revision == 0
            self.resyncs.append(message.resync.reason)
            self.view = None
        elif kind == "ended":
            assert message.resume_revision >= self.announced
            self.ended = True
        elif kind is None:  # a sign of life
            assert self._chunk is not None or self.view is None
            assert message.resume_revision == 0
        else:
            raise AssertionError(f"unknown message {message}")
        if message.resume_revision:
            assert message.resume_revision >= self.resume or self.resyncs
            self.resume = message.resume_revision
        self.messages.append(message)

    def _take_delta(self, delta: Delta, resume: int) -> None:
        if not resume or self._fragments:  # a revision too large for one message
            parts = self._fragments
            begins = {parts[-1].last_revision} if parts else {self.announced + 1}
            assert delta.first_revision in begins
            parts.append(delta)
            if not resume:
                return
            whole = Delta(first_revision=parts[0].first_revision, last_revision=resume)
            for part in parts:
                assert {i.revision for i in part.revisions} == {c.revision for c in part.changes}
                known = {info.revision for info in whole.revisions}
                whole.revisions.extend(i for i in part.revisions if i.revision not in known)
                whole.changes.extend(part.changes)
            self._fragments, delta = [], whole
        first, last = delta.first_revision, delta.last_revision
        if self.announced < 0:  # from `head`: the first message says where that was
            self.announced = first - 1
        assert first == self.announced + 1, f"{first} does not follow {self.announced}"
        assert first <= last == resume
        places = [(change.revision, change.index) for change in delta.changes]
        assert places == sorted(set(places)), "changes are ordered and unique"
        assert all(first <= revision <= last for revision, _ in places)
        infos = [info.revision for info in delta.revisions]
        assert infos == sorted(set(infos))
        assert {revision for revision, _ in places} <= set(infos)
        if delta.coalesced:
            self.coalesced += 1
            keys = [_entity(change) for change in delta.changes]
            assert len(keys) == len(set(keys)), "one change per entity"
        for change in delta.changes:
            self.changes.setdefault(change.revision, []).append(change)
        if self.view is not None:
            self.view.apply(delta.changes, delta.revisions)
        self.announced = last

    def _take_chunk(self, message: WatchProjectResponse) -> None:
        chunk = message.snapshot
        if self._chunk is None:
            assert chunk.chunk == 0
            self.view = NodeView()
            self._view_revision = chunk.revision
            if chunk.HasField("project"):
                self.project = chunk.project
        else:
            assert chunk.chunk == self._chunk + 1
            assert chunk.revision == self._view_revision
        assert self.view is not None
        for node in chunk.nodes:
            assert node.node_id not in self.view.nodes
            self.view.add(node)
        self._chunk = None if chunk.last else chunk.chunk
        assert message.resume_revision == (chunk.revision if chunk.last else 0)
        if chunk.last:
            assert not chunk.HasField("checksum") or chunk.checksum == self.view.checksum()
            self.announced = chunk.revision

    def _take_bookmark(self, message: WatchProjectResponse) -> None:
        bookmark = message.bookmark
        assert bookmark.revision == message.resume_revision
        if self.announced < 0:
            self.announced = bookmark.revision
        assert bookmark.revision >= self.announced
        self.announced = bookmark.revision
        self.bookmarks += 1
        if self.view is not None and bookmark.HasField("checksum"):
            assert bookmark.checksum == self.view.checksum(), f"view at {bookmark.revision}"


def _inflate(message: WatchProjectResponse) -> WatchProjectResponse:
    packed = message.compressed
    assert packed.encoding == "zstd"
    assert len(message.SerializeToString()) < packed.original_bytes, "only if it pays"
    data = zstandard.ZstdDecompressor().decompress(packed.data)
    assert len(data) == packed.original_bytes
    inner = WatchProjectResponse.FromString(data)
    assert inner.resume_revision == message.resume_revision, "in one fixed place (SEM 30)"
    return inner


def _entity(change: Change) -> tuple[str | None, str]:
    kind = change.WhichOneof("entity")
    ids = (change.node.node_id, change.command.command_id, change.review.review_id)
    return kind, next(filter(None, ids), "")


class RawWatch:
    """One `WatchProject` call with a task that reads it; used as an asynchronous context."""

    def __init__(
        self,
        stub: StateServiceAsyncStub,
        request: WatchProjectRequest,
        log: WatchLog | None = None,
    ) -> None:
        self.request = request
        self.log = WatchLog() if log is None else log
        self.error: grpc.aio.AioRpcError | None = None
        self._stub = stub
        self._changed = asyncio.Condition()
        self._defect: BaseException | None = None
        self._done = False

    async def __aenter__(self) -> Self:
        self.log.begin(self.request)
        if self.request.WhichOneof("start") == "head":
            self.log.announced = -1
        self._call = self._stub.WatchProject(self.request)
        self._reader = asyncio.create_task(self._read(), name="watch-reader")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._call.cancel()
        await self._reader
        if kind is None and self._defect is not None:
            raise self._defect

    @property
    def done(self) -> bool:
        """Whether the call has ended."""
        return self._done

    async def until(
        self, holds: Callable[[WatchLog], object], seconds: float = WAIT_SECONDS
    ) -> WatchLog:
        """Wait until something holds about the log; fail if the watch ends before."""
        try:
            async with asyncio.timeout(seconds), self._changed:
                while not holds(self.log):
                    if self._defect is not None:
                        raise self._defect
                    assert not self._done, f"the watch ended: {self.error}"
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(
                f"not within {seconds} s; at revision {self.log.announced}"
            ) from None
        return self.log

    async def changed(self) -> None:
        """Wait until something has come in or the call has ended, at most a fifth of a second."""
        with suppress(TimeoutError):
            async with asyncio.timeout(0.2), self._changed:
                if not self._done:
                    await self._changed.wait()
        if self._defect is not None:
            raise self._defect

    async def through(self, revision: int, seconds: float = WAIT_SECONDS) -> WatchLog:
        """Wait until everything through a revision was delivered."""
        return await self.until(lambda log: log.announced >= revision, seconds)

    async def started(self) -> WatchLog:
        """Wait for the first message."""
        return await self.until(lambda log: log.messages)

    async def end(self, seconds: float = WAIT_SECONDS) -> grpc.aio.AioRpcError | None:
        """Wait until the call ends; return its error, None if it ended well."""
        async with asyncio.timeout(seconds):
            await asyncio.wait((self._reader,))
        if self._defect is not None:
            raise self._defect
        return self.error

    async def _read(self) -> None:
        try:
            async for message in self._call:
                async with self._changed:
                    self.log.take(message)
                    self._changed.notify_all()
        except grpc.aio.AioRpcError as error:
            self.error = error
        except asyncio.CancelledError:
            if not self._call.cancelled():
                raise
        except BaseException as defect:
            self._defect = defect
            self._call.cancel()
        finally:
            async with self._changed:
                self._done = True
                self._changed.notify_all()
