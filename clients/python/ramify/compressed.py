"""Reads compressed watch messages, as `CompressedMessage` in the contract defines them. Pure."""

import zstandard
from google.protobuf.message import DecodeError

from ramify.errors import WatchGapError
from ramify.v1.state_service_pb2 import WatchProjectResponse

ENCODINGS = ("zstd",)  #: that this client reads
_MAX_BYTES = 4 << 20  #: of a message; larger ones are refused before they are inflated


def read_compressed(response: WatchProjectResponse) -> WatchProjectResponse:
    """Return the message inside. Raises `WatchGapError` if it cannot be read as promised."""
    packed = response.compressed
    if packed.encoding not in ENCODINGS or packed.original_bytes > _MAX_BYTES:
        raise WatchGapError(
            f"a message of {packed.original_bytes} bytes in encoding {packed.encoding!r} "
            "is not one that this client has asked for"
        )
    try:
        if zstandard.frame_content_size(packed.data) != packed.original_bytes:
            raise WatchGapError("a compressed message has another size than it says")
        data = zstandard.ZstdDecompressor().decompress(packed.data)
        inner = WatchProjectResponse.FromString(data)
    except (zstandard.ZstdError, DecodeError) as error:
        raise WatchGapError(f"a compressed message cannot be read: {error}") from error
    if inner.HasField("compressed") or inner.resume_revision != response.resume_revision:
        raise WatchGapError("a compressed message differs from what is said around it")
    return inner
