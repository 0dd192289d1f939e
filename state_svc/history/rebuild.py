"""Rebuilds a project at any retained revision: the nearest snapshot, then segments.

Recovery, time travel and late filtered watchers all come through here. A snapshot is only ever a
short cut: in place of a damaged one an older one serves, or the beginning, as long as all segments
since are there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from google.protobuf.message import DecodeError

from state_svc.codec.segment import SegmentRecord, decode_segment
from state_svc.codec.snapshot import SnapshotRecord, decode_snapshot
from state_svc.errors import CorruptRecord
from state_svc.history.replay import Replay
from state_svc.store.base import StateStore

_log = logging.getLogger(__name__)

#: What replaying content raises that no writer has written.
_BROKEN = (DecodeError, LookupError, OverflowError, TypeError, ValueError)
_CHUNK_BYTES = 4 << 20  #: stored bytes replayed at a time


async def rebuild(
    store: StateStore,
    project_uid: str,
    revision: int,
    avoided: Callable[[], None] = lambda: None,
) -> Replay:
    """Return the project as it was at a revision. The work is done in threads.

    `avoided` is told if that took a way round a damaged snapshot. Raises `CorruptRecord` if the
    history has a hole or a bit differs from what was written.
    """
    replay, damage = await _begin(store, project_uid, revision)
    try:
        await _advance(store, project_uid, replay, revision)
    except CorruptRecord as error:
        if damage is None:
            raise
        raise damage from error
    if damage is not None:
        _log.error("a snapshot is damaged, the log replaces it", extra={"fields": damage.fields})
        avoided()
    return replay


async def _begin(
    store: StateStore, project_uid: str, revision: int
) -> tuple[Replay, CorruptRecord | None]:
    """Return where to begin, and what is wrong with a snapshot that would be nearer."""
    damage: CorruptRecord | None = None
    replay = Replay()
    snapshots = [r for r in await store.list_snapshots(project_uid) if r <= revision]
    for at in reversed(snapshots):
        try:
            records = await store.read_snapshot(project_uid, at)
            if records:  # else it was dropped since
                await asyncio.to_thread(_restore, replay, records)
            break
        except CorruptRecord as error:
            damage = damage or error
    return replay, damage


async def _advance(store: StateStore, project_uid: str, replay: Replay, revision: int) -> None:
    while replay.view.revision < revision:
        at = replay.view.revision
        records = await store.read_segments(project_uid, at, _CHUNK_BYTES)
        if not records:
            raise CorruptRecord(
                project_uid=project_uid, revision=at + 1, problem="the revision is missing"
            )
        await asyncio.to_thread(_replay, replay, records, revision)


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
