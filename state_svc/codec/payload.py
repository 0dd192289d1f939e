"""Payloads: how a body lies in the payload store, found by the digest of its bytes (SEM 12)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import sha256

import zstandard

from ramify.v1.payload_pb2 import PayloadEncoding, PayloadRef
from state_svc.codec.compression import PLAIN, ZSTD, CompressionError, compress, decompress
from state_svc.errors import CorruptRecord, InvalidRequest, PayloadTooLarge

_ENCODINGS = {
    PLAIN: PayloadEncoding.PAYLOAD_ENCODING_IDENTITY,
    ZSTD: PayloadEncoding.PAYLOAD_ENCODING_ZSTD,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PayloadInfo:
    """What is known of a stored body without reading it."""

    digest: str
    codec: int
    original_bytes: int
    stored_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PayloadRecord:
    """One stored body."""

    digest: str
    codec: int
    original_bytes: int
    micros: int  #: when it was put, microseconds since 1970
    data: bytes


def digest_of(data: bytes) -> str:
    """Return the digest of a body, as the contract writes it."""
    return f"sha256:{sha256(data).hexdigest()}"


def encode_payload(data: bytes, threshold: int, micros: int) -> PayloadRecord:
    """Return a body as it is stored: compressed if it is large enough and that pays (S0.5)."""
    codec, stored = compress(data, threshold)
    return PayloadRecord(
        digest=digest_of(data), codec=codec, original_bytes=len(data), micros=micros, data=stored
    )


def stated_bytes(data: bytes, max_bytes: int) -> int:
    """Return the size that a compressed body states.

    Raises `PayloadTooLarge` or `InvalidRequest`.
    """
    try:
        size = zstandard.frame_content_size(data)
    except zstandard.ZstdError as error:
        raise InvalidRequest(field="data", problem=f"is no zstd frame: {error}") from error
    if size > max_bytes:
        raise PayloadTooLarge(original_bytes=size, max_bytes=max_bytes)
    if size < 0:
        raise InvalidRequest(field="data", problem="the zstd frame does not state its size")
    return size


def inflate(data: bytes, size: int) -> bytes:
    """Return the body that a client has compressed; it has the size that its frame states.

    Raises `InvalidRequest`.
    """
    try:
        body = zstandard.ZstdDecompressor().decompress(data, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise InvalidRequest(field="data", problem=f"is no zstd frame: {error}") from error
    if len(body) != size:
        raise InvalidRequest(field="data", problem="the zstd frame states another size")
    return body


def decode_payload(record: PayloadRecord, max_bytes: int) -> bytes:
    """Return the original bytes of a stored body.

    Raises `CorruptRecord` if they do not have the digest.
    """
    try:
        if record.original_bytes > max_bytes:
            raise CompressionError(f"it has {record.original_bytes} bytes")
        body = decompress(record.codec, record.data, record.original_bytes)
    except CompressionError as error:
        raise CorruptRecord(digest=record.digest, problem=str(error)) from error
    if len(body) != record.original_bytes or digest_of(body) != record.digest:
        raise CorruptRecord(digest=record.digest, problem="the bytes do not have the digest")
    return body


def is_damaged(stored: PayloadRecord, right: PayloadRecord) -> bool:
    """Whether a stored body is not the one it should be; `right` is one with the same digest.

    It may be stored in another way: compressed by another rule, or another version.
    """
    if replace(stored, micros=right.micros) == right:
        return False
    try:
        decode_payload(stored, right.original_bytes)
    except CorruptRecord:
        return True
    return False


def to_ref(info: PayloadInfo) -> PayloadRef:
    """Return a stored body as the contract names it."""
    return PayloadRef(
        digest=info.digest,
        original_bytes=info.original_bytes,
        stored_bytes=info.stored_bytes,
        encoding=_ENCODINGS.get(info.codec, PayloadEncoding.PAYLOAD_ENCODING_UNSPECIFIED),
    )
