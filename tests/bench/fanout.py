"""Fan-out of state_svc: from sending a mutation until each of many watchers has it."""

from __future__ import annotations

import array
import asyncio
import json
import random
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio

from ramify.v1 import state_service_pb2 as pb
from ramify.v1 import state_service_pb2_grpc as rpc
from tests.bench import echo
from tests.bench.processes import Process, service
from tests.bench.producer import Producer, create_batch, frame, patch_batch, percentile
from tests.bench.report import Report

_NODES = 1_000
_WINDOW = 4
_SAMPLES = 200_000  #: delays that percentiles are computed from
_SNAPSHOT_NODES = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One measurement."""

    watchers: int
    rate: int  #: mutations per second
    size: int = 1  #: mutations per frame
    stopped: int = 0  #: watchers beside those that read nothing until the end
    mode: str = "DIFF"
    zstd: bool = False

    @property
    def name(self) -> str:
        """What the figure is called."""
        extra = f", {self.stopped} stopped" if self.stopped else ""
        extra += f", {self.mode}" if self.mode != "DIFF" else ""
        extra += ", zstd" if self.zstd else ""
        return f"mutation to {self.watchers} watchers{extra} at {self.rate}/s, p50 ms"


async def fan_out(report: Report, seconds: float) -> None:
    """1 to 1 000 watchers at 1 000 and 10 000 mutations a second."""
    for case in (
        Case(watchers=1, rate=1_000),
        Case(watchers=10, rate=1_000),
        Case(watchers=100, rate=1_000),
        Case(watchers=100, rate=10_000, size=10),
        Case(watchers=1_000, rate=1_000),
    ):
        await _measure(report, case, seconds)


async def stopped(report: Report, seconds: float) -> None:
    """1 000 watchers, of which 100 stop reading."""
    await _measure(report, Case(watchers=900, stopped=100, rate=1_000), seconds)


async def manners(report: Report, seconds: float) -> None:
    """The same load as diffs, compressed, as whole nodes, and those compressed."""
    for mode in ("DIFF", "FULL"):
        for zstd in (False, True):
            case = Case(watchers=100, rate=10_000, size=10, mode=mode, zstd=zstd)
            await _measure(report, case, seconds)


async def _measure(report: Report, case: Case, seconds: float) -> None:
    async with (
        service("state_svc") as process,
        grpc.aio.insecure_channel(process.address) as channel,
    ):
        producer = Producer(channel, "bench")
        await producer.open()
        stub: Any = rpc.StateServiceStub(channel)
        await stub.CreateProject(pb.CreateProjectRequest(project_id="p", goal="a load test"))
        await producer.run([frame([create_batch("p", 1, 0, _NODES)])], "p", 1, window=1)
        resident = process.resident_bytes()
        count = int(case.rate / case.size * seconds)
        frames = [
            frame([patch_batch("p", n + 2, n * case.size, case.size, _NODES)]) for n in range(count)
        ]
        sent = [0.0] * (count + 3)
        original = producer.send

        async def send(data: bytes, project_id: str, sequence: int) -> None:
            sent[sequence + 1] = time.monotonic()
            await original(data, project_id, sequence)

        producer.send = send  # type: ignore[method-assign]
        await echo.beside(report)
        async with _watchers(process, case, last=count + 2) as watchers:
            opened = process.resident_bytes()
            producer.ack_seconds.clear()
            cpu = process.cpu_seconds()
            started = time.perf_counter()
            await producer.run(frames, "p", 2, window=_WINDOW, rate=case.rate / case.size)
            elapsed = time.perf_counter() - started
            peak = process.resident_bytes()
            found = await watchers.finish()
        delays = _delays(watchers.seen, sent)
        extra = {}
        if case.stopped:
            extra = {
                "megabytes_grown_while_stopped": (peak - opened) / (1 << 20),
                "catch_up_seconds": found["catch_up_seconds"],
            }
        report.add_delay(
            case.name,
            percentile(delays, 0.5),
            p99_ms=percentile(delays, 0.99),
            ack_p50_ms=percentile(producer.ack_seconds, 0.5),
            ack_p99_ms=percentile(producer.ack_seconds, 0.99),
            deliveries_per_second=count * case.size * case.watchers / elapsed,
            messages_per_second=found["messages"] / elapsed,
            bytes_per_delivery=found["received_bytes"]
            / (count * case.size * (case.watchers + case.stopped)),
            server_cpu=(process.cpu_seconds() - cpu) / elapsed,
            kilobytes_per_watcher=(opened - resident) / (case.watchers + case.stopped) / 1_024,
            **extra,
        )


class _Watching:
    """The process of the watchers."""

    def __init__(self, process: asyncio.subprocess.Process, seen: Path) -> None:
        self._process = process
        self._file = seen
        self.seen = array.array("d")

    async def finish(self) -> dict[str, float]:
        """Let those that were stopped go on; return when everybody has everything."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"\n")
        found: dict[str, float] = json.loads(await self._process.stdout.readline())
        await self._process.wait()
        self.seen.frombytes(self._file.read_bytes())
        return found


