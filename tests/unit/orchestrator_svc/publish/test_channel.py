"""The connection to state_svc, made on a busy machine."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from orchestrator_svc.publish.channel import open_channel

GREETING_SECONDS = 0.5  #: until the peer says anything; far more than the first backoff


async def test_a_peer_that_is_slow_to_greet_is_waited_for() -> None:
    """Where the first backoff bounds the attempt too, no attempt on a busy machine succeeds."""
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()

    async def pass_on(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65_536):
                target.write(data)
                await target.drain()
        target.close()

    async def slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(GREETING_SECONDS)
        to_reader, to_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pass_on(reader, to_writer), pass_on(to_reader, writer))

    busy = await asyncio.start_server(slowly, "127.0.0.1", 0)
    address = "{}:{}".format(*busy.sockets[0].getsockname())
    try:
        async with open_channel(address) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=50)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
    finally:
        busy.close()
        await server.stop(0)
