"""Short ways to put, name and get bodies."""

from __future__ import annotations

from collections.abc import AsyncIterator

from ramify.v1.payload_pb2 import Payload, PayloadEncoding, PayloadRef
from ramify.v1.state_service_pb2 import GetPayloadRequest, PutPayloadRequest
from state_svc.rpc.payloads import PayloadRpcs
from tests.support.embedded import Embedded
from tests.support.wire import Wire

_PIECE = 300_000
ZSTD = PayloadEncoding.PAYLOAD_ENCODING_ZSTD


async def parts(
    data: bytes,
    *,
    digest: str = "",
    encoding: PayloadEncoding.ValueType = PayloadEncoding.PAYLOAD_ENCODING_UNSPECIFIED,
) -> AsyncIterator[PutPayloadRequest]:
    """Yield a body in the messages of one put."""
    yield PutPayloadRequest(digest=digest, encoding=encoding, data=data[:_PIECE])
    for start in range(_PIECE, len(data), _PIECE):
        yield PutPayloadRequest(data=data[start : start + _PIECE])


async def put(wire: Wire, data: bytes, **fields: object) -> PayloadRef:
    """Put a body over the wire."""
    response = await wire.stub.PutPayload(parts(data, **fields))  # type: ignore[arg-type]
    return response.payload


async def get(wire: Wire, project_id: str, digest: str) -> tuple[PayloadRef, bytes]:
    """Get a body over the wire."""
    request = GetPayloadRequest(project_id=project_id, digest=digest)
    pieces = [message async for message in wire.stub.GetPayload(request)]
    assert [piece.HasField("payload") for piece in pieces] == [True] + [False] * (len(pieces) - 1)
    return pieces[0].payload, b"".join(piece.data for piece in pieces)


async def put_here(service: Embedded, data: bytes) -> str:
    """Put a body into an embedded service; return its digest."""
    response = await PayloadRpcs(service.service).put_payload(parts(data))
    return response.payload.digest


def named(digest: str) -> Payload:
    """Return a payload that names a body."""
    return Payload(content_type="text/plain", ref=PayloadRef(digest=digest))
