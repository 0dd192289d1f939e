"""Load on state_svc: throughput by frame size, ack latency."""

from __future__ import annotations

import time
from typing import Any

import grpc

from ramify.v1 import state_service_pb2 as pb
from ramify.v1 import state_service_pb2_grpc as rpc
from tests.bench import echo
from tests.bench.processes import Process, service
from tests.bench.producer import Producer, create_batch, frame, patch_batch, percentile
from tests.bench.report import Report

_NODES = 1_000
_WINDOW = 4  #: batches in flight when latency counts
_SATURATED = 32  #: … when throughput does


async def _project(channel: grpc.aio.Channel, producer: Producer, name: str) -> None:
    stub: Any = rpc.StateServiceStub(channel)
    await stub.CreateProject(pb.CreateProjectRequest(project_id=name, goal="a load test"))
    await producer.run([frame([create_batch(name, 1, 0, _NODES)])], name, 1, window=1)


async def throughput(report: Report, seconds: float) -> None:
    """Durable mutations per second at 1, 10, 50 and 200 mutations per frame."""
    for size, guess in ((1, 9_000), (10, 50_000), (50, 100_000), (200, 140_000)):
        async with (
            service("state_svc") as process,
            grpc.aio.insecure_channel(process.address) as channel,
        ):
            producer = Producer(channel, "bench")
            await producer.open()
            await _project(channel, producer, "p")
            count = max(20, int(guess * seconds / size))
            frames = [
                frame([patch_batch("p", number + 2, number * size, size, _NODES)])
                for number in range(count)
            ]
            producer.ack_seconds.clear()
            await echo.beside(report)
            disk, cpu = _disk(process), process.cpu_seconds()
            started = time.perf_counter()
            await producer.run(frames, "p", 2, window=_SATURATED)
            elapsed = time.perf_counter() - started
            report.add_rate(
                f"durable mutations/s, {size} per frame",
                count * size / elapsed,
                ack_p50_ms=percentile(producer.ack_seconds, 0.5),
                ack_p99_ms=percentile(producer.ack_seconds, 0.99),
                server_us_per_mutation=(process.cpu_seconds() - cpu) / count / size * 1e6,
                bytes_per_mutation=(_disk(process) - disk) / count / size,
            )


async def ack_latency(report: Report, seconds: float) -> None:
    """Ack latency at steady rates, one mutation per batch as a lone agent sends them."""
    for rate, size in ((1_000, 1), (10_000, 10), (50_000, 50)):
        async with (
            service("state_svc") as process,
            grpc.aio.insecure_channel(process.address) as channel,
        ):
            producer = Producer(channel, "bench")
            await producer.open()
            await _project(channel, producer, "p")
            count = int(rate / size * seconds)
            frames = [
                frame([patch_batch("p", n + 2, n * size, size, _NODES)]) for n in range(count)
            ]
            producer.ack_seconds.clear()
            await echo.beside(report)
            await producer.run(frames, "p", 2, window=_WINDOW, rate=rate / size)
            report.add_delay(
                f"ack latency at {rate} mutations/s, {size} per frame, p50 ms",
                percentile(producer.ack_seconds, 0.5),
                p99_ms=percentile(producer.ack_seconds, 0.99),
            )


def _disk(process: Process) -> int:
    return sum(path.stat().st_size for path in process.data.iterdir())
