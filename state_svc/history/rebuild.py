"""Rebuilds a project at any retained revision: the nearest snapshot, then segments.

Recovery, time travel and late filtered watchers all come through here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from google.protobuf.message import DecodeError

from state_svc.codec.segment import SegmentRecord, decode_segment
from state_svc.codec.snapshot import SnapshotRecord, decode_snapshot
from state_svc.errors import CorruptRecord
from state_svc.history.replay import Replay
from state_svc.store.base import StateStore

#: What replaying content raises that no writer has written.
_BROKEN = (DecodeError, LookupError, OverflowError, TypeError, ValueError)
_CHUNK_BYTES = 4 << 20  #: stored bytes replayed at a time


async def rebuild(store: StateStore, project_uid: str, revision: int) -> Replay:
    """Return the project as it was at a revision. The work is done in threads.

    Raises `CorruptRecord` if the history has a hole or a bit differs from what was written.
    """
    replay = Replay()
    snapshot = await store.read_snapshot(project_uid, revision)
    if snapshot:
        await asyncio.to_thread(_restore, replay, snapshot)
    while replay.view.revision < revision:
        at = replay.view.revision
        records = await store.read_segments(project_uid, at, _CHUNK_BYTES)
        if not records:
            raise CorruptRecord(
                project_uid=project_uid, revision=at + 1, problem="the revision is missing"
            )
        await asyncio.to_thread(_replay, replay, records, revision)
    return replay


def _restore(replay: Replay, records: list[SnapshotRecord]) -> None:
    first = records[0]
    with _reported(project_uid=first.project_uid, snapshot_revision=first.revision):
        replay.view, replay.producers = decode_snapshot(records)


def _replay(replay: Replay, records: list[SegmentRecord], revision: int) -> None:
    for record in records:
        if replay.view.revision < revision:
            with _reported(project_uid=record.project_uid, first_revision=record.first_revision):
                replay.add_segment(decode_segment(record), revision)


@contextmanager
def _reported(**place: object) -> Iterator[None]:
    """Report content that cannot be replayed, though its checksum is right, with its place."""
    try:
        yield
    except _BROKEN as error:
        problem = f"cannot be replayed: {type(error).__name__}: {error}"
        raise CorruptRecord(**place, problem=problem) from error
