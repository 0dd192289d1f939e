"""Reads the past of a project from the store for a watcher that is behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from ramify.v1.mutation_pb2 import Delta
from state_svc.codec.delta import MAX_FRAME_BYTES, encode_watch_delta
from state_svc.codec.segment import SegmentRecord, decode_delta, decode_segment
from state_svc.errors import CorruptRecord
from state_svc.history.rebuild import rebuild
from state_svc.history.replay import Replay
from state_svc.model.node import NodeSpec, read_micros
from state_svc.model.project import LiveProject
from state_svc.storage.v1.segment_pb2 import Segment
from state_svc.store.base import StateStore
from state_svc.watch.filter import Image, ViewFilter

_CHUNK_BYTES = 1 << 20  #: stored bytes read at a time; bounds the memory of a slow watcher


class CatchUp:
    """Yields messages from one revision up to the head at the time it started."""

    def __init__(
        self, store: StateStore, project: LiveProject, view_filter: ViewFilter, after: int
    ) -> None:
        self._store = store
        self._project = project
        self._filter = view_filter
        self._at = after
        self._until = project.view.revision
        self._replay: Replay | None = None

    async def messages(self, announced: int) -> AsyncIterator[tuple[bytes, int]]:
        """Yield (message, last revision); an empty message when the filter showed nothing.

        `announced` is the last revision that the watcher was promised.
        """
        while self._at < self._until:
            records = await self._store.read_segments(self._project.uid, self._at, _CHUNK_BYTES)
            if not records or records[0].first_revision > self._at + 1:
                raise CorruptRecord(
                    project_uid=self._project.uid,
                    revision=self._at + 1,
                    problem="the revision is missing",
                )
            if self._filter.selects_nodes and self._replay is None:
                self._replay = await rebuild(self._store, self._project.uid, self._at)
            for body, last in await asyncio.to_thread(self._bodies, records):
                if body:
                    yield encode_watch_delta(announced + 1, last, body), last
                    announced = last
                else:
                    yield b"", last
                self._at = last

    def _bodies(self, records: list[SegmentRecord]) -> list[tuple[bytes, int]]:
        """Return the bodies of messages and where they end; runs in a thread."""
        found: list[tuple[bytes, int]] = []
        bodies: list[bytes] = []
        size, at = 0, self._at
        for record in records:
            if record.first_revision > self._until:
                break
            if record.first_revision > at + 1:
                raise CorruptRecord(
                    project_uid=self._project.uid,
                    revision=at + 1,
                    problem="the revision is missing",
                )
            segment = decode_segment(record)
            body = self._body(segment, at)
            if bodies and size + len(body) > MAX_FRAME_BYTES:
                found.append((b"".join(bodies), at))
                bodies, size = [], 0
            bodies.append(body)
            size += len(body)
            at = min(segment.last_revision, self._until)
        found.append((b"".join(bodies), at))
        return found

    def _body(self, segment: Segment, at: int) -> bytes:
        """Return what the filter shows of a segment after revision `at`."""
        delta = decode_delta(segment)
        whole = segment.first_revision > at and segment.last_revision <= self._until
        if (
            self._filter.is_default
            and whole
            and not any(c.HasField("command") for c in delta.changes)
        ):
            delta.ClearField("first_revision")
            delta.ClearField("last_revision")
            return delta.SerializeToString()
        changes = [c for c in delta.changes if at < c.revision <= self._until]
        infos = [i for i in delta.revisions if at < i.revision <= self._until]
        if self._replay is None:
            images: list[Image] = [(None, None)] * len(changes)
            return self._filter.project_changes(infos, changes, images, _find_nothing)
        micros = {info.revision: read_micros(info.commit_time) for info in infos}
        bodies = []
        for change in changes:
            before = self._replay.view.nodes.get(change.node.node_id)
            self._replay.add_change(change, micros[change.revision])
            after = self._replay.view.nodes.get(change.node.node_id)
            image = [(before, after)]
            bodies.append(self._filter.project_changes((), [change], image, self._find))
        shown = Delta.FromString(b"".join(bodies))
        seen = {change.revision for change in shown.changes}
        shown.revisions.extend(info for info in infos if info.revision in seen)
        return shown.SerializeToString()

    def _find(self, node_id: str) -> NodeSpec | None:
        node = self._replay.view.nodes.get(node_id) if self._replay is not None else None
        return None if node is None else node.spec


def _find_nothing(node_id: str) -> NodeSpec | None:
    return None
