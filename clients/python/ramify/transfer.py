"""Files over gRPC: streams of parts in both directions."""

from collections.abc import AsyncGenerator, Iterable, Iterator
from typing import TypeVar

import grpc.aio
from google.protobuf.message import Message

from ramify.rpc_errors import error_from_rpc
from ramify.v1.state_service_pb2 import ImportProjectRequest

PIECE_BYTES = 512 << 10  #: of a file, in one message
_Request = TypeVar("_Request", bound=Message)
_Part = TypeVar("_Part", bound=Message)


async def parts(
    call: grpc.aio.UnaryStreamCall[_Request, _Part], address: str
) -> AsyncGenerator[_Part, None]:
    """Yield the parts of a download to its end. Raises the typed error of a failure."""
    try:
        async for part in call:
            yield part
    except grpc.aio.AioRpcError as failure:
        raise error_from_rpc(failure, address) from failure
    finally:
        call.cancel()


def import_requests(
    data: Iterable[bytes], project_id: str, request_id: str
) -> Iterator[ImportProjectRequest]:
    """Yield the messages of an upload."""
    yield ImportProjectRequest(project_id=project_id, request_id=request_id)
    for piece in data:
        for start in range(0, len(piece), PIECE_BYTES):
            yield ImportProjectRequest(data=piece[start : start + PIECE_BYTES])