@asynccontextmanager
async def _watchers(process: Process, case: Case, *, last: int) -> AsyncIterator[_Watching]:
    seen = process.data.parent / "seen"
    flags = ["--zstd"] if case.zstd else []
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.bench.watchers", process.address, "--seen", str(seen),
        "--watchers", str(case.watchers), "--stopped", str(case.stopped), "--last", str(last),
        "--mode", case.mode, *flags,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert child.stdout is not None
        await child.stdout.readline()
        yield _Watching(child, seen)
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()


def _delays(seen: array.array[float], sent: list[float]) -> list[float]:
    """Return the delays of a sample of (message, revision) pairs."""
    rows = range(0, len(seen), 3)
    pairs = sum(int(seen[at + 2] - seen[at + 1]) + 1 for at in rows)
    share = min(1.0, _SAMPLES / max(1, pairs))
    chance = random.Random(1)
    delays = []
    for at in rows:
        now = seen[at]
        for revision in range(int(seen[at + 1]), int(seen[at + 2]) + 1):
            if share == 1.0 or chance.random() < share:
                delays.append(now - sent[revision])  # noqa: PERF401 - two conditions
    return delays


async def snapshot(report: Report, seconds: float) -> None:
    """A watcher opens a project of 100 000 nodes while 1 000 mutations a second go on."""
    async with (
        service("state_svc") as process,
        grpc.aio.insecure_channel(process.address) as channel,
        grpc.aio.insecure_channel(process.address) as other,
    ):
        producer = Producer(channel, "bench")
        await producer.open()
        stub: Any = rpc.StateServiceStub(channel)
        await stub.CreateProject(pb.CreateProjectRequest(project_id="p", goal="a load test"))
        batches = _SNAPSHOT_NODES // _NODES
        creates = [frame([create_batch("p", n + 1, n * _NODES, _NODES)]) for n in range(batches)]
        await producer.run(creates, "p", 1, window=2)
        count = int(1_000 * seconds)
        frames = [
            frame([patch_batch("p", batches + n + 1, n, 1, _SNAPSHOT_NODES)]) for n in range(count)
        ]
        half = count // 2
        producer.ack_seconds.clear()
        await producer.run(frames[:half], "p", batches + 1, window=_WINDOW, rate=1_000)
        quiet = list(producer.ack_seconds)
        producer.ack_seconds.clear()
        opened = asyncio.create_task(_open_snapshot(other))
        while_open: list[float] = []

        def note(_: asyncio.Task[tuple[float, int, float]]) -> None:
            while_open.extend(producer.ack_seconds)

        opened.add_done_callback(note)
        await producer.run(frames[half:], "p", batches + half + 1, window=_WINDOW, rate=1_000)
        took, nodes, largest = await opened
        report.add(
            f"snapshot of {nodes} nodes at 1000/s, seconds",
            took,
            largest_message_kb=largest / 1_024,
            ack_p50_ms=percentile(while_open, 0.5),
            ack_p99_ms=percentile(while_open, 0.99),
            quiet_ack_p50_ms=percentile(quiet, 0.5),
            quiet_ack_p99_ms=percentile(quiet, 0.99),
        )


async def _open_snapshot(channel: grpc.aio.Channel) -> tuple[float, int, float]:
    started = time.perf_counter()
    method: Any = channel.unary_stream("/ramify.v1.StateService/WatchProject")
    call = method(pb.WatchProjectRequest(project_id="p", snapshot=True).SerializeToString())
    messages: list[bytes] = []
    while True:
        message = await call.read()
        messages.append(message)
        # The last chunk alone begins with a `resume_revision`.
        if message[0] == pb.WatchProjectResponse.RESUME_REVISION_FIELD_NUMBER << 3:
            break
    took = time.perf_counter() - started
    call.cancel()
    nodes = sum(len(pb.WatchProjectResponse.FromString(m).snapshot.nodes) for m in messages)
    return took, nodes, max(map(len, messages))
