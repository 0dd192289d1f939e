"""The payload store over the wire: put, named, read, exported, backed up, checked (SEM 12)."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import apsw
import grpc
import pytest
import zstandard

from ramify.v1.payload_pb2 import Payload, PayloadEncoding, PayloadRef
from ramify.v1.state_service_pb2 import (
    BackupRequest,
    CompactProjectRequest,
    ExportProjectRequest,
    GetPayloadRequest,
    GetServerInfoRequest,
    ImportProjectRequest,
    ListStagesRequest,
    PutPayloadRequest,
)
from state_svc.admin.restore import restore
from state_svc.codec.payload import digest_of
from tests.support.mutations import create, patch, stage
from tests.support.payloads import ZSTD, get, named, parts, put
from tests.support.state_process import StateProcess
from tests.support.wire import Wire, connect, refusal

Start = Callable[..., StateProcess]
TEXT = b"the quick brown fox jumps over the lazy dog. " * 500
RANDOM = random.Random(5).randbytes(1_200_000)


@pytest.mark.parametrize(
    "body, encoding",
    [
        (b"", PayloadEncoding.PAYLOAD_ENCODING_IDENTITY),
        (TEXT[:1_000], PayloadEncoding.PAYLOAD_ENCODING_IDENTITY),
        (TEXT, PayloadEncoding.PAYLOAD_ENCODING_ZSTD),
        (RANDOM, PayloadEncoding.PAYLOAD_ENCODING_IDENTITY),
        (json.dumps({"a": list(range(5_000))}).encode(), ZSTD),
    ],
    ids=["empty", "small", "text", "binary", "json"],
)
async def test_a_body_is_stored_once_and_read_back_byte_for_byte(
    shared_wire: Wire, body: bytes, encoding: PayloadEncoding.ValueType
) -> None:
    wire = shared_wire
    project_id = (await wire.create_project()).project_id
    ref = await put(wire, body)
    assert await put(wire, body, digest=ref.digest) == ref
    assert (ref.digest, ref.original_bytes, ref.encoding) == (
        digest_of(body),
        len(body),
        encoding,
    )
    smaller = encoding == ZSTD
    assert ref.stored_bytes <= len(body) * 0.8 if smaller else ref.stored_bytes == len(body)
    await wire.commit(project_id, create("n", result=named(ref.digest)))
    assert (await wire.node(project_id, "n")).result.ref == ref, "sizes and encoding are filled in"
    assert await get(wire, project_id, ref.digest) == (ref, body)


async def test_a_body_may_come_compressed_and_is_the_same_body(shared_wire: Wire) -> None:
    frame = zstandard.ZstdCompressor().compress(TEXT)
    assert await put(shared_wire, frame, encoding=ZSTD) == await put(shared_wire, TEXT)


def _lying_frame() -> bytes:
    """Return a frame that states 100 bytes and holds 20 MB."""
    large = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(20_000_000))
    # A single-segment frame header with a 1-byte content size, then the blocks of the other.
    return large[:4] + bytes((0b0010_0000, 100)) + large[6:]


@pytest.mark.parametrize(
    "frame, reason",
    [
        (zstandard.ZstdCompressor().compress(bytes(1 << 30)), "PAYLOAD_TOO_LARGE"),
        (zstandard.ZstdCompressor(write_content_size=False).compress(TEXT), "INVALID_REQUEST"),
        (_lying_frame(), "INVALID_REQUEST"),
        (b"no frame at all", "INVALID_REQUEST"),
        (b"", "INVALID_REQUEST"),
        (zstandard.ZstdCompressor().compress(TEXT)[:-3], "INVALID_REQUEST"),
        (zstandard.ZstdCompressor().compress(TEXT) + b"more", "INVALID_REQUEST"),
    ],
    ids=["bomb", "unstated", "lying", "noise", "empty", "cut", "trailing"],
)
async def test_a_frame_that_is_not_what_it_says_is_refused_before_it_is_inflated(
    shared_wire: Wire, frame: bytes, reason: str
) -> None:
    refused = await refusal(shared_wire.stub.PutPayload(parts(frame, encoding=ZSTD)))
    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)


async def test_a_body_above_the_limit_is_refused(shared_wire: Wire) -> None:
    info = await shared_wire.stub.GetServerInfo(GetServerInfoRequest())
    limit = info.limits.max_stored_payload_bytes
    assert info.limits.payload_inline_bytes == 4_096
    assert (await put(shared_wire, bytes(limit))).original_bytes == limit
    refused = await refusal(shared_wire.stub.PutPayload(parts(bytes(limit + 1))))
    assert (refused.reason, refused.metadata["max_bytes"]) == ("PAYLOAD_TOO_LARGE", str(limit))


async def _twice() -> AsyncIterator[PutPayloadRequest]:
    yield PutPayloadRequest(data=b"a")
    yield PutPayloadRequest(digest=digest_of(b"ab"), data=b"b")


async def _nothing() -> AsyncIterator[PutPayloadRequest]:
    for request in list[PutPayloadRequest]():
        yield request


async def test_a_put_that_breaks_a_rule_is_refused_by_field(shared_wire: Wire) -> None:
    stub = shared_wire.stub
    for requests, field in (
        (parts(TEXT, digest=digest_of(b"other")), "digest"),
        (parts(TEXT, digest="md5:1"), "digest"),
        (parts(TEXT, encoding=99), "encoding"),  # type: ignore[arg-type]
        (_twice(), "digest"),
        (_nothing(), "data"),
    ):
        refused = await refusal(stub.PutPayload(requests))
        assert (refused.reason, refused.fields) == ("INVALID_REQUEST", [field])


async def test_a_batch_that_names_an_unknown_body_is_refused_and_the_stream_goes_on(
    shared_wire: Wire,
) -> None:
    wire = shared_wire
    project_id = (await wire.create_project()).project_id
    unknown = digest_of(os.urandom(9))
    refused = await refusal(wire.commit(project_id, create("n", result=named(unknown))))
    assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "PAYLOAD_NOT_FOUND")
    assert refused.fields == ["mutations[0].node.create.result.ref.digest"]
    wrong = Payload(ref=PayloadRef(digest="sha256:AA"))
    refused = await refusal(wire.commit(project_id, create("n", result=wrong)))
    assert refused.reason == "INVALID_MUTATION"
    for request in (
        GetPayloadRequest(project_id=project_id, digest=unknown),
        GetPayloadRequest(project_id=project_id, digest=(await put(wire, TEXT)).digest),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in wire.stub.GetPayload(request):
                pass
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def _life(wire: Wire) -> tuple[str, str]:
    """Make a project whose history names two bodies; one of them is in the archive only."""
    await wire.create_project("p")
    await wire.commit("p", create("n"))
    text, binary = await put(wire, TEXT), await put(wire, RANDOM)
    await wire.commit("p", stage("n", "s1", prompt=named(binary.digest)))
    await wire.commit("p", patch("n", result=named(text.digest)))
    await wire.stub.CompactProject(CompactProjectRequest(project_id="p"))
    await wire.commit("p", patch("n", output_summary="done"))
    return text.digest, binary.digest


async def _holds(wire: Wire, text: str, binary: str, project_id: str = "p") -> None:
    assert (await get(wire, project_id, text))[1] == TEXT
    assert (await get(wire, project_id, binary))[1] == RANDOM
    listed = await wire.stub.ListStages(ListStagesRequest(project_id=project_id))
    assert [record.stage_id for record in listed.stages] == ["s1"]


def _check(directory: Path) -> tuple[int, list[dict[str, str]]]:
    done = subprocess.run(
        [sys.executable, "-m", "state_svc", "check", str(directory), "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, json.loads(done.stdout)["problems"]


async def test_bodies_survive_a_backup_and_its_restore(start_state: Start, tmp_path: Path) -> None:
    state = start_state()
    async with connect(state.address) as wire:
        text, binary = await _life(wire)
        backup = b"".join([m.data async for m in wire.stub.Backup(BackupRequest())])
    (tmp_path / "file").write_bytes(backup)
    restore(tmp_path / "file", tmp_path / "new")
    restored = start_state(name="new")
    async with connect(restored.address) as wire:
        await _holds(wire, text, binary)
    restored.stop()
    assert _check(restored.data) == (0, [])


async def test_bodies_survive_a_kill_an_export_and_an_import(start_state: Start) -> None:
    state, other = start_state(), start_state(name="other")
    async with connect(state.address) as wire:
        text, binary = await _life(wire)
    state.kill()
    state.start()
    async with connect(state.address) as wire, connect(other.address) as there:
        await _holds(wire, text, binary)
        request = ExportProjectRequest(project_id="p")
        data = b"".join([m.data async for m in wire.stub.ExportProject(request)])

        async def pieces(file: bytes) -> AsyncIterator[ImportProjectRequest]:
            yield ImportProjectRequest(project_id="q")
            for start in range(0, len(file), 1 << 20):
                yield ImportProjectRequest(data=file[start : start + (1 << 20)])

        await there.stub.ImportProject(pieces(data))
        await _holds(there, text, binary, "q")
        assert (await there.node("q", "n")).result.ref.original_bytes == len(TEXT)
    other.stop()
    assert _check(other.data) == (0, [])


async def test_check_finds_a_body_that_is_damaged_missing_or_not_referenced(
    start_state: Start,
) -> None:
    state = start_state()
    async with connect(state.address) as wire:
        text, binary = await _life(wire)
    assert _check(state.data) == (0, []), "in use"
    state.stop()
    path = state.data / "state.sqlite3"

    def problems(statement: str, *values: str | bytes) -> list[str]:
        db = apsw.Connection(str(path))
        db.execute("BEGIN")
        db.execute(statement, values)
        db.execute("COMMIT")
        db.close()
        code, found = _check(state.data)
        assert code == 1
        return [problem["problem"] for problem in found if problem["record"] == "payload"]

    damaged = bytes([RANDOM[0] ^ 1]) + RANDOM[1:]
    assert problems("UPDATE payloads SET data = ? WHERE digest = ?", damaged, binary) == [
        f"{binary}: the bytes do not have the digest"
    ]
    found = problems("DELETE FROM payload_references WHERE digest = ?", text)
    assert f"{text} is named, but not referenced" in found
    found = problems("DELETE FROM payloads WHERE digest = ?", binary)
    assert found == [
        f"{text} is named, but not referenced",
        f"{binary} is referenced, but not there",
    ]


async def test_a_damaged_body_is_reported_and_never_served(start_state: Start) -> None:
    state = start_state()
    async with connect(state.address) as wire:
        text, binary = await _life(wire)
    state.stop()
    db = apsw.Connection(str(state.data / "state.sqlite3"))
    db.execute("UPDATE payloads SET original_bytes = original_bytes + 1 WHERE digest = ?", (text,))
    db.close()
    state.start()
    async with connect(state.address) as wire:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await get(wire, "p", text)
        assert caught.value.code() is grpc.StatusCode.DATA_LOSS
        assert (await get(wire, "p", binary))[1] == RANDOM
