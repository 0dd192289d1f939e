"""The RPC that lists stage records, from the retained segments."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

from ramify.v1.stage_pb2 import Stage, StageRecord
from ramify.v1.state_service_pb2 import ListStagesRequest, ListStagesResponse
from state_svc.codec.segment import SegmentRecord, check_contiguous, decode_delta, decode_segment
from state_svc.errors import NodeNotFound
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
            records = await self._service.store.read_segments(project.uid, at, _READ_BYTES)
            if not records:
                break
            check_contiguous(project.uid, max(at, view.compacted), records)
            if await asyncio.to_thread(page.add_segments, records, after, until):
                break
            at = records[-1].last_revision
            searched += sum(len(record.data) for record in records)
        return page.response


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

    def add_segments(self, records: Sequence[SegmentRecord], after: Place, until: int) -> bool:
        """Add what the request selects; True if the page is full and there is more."""
        for record in records:
            for place, stage in stages_of(record):
                if place <= after or not self._selects(stage):
                    continue
                if place[0] > until:
                    return True
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
