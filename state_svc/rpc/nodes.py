"""RPCs about nodes: one, many, and their history."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from ramify.v1.mutation_pb2 import Delta
from ramify.v1.node_pb2 import NodeState, TaskType
from ramify.v1.state_service_pb2 import (
    GetNodeRequest,
    GetNodeResponse,
    ListNodeHistoryRequest,
    ListNodeHistoryResponse,
    ListNodesRequest,
    ListNodesResponse,
    NodeHistoryEntry,
)
from state_svc.codec.segment import SegmentRecord, check_contiguous, decode_delta, decode_segment
from state_svc.errors import CorruptRecord, InvalidRequest, NodeNotFound, ProjectNotFound
from state_svc.model.node import NODE_BYTES, LiveNode
from state_svc.rpc.convert import MAX_PAGE_BYTES, check_enum, is_place, page_size, parse_place
from state_svc.service import Service
from state_svc.watch.pause import Pauses

_MAX_LISTINGS = 64  #: listings with pages to come; the oldest is forgotten
_LISTED_BYTES = 256 << 20  #: what they hold together; likewise, but the newest stays
_READ_BYTES = 4 << 20  #: stored bytes of a history searched at a time
_SEARCH_BYTES = 32 << 20  #: stored bytes searched for one page
_PIECE_NODES = 500  #: compared before others get the loop
_END = 1 << 32  #: behind every index of a revision


@dataclass(frozen=True, slots=True)
class _Listing:
    """The nodes of a listing whose first page has been given: they never change.

    Its name says what it holds, so that it can be made again; not of what was pending.
    """

    name: str
    nodes: Sequence[LiveNode]
    revision: int
    digest: str  #: of the request without its place
    size: int  #: bytes that it may hold alone, once the project has moved on


class NodeRpcs:
    """Handlers by RPC name."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._listings: OrderedDict[str, _Listing] = OrderedDict()
        self._listed_bytes = 0
        self._next_listing = 0

    async def get_node(self, request: GetNodeRequest) -> GetNodeResponse:
        """Return one node, committed or (`include_pending`) accepted."""
        project = await self._service.live(request.project_id)
        pending = request.include_pending
        node = (project.node if pending else project.view.nodes.get)(request.node_id)
        if node is None:
            raise NodeNotFound(project_id=request.project_id, node_id=request.node_id)
        revision = project.revision if pending else project.view.revision
        return GetNodeResponse(node=node.to_node(), revision=revision)

    async def list_nodes(self, request: ListNodesRequest) -> ListNodesResponse:
        """Return one page; later pages show the same revision as the first."""
        size = page_size(request.page_size)
        check_enum("states", request.states, NodeState.values())
        check_enum("task_types", request.task_types, TaskType.values())
        if request.page_token:
            listing, start = await self._resume(request)
        else:
            listing, start = await self._begin(request, request.at_revision), 0
        response = ListNodesResponse(revision=listing.revision)
        taken = 0
        at = start
        for at in range(start, min(start + size, len(listing.nodes))):
            node = listing.nodes[at]
            taken += len(node.data)
            if at > start and taken > MAX_PAGE_BYTES:
                break
            response.nodes.append(node.to_node())
        at = start + len(response.nodes)
        if at < len(listing.nodes):
            self._keep(listing)
            response.next_page_token = f"{listing.name}.{at}"
        return response

    async def list_node_history(self, request: ListNodeHistoryRequest) -> ListNodeHistoryResponse:
        """Return one page of the changes of a node; the token is `revision.index`.

        A page ends when so much of the log has been searched, whatever was found.
        """
        size = page_size(request.page_size)
        project = await self._service.live(request.project_id)
        view = project.view
        if request.node_id not in view.nodes and request.node_id not in view.deleted:
            raise NodeNotFound(project_id=request.project_id, node_id=request.node_id)
        after = (request.after_revision, _END)
        if request.page_token:
            after = parse_place(request.page_token)
        page = _HistoryPage(request.node_id, size)
        at = after[0] if after[1] == _END else max(after[0] - 1, 0)
        until = view.revision
        searched = 0
        while at < until:
            if searched >= _SEARCH_BYTES:
                page.end_after((at, _END))
                break
            records = await self._service.store.read_segments(project.uid, at, _READ_BYTES)
            if not records and project.deleted:
                raise ProjectNotFound(project_id=project.project_id)
            if not records and at >= view.compacted:
                raise CorruptRecord(
                    project_uid=project.uid, revision=at + 1, problem="the revision is missing"
                )
            if not records:
                at = view.compacted
                continue
            check_contiguous(project.uid, max(at, view.compacted), records)
            if await asyncio.to_thread(page.add, records, after, until):
                break
            at = records[-1].last_revision
            searched += sum(len(record.data) for record in records)
        return page.response

    async def _begin(self, request: ListNodesRequest, at_revision: int) -> _Listing:
        digest = _digest(request)
        project = await self._service.live(request.project_id)
        if request.include_pending:
            if request.at_revision:
                raise InvalidRequest(
                    field="at_revision", problem="cannot be combined with include_pending"
                )
            nodes, revision = list(project.all_nodes()), project.revision
            self._next_listing += 1
            name = f"{revision}.{self._service.start_micros:x}-{self._next_listing:x}"
        else:
            view = await self._service.past.view_at(project, at_revision)
            nodes, revision = list(view.nodes.values()), view.revision
            name = f"{revision}.{digest}"
        pauses, selected = Pauses(), list[LiveNode]()
        for start in range(0, len(nodes), _PIECE_NODES):
            if start:
                await pauses.rest()
            piece = nodes[start : start + _PIECE_NODES]
            selected += (node for node in piece if _selects(request, node))
        size = sum(len(node.data) for node in selected) + NODE_BYTES * len(selected)
        return _Listing(name, selected, revision, digest, size)

    async def _resume(self, request: ListNodesRequest) -> tuple[_Listing, int]:
        name, _, start = request.page_token.rpartition(".")
        revision, _, digest = name.partition(".")
        if not (is_place(start) and is_place(revision) and int(revision)):
            raise InvalidRequest(field="page_token", problem="is not from this service")
        listing = self._listings.get(name)
        if listing is None and request.include_pending:
            problem = "is unknown or has been forgotten; begin again"
            raise InvalidRequest(field="page_token", problem=problem)
        if (digest if listing is None else listing.digest) != _digest(request):
            raise InvalidRequest(field="page_token", problem="belongs to another request")
        if listing is None:
            listing = await self._begin(request, int(revision))
        return listing, int(start)

    def _keep(self, listing: _Listing) -> None:
        if listing.name not in self._listings:
            self._listings[listing.name] = listing
            self._listed_bytes += listing.size
        self._listings.move_to_end(listing.name)
        while len(self._listings) > _MAX_LISTINGS or (
            self._listed_bytes > _LISTED_BYTES and len(self._listings) > 1
        ):
            _, oldest = self._listings.popitem(last=False)
            self._listed_bytes -= oldest.size


