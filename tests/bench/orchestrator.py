"""Load on both services: no-op nodes per second, hops between dependants, takeover."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise
from statistics import median
from typing import Any

import grpc
from google.protobuf.struct_pb2 import Value

from ramify.v1 import orchestrator_service_pb2 as orchestrator_pb
from ramify.v1 import orchestrator_service_pb2_grpc as orchestrator_rpc
from ramify.v1 import state_service_pb2 as pb
from ramify.v1 import state_service_pb2_grpc as rpc
from ramify.v1.mutation_pb2 import Delta
from ramify.v1.node_pb2 import NodeState
from ramify.v1.project_pb2 import ExecutionSettings, ProjectState
from tests.bench import echo
from tests.bench.processes import service
from tests.bench.producer import percentile
from tests.bench.report import Report

_ENDED = frozenset(
    {
        ProjectState.PROJECT_STATE_COMPLETED,
        ProjectState.PROJECT_STATE_PARTIAL,
        ProjectState.PROJECT_STATE_FAILED,
    }
)


async def no_op_nodes(report: Report, seconds: float) -> None:
    """A flat plan of no-op nodes, every state change durable."""
    nodes = 10_000
    await echo.beside(report)
    started, ended, _ = await _run(nodes, chain=False, slots=256)
    report.add_rate(f"no-op nodes/s, flat plan of {nodes}", nodes / (ended - started))


async def hops(report: Report, seconds: float) -> None:
    """A chain of no-op nodes: from the commit of a result to the commit of the next claim."""
    nodes = max(50, int(100 * seconds))
    _, _, starts = await _run(nodes, chain=True, slots=10)
    gaps = [after - before for before, after in pairwise(starts)]
    report.add(
        f"hop between dependants, chain of {nodes}, p50 ms",
        percentile(gaps, 0.5),
        p99_ms=percentile(gaps, 0.99),
    )


async def takeover(report: Report, seconds: float) -> None:
    """From `kill -9` of the holder until the other one holds its project, in lease times."""
    lease = 2.0
    flags = ("--lease-ttl-seconds", f"{lease:g}")
    spans: list[float] = []
    async with (
        service("state_svc") as state,
        service("orchestrator_svc", "--state", state.address, *flags),
        grpc.aio.insecure_channel(state.address) as channel,
    ):
        store: Any = rpc.StateServiceStub(channel)
        for number in range(3):
            async with (
                service("orchestrator_svc", "--state", state.address, *flags, kill=True) as first,
                grpc.aio.insecure_channel(first.address) as to_first,
            ):
                request = orchestrator_pb.StartProjectRequest(
                    goal="a run that waits",
                    project_id=f"p{number}",
                    profile="scripted",
                    agent_options={"delay_ms": Value(number_value=600_000)},
                )
                await orchestrator_rpc.OrchestratorServiceStub(to_first).StartProject(request)
                await _leased(store, request.project_id, 1)
                killed = time.perf_counter()
            await _leased(store, request.project_id, 2)
            spans.append((time.perf_counter() - killed) / lease)
    report.add("takeover after kill -9, lease times, p50", median(spans), most=max(spans))


async def _leased(store: Any, project_id: str, epoch: int) -> None:
    """Wait until a project was leased for the `epoch`th time."""
    request = pb.GetProjectRequest(project_id=project_id)
    while (await store.GetProject(request)).project.lease.lease_epoch < epoch:  # noqa: ASYNC110
        await asyncio.sleep(0.02)


async def _run(nodes: int, *, chain: bool, slots: int) -> tuple[float, float, list[float]]:
    """Run one project; return when it started and ended, and when its executed nodes ended."""
    async with (
        service("state_svc") as state,
        service("orchestrator_svc", "--state", state.address) as orchestrator,
        grpc.aio.insecure_channel(state.address) as state_channel,
        grpc.aio.insecure_channel(orchestrator.address) as channel,
    ):
        stub: Any = orchestrator_rpc.OrchestratorServiceStub(channel)
        started = time.perf_counter()
        response = await stub.StartProject(
            orchestrator_pb.StartProjectRequest(
                goal="a load test of no-op nodes",
                profile="scripted",
                settings=ExecutionSettings(max_concurrent_nodes=slots, max_execution_steps=0),
                agent_options={
                    "depth": Value(number_value=1),
                    "breadth": Value(number_value=nodes),
                    "chain": Value(bool_value=chain),
                },
            )
        )
        watch: Any = rpc.StateServiceStub(state_channel).WatchProject(
            pb.WatchProjectRequest(
                project_id=response.project.project_id,
                from_beginning=True,
                mode=pb.WatchMode.WATCH_MODE_DIFF,
            )
        )
        done: list[float] = []
        async for message in watch:
            done.extend(_done_times(message.delta))
            ended = _ended(message.delta)
            if ended is not None:
                if ended != ProjectState.PROJECT_STATE_COMPLETED:
                    raise RuntimeError(f"the run ended {ProjectState.Name(ended)}")
                break
        finished = time.perf_counter()
        watch.cancel()
        return started, finished, done


def _done_times(delta: Delta) -> list[float]:
    """Return the commit times of executed nodes that got DONE, in order."""
    times = {info.revision: info.commit_time.ToNanoseconds() / 1e9 for info in delta.revisions}
    return [
        times[change.revision]
        for change in delta.changes
        if change.node.patch.state == NodeState.NODE_STATE_DONE
    ]


def _ended(delta: Delta) -> ProjectState.ValueType | None:
    for change in delta.changes:
        state = change.project.patch.state
        if state in _ENDED:
            return state
    return None
