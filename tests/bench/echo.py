"""The least that streams cost here: a server that sends each frame back or to many, and its client.

What they reach is the limit on this machine for anything that acknowledges every frame, or that
sends each change to many watchers.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import uvloop

from tests.bench.processes import service
from tests.bench.report import Report

_PATH = ("ramify.bench.Echo", "Frames")
_FAN_OUT = ("ramify.bench.Echo", "FanOut")
_FRAME_BYTES = 64
_MESSAGE_BYTES = 600  #: about what a round of fan-out has for a watcher at 1 000 mutations/s
_PER_SECOND = 4_000  #: frames sent for each second that is asked for
_ROUND_TRIPS = 500
_STREAMS = 100


async def frames(report: Report, seconds: float) -> None:
    """What bare streams carry, one process each side: there and back, and one to a hundred."""
    async with _connected() as channel:
        report.add("bare echo stream, frames/s (the limit)", await _rate(channel, seconds))
        report.add("bare echo stream, round trip, p50 ms", await _round_trip(channel))
        report.add(
            f"bare server streams, {_STREAMS} of them, messages/s (the limit)",
            await _fan_out(channel, seconds),
        )


async def beside(report: Report) -> None:
    """Measure the echo that the next figure is compared with: machines swing within minutes."""
    async with _connected() as channel:
        report.echo = await _rate(channel, 1.0)
        report.echo_ms = await _round_trip(channel)


@asynccontextmanager
async def _connected() -> AsyncIterator[grpc.aio.Channel]:
    async with (
        service("tests.bench.echo") as process,
        grpc.aio.insecure_channel(process.address) as channel,
    ):
        yield channel


async def _open(channel: grpc.aio.Channel) -> Any:
    call: Any = channel.stream_stream("/{}/{}".format(*_PATH))()
    await call.write(b"warm up")
    await call.read()
    return call


async def _rate(channel: grpc.aio.Channel, seconds: float) -> float:
    call = await _open(channel)
    count = int(_PER_SECOND * seconds)

    async def transmit() -> None:
        for _ in range(count):
            await call.write(bytes(_FRAME_BYTES))

    started = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(transmit())
        for _ in range(count):
            await call.read()
    return count / (time.perf_counter() - started)


async def _round_trip(channel: grpc.aio.Channel) -> float:
    """Return the median of a frame there and back, in milliseconds."""
    call = await _open(channel)
    seconds = []
    for _ in range(_ROUND_TRIPS):
        started = time.perf_counter()
        await call.write(bytes(_FRAME_BYTES))
        await call.read()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds) * 1_000


async def _fan_out(channel: grpc.aio.Channel, seconds: float) -> float:
    """Return the messages per second that all streams together carry."""
    count = int(_PER_SECOND * seconds / _STREAMS)
    request = count.to_bytes(4, "big")

    async def receive() -> None:
        call: Any = channel.unary_stream("/{}/{}".format(*_FAN_OUT))
        async for _ in call(request):
            pass

    started = time.perf_counter()
    await asyncio.gather(*(receive() for _ in range(_STREAMS)))
    return count * _STREAMS / (time.perf_counter() - started)


async def _serve(listen: str) -> None:
    async def echo(_: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        while isinstance(frame := await context.read(), bytes):
            await context.write(frame)

    async def fan_out(request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        for _ in range(int.from_bytes(request, "big")):
            await context.write(bytes(_MESSAGE_BYTES))

    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        _PATH[1]: grpc.stream_stream_rpc_method_handler(echo),
        _FAN_OUT[1]: grpc.unary_stream_rpc_method_handler(fan_out),
    }
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_PATH[0], handlers),))
    port = server.add_insecure_port(listen)
    await server.start()
    print(json.dumps({"address": f"127.0.0.1:{port}"}), flush=True)
    await server.wait_for_termination()


def main() -> int:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listen", required=True)
    options, _ = parser.parse_known_args()
    uvloop.run(_serve(options.listen))
    return 0


if __name__ == "__main__":
    sys.exit(main())
