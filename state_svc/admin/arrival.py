"""Reads an exported project: verifies all of it first, then turns it into records of a new one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from google.protobuf.message import DecodeError

from ramify.v1.mutation_pb2 import Change, Delta
from ramify.v1.project_pb2 import Project, ProjectPatch, ProjectState
from state_svc.admin.content import (
    MAX_SEGMENT_BYTES,
    CheckedReplay,
    check_counts,
    check_stages,
    check_view,
    clean,
)
from state_svc.admin.identity import Identity
from state_svc.admin.portable import FileReader, check_version
from state_svc.codec.payload import PayloadRecord, decode_payload
from state_svc.codec.segment import SegmentRecord, decode_delta, pack_segment
from state_svc.codec.snapshot import SnapshotRecord, decode_snapshot, encode_chunk
from state_svc.errors import CorruptRecord
from state_svc.history.archive import digests_of_change, digests_of_chunk
from state_svc.model.checksum import view_checksum
from state_svc.model.entity import stopped_micros
from state_svc.model.ids import is_project_id
from state_svc.model.limits import Limits
from state_svc.model.node import read_micros, set_micros
from state_svc.model.patch import replay_project
from state_svc.model.project import Applied, View
from state_svc.storage.v1.file_pb2 import ExportHeader, StoredPayload
from state_svc.storage.v1.segment_pb2 import Position, Segment
from state_svc.storage.v1.snapshot_pb2 import SnapshotChunk
from state_svc.store.payloads import ArchiveRecord

_THRESHOLD = 1_024
_BROKEN = (CorruptRecord, DecodeError, LookupError, OverflowError, TypeError, ValueError)
_PAUSED_ON_ARRIVAL = frozenset(
    {
        ProjectState.PROJECT_STATE_PENDING,
        ProjectState.PROJECT_STATE_RUNNING,
        ProjectState.PROJECT_STATE_WAITING,
        ProjectState.PROJECT_STATE_PAUSING,
    }
)


@dataclass(frozen=True, slots=True)
class ProjectFile:
    """A file that was read to its end and is right."""

    header: ExportHeader
    view: View  #: the project at its last revision
    references: dict[str, int]  #: revision by digest, of segments and snapshot
    archived: dict[str, int]  #: revision by digest, of archived stage records


Record = SnapshotRecord | SegmentRecord | PayloadRecord | ArchiveRecord


def verify(stream: BinaryIO, limits: Limits) -> ProjectFile:
    """Read a whole file and replay its history. Raises `DamagedFile`, which names the place."""
    reader = FileReader(stream)
    records = reader.records()
    first = next(records, None)
    if first is None or first.WhichOneof("record") != "project":
        raise reader.damaged("it is not an exported project")
    header = first.project
    check_version(reader, header.file_version)
    reading = _Reading(header, limits)
    for record in records:
        try:
            clean(record)
            kind = record.WhichOneof("record")
            if kind == "snapshot":
                reading.add_chunk(record.snapshot)
            elif kind == "payload":
                reading.add_payload(record.payload)
            elif kind == "archive":
                reading.add_archive(record.archive)
            elif kind == "segments":
                for segment in record.segments.segments:
                    reading.add_segment(segment)
            else:
                raise ValueError("a record that is not part of a project")
        except _BROKEN as error:
            raise reader.damaged(_text(error), revision=reading.at + 1) from error
    view = reading.replay.view
    trailer = reader.trailer
    if trailer is None or view.revision != header.revision or not view.revision:
        raise reader.damaged(f"the history ends at {view.revision}, not at {header.revision}")
    if (view_checksum(view.nodes.values()), len(view.nodes)) != (
        trailer.view_checksum,
        trailer.node_count,
    ):
        raise reader.damaged("replay gives another view checksum", revision=view.revision)
    entity = view.entity
    if (entity.project_uid, entity.project_id) != (header.project_uid, header.project_id):
        raise reader.damaged("the project in it is another one than its header says")
    if not is_project_id(header.project_id):
        raise reader.damaged("the project id is not valid")
    view.compacted = header.compacted_revision
    missing = (reading.references.keys() | reading.archived.keys()) - reading.payloads
    if missing:
        raise reader.damaged(f"payload {min(missing)} is named and not there")
    return ProjectFile(header, view, reading.references, reading.archived)


class _Reading:
    """The replay of a file that is not trusted."""

    def __init__(self, header: ExportHeader, limits: Limits) -> None:
        self.replay = CheckedReplay()
        self.payloads: set[str] = set()
        self.references: dict[str, int] = {}
        self.archived: dict[str, int] = {}
        self._limits = limits
        self._archived_until = 0
        self.at = 0
        self._header = header
        self._chunks: list[SnapshotRecord] = []
        self._nodes = self._others = 0  #: in them

    def add_payload(self, payload: StoredPayload) -> None:
        """Take a body, which must have its digest."""
        decode_payload(payload_record(payload, 0), self._limits.max_stored_payload_bytes)
        self.payloads.add(payload.digest)

    def add_archive(self, segment: Segment) -> None:
        """Take the next archived stage records."""
        first, last = segment.first_revision, segment.last_revision
        if segment.project_uid != self._header.project_uid:
            raise ValueError("archived stage records of another project")
        if not self._archived_until < first <= last <= self._header.compacted_revision:
            raise ValueError("archived stage records out of order")
        changes = _changes(segment)
        if not changes:
            raise ValueError("no stage record among archived ones")
        check_stages(changes)
        for change in changes:
            self.archived.update(dict.fromkeys(digests_of_change(change), change.revision))
        self._archived_until = last

    def add_chunk(self, chunk: SnapshotChunk) -> None:
        """Take the next chunk of the snapshot that the history begins from."""
        header = self._header
        if self.at or (chunk.project_uid, chunk.revision) != (
            header.project_uid,
            header.compacted_revision,
        ):
            raise ValueError("a snapshot that does not belong here")
        self.references.update(dict.fromkeys(digests_of_chunk(chunk), chunk.revision))
        self._chunks.append(encode_chunk(chunk))
        self._nodes += len(chunk.nodes)
        if self._nodes > self._limits.max_project_nodes:
            raise ValueError(f"more than {self._limits.max_project_nodes} nodes")
        self._others += len(chunk.commands) + len(chunk.reviews)
        if chunk.last:
            view, _ = decode_snapshot(self._chunks)
            others = len(view.commands) + len(view.reviews)
            if (len(view.nodes), others) != (self._nodes, self._others):
                raise ValueError("something is there twice")
            check_view(view, self._limits)
            self.replay.view, self.at = view, chunk.revision

    def add_segment(self, segment: Segment) -> None:
        """Replay the next segment."""
        first, last = segment.first_revision, segment.last_revision
        if segment.project_uid != self._header.project_uid:
            raise ValueError("a segment of another project")
        if self.at < self._header.compacted_revision or first != self.at + 1 or last < first:
            raise ValueError(f"revision {self.at + 1} is missing")
        delta = decode_delta(segment)
        # Not compared as a row of numbers: it may be of any length.
        right = len(delta.revisions) == last - first + 1
        if not right or any(i.revision != first + n for n, i in enumerate(delta.revisions)):
            raise ValueError(f"not the revisions {first} to {last}")
        for change in _changes(segment):
            self.references.update(dict.fromkeys(digests_of_change(change), change.revision))
        self.replay.add_delta(delta, last)
        check_counts(self.replay.view, self._limits)
        self.at = last


def _changes(segment: Segment) -> list[Change]:
    """Return the changes of a segment; raises `ValueError` unless they are in order in it."""
    if len(segment.delta) > MAX_SEGMENT_BYTES:
        raise ValueError(f"a segment of {len(segment.delta)} bytes")
    changes = list(decode_delta(segment).changes)
    places = [(change.revision, change.index) for change in changes]
    first, last = segment.first_revision, segment.last_revision
    if places != sorted(set(places)) or (places and not first <= places[0][0]):
        raise ValueError("changes out of order")
    if places and places[-1][0] > last:
        raise ValueError("a change of a later revision")
    return changes


def payload_record(payload: StoredPayload, micros: int) -> PayloadRecord:
    """Return a body of a file as it is stored."""
    return PayloadRecord(
        digest=payload.digest,
        codec=payload.codec,
        original_bytes=payload.original_bytes,
        micros=micros,
        data=payload.data,
    )


def records_of(stream: BinaryIO, identity: Identity, micros: int) -> Iterator[Record]:
    """Yield a verified file as records of a new project, in order."""
    for record in FileReader(stream).records():
        clean(record)
        if record.WhichOneof("record") == "snapshot":
            chunk = record.snapshot
            identity.chunk(chunk)
            yield encode_chunk(chunk)
        elif record.WhichOneof("record") == "payload":
            yield payload_record(record.payload, micros)
        elif record.WhichOneof("record") == "archive":
            identity.segment(record.archive)
            changes = decode_delta(record.archive).changes
            latest = max(read_micros(change.stage.stage.create_time) for change in changes)
            yield ArchiveRecord(pack_segment(record.archive, _THRESHOLD).record, latest)
        for segment in record.segments.segments:
            identity.segment(segment)
            count = segment.last_revision - segment.first_revision + 1
            segment.positions.extend([Position()] * count)
            yield pack_segment(segment, _THRESHOLD).record


def settle(view: View, *, micros: int, actor: str) -> Applied | None:
    """Return the revision that pauses a run that has not ended and releases its lease.

    Else an orchestrator would begin to execute it, perhaps beside the one it was exported from.
    Its timers stand still since its last revision, or since it was paused.
    """
    before = view.entity
    patch = ProjectPatch()
    if before.lease.holder:
        patch.lease.lease_epoch = before.lease.lease_epoch
    if before.state in _PAUSED_ON_ARRIVAL:
        patch.state = ProjectState.PROJECT_STATE_PAUSED
        set_micros(patch.pause_time, stopped_micros(before, view.micros))
    if not patch.ListFields():
        return None
    micros = max(micros, view.micros)
    after = Project()
    after.CopyFrom(before)
    replay_project(after, patch)
    after.version += 1
    set_micros(after.update_time, micros)
    revision = view.revision + 1
    delta = Delta()
    change = delta.changes.add(revision=revision)
    change.project.version = after.version
    change.project.patch.CopyFrom(patch)
    change.project.previous_state = before.state
    info = delta.revisions.add(revision=revision, actor=actor)
    set_micros(info.commit_time, micros)
    return Applied(
        revision=revision,
        micros=micros,
        mutation_count=1,
        info=info,
        body=delta.SerializeToString(),
        images=[(None, None)],
        nodes={},
        entity=after,
        commands={},
        wholes={0: after},
    )


def _text(error: Exception) -> str:
    if isinstance(error, CorruptRecord):
        return error.fields["problem"]
    return f"{error}" if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
