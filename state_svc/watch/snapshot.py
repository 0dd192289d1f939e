"""The view at one revision in chunks, made piece by piece so that commits go on meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

from ramify.v1.command_pb2 import Command, CommandState
from ramify.v1.review_pb2 import Review
from ramify.v1.state_service_pb2 import SnapshotChunk, WatchProjectResponse
from state_svc.codec.delta import MAX_FRAME_BYTES
from state_svc.model.checksum import view_checksum
from state_svc.model.node import LiveNode
from state_svc.model.project import View
from state_svc.model.review import OPEN
from state_svc.model.wire import bytes_field, varint_field
from state_svc.watch.filter import ViewFilter, find_in
from state_svc.watch.pause import Pauses

PIECE_NODES = 250  #: worked on before others get the loop

_RESUME = WatchProjectResponse.RESUME_REVISION_FIELD_NUMBER
_SNAPSHOT = WatchProjectResponse.SNAPSHOT_FIELD_NUMBER
_REVISION = SnapshotChunk.REVISION_FIELD_NUMBER
_CHUNK = SnapshotChunk.CHUNK_FIELD_NUMBER
_NODES = SnapshotChunk.NODES_FIELD_NUMBER


class Snapshot:
    """What a filter shows of a view as it is when this is made, whatever is committed later.

    Nodes and entities are immutable, so a copy of references is the whole view at that moment.
    """

    def __init__(self, view: View, view_filter: ViewFilter) -> None:
        self.revision = view.revision
        self._filter = view_filter
        self._nodes = dict(view.nodes)
        self._entity = view.entity
        self._commands: list[Command] = []
        self._reviews: list[Review] = []
        if view_filter.shows_commands:
            state = CommandState.COMMAND_STATE_OPEN
            self._commands = [c for c in view.commands.values() if c.state == state]
        if view_filter.shows_reviews:
            self._reviews = [r for r in view.reviews.values() if r.state == OPEN]

    async def messages(self) -> AsyncIterator[bytes]:
        """Yield encoded responses; only the last of them promises the revision."""
        parts: list[bytes] = []
        size = number = checksum = 0
        if self._filter.shows_project:
            whole = SnapshotChunk(project=self._entity).SerializeToString()
            parts, size = [whole], len(whole)
        fields: Iterator[bytes] | None = self._open_fields()
        at, everything = 0, list(self._nodes.values())
        find, pauses = find_in(self._nodes), Pauses()
        while fields is not None:
            for field in fields:
                if size and size + len(field) > MAX_FRAME_BYTES:
                    yield self._message(parts, number)
                    parts, size, number = [], 0, number + 1
                parts.append(field)
                size += len(field)
            await pauses.rest()
            piece = everything[at : at + PIECE_NODES]
            at += PIECE_NODES
            nodes = self._filter.select(piece, find)
            checksum += 0 if self._filter.mask else view_checksum(nodes)
            fields = self._node_fields(nodes) if piece else None
        last = SnapshotChunk(last=True)
        if self._filter.mask is None:
            last.checksum = checksum % (1 << 64)
        parts.append(last.SerializeToString())
        yield varint_field(_RESUME, self.revision) + self._message(parts, number)

    def _message(self, parts: list[bytes], number: int) -> bytes:
        head = varint_field(_REVISION, self.revision) + varint_field(_CHUNK, number)
        return bytes_field(_SNAPSHOT, head + b"".join(parts))

    def _open_fields(self) -> Iterator[bytes]:
        for command in self._commands:
            yield SnapshotChunk(commands=(command,)).SerializeToString()
        for review in self._reviews:
            yield SnapshotChunk(reviews=(review,)).SerializeToString()

    def _node_fields(self, nodes: list[LiveNode]) -> Iterator[bytes]:
        mask = self._filter.mask
        for live in nodes:
            if mask is None:
                yield bytes_field(_NODES, live.encoded())
            else:
                node = live.to_node()
                mask.keep(node)
                yield bytes_field(_NODES, node.SerializeToString())
