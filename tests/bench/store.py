"""What the log-structured store is for: large results, many projects, memory, cold start."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import grpc

from ramify.v1 import state_service_pb2 as pb
from ramify.v1 import state_service_pb2_grpc as rpc
from tests.bench import echo
from tests.bench.processes import Process, service
from tests.bench.producer import Producer, create_batch, frame, patch_batch, result_batch
from tests.bench.report import Report

_NODES = 1_000
_SIZE = 50  #: mutations in a frame
_SATURATED = 32  #: batches in flight
_RESULT_BYTES = 2_000
_PROJECTS = 200
_LARGE_PROJECTS = 10
_LARGE_NODES = 1_000_000
_LARGE_MUTATIONS = 5_000_000
_NODE_BYTES = 600


async def results(report: Report, seconds: float) -> None:
    """Durable results of 2 KB each per second, 50 per batch."""
    async with service("state_svc") as process, _channel(process) as channel:
        producer = await _producer(channel)
        await _create(channel, producer, "p", _NODES)
        count = max(20, int(15_000 * seconds / _SIZE))
        frames = [
            frame([result_batch("p", n + 2, n * _SIZE, _SIZE, _NODES, _RESULT_BYTES)])
            for n in range(count)
        ]
        await echo.beside(report)
        disk = _disk(process)
        started = time.perf_counter()
        await producer.run(frames, "p", 2, window=_SATURATED)
        rate = count * _SIZE / (time.perf_counter() - started)
        report.add_rate(
            "durable results of 2 KB/s, 50 per frame",
            rate,
            megabytes_per_second=rate * _RESULT_BYTES / 1e6,
            bytes_on_disk_each=(_disk(process) - disk) / count / _SIZE,
        )


async def interleaved(report: Report, seconds: float) -> None:
    """The same frames for one project and for 200 in turn."""
    await echo.beside(report)
    alone = await _in_turn(seconds, 1)
    report.add_rate("durable mutations/s, 50 per frame, one project", alone)
    await echo.beside(report)
    many = await _in_turn(seconds, _PROJECTS)
    report.add_rate(
        f"durable mutations/s, 50 per frame, {_PROJECTS} projects in turn",
        many,
        cost_percent=100 * (1 - many / alone),
    )


async def row_per_mutation(report: Report, seconds: float) -> None:
    """The same service over segments and over a row per mutation, one after the other."""
    segments = await _in_turn(seconds, 1)
    rows = await _in_turn(seconds, 1, module="tests.bench.row_service")
    report.add(
        "segments against a row per mutation, times as fast",
        segments / rows,
        segments_per_second=segments,
        rows_per_second=rows,
    )


async def large(report: Report, seconds: float) -> None:
    """A million live nodes of 600 B, five million mutations, kill -9, start.

    Below five seconds per figure everything is smaller in proportion.
    """
    share = min(1.0, seconds / 5)
    nodes = int(_LARGE_NODES * share) // _LARGE_PROJECTS
    mutations = int(_LARGE_MUTATIONS * share) // _LARGE_PROJECTS
    names = [f"large-{number}" for number in range(_LARGE_PROJECTS)]
    with tempfile.TemporaryDirectory(prefix="ramify-bench-") as folder:
        data = Path(folder) / "data"
        async with (
            service("state_svc", data=data, kill=True) as process,
            _channel(process) as channel,
        ):
            producer = await _producer(channel)
            resident = process.resident_bytes()
            for name in names:
                await _create(channel, producer, name, nodes, padding=_NODE_BYTES - 100)
            grown = process.resident_bytes() - resident
            report.add(
                f"bytes of memory per live node of {_NODE_BYTES} B, {nodes * len(names):,}",
                grown / nodes / len(names),
                megabytes=grown / 1e6,
            )
            await _patch_all(producer, names, nodes, mutations)
        started = time.perf_counter()
        async with service("state_svc", data=data) as process, _channel(process) as channel:
            ready = time.perf_counter() - started
            stub: Any = rpc.StateServiceStub(channel)
            first = 0.0
            for name in names:
                request = pb.ListNodesRequest(project_id=name, page_size=1)
                page = await stub.ListNodes(request)
                assert len(page.nodes) == 1
                first = first or time.perf_counter() - started
            total = f"{nodes * len(names):,} nodes, {mutations * len(names):,} mutations"
            report.add(
                f"cold start, {total}, s",
                time.perf_counter() - started,
                ready_s=ready,
                first_project_s=first,
                megabytes_on_disk=_disk(process) / 1e6,
            )


async def _in_turn(seconds: float, projects: int, module: str = "state_svc") -> float:
    """Return mutations per second of frames of 50 for so many projects in turn."""
    async with service(module) as process, _channel(process) as channel:
        producer = await _producer(channel)
        names = [f"p{number}" for number in range(projects)]
        nodes = max(_SIZE, _NODES // projects)
        for name in names:
            await _create(channel, producer, name, nodes)
        count = max(20, int(60_000 * seconds / _SIZE))
        frames = []
        for number in range(count):
            name, turn = names[number % projects], number // projects
            batch = patch_batch(name, turn + 2, turn * _SIZE, _SIZE, nodes)
            frames.append((frame([batch]), name, turn + 2))
        started = time.perf_counter()
        await producer.run_many(frames, window=_SATURATED)
        return count * _SIZE / (time.perf_counter() - started)


async def _create(
    channel: grpc.aio.Channel, producer: Producer, name: str, nodes: int, padding: int = 0
) -> None:
    stub: Any = rpc.StateServiceStub(channel)
    await stub.CreateProject(pb.CreateProjectRequest(project_id=name, goal="a load test"))
    frames = []
    for number, first in enumerate(range(0, nodes, _NODES)):
        batch = create_batch(name, number + 1, first, min(_NODES, nodes - first))
        for mutation in batch.mutations:
            mutation.node.create.output_summary = "s" * padding
        frames.append(frame([batch]))
    await producer.run(frames, name, 1, window=4)


async def _patch_all(producer: Producer, names: list[str], nodes: int, mutations: int) -> None:
    size = 500
    for name in names:
        first = -(-nodes // _NODES) + 1
        for start in range(0, mutations // size, 200):  # encoded in pieces: they need memory
            frames = [
                frame([patch_batch(name, first + n, n * size, size, nodes)])
                for n in range(start, min(start + 200, mutations // size))
            ]
            await producer.run(frames, name, first + start, window=8)


async def _producer(channel: grpc.aio.Channel) -> Producer:
    producer = Producer(channel, "bench")
    await producer.open()
    return producer


def _channel(process: Process) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(process.address)


def _disk(process: Process) -> int:
    return sum(path.stat().st_size for path in process.data.iterdir() if path.is_file())
