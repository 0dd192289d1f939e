"""Writes a project with its retained history as a portable file, a piece at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from state_svc import __version__
from state_svc.admin.portable import FILE_VERSION, SPREAD_VERSION, FileWriter
from state_svc.codec import snapshot
from state_svc.codec.segment import SegmentRecord, decode_segment
from state_svc.codec.snapshot import decode_chunk
from state_svc.errors import CorruptRecord
from state_svc.model.checksum import view_checksum
from state_svc.model.node import LiveNode, set_micros
from state_svc.storage.v1.file_pb2 import ExportHeader, FileRecord, StoredPayload
from state_svc.store.base import StateStore

_RUN_BYTES = 512 << 10  #: stored bytes of the segments in one record
_RECORD_BYTES = 1 << 20  #: decoded bytes at which a record ends


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportSource:
    """A project as it is at its head; nothing in it changes any more."""

    project_id: str
    project_uid: str
    revision: int
    compacted: int
    nodes: Sequence[LiveNode]
    micros: int


async def write_project(
    store: StateStore, source: ExportSource
) -> AsyncIterator[tuple[bytes, int]]:
    """Yield the bytes of the file and the last revision that they hold.

    Raises `CorruptRecord` for revisions that are damaged, or not there any more.
    """
    writer = FileWriter()
    base = []
    if source.compacted:
        retained = await store.list_snapshots(source.project_uid)
        begin = next((r for r in retained if r >= source.compacted), 0)
        base = await store.read_snapshot(source.project_uid, begin)
        if not base:
            raise CorruptRecord(
                project_uid=source.project_uid,
                revision=source.compacted,
                problem="no snapshot of the compacted revision",
            )
    at = base[0].revision if base else 0
    spread = any(record.format_version == snapshot.SPREAD_VERSION for record in base)
    header = ExportHeader(
        file_version=SPREAD_VERSION if spread else FILE_VERSION,
        writer_version=__version__,
        store_id=store.store_id,
        project_id=source.project_id,
        project_uid=source.project_uid,
        compacted_revision=at,
        revision=source.revision,
    )
    set_micros(header.create_time, source.micros)
    yield writer.begin(FileRecord(project=header)), 0
    async for record in _bodies(store, source):
        yield await asyncio.to_thread(writer.add, record), 0
    for stored in base:
        chunk = await asyncio.to_thread(decode_chunk, stored)
        yield await asyncio.to_thread(writer.add, FileRecord(snapshot=chunk)), at
    while at < source.revision:
        records = await store.read_segments(source.project_uid, at, _RUN_BYTES)
        run = await asyncio.to_thread(_read_run, source, records, at)
        at = run.segments.segments[-1].last_revision
        yield await asyncio.to_thread(writer.add, run), at
    checksum = await asyncio.to_thread(view_checksum, source.nodes)
    yield writer.end(view_checksum=checksum, node_count=len(source.nodes)), at


async def _bodies(store: StateStore, source: ExportSource) -> AsyncIterator[FileRecord]:
    """Yield the payloads that the project references, and its archived stage records."""
    references = await store.payloads.list_references(source.project_uid)
    for digest in sorted({reference.digest for reference in references}):
        payload = await store.payloads.read(digest)
        if payload is None:
            problem = f"payload {digest} is missing"
            raise CorruptRecord(project_uid=source.project_uid, problem=problem)
        yield FileRecord(
            payload=StoredPayload(
                digest=digest,
                codec=payload.codec,
                original_bytes=payload.original_bytes,
                data=payload.data,
            )
        )
    at = 0
    while at < source.compacted:
        archived = await store.payloads.read_archive(source.project_uid, at, _RUN_BYTES)
        if not archived:
            return
        for record in archived:
            at = record.segment.last_revision
            if at <= source.compacted:
                yield FileRecord(archive=await asyncio.to_thread(decode_segment, record.segment))


def _read_run(source: ExportSource, records: Sequence[SegmentRecord], at: int) -> FileRecord:
    run = FileRecord()
    size = 0
    for record in records:
        if record.first_revision != at + 1:
            break
        if record.last_revision > source.revision:
            break  # committed since; the head is always the end of a segment
        if size > _RECORD_BYTES:
            break
        segment = decode_segment(record)
        size += len(segment.delta)
        run.segments.segments.append(segment)
        at = record.last_revision
    if not run.segments.segments:
        raise CorruptRecord(
            project_uid=source.project_uid, revision=at + 1, problem="the revision is missing"
        )
    return run
