"""zstd with the rules of S0.5: nothing small, and only if it pays."""

from __future__ import annotations

import threading

import zstandard

PLAIN = 0
ZSTD = 1
MAX_INFLATED_BYTES = 64 << 20
_LEVEL = 1  #: measured: level 3 is no smaller on batches of node changes
_WORTH = 0.8  #: a result is kept only if it is at least 20 % smaller


class CompressionError(ValueError):
    """The bytes are not what the codec says, or inflate to more than is allowed."""


class _Contexts(threading.local):
    """One context per thread: making one costs more than compressing a batch."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=_LEVEL, write_content_size=True)
        self.decompressor = zstandard.ZstdDecompressor()


_contexts = _Contexts()


def compress(data: bytes, threshold: int) -> tuple[int, bytes]:
    """Return (codec, bytes): compressed if `data` has `threshold` bytes or more and it pays.

    Raises `CompressionError` for more than any reader takes, so that it is never written.
    """
    if len(data) > MAX_INFLATED_BYTES:
        raise CompressionError(f"{len(data)} bytes, a record has at most {MAX_INFLATED_BYTES}")
    if len(data) < threshold:
        return PLAIN, data
    packed = _contexts.compressor.compress(data)
    return (ZSTD, packed) if len(packed) <= len(data) * _WORTH else (PLAIN, data)


def decompress(codec: int, data: bytes, max_bytes: int = MAX_INFLATED_BYTES) -> bytes:
    """Return the original bytes.

    Raises `CompressionError` before inflating if the size is unknown or above `max_bytes`.
    """
    if codec == PLAIN:
        return data
    if codec != ZSTD:
        raise CompressionError(f"unknown codec {codec}")
    try:
        size = zstandard.frame_content_size(data)
        if not 0 <= size <= max_bytes:
            raise CompressionError(f"inflates to {size} bytes")
        return _contexts.decompressor.decompress(data)
    except zstandard.ZstdError as error:
        raise CompressionError(str(error)) from error
