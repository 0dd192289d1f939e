"""Watch messages in fewer bytes, for those who can read them (S1.6)."""

from __future__ import annotations

from ramify.v1.state_service_pb2 import CompressedMessage, WatchProjectResponse
from state_svc.codec.compression import ZSTD, compress

_THRESHOLD = 512  #: smaller messages stay as they are


def compress_frame(message: bytes, resume_revision: int) -> bytes:
    """Return an encoded response that holds `message` compressed, or itself if it does not pay."""
    codec, data = compress(message, _THRESHOLD)
    if codec != ZSTD:
        return message
    packed = CompressedMessage(encoding="zstd", original_bytes=len(message), data=data)
    return WatchProjectResponse(
        resume_revision=resume_revision, compressed=packed
    ).SerializeToString()
