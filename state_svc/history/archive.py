"""What compaction does with stage records and references (SEM 12, 28).

Stage records of the revisions that are dropped go to an archive with a retention of its own.
Then a reference from the log is needed only if the snapshot that the history begins from names
the payload, or a revision behind it does: every state that can still be shown comes from those.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from ramify.v1.mutation_pb2 import Change, Delta, NodeChange
from ramify.v1.node_pb2 import Node
from ramify.v1.payload_pb2 import Payload
from ramify.v1.review_pb2 import Review
from state_svc.codec.segment import (
    SegmentRecord,
    check_contiguous,
    decode_delta,
    decode_segment,
    pack_segment,
)
from state_svc.codec.snapshot import SnapshotRecord, decode_chunk
from state_svc.errors import CorruptRecord
from state_svc.failpoints import failpoint
from state_svc.model.node import read_micros
from state_svc.model.project import View
from state_svc.model.stage import bodies
from state_svc.storage.v1.segment_pb2 import Segment
from state_svc.storage.v1.snapshot_pb2 import SnapshotChunk
from state_svc.store.base import Commit, StateStore
from state_svc.store.payloads import ArchiveRecord, ReferenceRecord

_READ_BYTES = 4 << 20  #: stored bytes at a time
_RECORD_BYTES = 4 << 20  #: encoded stage records in one record of the archive
_THRESHOLD = 1_024
DIGEST_MARK = b"sha256:"  #: in all bytes that name a payload


async def archive_stages(store: StateStore, project_uid: str, after: int, until: int) -> None:
    """Copy the stage records of revisions behind `after` up to `until` to the archive.

    What a compaction that was cut off has left behind `after` is replaced. Raises
    `CorruptRecord`, also if a revision is missing, or `StoreUnavailable`.
    """
    await store.payloads.drop_archive_after(project_uid, after)
    at = after
    while at < until:
        records = await store.read_segments(project_uid, at, _READ_BYTES)
        if not records:
            problem = "the revision is missing"
            raise CorruptRecord(project_uid=project_uid, revision=at + 1, problem=problem)
        check_contiguous(project_uid, at, records)
        commit = await asyncio.to_thread(_archived, project_uid, records, at, until)
        if commit.archive:
            await store.commit(commit)
            failpoint("after_archive")
        at = records[-1].last_revision


async def release_references(store: StateStore, project_uid: str, compacted: int) -> bool:
    """Forget the references that no retained revision needs; return whether there were any.

    `compacted` is durable, and there is a snapshot of it. Raises `CorruptRecord` or
    `StoreUnavailable`.
    """
    references = await store.payloads.list_references(project_uid)
    old = {r.digest for r in references if not r.archived and r.revision <= compacted}
    if not old:
        return False
    snapshot = await store.read_snapshot(project_uid, compacted)
    kept: set[str] = set()
    for record in snapshot:
        kept.update(await asyncio.to_thread(_named_in_chunk, record))
    if not snapshot or snapshot[0].revision != compacted or old <= kept:
        return False
    await store.payloads.drop_references(project_uid, compacted, kept)
    return True


async def name_payloads(store: StateStore, view: View) -> None:
    """Reference what the view of a new project names, durably.

    Raises `StoreUnavailable`, also if a body of them is gone.
    """
    named = await asyncio.to_thread(lambda: set(digests_of_view(view)))
    if named:
        uid, revision = view.entity.project_uid, view.revision
        records = [ReferenceRecord(uid, digest, revision) for digest in sorted(named)]
        await store.commit(Commit(references=records))


async def forget_stages(store: StateStore, project_uid: str, before_micros: int) -> None:
    """Drop archived stage records from before a time, and their references.

    Raises `StoreUnavailable`.
    """
    last = await store.payloads.drop_archive_before(project_uid, before_micros)
    if last:
        await store.payloads.drop_references(project_uid, last, (), archived=True)


def digests_of_change(change: Change) -> Iterator[str]:
    """Yield the digests that a change of the log names."""
    if change.HasField("node"):
        yield from _named(_result(change.node))
    elif change.HasField("review"):
        yield from _named(change.review.review.result)
    elif change.HasField("stage"):
        for _, payload in bodies(change.stage.stage):
            yield from _named(payload)


def digests_of_node(data: bytes) -> Iterator[str]:
    """Yield the digests that an encoded node names."""
    if DIGEST_MARK in data:
        yield from _named(Node.FromString(data).result)


def digests_of_chunk(chunk: SnapshotChunk) -> Iterator[str]:
    """Yield the digests that a chunk of a snapshot names."""
    for node in chunk.nodes:
        yield from digests_of_node(node.data)
    for data in chunk.reviews:
        yield from digests_of_review(Review.FromString(data))


def digests_of_view(view: View) -> Iterator[str]:
    """Yield the digests that a view names."""
    for node in list(view.nodes.values()):
        yield from digests_of_node(node.data)
    for review in list(view.reviews.values()):
        yield from digests_of_review(review)


def digests_of_review(review: Review) -> Iterator[str]:
    """Yield the digests that a review names."""
    yield from _named(review.result)


def _result(change: NodeChange) -> Payload:
    return change.node.result if change.HasField("node") else change.patch.result


def _named(payload: Payload) -> Iterator[str]:
    if payload.HasField("ref"):
        yield payload.ref.digest


def _named_in_chunk(record: SnapshotRecord) -> set[str]:
    return set(digests_of_chunk(decode_chunk(record)))


def runs_of(changes: Iterable[Change], most: int) -> Iterator[list[Change]]:
    """Cut changes at their revisions so that no run has more than `most` encoded bytes.

    A revision is never cut: a single larger one is a run of its own.
    """
    run: list[Change] = []
    size = 0
    for _, group in groupby(changes, key=lambda change: change.revision):
        revision = list(group)
        added = sum(change.ByteSize() for change in revision)
        if run and size + added > most:
            yield run
            run, size = [], 0
        run += revision
        size += added
    if run:
        yield run


def _archived(project_uid: str, records: Sequence[SegmentRecord], after: int, until: int) -> Commit:
    """Return what the archive takes of some segments; runs in a thread."""
    commit = Commit()
    named: dict[str, int] = {}
    for run in runs_of(_stages(records, after, until), _RECORD_BYTES):
        segment = Segment(
            project_uid=project_uid,
            first_revision=run[0].revision,
            last_revision=run[-1].revision,
            delta=Delta(changes=run).SerializeToString(),
        )
        micros = max(read_micros(change.stage.stage.create_time) for change in run)
        commit.archive.append(ArchiveRecord(pack_segment(segment, _THRESHOLD).record, micros))
        for change in run:
            named.update(dict.fromkeys(digests_of_change(change), change.revision))
    commit.references.extend(
        ReferenceRecord(project_uid, digest, revision, archived=True)
        for digest, revision in named.items()
    )
    return commit


def _stages(records: Sequence[SegmentRecord], after: int, until: int) -> Iterator[Change]:
    for record in records:
        for change in decode_delta(decode_segment(record)).changes:
            if after < change.revision <= until and change.HasField("stage"):
                yield change
