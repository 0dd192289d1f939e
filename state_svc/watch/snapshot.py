"""The view at one revision in chunks, made piece by piece so that commits go on meanwhile."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from ramify.v1.command_pb2 import Command, CommandState
from ramify.v1.review_pb2 import Review
from ramify.v1.state_service_pb2 import SnapshotChunk, WatchProjectResponse
from state_svc.codec.delta import MAX_FRAME_BYTES
from state_svc.model.checksum import view_checksum
from state_svc.model.node import LiveNode
from state_svc.model.project import View
from state_svc.model.review import OPEN
from state_svc.model.wire import bytes_field, varint_field
from state_svc.watch.filter import FindSpec, ViewFilter, find_in
from state_svc.watch.pause import Pauses

PIECE_NODES = 250  #: worked on before others get the loop

_RESUME = WatchProjectResponse.RESUME_REVISION_FIELD_NUMBER
_SNAPSHOT = WatchProjectResponse.SNAPSHOT_FIELD_NUMBER
_REVISION = SnapshotChunk.REVISION_FIELD_NUMBER
_CHUNK = SnapshotChunk.CHUNK_FIELD_NUMBER
_NODES = SnapshotChunk.NODES_FIELD_NUMBER


@dataclass(frozen=True, slots=True)
class _Held:
    """References to what is sent; nodes and entities never change once made."""

    entities: Sequence[SnapshotChunk | Command | Review]
    nodes: Sequence[LiveNode]
    find: FindSpec


class Snapshot:
    """Cuts what a filter shows of a view into chunks, whatever is committed later.

    The view may be let go of while a message is being sent. Whoever hands in one of the same
    revision again is given the chunks that are left.
    """

    def __init__(self, view_filter: ViewFilter) -> None:
        self.revision = 0  #: of the view; 0 before there is one
        self.done = False
        self._filter = view_filter
        self._held: _Held | None = None
        self._entity_at = self._node_at = 0
        self._parts: list[bytes] = []
        self._size = self._number = self._checksum = 0

    @property
    def holds_view(self) -> bool:
        """Whether a view is held."""
        return self._held is not None

    def hold(self, view: View) -> None:
        """Take a view as it is now; the first one, or one of the same revision."""
        self.revision = view.revision
        shown = self._filter
        entities: list[SnapshotChunk | Command | Review] = []
        if shown.shows_project:
            entities.append(SnapshotChunk(project=view.entity))
        if shown.shows_commands:
            state = CommandState.COMMAND_STATE_OPEN
            entities += (c for c in view.commands.values() if c.state == state)
        if shown.shows_reviews:
            entities += (r for r in view.reviews.values() if r.state == OPEN)
        nodes = list(view.nodes.values()) if shown.shows_nodes else []
        find = find_in(dict(view.nodes) if shown.needs_ancestors else {})
        self._held = _Held(entities, nodes, find)

    def drop(self) -> None:
        """Let go of the view."""
        self._held = None

    async def messages(self) -> AsyncGenerator[tuple[bytes, int], None]:
        """Yield (encoded response, revision that it promises) until `done` or let go of the view.

        Only the last response promises one; of the others it is 0.
        """
        pauses = Pauses()
        while self._held is not None and not self.done:
            fields = self._piece(self._held)
            for field in fields or ():
                if self._size and self._size + len(field) > MAX_FRAME_BYTES:
                    yield self._message(), 0
                self._parts.append(field)
                self._size += len(field)
            if fields is None:
                self.done = True
                promise = varint_field(_RESUME, self.revision)
                yield promise + self._message(self._last()), self.revision
            await pauses.rest()

    def _piece(self, held: _Held) -> list[bytes] | None:
        """Return the fields of what comes next, about a message at most; None at the end."""
        begin, size = self._entity_at, 0
        entities: list[bytes] = []
        for entity in held.entities[begin : begin + PIECE_NODES]:
            entities.append(_entity_field(entity))
            self._entity_at += 1
            size += len(entities[-1])
            if size >= MAX_FRAME_BYTES:
                break
        if entities:
            return entities
        begin = self._node_at
        for node in held.nodes[begin : begin + PIECE_NODES]:
            self._node_at += 1
            size += len(node.data)
            if size >= MAX_FRAME_BYTES:
                break
        if self._node_at == begin:
            return None
        nodes = self._filter.select(held.nodes[begin : self._node_at], held.find)
        if self._filter.mask is None:
            self._checksum += view_checksum(nodes)
        return self._node_fields(nodes)

    def _last(self) -> SnapshotChunk:
        last = SnapshotChunk(last=True)
        if self._filter.mask is None:
            last.checksum = self._checksum % (1 << 64)
        return last

    def _message(self, end: SnapshotChunk | None = None) -> bytes:
        head = varint_field(_REVISION, self.revision) + varint_field(_CHUNK, self._number)
        if end is not None:
            self._parts.append(end.SerializeToString())
        message = bytes_field(_SNAPSHOT, head + b"".join(self._parts))
        self._parts, self._size = [], 0
        self._number += 1
        return message

    def _node_fields(self, nodes: list[LiveNode]) -> list[bytes]:
        mask = self._filter.mask
        if mask is None:
            return [bytes_field(_NODES, live.encoded()) for live in nodes]
        fields = []
        for live in nodes:
            node = live.to_node()
            mask.keep(node)
            fields.append(bytes_field(_NODES, node.SerializeToString()))
        return fields


def _entity_field(entity: SnapshotChunk | Command | Review) -> bytes:
    if isinstance(entity, Command):
        entity = SnapshotChunk(commands=(entity,))
    elif isinstance(entity, Review):
        entity = SnapshotChunk(reviews=(entity,))
    return entity.SerializeToString()
