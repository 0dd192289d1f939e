"""Whatever a client sends, it sees our reason: no error is larger than gRPC's trailers take.

gRPC drops trailers beyond 8 KiB, and the client gets RESOURCE_EXHAUSTED without an `ErrorInfo`
instead. Every string, list and map of every request of both services is sent far too long.
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc.aio
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message

from ramify.v1 import orchestrator_service_pb2, state_service_pb2
from ramify.v1.state_service_pb2 import CommitBatchRequest
from tests.support.bound import WAIT_SECONDS
from tests.support.hostile import long_requests, message_class
from tests.support.mutations import batch, create, patch
from tests.support.runs import Runs
from tests.support.wire import Wire, read_refusal, refusal

STATE = state_service_pb2.DESCRIPTOR.services_by_name["StateService"]
ORCHESTRATOR = orchestrator_service_pb2.DESCRIPTOR.services_by_name["OrchestratorService"]
#: Three bytes on the wire for each of UTF-8, and those are percent-encoded once more.
TEXTS = {"unicode": "\N{SNOWMAN}" * 5_000, "control": "\x01%\n" * 5_000, "plain": "a" * 20_000}


async def _first_refusal(
    channel: grpc.aio.Channel, method: MethodDescriptor, request: Message
) -> None:
    """Call a method; whatever it refuses must have a reason, also within a stream."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    parse = message_class(method.output_type.full_name).FromString
    serialize = type(request).SerializeToString
    try:
        if not method.client_streaming and not method.server_streaming:
            await channel.unary_unary(path, serialize, parse)(request, timeout=WAIT_SECONDS)
            return
        call: Any
        if method.client_streaming and method.server_streaming:
            call = channel.stream_stream(path, serialize, parse)(timeout=WAIT_SECONDS)
        elif method.client_streaming:
            call = channel.stream_unary(path, serialize, parse)(timeout=WAIT_SECONDS)
        else:
            call = channel.unary_stream(path, serialize, parse)(request, timeout=WAIT_SECONDS)
        if method.client_streaming:
            await call.write(request)
            await call.done_writing()
        if method.server_streaming:
            await call.read()
            call.cancel()
        else:
            await call
    except grpc.aio.AioRpcError as error:
        read_refusal(error)
    except (asyncio.InvalidStateError, asyncio.CancelledError):
        pass


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("method", [m.name for m in STATE.methods])
async def test_no_error_of_state_svc_is_too_large(
    shared_wire: Wire, method: str, text: str
) -> None:
    project = await shared_wire.create_project()
    await shared_wire.commit(project.project_id, create("n"))
    plain = {"project_id": project.project_id, "node_id": "n", "goal": "a goal"}
    requests = list(long_requests(STATE.methods_by_name[method], TEXTS[text], plain))
    for where, request in requests:
        try:
            await _first_refusal(shared_wire.channel, STATE.methods_by_name[method], request)
        except AssertionError as error:
            raise AssertionError(f"{method} with a long {where}: {error}") from error


@pytest.mark.parametrize("method", [m.name for m in ORCHESTRATOR.methods])
async def test_no_error_of_the_orchestrator_is_too_large(runs: Runs, method: str) -> None:
    project = await runs.wire.create_project()
    plain = {"project_id": project.project_id, "node_id": "n", "goal": "a goal"}
    for text in TEXTS.values():
        for where, request in long_requests(ORCHESTRATOR.methods_by_name[method], text, plain):
            try:
                await _first_refusal(runs.channel, ORCHESTRATOR.methods_by_name[method], request)
            except AssertionError as error:
                raise AssertionError(f"{method} with a long {where}: {error}") from error


async def test_a_batch_in_which_everything_is_wrong_is_refused_with_its_reason(
    shared_wire: Wire,
) -> None:
    project = await shared_wire.create_project()
    bad = [create("\N{SNOWMAN}" * 200, "\N{SNOWMAN}" * 200) for _ in range(1_000)]
    bad += [patch("\N{SNOWMAN}" * 200, clear_fields=["\N{SNOWMAN}" * 200]) for _ in range(1_000)]
    request = CommitBatchRequest(project_id=project.project_id, mutations=bad)
    refused = await refusal(shared_wire.stub.CommitBatch(request, timeout=WAIT_SECONDS))
    assert refused.reason == "INVALID_MUTATION"
    assert len(refused.fields) > 5


async def test_a_stream_lives_on_whatever_it_refuses(shared_wire: Wire) -> None:
    project = await shared_wire.create_project()
    async with shared_wire.producer() as producer:
        long = TEXTS["unicode"]
        bad = [create(long[:200], long[:200]) for _ in range(100)]
        await producer.send(batch(project.project_id, 1, *bad))
        reject = await producer.rejected(project.project_id, 1)
        assert len(reject.error.violations) == 100
        await producer.send(batch(long, 1, create("x")))
        assert (await producer.rejected(long, 1)).error.ByteSize() < 2_000
        await producer.send(batch(project.project_id, 1, create("root")))
        assert await producer.acked(project.project_id, 1, corrected=True) == 2


async def test_bytes_that_are_no_message_are_refused_by_the_orchestrator(runs: Runs) -> None:
    for method in ORCHESTRATOR.methods:
        path = f"/{ORCHESTRATOR.full_name}/{method.name}"
        call = runs.channel.unary_unary(path, bytes, bytes)
        refused = await refusal(call(b"\xff\xff\xff", timeout=WAIT_SECONDS))
        assert refused.reason == "INVALID_REQUEST"
