"""Files and large bodies over gRPC: streams of parts in both directions."""

from collections.abc import AsyncGenerator, Iterable, Iterator
from typing import TypeVar

import grpc.aio
from google.protobuf.message import Message

from ramify.calls import PAGE_SIZE, new_request_id
from ramify.connection import Connection
from ramify.ending import Ending
from ramify.rpc_errors import error_from_rpc
from ramify.v1 import state_service_pb2 as state_pb2
from ramify.v1.payload_pb2 import Payload
from ramify.v1.project_pb2 import Project
from ramify.v1.stage_pb2 import Stage, StageRecord
from ramify.v1.state_service_pb2 import ImportProjectRequest, PutPayloadRequest

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


async def upload(call: grpc.aio.StreamUnaryCall[_Request, _Part], address: str) -> _Part:
    """Return the answer to an upload. Raises the typed error of a failure, whenever it came."""
    ending = Ending(call)
    try:
        return await call
    except grpc.aio.AioRpcError as failure:
        cause = await ending.cause(failure)
        raise error_from_rpc(cause, address) from cause


def import_requests(
    data: Iterable[bytes], project_id: str, request_id: str
) -> Iterator[ImportProjectRequest]:
    """Yield the messages of an upload."""
    yield ImportProjectRequest(project_id=project_id, request_id=request_id)
    for piece in data:
        for start in range(0, len(piece), PIECE_BYTES):
            yield ImportProjectRequest(data=piece[start : start + PIECE_BYTES])


async def payload_requests(data: bytes) -> AsyncGenerator[PutPayloadRequest, None]:
    """Yield the messages that put a body."""
    yield PutPayloadRequest(data=data[:PIECE_BYTES])
    for start in range(PIECE_BYTES, len(data), PIECE_BYTES):
        yield PutPayloadRequest(data=data[start : start + PIECE_BYTES])


class Transfers(Connection):
    """The calls of a client that move bodies and files, and the stage records that name them."""

    async def list_stages(
        self,
        project_id: str,
        *,
        node_id: str = "",
        attempt: int = 0,
        stage: Stage.ValueType = Stage.STAGE_UNSPECIFIED,
        after_revision: int = 0,
    ) -> AsyncGenerator[StageRecord, None]:
        """Yield what happened in the stages of a run or of one node, oldest first."""
        request = state_pb2.ListStagesRequest(
            project_id=project_id,
            node_id=node_id,
            attempt=attempt,
            stage=stage,
            after_revision=after_revision,
            page_size=PAGE_SIZE,
        )
        while True:
            page = await self._ask_state(self._state.ListStages, request)
            for record in page.stages:
                yield record
            request.page_token = page.next_page_token
            if not request.page_token:
                return

    # -- large bodies --------------------------------------------------------

    async def put_payload(self, data: bytes | str, *, content_type: str = "") -> Payload:
        """Store a body, once however often it is put; return it as a batch names it.

        Name it within the hour: what no run references is dropped then.
        """
        is_text = isinstance(data, str)
        body = data.encode() if isinstance(data, str) else data
        answer = await upload(self._state.PutPayload(payload_requests(body)), self.state_address)
        answer.payload.is_text = is_text
        return Payload(content_type=content_type, ref=answer.payload)

    async def get_payload(self, project_id: str, digest: str) -> bytes:
        """Return the bytes of a body that a run references; they are verified by the server."""
        request = state_pb2.GetPayloadRequest(project_id=project_id, digest=digest)
        messages = parts(self._state.GetPayload(request), self.state_address)
        return b"".join([message.data async for message in messages])

    async def whole(self, project_id: str, payload: Payload) -> Payload:
        """Return a payload with its body inline, wherever that lies."""
        if not payload.HasField("ref"):
            return payload
        data = await self.get_payload(project_id, payload.ref.digest)
        if payload.ref.is_text:
            text = data.decode(errors="replace")
            return Payload(content_type=payload.content_type, text=text)
        return Payload(content_type=payload.content_type, data=data)

    # -- files ---------------------------------------------------------------

    def backup(self) -> AsyncGenerator[state_pb2.BackupResponse, None]:
        """Yield the parts of a backup of the whole store; their `data`, joined, is the file."""
        return parts(self._state.Backup(state_pb2.BackupRequest()), self.state_address)

    def export_project(
        self, project_id: str
    ) -> AsyncGenerator[state_pb2.ExportProjectResponse, None]:
        """Yield the parts of a project with its history; their `data`, joined, is the file."""
        request = state_pb2.ExportProjectRequest(project_id=project_id)
        return parts(self._state.ExportProject(request), self.state_address)

    async def import_project(
        self, data: Iterable[bytes], *, project_id: str = "", request_id: str = ""
    ) -> Project:
        """Make a new project from the pieces of an exported one; return it.

        It keeps its id unless another is given. Raises `DamagedFileError`; then nothing was
        stored. Not repeated on failures: the pieces may be gone.
        """
        requests = import_requests(data, project_id, request_id or new_request_id())
        return (await upload(self._state.ImportProject(requests), self.state_address)).project
