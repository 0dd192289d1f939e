"""What is stored comes back byte for byte, or is refused with its place; never something else."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from ramify.v1.payload_pb2 import Payload
from ramify.v1.project_pb2 import Project
from state_svc.codec import compression, snapshot
from state_svc.codec.compression import (
    MAX_INFLATED_BYTES,
    PLAIN,
    ZSTD,
    CompressionError,
    compress,
    decompress,
)
from state_svc.codec.project import decode_project, encode_project
from state_svc.codec.segment import SegmentRecord, decode_delta, decode_segment, encode_segment
from state_svc.codec.snapshot import (
    SnapshotRecord,
    decode_chunk,
    decode_snapshot,
    encode_chunk,
    encode_snapshot,
    freeze,
)
from state_svc.errors import CorruptRecord
from state_svc.model.project import Applied, LiveProject, Origin
from state_svc.storage.v1.snapshot_pb2 import SnapshotChunk
from tests.support.live import live_project, write
from tests.support.mutations import create, delete, order_cancel, patch

_NOISE = random.Random(7).randbytes(3_000)
_PAYLOADS = {
    "text": Payload(content_type="text/plain", text="a sentence, é, 漢字, 🙂 " * 200),
    "json": Payload(content_type="application/json", text='{"k": [1, 2.5, null, "\\u0000"]}' * 90),
    "binary": Payload(content_type="application/octet-stream", data=_NOISE),
    "empty": Payload(),
}


def _written(payload: Payload) -> tuple[LiveProject, list[Applied]]:
    project = live_project()
    run = [
        write(project, create("a"), create("b"), origin=Origin("p", 3, 1)),
        write(project, patch("a", result=payload), order_cancel("c"), origin=Origin("p", 3, 2)),
        write(project, delete("b")),
    ]
    return project, run


# Round trips


@pytest.mark.parametrize("threshold", [0, 1_024, 1 << 30])
@pytest.mark.parametrize("kind", _PAYLOADS)
def test_a_segment_comes_back_byte_for_byte(kind: str, threshold: int) -> None:
    _, run = _written(_PAYLOADS[kind])
    encoded = encode_segment("uid-p", run, threshold)
    segment = decode_segment(encoded.record)
    assert len(segment.SerializeToString()) == encoded.original_bytes
    assert segment.delta.endswith(b"".join(applied.body for applied in run))
    assert [(p.producer_id, p.epoch, p.sequence) for p in segment.positions] == [
        ("p", 3, 1),
        ("p", 3, 2),
        ("", 0, 0),
    ]
    delta = decode_delta(segment)
    assert (delta.first_revision, delta.last_revision) == (2, 4)
    assert delta.changes[2].node.patch.result == _PAYLOADS[kind]
    assert list(delta.changes) == [change for applied in run for change in applied.changes()]


@pytest.mark.parametrize("kind", _PAYLOADS)
def test_a_snapshot_comes_back_byte_for_byte(kind: str) -> None:
    project, _ = _written(_PAYLOADS[kind])
    view, producers = decode_snapshot(list(encode_snapshot(freeze(project))))
    before = project.view
    assert [n.data for n in view.nodes.values()] == [n.data for n in before.nodes.values()]
    assert view.nodes["a"].to_node().result == _PAYLOADS[kind]
    assert (view.entity, view.revision, view.micros) == (
        before.entity,
        before.revision,
        before.micros,
    )
    assert (view.commands, view.deleted) == (before.commands, {"b"})
    assert producers["p"].runs() == project.producers["p"].runs()
    assert (producers["p"].epoch, producers["p"].committed) == (3, 2)


def test_a_large_snapshot_has_several_chunks_and_one_last() -> None:
    names = [f"n{i}" for i in range(5)]
    project = live_project(*(create(name) for name in names))
    for name in names:
        write(project, patch(name, result=Payload(data=_NOISE * 250)))
    chunks = list(encode_snapshot(freeze(project)))
    assert [chunk.chunk for chunk in chunks] == list(range(len(chunks)))
    assert len(chunks) > 1
    assert [chunk.last for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    view, _ = decode_snapshot(chunks)
    assert list(view.nodes) == names
    for broken in (chunks[:-1], chunks[1:], [chunks[1], chunks[0], *chunks[2:]]):
        with pytest.raises(CorruptRecord, match="a chunk is missing"):
            decode_snapshot(broken)


def test_ids_of_deleted_nodes_and_commands_are_spread_over_the_chunks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However many there are, each chunk can be read."""
    project = live_project(*(create(f"gone-{n}") for n in range(300)), create("stays"))
    write(project, *(delete(f"gone-{n}") for n in range(300)))
    write(project, *(order_cancel(f"order-{n}") for n in range(100)))
    (one,) = encode_snapshot(freeze(project))
    assert one.format_version == 1
    monkeypatch.setattr(snapshot, "_CHUNK_BYTES", 2_000)
    records = list(encode_snapshot(freeze(project)))
    assert max(decode_chunk(record).ByteSize() for record in records) < 2_500
    late = [bool(c.commands or c.deleted_node_ids) for c in map(decode_chunk, records[1:])]
    assert any(late)
    assert [record.format_version for record in records] == [1, *(1 + found for found in late)]
    for chunks in ([one], records):
        view, _ = decode_snapshot(chunks)
        assert (view.deleted, view.commands) == (project.view.deleted, project.view.commands)
        assert list(view.nodes) == ["stays"]


