"""Snapshots: how a whole project at one revision lies in the store, in chunks."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from ramify.v1.command_pb2 import Command
from ramify.v1.node_pb2 import Node
from ramify.v1.project_pb2 import Project
from ramify.v1.review_pb2 import Review
from state_svc.codec.compression import CompressionError, compress, decompress
from state_svc.errors import CorruptRecord
from state_svc.model.node import LiveNode, NodeSpec
from state_svc.model.producer import ProducerPosition, Run
from state_svc.model.project import LiveProject, View
from state_svc.storage.v1.snapshot_pb2 import SnapshotChunk

FORMAT_VERSION = 1  #: of the record, stored with each
#: Of a chunk behind the first that has commands or deleted ids: older readers do not look there.
SPREAD_VERSION = 2
_ITEM_BYTES = 32  #: of an item in a chunk, beside its own bytes: at most
_CHUNK_BYTES = 1 << 20  #: encoded size at which a chunk ends
_THRESHOLD = 1_024


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotRecord:
    """One stored row: a chunk of a snapshot."""

    project_uid: str
    revision: int
    chunk: int
    last: bool
    format_version: int
    codec: int
    checksum: int  #: crc32 of everything else
    data: bytes


@dataclass(frozen=True, slots=True)
class Frozen:
    """A project as it is at one revision; nothing in it ever changes."""

    project_uid: str
    revision: int
    micros: int
    entity: Project
    nodes: Sequence[LiveNode]
    commands: Sequence[Command]
    reviews: Sequence[Review]
    deleted: Sequence[str]
    producers: Sequence[tuple[str, int, int, list[Run]]]  #: id, epoch, committed, runs
    forgot_producers: bool


def freeze(project: LiveProject) -> Frozen:
    """Return the committed project as it is now; costs a copy of references."""
    view = project.view
    return Frozen(
        project.uid,
        view.revision,
        view.micros,
        view.entity,
        list(view.nodes.values()),
        list(view.commands.values()),
        list(view.reviews.values()),
        list(view.deleted),
        [
            (producer_id, position.epoch, position.committed, position.runs())
            for producer_id, position in project.producers.items()
            if position.committed
        ],
        view.forgot_producers,
    )


def encode_snapshot(frozen: Frozen) -> Iterator[SnapshotRecord]:
    """Yield the records of a snapshot in order."""
    chunk = SnapshotChunk(
        project_uid=frozen.project_uid,
        revision=frozen.revision,
        project=frozen.entity.SerializeToString(),
        commit_micros=frozen.micros,
        forgot_producers=frozen.forgot_producers,
    )
    for producer_id, epoch, committed, runs in frozen.producers:
        producer = chunk.producers.add(
            producer_id=producer_id, epoch=epoch, committed_sequence=committed
        )
        for run in runs:
            producer.runs.add(
                first_sequence=run.first_sequence,
                last_sequence=run.last_sequence,
                first_revision=run.first_revision,
            )
    size = 0
    for field, data, node in _contents(frozen):
        length = len(data) + _ITEM_BYTES
        if size and size + length > _CHUNK_BYTES:
            yield encode_chunk(chunk)
            chunk = SnapshotChunk(
                project_uid=frozen.project_uid, revision=frozen.revision, chunk=chunk.chunk + 1
            )
            size = 0
        if node is None:
            getattr(chunk, field).append(data)
        else:
            chunk.nodes.add(
                data=data,
                version=node.version,
                update_revision=node.revision,
                update_micros=node.micros,
            )
        size += length
    chunk.last = True
    yield encode_chunk(chunk)


def _contents(frozen: Frozen) -> Iterator[tuple[str, bytes | str, LiveNode | None]]:
    """Yield what is spread over the chunks: field, data, and the node if it is one."""
    for command in frozen.commands:
        yield "commands", command.SerializeToString(), None
    for node_id in frozen.deleted:
        yield "deleted_node_ids", node_id, None
    for node in frozen.nodes:
        yield "nodes", node.data, node
    for review in frozen.reviews:
        yield "reviews", review.SerializeToString(), None


def encode_chunk(chunk: SnapshotChunk) -> SnapshotRecord:
    """Return one chunk as a record; raises `CompressionError` if it is too large to be read."""
    codec, data = compress(chunk.SerializeToString(), _THRESHOLD)
    spread = chunk.chunk and (chunk.commands or chunk.deleted_node_ids)
    version = SPREAD_VERSION if spread else FORMAT_VERSION
    return SnapshotRecord(
        project_uid=chunk.project_uid,
        revision=chunk.revision,
        chunk=chunk.chunk,
        last=chunk.last,
        format_version=version,
        codec=codec,
        checksum=_checksum(
            chunk.project_uid, chunk.revision, chunk.chunk, chunk.last, version, codec, data
        ),
        data=data,
    )


def decode_snapshot(
    records: Sequence[SnapshotRecord],
) -> tuple[View, dict[str, ProducerPosition]]:
    """Return the project that the records of one complete snapshot hold.

    Raises `CorruptRecord` if a bit differs from what was written or a chunk is missing.
    """
    view = View(entity=Project())
    producers: dict[str, ProducerPosition] = {}
    for number, record in enumerate(records):
        chunk = decode_chunk(record)
        if chunk.chunk != number or chunk.last != (number == len(records) - 1):
            raise CorruptRecord(**_place(record), problem="a chunk is missing")
        if not number:
            view.entity = Project.FromString(chunk.project)
            view.revision = chunk.revision
            view.micros = chunk.commit_micros
            view.forgot_producers = chunk.forgot_producers
            for producer in chunk.producers:
                position = ProducerPosition(producer.epoch, producer.committed_sequence)
                position.restore(
                    [
                        Run(r.first_sequence, r.last_sequence, r.first_revision)
                        for r in producer.runs
                    ]
                )
                producers[producer.producer_id] = position
        for data in chunk.commands:
            command = Command.FromString(data)
            view.commands[command.command_id] = command
        view.deleted.update(chunk.deleted_node_ids)
        for item in chunk.nodes:
            node = Node.FromString(item.data)
            spec = NodeSpec(node.node_id, node.parent_node_id, node.layer, node.task_type)
            live = LiveNode(
                spec,
                item.data,
                node.state,
                item.version,
                node.attempt,
                node.agent_name,
                item.update_revision,
                item.update_micros,
            )
            view.put_node(spec.node_id, live)
        for data in chunk.reviews:
            review = Review.FromString(data)
            view.reviews[review.review_id] = review
    return view, producers


def decode_chunk(record: SnapshotRecord) -> SnapshotChunk:
    """Return the chunk of a record; raises `CorruptRecord` if a bit differs."""
    if record.format_version not in (FORMAT_VERSION, SPREAD_VERSION):
        raise CorruptRecord(**_place(record), problem=f"unknown format {record.format_version}")
    expected = _checksum(
        record.project_uid,
        record.revision,
        record.chunk,
        record.last,
        record.format_version,
        record.codec,
        record.data,
    )
    if record.checksum != expected:
        raise CorruptRecord(**_place(record), problem="checksum does not match")
    try:
        return SnapshotChunk.FromString(decompress(record.codec, record.data))
    except (CompressionError, DecodeError) as error:
        raise CorruptRecord(**_place(record), problem=str(error)) from error


def _place(record: SnapshotRecord) -> dict[str, object]:
    return {
        "project_uid": record.project_uid,
        "snapshot_revision": record.revision,
        "chunk": record.chunk,
    }


def _checksum(
    uid: str, revision: int, chunk: int, last: bool, version: int, codec: int, data: bytes
) -> int:
    key = f"{uid}/{revision}/{chunk}/{last:d}/{version}/{codec}"
    return zlib.crc32(data, zlib.crc32(key.encode()))
