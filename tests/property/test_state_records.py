"""Stored records whose bytes are anything at all, with checksums that are right: typed errors only.

A checksum finds bits that flipped by themselves. It does not find a file that somebody made, or a
defect of an older writer. Whoever reads such a record reports it with its place, or reads it.
"""

from __future__ import annotations

import asyncio
import zlib
from contextlib import suppress
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from ramify.v1.mutation_pb2 import Delta
from ramify.v1.state_service_pb2 import ExportProjectRequest, ExportProjectResponse
from state_svc.admin.arrival import verify
from state_svc.admin.portable import FileReader, FileWriter
from state_svc.codec.payload import PayloadRecord, decode_payload, encode_payload
from state_svc.codec.project import ProjectRecord, decode_project, encode_project
from state_svc.codec.segment import SegmentRecord, decode_delta, decode_segment, pack_segment
from state_svc.codec.snapshot import SnapshotRecord, decode_chunk, encode_chunk
from state_svc.errors import CorruptRecord, DamagedFile
from state_svc.history.rebuild import rebuild
from state_svc.model.limits import Limits
from state_svc.rpc.portable import PortableRpcs
from state_svc.storage.v1.file_pb2 import FileRecord
from state_svc.store.base import Commit
from state_svc.store.memory import MemoryStore
from tests.support.embedded import embedded
from tests.support.fuzz import Fuzzer
from tests.support.mutations import READY, RUNNING, change_project, create, order_cancel, patch

_SEEDS = st.integers(0, 1 << 32)


class _Sample:
    """Records of a real project: its segments and a snapshot in the middle."""

    def __init__(self) -> None:
        self.uid = ""
        self.segments: list[SegmentRecord] = []
        self.snapshot: list[SnapshotRecord] = []
        self.project: ProjectRecord | None = None

    async def make(self) -> None:
        store = MemoryStore()
        async with embedded(store) as running:
            await running.create("p")
            await running.commit("p", create("root", state=READY), create("leaf", "root"))
            await running.commit("p", patch("root", state=RUNNING, attempt=1))
            project = await running.service.live("p")
            await running.service.snapshots.take(project)
            await running.commit("p", patch("leaf", output_summary="half-way"))
            await running.commit(
                "p", order_cancel("stop"), change_project(label_upserts={"a": "b"})
            )
            self.uid = project.uid
            self.segments = await store.read_segments(project.uid, 0, 1 << 30)
            self.snapshot = await store.read_snapshot(project.uid, 99)
            self.project = encode_project(project.view.entity)


@pytest.fixture(scope="module")
def sample() -> _Sample:
    made = _Sample()
    asyncio.run(made.make())
    return made


def _damaged_segment(sample: _Sample, fuzzer: Fuzzer) -> SegmentRecord:
    """Return a segment whose content is changed, at one of three depths; its checksum is right."""
    segment = decode_segment(fuzzer.random.choice(sample.segments))
    depth = fuzzer.random.randrange(3)
    if depth == 0:
        segment.delta = fuzzer.damage(segment.delta)
    elif depth == 1:
        delta = decode_delta(segment)
        change = fuzzer.random.choice(delta.changes)
        change.CopyFrom(fuzzer.message(type(change)))
        change.revision = segment.first_revision
        segment.delta = delta.SerializeToString()
    else:
        delta = fuzzer.message(Delta)
        segment.delta = delta.SerializeToString()
    return pack_segment(segment, 1_024).record


async def _rebuild(
    sample: _Sample, segments: list[SegmentRecord], snapshot: list[SnapshotRecord]
) -> None:
    store = MemoryStore()
    assert sample.project is not None
    await store.commit(Commit(projects=[sample.project], segments=segments))
    for record in snapshot:
        await store.put_snapshot_chunk(record)
    with suppress(CorruptRecord):
        await rebuild(store, sample.uid, segments[-1].last_revision)


@settings(deadline=None, max_examples=150)
@given(seed=_SEEDS)
def test_a_segment_is_replayed_or_reported(sample: _Sample, seed: int) -> None:
    bad = _damaged_segment(sample, Fuzzer(seed, {"node_id": ("root", "leaf")}))
    segments = [bad if s.last_revision == bad.last_revision else s for s in sample.segments]
    asyncio.run(_rebuild(sample, segments, []))