def test_a_snapshot_of_an_older_version_with_all_ids_in_its_first_chunk_is_read() -> None:
    project = live_project(create("stays"), create("gone"))
    write(project, delete("gone"), order_cancel("o"))
    (record,) = encode_snapshot(freeze(project))
    first, second = (
        decode_chunk(record),
        SnapshotChunk(project_uid=project.uid, revision=3, chunk=1),
    )
    second.nodes.extend(first.nodes)
    second.last = True
    first.ClearField("nodes")
    first.last = False
    old = [encode_chunk(first), encode_chunk(second)]
    assert [item.format_version for item in old] == [1, 1]
    view, _ = decode_snapshot(old)
    assert (view.deleted, list(view.commands), list(view.nodes)) == ({"gone"}, ["o"], ["stays"])


def test_a_snapshot_does_not_change_with_the_project() -> None:
    project = live_project(create("a"))
    frozen = freeze(project)
    write(project, patch("a", waiting_on="x"), create("b"))
    view, _ = decode_snapshot(list(encode_snapshot(frozen)))
    assert (view.revision, list(view.nodes)) == (2, ["a"])
    assert view.nodes["a"].to_node().waiting_on == ""


@given(st.text(st.characters(codec="utf-8")), st.binary())
def test_a_project_record_comes_back_and_its_id_is_part_of_it(goal: str, noise: bytes) -> None:
    entity = Project(project_id="p", project_uid="u", goal=goal)
    record = encode_project(entity)
    assert decode_project(record) == entity
    for other in (
        replace(record, project_uid="v"),
        replace(record, project_id="q"),
        replace(record, data=record.data + noise + b"\0"),
    ):
        with pytest.raises(CorruptRecord):
            decode_project(other)


# Damage


def _flips(data: bytes) -> list[bytes]:
    """Return the data with one bit flipped: each bit of small data, a sample of large."""
    bits = range(len(data) * 8)
    chosen = bits if len(bits) <= 600 else random.Random(1).sample(bits, 600)
    found = []
    for bit in chosen:
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        found.append(bytes(flipped))
    return found


@pytest.mark.parametrize("threshold", [0, 1 << 30], ids=["compressed", "plain"])
def test_any_flipped_bit_of_a_segment_is_found_with_its_place(threshold: int) -> None:
    _, run = _written(_PAYLOADS["text"])
    record = encode_segment("uid-p", run, threshold).record
    assert record.codec == (PLAIN if threshold else ZSTD)
    for data in _flips(record.data):
        with pytest.raises(CorruptRecord) as caught:
            decode_segment(replace(record, data=data))
        assert caught.value.fields["project_uid"] == "uid-p"
        assert caught.value.fields["first_revision"] == "2"


_SEGMENT_DAMAGE: list[Callable[[SegmentRecord], SegmentRecord]] = [
    lambda r: replace(r, project_uid="uid-q"),
    lambda r: replace(r, first_revision=r.first_revision + 1),
    lambda r: replace(r, last_revision=r.last_revision + 1),
    lambda r: replace(r, format_version=2),
    lambda r: replace(r, codec=PLAIN if r.codec else ZSTD),
    lambda r: replace(r, checksum=r.checksum ^ 1),
    lambda r: replace(r, data=r.data[:-1]),
    lambda r: replace(r, data=b""),
]