def _selects(request: ListNodesRequest, node: LiveNode) -> bool:
    spec = node.spec
    if request.states and node.state not in request.states:
        return False
    if request.task_types and spec.task_type not in request.task_types:
        return False
    if request.HasField("layer") and spec.layer != request.layer:
        return False
    if request.agent_name and node.agent_name != request.agent_name:
        return False
    if request.parent_node_id and spec.parent != request.parent_node_id:
        return False
    if request.text:
        text = request.text.casefold()
        message = node.to_node()
        return text in message.goal.casefold() or text in message.output_summary.casefold()
    return True


def _digest(request: ListNodesRequest) -> str:
    plain = ListNodesRequest()
    plain.CopyFrom(request)
    plain.ClearField("page_token")
    plain.ClearField("page_size")
    return hashlib.sha256(plain.SerializeToString(deterministic=True)).hexdigest()[:32]


class _HistoryPage:
    """The changes of a node on one page and where it ends."""

    def __init__(self, node_id: str, size: int) -> None:
        self.response = ListNodeHistoryResponse()
        self._node_id = node_id
        self._left = size
        self._room = MAX_PAGE_BYTES
        self._last = (0, 0)

    def end_after(self, place: tuple[int, int]) -> None:
        """Say that the next page begins behind a place."""
        self.response.next_page_token = f"{place[0]}.{place[1]}"

    def add(self, records: Sequence[SegmentRecord], after: tuple[int, int], until: int) -> bool:
        """Add what lies behind a place; True once the page is full and there is more.

        What comes behind that is not inflated. Runs in a thread.
        """
        wanted = self._node_id.encode()
        for record in records:
            segment = decode_segment(record)
            if wanted not in segment.delta:
                continue
            delta: Delta = decode_delta(segment)
            infos = {info.revision: info for info in delta.revisions}
            for change in delta.changes:
                place = (change.revision, change.index)
                if change.node.node_id != self._node_id or not after < place <= (until, _END):
                    continue
                entry = NodeHistoryEntry(
                    revision=infos[change.revision], index=change.index, change=change.node
                )
                size = entry.ByteSize()
                if self._left == 0 or (size > self._room and self.response.entries):
                    self.end_after(self._last)
                    return True
                self.response.entries.append(entry)
                self._left -= 1
                self._room -= size
                self._last = place
        return False
