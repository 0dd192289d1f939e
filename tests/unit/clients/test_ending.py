"""A call that the server ends while it is written to has ended with what the server said.

Without `Ending` a third of the writes below, and some of the uploads, end with INTERNAL: gRPC's
own status for the write that failed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest

from ramify.client import AsyncClient
from ramify.ending import WRITE_FAILED, Ending
from ramify.errors import PayloadTooLargeError
from ramify.v1.state_service_pb2 import PutPayloadRequest
from ramify.v1.state_service_pb2_grpc import StateServiceStub
from tests.unit.clients.fake_state import status_of

if TYPE_CHECKING:  # exists in the stub file only
    from ramify.v1.state_service_pb2_grpc import StateServiceAsyncStub

TIMES = 60
BODY = bytes(8 << 20)


async def _refuse(
    requests: AsyncIterator[PutPayloadRequest],
    context: grpc.aio.ServicerContext[Any, Any],
) -> None:
    """Refuse a body at its second message."""
    await anext(requests)
    await anext(requests)
    await context.abort_with_status(
        status_of(grpc.StatusCode.INVALID_ARGUMENT, "PAYLOAD_TOO_LARGE", "enough")
    )


@pytest.fixture
async def address() -> AsyncIterator[str]:
    server = grpc.aio.server()
    put: grpc.RpcMethodHandler[Any, Any] = grpc.stream_unary_rpc_method_handler(
        _refuse, PutPayloadRequest.FromString
    )
    handler = grpc.method_handlers_generic_handler("ramify.v1.StateService", {"PutPayload": put})
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


async def test_an_upload_that_is_refused_half_way_raises_what_the_server_said(address: str) -> None:
    async with AsyncClient(address, address) as client:
        for _ in range(TIMES):
            with pytest.raises(PayloadTooLargeError, match="enough"):
                await client.put_payload(BODY)


async def test_the_cause_of_a_failed_write_is_what_the_server_said(address: str) -> None:
    request = PutPayloadRequest(data=BODY[: 512 << 10])
    async with grpc.aio.insecure_channel(address) as channel:
        stub: StateServiceAsyncStub = StateServiceStub(channel)
        for _ in range(TIMES):
            call = stub.PutPayload()
            ending = Ending(call)
            try:
                while True:
                    await call.write(request)
            except grpc.aio.AioRpcError as failure:
                cause = await ending.cause(failure)
                assert cause.code() is grpc.StatusCode.INVALID_ARGUMENT
                assert cause.details() == "enough"
                assert cause.trailing_metadata()
            except asyncio.InvalidStateError:  # how gRPC says it of a call that has ended before
                pass


class FakeCall:
    """A call whose status the test sets."""

    def __init__(self) -> None:
        self.status = WRITE_FAILED
        self.notify: Any = None

    def add_done_callback(self, callback: Any) -> None:
        self.notify = callback

    async def code(self) -> grpc.StatusCode:
        failed = self.status == WRITE_FAILED
        return grpc.StatusCode.INTERNAL if failed else grpc.StatusCode.NOT_FOUND

    async def details(self) -> str:
        return self.status

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        return grpc.aio.Metadata()


async def test_a_status_that_comes_after_the_failed_write_is_waited_for() -> None:
    call = FakeCall()
    ending = Ending(call)  # type: ignore[arg-type]
    call.notify(call)
    empty = grpc.aio.Metadata()
    failed = grpc.aio.AioRpcError(grpc.StatusCode.INTERNAL, empty, empty, details=WRITE_FAILED)
    waiting = asyncio.create_task(ending.cause(failed))
    await asyncio.sleep(0)
    call.status = "no such project"
    assert (await waiting).code() is grpc.StatusCode.NOT_FOUND


async def test_a_status_that_never_comes_leaves_the_failed_write() -> None:
    call = FakeCall()
    ending = Ending(call)  # type: ignore[arg-type]
    empty = grpc.aio.Metadata()
    failed = grpc.aio.AioRpcError(grpc.StatusCode.INTERNAL, empty, empty, details=WRITE_FAILED)
    assert await ending.cause(failed) is failed
