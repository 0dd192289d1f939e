"""Calls that last cost no other kind of call its place."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from ramify.v1.state_service_pb2 import (
    AcquireLeaseRequest,
    GetServerInfoRequest,
    ImportProjectRequest,
    RenewLeasesRequest,
)
from ramify.v1.state_service_pb2_grpc import StateServiceStub
from state_svc.rpc import server as server_module
from state_svc.rpc import standard
from state_svc.rpc.server import RpcServer
from tests.support.bound import WAIT_SECONDS
from tests.support.embedded import embedded
from tests.support.wire import eventually, refusal


@asynccontextmanager
async def _served(place: Path, *flags: str) -> AsyncIterator[tuple[RpcServer, grpc.aio.Channel]]:
    async with embedded(place, *flags) as running:
        await running.create("p")
        server = RpcServer(running.service, "")
        port = await server.listen("127.0.0.1:0")
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield server, channel
        await server.stop(0)


async def test_uploads_that_stand_still_cost_no_other_call_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "MAX_TRANSFERS", 2)
    async with _served(tmp_path, "--max-calls", "1") as (server, channel):
        stub = StateServiceStub(channel)
        uploads = [stub.ImportProject(timeout=WAIT_SECONDS) for _ in range(2)]
        for upload in uploads:
            await upload.write(ImportProjectRequest(data=b"x"))
        await eventually(lambda: server._transfers.inside == 2, "both are under way")
        refused = await refusal(_imported(stub))
        assert (refused.reason, refused.metadata["limit"]) == ("OVERLOADED", "transfers")
        await stub.GetServerInfo(GetServerInfoRequest(), timeout=WAIT_SECONDS)
        for upload in uploads:
            upload.cancel()
        await eventually(lambda: server._transfers.inside == 0, "there is room again")


async def test_no_other_call_costs_a_holder_its_lease(tmp_path: Path) -> None:
    async with _served(tmp_path, "--max-calls", "1") as (server, channel):
        stub = StateServiceStub(channel)
        with server._calls.enter():
            refused = await refusal(stub.GetServerInfo(GetServerInfoRequest()))
            assert refused.metadata["limit"] == "max_calls"
            request = AcquireLeaseRequest(project_id="p", holder="h")
            assert (await stub.AcquireLease(request, timeout=WAIT_SECONDS)).lease_epoch == 1
            answer = await stub.RenewLeases(RenewLeasesRequest(holder="h"), timeout=WAIT_SECONDS)
            assert not answer.lost


async def test_watches_of_the_health_and_reflections_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standard, "MAX_HEALTH_WATCHES", 1)
    monkeypatch.setattr(standard, "MAX_REFLECTIONS", 1)
    async with _served(tmp_path) as (_, channel):
        health: Any = health_pb2_grpc.HealthStub(channel)
        plain: Any = channel
        reflection: Any = reflection_pb2_grpc.ServerReflectionStub(plain)
        asked = health_pb2.HealthCheckRequest()
        watch = health.Watch(asked, timeout=WAIT_SECONDS)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        refused = await refusal(_first(health.Watch(asked, timeout=WAIT_SECONDS)))
        assert (refused.reason, refused.metadata["limit"]) == ("OVERLOADED", "health watches")
        assert (await health.Check(asked)).status == health_pb2.HealthCheckResponse.SERVING
        first, second = (reflection.ServerReflectionInfo(timeout=WAIT_SECONDS) for _ in "12")
        names = reflection_pb2.ServerReflectionRequest(list_services="")
        await first.write(names)
        assert (await first.read()).list_services_response.service
        refused = await refusal(_first(second))
        assert (refused.reason, refused.metadata["limit"]) == ("OVERLOADED", "reflections")
        for call in (watch, first):
            call.cancel()


async def _first(call: Any) -> Any:
    return await call.read()


async def _imported(stub: Any) -> Any:
    call = stub.ImportProject(timeout=WAIT_SECONDS)
    return await call
