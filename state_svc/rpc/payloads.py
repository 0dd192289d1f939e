"""The RPCs that take bodies into the payload store and hand them out (SEM 12)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

from ramify.v1.payload_pb2 import PayloadEncoding
from ramify.v1.state_service_pb2 import (
    GetPayloadRequest,
    GetPayloadResponse,
    PutPayloadRequest,
    PutPayloadResponse,
)
from state_svc.errors import InvalidRequest, PayloadTooLarge
from state_svc.model.payload import is_digest
from state_svc.payload.payloads import Transit
from state_svc.service import Service, now_micros

_PIECE_BYTES = 512 << 10  #: of a body, in one message
_ENCODINGS = {
    PayloadEncoding.PAYLOAD_ENCODING_UNSPECIFIED: False,
    PayloadEncoding.PAYLOAD_ENCODING_IDENTITY: False,
    PayloadEncoding.PAYLOAD_ENCODING_ZSTD: True,
}


class PayloadRpcs:
    """Handlers by RPC name."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def put_payload(self, requests: AsyncIterator[PutPayloadRequest]) -> PutPayloadResponse:
        """Take a whole body, store it durably, return how it is named."""
        service = self._service
        service.check_open()
        with service.payloads.transit() as transit:
            first, data = await self._receive(requests, transit)
            ref = await service.payloads.put(
                data,
                transit,
                compressed=_ENCODINGS[first.encoding],
                digest=first.digest,
                micros=now_micros(),
            )
        return PutPayloadResponse(payload=ref)

    async def get_payload(self, request: GetPayloadRequest) -> AsyncGenerator[bytes, None]:
        """Yield encoded messages: how the body is named, then its original bytes."""
        service = self._service
        if not is_digest(request.digest):
            problem = "is not sha256: and 64 lower-case hexadecimal digits"
            raise InvalidRequest(field="digest", problem=problem)
        project = await service.live(request.project_id)
        with service.payloads.transit() as transit:
            ref, data = await service.payloads.get(project, request.digest, transit)
            yield GetPayloadResponse(payload=ref, data=data[:_PIECE_BYTES]).SerializeToString()
            for start in range(_PIECE_BYTES, len(data), _PIECE_BYTES):
                piece = data[start : start + _PIECE_BYTES]
                yield GetPayloadResponse(data=piece).SerializeToString()

    async def _receive(
        self, requests: AsyncIterator[PutPayloadRequest], transit: Transit
    ) -> tuple[PutPayloadRequest, bytes]:
        limit = self._service.limits.max_stored_payload_bytes
        first: PutPayloadRequest | None = None
        parts: list[bytes] = []
        size = 0
        async for request in requests:
            if first is None:
                first = request
                if first.encoding not in _ENCODINGS:
                    raise InvalidRequest(field="encoding", problem="is not known")
                if first.digest and not is_digest(first.digest):
                    problem = "is not sha256: and 64 lower-case hexadecimal digits"
                    raise InvalidRequest(field="digest", problem=problem)
            elif request.digest or request.encoding:
                raise InvalidRequest(field="digest", problem="comes in the first message only")
            size += len(request.data)
            if size > limit:
                raise PayloadTooLarge(received_bytes=size, max_bytes=limit)
            transit.take(len(request.data))
            parts.append(request.data)
        if first is None:
            raise InvalidRequest(field="data", problem="is needed")
        return first, b"".join(parts)