@pytest.mark.parametrize("damage", _SEGMENT_DAMAGE)
def test_a_segment_in_another_place_or_form_is_refused(
    damage: Callable[[SegmentRecord], SegmentRecord],
) -> None:
    _, run = _written(_PAYLOADS["text"])
    with pytest.raises(CorruptRecord):
        decode_segment(damage(encode_segment("uid-p", run, 0).record))


_SNAPSHOT_DAMAGE: list[Callable[[SnapshotRecord], SnapshotRecord]] = [
    lambda r: replace(r, project_uid="uid-q"),
    lambda r: replace(r, revision=r.revision + 1),
    lambda r: replace(r, chunk=1),
    lambda r: replace(r, last=False),
    lambda r: replace(r, format_version=2),
    lambda r: replace(r, codec=PLAIN if r.codec else ZSTD),
    lambda r: replace(r, checksum=r.checksum ^ 1),
    lambda r: replace(r, data=r.data[:-1]),
]


@pytest.mark.parametrize("damage", _SNAPSHOT_DAMAGE)
def test_a_snapshot_in_another_place_or_form_is_refused(
    damage: Callable[[SnapshotRecord], SnapshotRecord],
) -> None:
    project, _ = _written(_PAYLOADS["text"])
    (record,) = encode_snapshot(freeze(project))
    with pytest.raises(CorruptRecord):
        decode_snapshot([damage(record)])


def test_any_flipped_bit_of_a_snapshot_is_found_with_its_place() -> None:
    project, _ = _written(_PAYLOADS["binary"])
    (record,) = encode_snapshot(freeze(project))
    for data in _flips(record.data):
        with pytest.raises(CorruptRecord) as caught:
            decode_snapshot([replace(record, data=data)])
        assert caught.value.fields["snapshot_revision"] == "4"
        assert caught.value.fields["chunk"] == "0"


# Compression


@pytest.mark.parametrize("size, codec", [(0, PLAIN), (1_023, PLAIN), (1_024, ZSTD), (5_000, ZSTD)])
def test_only_what_reaches_the_threshold_is_compressed(size: int, codec: int) -> None:
    data = b"x" * size
    found, packed = compress(data, 1_024)
    assert found == codec
    assert decompress(found, packed) == data


@pytest.mark.parametrize("noise", range(0, 3_001, 100))
def test_a_result_is_kept_only_if_it_is_a_fifth_smaller(noise: int) -> None:
    data = _NOISE[:noise] + b"x" * (3_000 - noise)
    packed_size = len(zstandard.ZstdCompressor(level=1).compress(data))
    codec, packed = compress(data, 0)
    assert codec == (ZSTD if packed_size <= 0.8 * 3_000 else PLAIN)
    assert packed == data or len(packed) == packed_size
    assert decompress(codec, packed) == data


@given(st.binary(max_size=5_000), st.integers(0, 5_000))
def test_compression_loses_nothing(data: bytes, threshold: int) -> None:
    assert decompress(*compress(data, threshold)) == data


def test_what_inflates_beyond_the_bound_is_refused_before_it_is_inflated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(MAX_INFLATED_BYTES + 1))
    assert len(bomb) < 20_000
    monkeypatch.setattr(compression, "_contexts", None)  # any attempt to inflate would fail
    with pytest.raises(CompressionError, match=str(MAX_INFLATED_BYTES + 1)):
        decompress(ZSTD, bomb)


@pytest.mark.parametrize("threshold", [0, 1 << 30], ids=["compressed", "plain"])
def test_what_nobody_would_read_is_not_written(threshold: int) -> None:
    assert decompress(*compress(bytes(MAX_INFLATED_BYTES), threshold)) == bytes(MAX_INFLATED_BYTES)
    with pytest.raises(CompressionError, match=str(MAX_INFLATED_BYTES + 1)):
        compress(bytes(MAX_INFLATED_BYTES + 1), threshold)


@pytest.mark.parametrize("data", [b"", b"no zstd at all", b"\x28\xb5\x2f\xfd"])
def test_what_is_not_compressed_is_refused(data: bytes) -> None:
    with pytest.raises(CompressionError):
        decompress(ZSTD, data)


def test_a_frame_that_does_not_say_its_size_is_refused() -> None:
    frame = zstandard.ZstdCompressor(write_content_size=False).compress(b"x" * 100)
    with pytest.raises(CompressionError):
        decompress(ZSTD, frame)


def test_an_unknown_codec_is_refused() -> None:
    with pytest.raises(CompressionError, match="unknown codec 9"):
        decompress(9, b"data")