@settings(deadline=None, max_examples=150)
@given(seed=_SEEDS)
def test_a_snapshot_is_restored_or_reported(sample: _Sample, seed: int) -> None:
    fuzzer = Fuzzer(seed, {"node_id": ("root", "leaf")})
    chunk = decode_chunk(sample.snapshot[0])
    if fuzzer.random.random() < 0.5:
        node = fuzzer.random.choice(chunk.nodes)
        node.data = fuzzer.damage(node.data)
    elif fuzzer.random.random() < 0.5:
        chunk.project = fuzzer.damage(chunk.project)
    else:
        chunk.MergeFromString(fuzzer.message(type(chunk)).SerializeToString())
        chunk.project_uid, chunk.revision = sample.uid, sample.snapshot[0].revision
        chunk.chunk, chunk.last = 0, True
    asyncio.run(_rebuild(sample, sample.segments, [encode_chunk(chunk)]))


@settings(deadline=None, max_examples=100)
@given(data=st.binary(max_size=200), codec=st.sampled_from([0, 1, 2]))
def test_any_bytes_in_a_row_are_read_or_reported(sample: _Sample, data: bytes, codec: int) -> None:
    segment = sample.segments[0]
    key = f"{segment.project_uid}/{segment.first_revision}/{segment.last_revision}/1/{codec}"
    row = replace(
        segment, codec=codec, data=data, checksum=zlib.crc32(data, zlib.crc32(key.encode()))
    )
    with pytest.raises(CorruptRecord):
        decode_segment(row)
    assert sample.project is not None
    uid, project_id = sample.project.project_uid, sample.project.project_id
    checksum = zlib.crc32(data, zlib.crc32(f"{uid}/{project_id}".encode()))
    with suppress(CorruptRecord):
        decode_project(ProjectRecord(uid, project_id, data, checksum))


@settings(deadline=None, max_examples=100)
@given(seed=_SEEDS, body=st.binary(max_size=5_000))
def test_a_body_is_what_its_digest_says_or_reported(seed: int, body: bytes) -> None:
    fuzzer = Fuzzer(seed, {})
    record = encode_payload(body, 100, 0)
    changes: dict[str, Any] = {
        "data": fuzzer.damage(record.data),
        "codec": fuzzer.random.randrange(4),
        "original_bytes": fuzzer.random.choice((0, 1, 1 << 40, -1)),
    }
    name = fuzzer.random.choice(list(changes))
    bad: PayloadRecord = replace(record, **{name: changes[name]})
    try:
        assert decode_payload(bad, 1 << 20) == body
    except CorruptRecord:
        assert bad != record


async def _export(folder: Path) -> bytes:

    async with embedded(folder) as running:
        await running.create("p")
        await running.commit("p", create("root", state=READY), create("leaf", "root"))
        await running.commit("p", patch("root", state=RUNNING, attempt=1))
        parts = PortableRpcs(running.service).export_project(ExportProjectRequest(project_id="p"))
        return b"".join([ExportProjectResponse.FromString(part).data async for part in parts])


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return asyncio.run(_export(tmp_path_factory.mktemp("export") / "data"))


@settings(deadline=None, max_examples=150)
@given(seed=_SEEDS)
def test_an_exported_project_is_taken_whole_or_refused(exported: bytes, seed: int) -> None:
    fuzzer = Fuzzer(seed, {"node_id": ("root", "leaf")})
    reader = FileReader(BytesIO(exported))
    records = list(reader.records())
    at = fuzzer.random.randrange(len(records))
    with suppress(DecodeError):  # then it is left as it is
        records[at] = FileRecord.FromString(fuzzer.damage(records[at].SerializeToString()))
    writer, kept = FileWriter(), reader.trailer
    assert kept is not None
    parts = [writer.begin(records[0]), *[writer.add(record) for record in records[1:]]]
    parts.append(writer.end(view_checksum=kept.view_checksum, node_count=kept.node_count))
    with suppress(DamagedFile):
        verify(BytesIO(b"".join(parts)), Limits())
