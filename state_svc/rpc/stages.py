"""The RPC that lists stage records: compacted ones from the archive, others from the segments."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

from ramify.v1.stage_pb2 import Stage, StageRecord
from ramify.v1.state_service_pb2 import ListStagesRequest, ListStagesResponse
from state_svc.codec.segment import SegmentRecord, check_contiguous, decode_delta, decode_segment
from state_svc.errors import CorruptRecord, NodeNotFound, ProjectNotFound
from state_svc.model.project import LiveProject
from state_svc.rpc.convert import MAX_PAGE_BYTES, check_enum, page_size, parse_place
from state_svc.service import Service

_READ_BYTES = 4 << 20  #: stored bytes searched at a time
_SEARCH_BYTES = 32 << 20  #: stored bytes searched for one page

Place = tuple[int, int]  #: revision and index


class StageRpcs:
    """Handlers by RPC name."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def list_stages(self, request: ListStagesRequest) -> ListStagesResponse:
        """Return one page; the token is `revision.index` of the last place searched."""
        size = page_size(request.page_size)
        if request.stage:
            check_enum("stage", [request.stage], Stage.values())
        project = await self._service.live(request.project_id)
        view = project.view
        known = request.node_id in view.nodes or request.node_id in view.deleted
        if request.node_id and not known:
            raise NodeNotFound(project_id=request.project_id, node_id=request.node_id)
        after: Place = (request.after_revision, 1 << 32)
        if request.page_token:
            after = parse_place(request.page_token)
        page = _Page(request, size)
        until = view.revision
        at = max(after[0] - 1, 0)
        searched = 0
        while at < until:
            if searched >= _SEARCH_BYTES:
                page.end_after((at, 1 << 32))
                break
            records, last = await self._read(project, at)
            if await asyncio.to_thread(page.add, records, after, min(last, until)):
                break
            at = last
            searched += sum(len(record.data) for record in records)
        return page.response

    async def _read(self, project: LiveProject, at: int) -> tuple[list[SegmentRecord], int]:
        """Return records with what is behind a revision, and the revision they are valid to.

        The archive may hold a part of what is still in segments, if a compaction was cut off:
        up to the compacted revision it is the archive that counts, behind it the segments.
        """
        store, view = self._service.store, project.view
        while True:
            compacted = view.compacted
            if at < compacted:
                archived = await store.payloads.read_archive(project.uid, at, _READ_BYTES)
                segments = [record.segment for record in archived]
                last = segments[-1].last_revision if segments else compacted
                return segments, min(last, compacted)
            segments = await store.read_segments(project.uid, at, _READ_BYTES)
            if view.compacted > at:
                continue  # what was read may have had holes
            if not segments and project.deleted:
                raise ProjectNotFound(project_id=project.project_id)
            if not segments:
                problem = "the revision is missing"
                raise CorruptRecord(project_uid=project.uid, revision=at + 1, problem=problem)
            check_contiguous(project.uid, at, segments)
            return segments, segments[-1].last_revision


class _Page:
    """The records of one page and where it ends."""

    def __init__(self, request: ListStagesRequest, size: int) -> None:
        self.response = ListStagesResponse()
        self._request = request
        self._left = size
        self._room = MAX_PAGE_BYTES
        self._last: Place = (0, 0)

    def end_after(self, place: Place) -> None:
        """Say that the next page begins behind a place."""
        self.response.next_page_token = f"{place[0]}.{place[1]}"

    def add(self, records: Sequence[SegmentRecord], after: Place, until: int) -> bool:
        """Add what the request selects; True if the page is full and there is more."""
        for record in records:
            for place, stage in stages_of(record):
                if not after < place <= (until, 1 << 32) or not self._selects(stage):
                    continue
                size = stage.ByteSize()
                if self._left == 0 or (size > self._room and self.response.stages):
                    self.end_after(self._last)
                    return True
                self.response.stages.append(stage)
                self._left -= 1
                self._room -= size
                self._last = place
        return False

    def _selects(self, stage: StageRecord) -> bool:
        request = self._request
        return (
            request.node_id in ("", stage.node_id)
            and request.attempt in (0, stage.attempt)
            and request.stage in (0, stage.stage)
        )


def stages_of(record: SegmentRecord) -> Iterator[tuple[Place, StageRecord]]:
    """Yield the stage records of a segment with their places, in order."""
    for change in decode_delta(decode_segment(record)).changes:
        if change.HasField("stage"):
            stage = change.stage.stage
            stage.revision = change.revision
            yield (change.revision, change.index), stage
