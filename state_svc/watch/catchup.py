"""Reads the past of a project from the store for a watcher that is behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

from ramify.v1.mutation_pb2 import Change, RevisionInfo
from state_svc.codec.delta import MAX_FRAME_BYTES, encode_watch_deltas, revision_field
from state_svc.codec.segment import SegmentRecord, check_contiguous, decode_delta, decode_segment
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

    async def messages(self, announced: int) -> AsyncIterator[tuple[bytes, int | None]]:
        """Yield (message, revision that it promises); None as revision for a fragment.

        An empty message says that the filter showed nothing up to the revision. `announced` is
        the last revision that the watcher was promised.
        """
        while self._at < self._until:
            records = await self._store.read_segments(self._project.uid, self._at, _CHUNK_BYTES)
            if not records:
                raise CorruptRecord(
                    project_uid=self._project.uid,
                    revision=self._at + 1,
                    problem="the revision is missing",
                )
            check_contiguous(self._project.uid, self._at, records)
            if self._filter.selects_nodes and self._replay is None:
                self._replay = await rebuild(self._store, self._project.uid, self._at)
            pieces = self._pieces(records)
            while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
                body, last = piece
                if body:
                    for message, promised in encode_watch_deltas(announced + 1, last, body):
                        yield message, promised
                    announced = last
                else:
                    yield b"", last
                self._at = last

    def _pieces(self, records: list[SegmentRecord]) -> Iterator[tuple[bytes, int]]:
        """Yield the bodies of messages and where they end; each step runs in a thread."""
        bodies: list[bytes] = []
        size, at = 0, self._at
        for record in records:
            if record.first_revision > self._until:
                break
            for body, last in self._shown(decode_segment(record), at):
                if bodies and size + len(body) > MAX_FRAME_BYTES:
                    yield b"".join(bodies), at
                    bodies, size = [], 0
                bodies.append(body)
                size += len(body)
                at = last
        yield b"".join(bodies), at

    def _shown(self, segment: Segment, at: int) -> Iterator[tuple[bytes, int]]:
        """Yield what the filter shows of a segment after revision `at`, and where it ends."""
        delta = decode_delta(segment)
        last = min(segment.last_revision, self._until)
        whole = segment.first_revision > at and segment.last_revision <= self._until
        hidden = any(c.HasField("command") or c.HasField("stage") for c in delta.changes)
        if self._filter.is_default and whole and not hidden:
            delta.ClearField("first_revision")
            delta.ClearField("last_revision")
            yield delta.SerializeToString(), last
            return
        changes = [c for c in delta.changes if at < c.revision <= self._until]
        infos = [i for i in delta.revisions if at < i.revision <= self._until]
        if self._replay is None:
            images: list[Image] = [(None, None)] * len(changes)
            yield self._filter.project_changes(infos, changes, images, _find_nothing), last
            return
        for info in infos:
            mine = [change for change in changes if change.revision == info.revision]
            yield self._replayed(self._replay, info, mine), info.revision
        if infos and infos[-1].revision == last:
            return
        yield b"", last

    def _replayed(self, replay: Replay, info: RevisionInfo, changes: list[Change]) -> bytes:
        """Move the replay over one revision; return what the filter shows of it."""
        micros = read_micros(info.commit_time)
        bodies = []
        for change in changes:
            before = replay.view.nodes.get(change.node.node_id)
            replay.add_change(change, micros)
            after = replay.view.nodes.get(change.node.node_id)
            shown = self._filter.project_changes((), [change], [(before, after)], self._find)
            bodies.append(shown)
        body = b"".join(bodies)
        return revision_field(info) + body if body else b""

    def _find(self, node_id: str) -> NodeSpec | None:
        node = self._replay.view.nodes.get(node_id) if self._replay is not None else None
        return None if node is None else node.spec


def _find_nothing(node_id: str) -> NodeSpec | None:
    return None
