"""Watch messages as bytes: a header, and the bodies of revisions joined behind it."""

from __future__ import annotations

from collections.abc import Sequence

from ramify.v1.mutation_pb2 import Delta
from ramify.v1.state_service_pb2 import WatchProjectResponse
from state_svc.model.wire import bytes_field, varint_field

_FIRST = Delta.FIRST_REVISION_FIELD_NUMBER
_LAST = Delta.LAST_REVISION_FIELD_NUMBER
_RESUME = WatchProjectResponse.RESUME_REVISION_FIELD_NUMBER
_DELTA = WatchProjectResponse.DELTA_FIELD_NUMBER


def encode_delta(first: int, last: int, bodies: Sequence[bytes]) -> bytes:
    """Return an encoded `Delta` over the interval; bodies are encoded `Delta`s without one."""
    return varint_field(_FIRST, first) + varint_field(_LAST, last) + b"".join(bodies)


def encode_watch_delta(first: int, last: int, body: bytes) -> bytes:
    """Return an encoded `WatchProjectResponse` that holds a delta and promises `last`."""
    delta = encode_delta(first, last, (body,))
    return varint_field(_RESUME, last) + bytes_field(_DELTA, delta)
