"""Sends a watcher the whole view, in chunks and by permit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from state_svc.errors import CorruptRecord
from state_svc.history.rebuild import rebuild
from state_svc.model.project import LiveProject
from state_svc.store.base import StateStore
from state_svc.watch.filter import ViewFilter
from state_svc.watch.patience import waiting_for
from state_svc.watch.permit import (
    LARGE_VIEW_NODES,
    MAX_LARGE_SNAPSHOTS,
    MAX_SMALL_SNAPSHOTS,
    ViewPermit,
)
from state_svc.watch.snapshot import Snapshot


class ViewGone(Exception):
    """The rest of a view is nowhere any more: its revision was compacted, or all was deleted."""


class SnapshotPermits:
    """The permits of watchers that are sent a whole view."""

    def __init__(self) -> None:
        self.large = asyncio.Semaphore(MAX_LARGE_SNAPSHOTS)
        self.small = asyncio.Semaphore(MAX_SMALL_SNAPSHOTS)

    def of(self, nodes: int) -> asyncio.Semaphore:
        """Return those for a view of so many nodes."""
        return self.large if nodes > LARGE_VIEW_NODES else self.small


class WholeView:
    """Yields the view at the head, as it is when the permit comes.

    A client that does not read loses the permit to others, and the service lets go of the view.
    When it reads on, and has a permit again, it is sent the rest of the same view, read from the
    store: slow costs latency, not memory, and no chunk is sent twice.
    """

    def __init__(
        self,
        store: StateStore,
        project: LiveProject,
        view_filter: ViewFilter,
        permits: SnapshotPermits,
        *,
        patience: float,
    ) -> None:
        """After `patience` seconds without a message it shows a sign of life."""
        self._store = store
        self._project = project
        self._patience = patience
        self._snapshot = Snapshot(view_filter)
        shown = len(project.view.nodes) if view_filter.shows_nodes else 0
        self._permit = ViewPermit(permits.of(shown), self._snapshot.drop)

    @property
    def revision(self) -> int:
        """Revision of the view; 0 before the permit has come."""
        return self._snapshot.revision

    async def messages(self) -> AsyncGenerator[tuple[bytes, int], None]:
        """Yield (message, revision that it promises); an empty message is a sign of life.

        Raises `ViewGone`, or `CorruptRecord` or `StoreUnavailable` from reading the rest.
        """
        try:
            async with aclosing(self._messages()) as messages:
                async for message in messages:
                    self._permit.sending()
                    yield message
                    self._permit.sent()
        finally:
            self._permit.give_back()

    async def _messages(self) -> AsyncGenerator[tuple[bytes, int], None]:
        snapshot = self._snapshot
        while not snapshot.done:
            waiting = waiting_for(self._prepare(), self._patience, "watch-snapshot")
            async with aclosing(waiting) as signs:
                async for _ in signs:
                    yield b"", 0
            async with aclosing(snapshot.messages()) as messages:
                async for message in messages:
                    yield message

    async def _prepare(self) -> None:
        """Wait for the permit, then make the view that is sent, or what is left of it."""
        await self._permit.take()
        snapshot, project = self._snapshot, self._project
        if snapshot.revision in (0, project.view.revision):
            snapshot.hold(project.view)
            return
        try:
            replay = await rebuild(self._store, project.uid, snapshot.revision)
        except CorruptRecord:
            if project.deleted or snapshot.revision < project.view.compacted:
                raise ViewGone from None
            raise
        if self._permit.held:  # else it was lost to a client that does not read
            snapshot.hold(replay.view)
