"""Segments: how a run of revisions of one project lies in the store."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from ramify.v1.mutation_pb2 import Delta
from state_svc.codec.compression import CompressionError, compress, decompress
from state_svc.codec.delta import encode_delta
from state_svc.errors import CorruptRecord
from state_svc.model.project import Applied
from state_svc.storage.v1.segment_pb2 import Segment

FORMAT_VERSION = 1  #: of the record, stored with each


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentRecord:
    """One stored row."""

    project_uid: str
    first_revision: int
    last_revision: int
    format_version: int
    codec: int
    checksum: int  #: crc32 of everything else
    data: bytes


@dataclass(frozen=True, slots=True)
class EncodedSegment:
    """A record and the size it had before compression."""

    record: SegmentRecord
    original_bytes: int


def encode_segment(project_uid: str, run: Sequence[Applied], threshold: int) -> EncodedSegment:
    """Return consecutive revisions of one project as one record."""
    first, last = run[0].revision, run[-1].revision
    segment = Segment(
        project_uid=project_uid,
        first_revision=first,
        last_revision=last,
        delta=encode_delta(first, last, [applied.body for applied in run]),
    )
    for applied in run:
        origin = applied.origin
        position = segment.positions.add()
        if origin.producer_id:
            position.producer_id = origin.producer_id
            position.epoch = origin.epoch
            position.sequence = origin.sequence
    return pack_segment(segment, threshold)


def pack_segment(segment: Segment, threshold: int) -> EncodedSegment:
    """Return a segment as a record; raises `CompressionError` if it is too large to be read."""
    uid, first, last = segment.project_uid, segment.first_revision, segment.last_revision
    raw = segment.SerializeToString()
    codec, data = compress(raw, threshold)
    checksum = _checksum(uid, first, last, FORMAT_VERSION, codec, data)
    record = SegmentRecord(
        project_uid=uid,
        first_revision=first,
        last_revision=last,
        format_version=FORMAT_VERSION,
        codec=codec,
        checksum=checksum,
        data=data,
    )
    return EncodedSegment(record, len(raw))


def decode_segment(record: SegmentRecord) -> Segment:
    """Return the segment of a record.

    Raises `CorruptRecord` if a bit differs from what was written or the format is unknown.
    """
    place = {
        "project_uid": record.project_uid,
        "first_revision": record.first_revision,
        "last_revision": record.last_revision,
    }
    if record.format_version != FORMAT_VERSION:
        raise CorruptRecord(**place, problem=f"unknown format {record.format_version}")
    expected = _checksum(
        record.project_uid,
        record.first_revision,
        record.last_revision,
        record.format_version,
        record.codec,
        record.data,
    )
    if record.checksum != expected:
        raise CorruptRecord(**place, problem="checksum does not match")
    try:
        segment = Segment.FromString(decompress(record.codec, record.data))
    except (CompressionError, DecodeError) as error:
        raise CorruptRecord(**place, problem=str(error)) from error
    if (segment.first_revision, segment.last_revision, segment.project_uid) != (
        record.first_revision,
        record.last_revision,
        record.project_uid,
    ):
        raise CorruptRecord(**place, problem="content and key differ")
    return segment


def decode_delta(segment: Segment) -> Delta:
    """Return the effects of a segment."""
    try:
        return Delta.FromString(segment.delta)
    except DecodeError as error:
        raise CorruptRecord(
            project_uid=segment.project_uid,
            first_revision=segment.first_revision,
            problem=str(error),
        ) from error


def check_contiguous(project_uid: str, after: int, records: Sequence[SegmentRecord]) -> None:
    """Raise `CorruptRecord` unless the records go on after revision `after` without a hole."""
    for record in records:
        if record.first_revision > after + 1:
            raise CorruptRecord(
                project_uid=project_uid, revision=after + 1, problem="the revision is missing"
            )
        after = record.last_revision


def _checksum(uid: str, first: int, last: int, version: int, codec: int, data: bytes) -> int:
    return zlib.crc32(data, zlib.crc32(f"{uid}/{first}/{last}/{version}/{codec}".encode()))
