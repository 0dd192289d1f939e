"""The least that a stream costs here: a server that sends each frame back, and its client.

What it reaches is the limit for anything that acknowledges every frame on this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from typing import Any

import grpc
import uvloop

from tests.bench.processes import service
from tests.bench.report import Report

_PATH = ("ramify.bench.Echo", "Frames")
_FRAME_BYTES = 64
_PER_SECOND = 4_000  #: frames sent for each second that is asked for


async def frames(report: Report, seconds: float) -> None:
    """Frames per second through a bare bidirectional stream, one process each side."""
    report.add("bare echo stream, frames/s (the limit)", await _rate(seconds))


async def beside(report: Report) -> None:
    """Measure the echo that the next rate is compared with: machines swing within minutes."""
    report.echo = await _rate(1.0)


async def _rate(seconds: float) -> float:
    async with (
        service("tests.bench.echo") as process,
        grpc.aio.insecure_channel(process.address) as channel,
    ):
        call: Any = channel.stream_stream("/{}/{}".format(*_PATH))()
        count = int(_PER_SECOND * seconds)

        async def transmit() -> None:
            for _ in range(count):
                await call.write(bytes(_FRAME_BYTES))

        await call.write(b"warm up")
        await call.read()
        started = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(transmit())
            for _ in range(count):
                await call.read()
        return count / (time.perf_counter() - started)


async def _serve(listen: str) -> None:
    async def echo(_: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        while isinstance(frame := await context.read(), bytes):
            await context.write(frame)

    handler: grpc.RpcMethodHandler[Any, Any] = grpc.stream_stream_rpc_method_handler(echo)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(_PATH[0], {_PATH[1]: handler}),)
    )
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
