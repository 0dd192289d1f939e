"""Reads the past of a project from the store for a watcher that is behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from itertools import groupby
from typing import NamedTuple

from ramify.v1.mutation_pb2 import Change, RevisionInfo
from state_svc.codec.delta import MAX_FRAME_BYTES, encode_watch_deltas
from state_svc.codec.segment import SegmentRecord, check_contiguous, decode_delta, decode_segment
from state_svc.errors import CorruptRecord
from state_svc.history.rebuild import rebuild
from state_svc.history.replay import Replay
from state_svc.model.merge import Shown
from state_svc.model.node import NodeSpec, read_micros
from state_svc.model.project import LiveProject
from state_svc.storage.v1.segment_pb2 import Segment
from state_svc.store.base import StateStore
from state_svc.watch.filter import ViewFilter, Whole, encode_shown
from state_svc.watch.joined import Joined
from state_svc.watch.patience import waiting_for
from state_svc.watch.permit import ViewPermit

_CHUNK_BYTES = 256 << 10  #: stored bytes read at a time; bounds the memory of a slow watcher

_USUAL = ("node", "project", "review")  #: kinds that a default filter shows


class CatchUp:
    """Yields messages from one revision up to the head at the time it started.

    Filters that need to know what changes made of their nodes replay a view of the past beside
    them, by permit.

    With `merges`, what was read at one time is joined to the latest value of each entity, in
    several pieces if it is large.
    """

    def __init__(
        self,
        store: StateStore,
        project: LiveProject,
        view_filter: ViewFilter,
        after: int,
        slots: asyncio.Semaphore,
        *,
        announced: int,
        patience: float,
        merges: bool = False,
    ) -> None:
        """Begin behind revision `after`; `announced` is the last one that was promised.

        After `patience` seconds of preparation it shows a sign of life.
        """
        self._store = store
        self._project = project
        self._filter = view_filter
        self._merges = merges
        self._patience = patience
        self._at = after
        self.announced = announced  #: the next message begins behind it
        self._until = project.view.revision
        self._replay: Replay | None = None
        self._permit = ViewPermit(slots, self._forget)

    async def messages(self) -> AsyncGenerator[tuple[bytes, int | None], None]:
        """Yield (message, revision that it promises); None as revision for a fragment.

        An empty message says that the filter showed nothing up to the revision. Whoever promises
        that must note it in `announced`.
        """
        try:
            async with aclosing(self._messages()) as messages:
                async for message in messages:
                    self._permit.sending()
                    yield message
                    self._permit.sent()
        finally:
            self._permit.give_back()

    async def _messages(self) -> AsyncGenerator[tuple[bytes, int | None], None]:
        while self._at < self._until:
            records = await self._store.read_segments(self._project.uid, self._at, _CHUNK_BYTES)
            if not records:
                raise CorruptRecord(
                    project_uid=self._project.uid,
                    revision=self._at + 1,
                    problem="the revision is missing",
                )
            check_contiguous(self._project.uid, self._at, records)
            while self._filter.needs_images and not self._permit.held:
                waiting = waiting_for(self._prepare(), self._patience, "watch-replay")
                async with aclosing(waiting) as signs:
                    async for _ in signs:
                        yield b"", self._at
                yield b"", self._at
            pieces = self._pieces(records)
            while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
                body, last = piece
                if body:
                    first = self.announced + 1
                    for message, promised in encode_watch_deltas(first, last, body):
                        yield message, promised
                    self.announced = last
                else:
                    yield b"", last
                self._at = last
                if self._filter.needs_images and not self._permit.held:
                    break  # begin again from here, with a new permit

    async def _prepare(self) -> None:
        """Wait for the permit, then make the view at the place where the catching up stands."""
        await self._permit.take()
        replay = await rebuild(self._store, self._project.uid, self._at)
        if self._permit.held:  # else it was lost to a client that does not read
            self._replay = replay

    def _forget(self) -> None:
        self._replay = None

    def _pieces(self, records: list[SegmentRecord]) -> Iterator[tuple[bytes, int]]:
        """Yield the bodies of messages and where they end; each step runs in a thread."""
        at = self._at
        segments = (decode_segment(r) for r in records if r.first_revision <= self._until)
        if self._merges:
            yield from self._merged(segments, at)
            return
        bodies: list[bytes] = []
        size = 0
        for segment in segments:
            for body, last in self._bodies(segment, at):
                if bodies and size + len(body) > MAX_FRAME_BYTES:
                    yield b"".join(bodies), at
                    bodies, size = [], 0
                bodies.append(body)
                size += len(body)
                at = last
        yield b"".join(bodies), at

    def _bodies(self, segment: Segment, at: int) -> Iterator[tuple[bytes, int]]:
        """Yield what the filter shows of a segment after revision `at`, and where it ends."""
        whole = segment.first_revision > at and segment.last_revision <= self._until
        if self._filter.is_default and whole:
            delta = decode_delta(segment)
            if all(change.WhichOneof("entity") in _USUAL for change in delta.changes):
                delta.ClearField("first_revision")
                delta.ClearField("last_revision")
                yield delta.SerializeToString(), segment.last_revision
                return
        for part in self._parts(segment, at):
            yield encode_shown(part.infos, part.shown), part.last

    def _merged(self, segments: Iterator[Segment], at: int) -> Iterator[tuple[bytes, int]]:
        """Yield what was joined, in one piece unless it is large, and where it ends.

        Inflated, the records may be a thousand times as large: no more than one is held.
        """
        joined, last = Joined(), at
        for segment in segments:
            for part in self._parts(segment, at):
                joined.add(part.infos, part.shown)
                last = part.last
                if joined.full:
                    yield joined.take(), last
        yield joined.take(), last

    def _parts(self, segment: Segment, at: int) -> Iterator[_Part]:
        """Yield what the filter shows of each revision of a segment after revision `at`."""
        delta = decode_delta(segment)
        changes = (c for c in delta.changes if at < c.revision <= self._until)
        infos = [i for i in delta.revisions if at < i.revision <= self._until]
        of_revision = {
            revision: list(run) for revision, run in groupby(changes, lambda c: c.revision)
        }
        last = min(segment.last_revision, self._until)
        for info in infos:
            run = of_revision.pop(info.revision, [])
            yield _Part([info], self._show(run, read_micros(info.commit_time)), info.revision)
        if not infos or infos[-1].revision != last:
            yield _Part([], [], last)

    def _show(self, changes: list[Change], micros: int) -> list[Shown]:
        """Return what the filter shows of the changes of one revision."""
        replay = self._replay
        if replay is None:
            return self._filter.show(changes, [(None, None)] * len(changes), _find_nothing, {})
        shown = []
        for change in changes:
            shown += self._replayed(replay, change, micros)
        return shown

    def _replayed(self, replay: Replay, change: Change, micros: int) -> list[Shown]:
        """Move the replay over one change; return what the filter shows of it."""
        view, node_id = replay.view, change.node.node_id
        before = view.nodes.get(node_id)
        replay.add_change(change, micros)
        after = view.nodes.get(node_id)
        wholes: dict[int, Whole] = {}
        if change.HasField("project"):
            wholes[change.index] = view.entity
        elif change.HasField("command"):
            wholes[change.index] = view.commands[change.command.command_id]
        elif change.HasField("review"):
            wholes[change.index] = view.reviews[change.review.review_id]
        return self._filter.show([change], [(before, after)], self._find, wholes)

    def _find(self, node_id: str) -> NodeSpec | None:
        node = self._replay.view.nodes.get(node_id) if self._replay is not None else None
        return None if node is None else node.spec


class _Part(NamedTuple):
    """What a filter shows of a revision, or of what follows up to `last`."""

    infos: list[RevisionInfo]
    shown: list[Shown]
    last: int


def _find_nothing(node_id: str) -> NodeSpec | None:
    return None
