"""The size of runs: cost and memory per node as plans grow, resume after kill -9, fairness."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.struct_pb2 import Value

from ramify.v1 import orchestrator_service_pb2 as orchestrator_pb
from ramify.v1 import orchestrator_service_pb2_grpc as orchestrator_rpc
from ramify.v1 import state_service_pb2 as pb
from ramify.v1 import state_service_pb2_grpc as rpc
from ramify.v1.project_pb2 import ExecutionSettings, Project, ProjectState
from tests.bench import echo
from tests.bench.processes import Process, service
from tests.bench.report import Report

SIZES = (10_000, 100_000)
PROJECTS = 1_000
PROJECT_NODES = 20
_ACTIVE = (ProjectState.PROJECT_STATE_PENDING, ProjectState.PROJECT_STATE_RUNNING)


@dataclass(frozen=True, slots=True)
class Pair:
    """Both services with their stubs."""

    state: Process
    orchestrator: Process
    store: Any
    runs: Any

    async def start(self, nodes: int, project_id: str = "", slots: int = 256) -> Project:
        """Start a flat plan of no-op nodes, the root included in their number."""
        request = orchestrator_pb.StartProjectRequest(
            goal="a flat plan of no-op nodes",
            project_id=project_id,
            profile="scripted",
            settings=ExecutionSettings(max_concurrent_nodes=slots, max_execution_steps=0),
            agent_options={
                "depth": Value(number_value=1),
                "breadth": Value(number_value=nodes - 1),
            },
        )
        response = await self.runs.StartProject(request)
        project: Project = response.project
        return project

    async def project(self, project_id: str) -> Project:
        """Return a project."""
        response = await self.store.GetProject(pb.GetProjectRequest(project_id=project_id))
        project: Project = response.project
        return project

    async def until(self, project_id: str, state: str, count: int) -> Project:
        """Wait until so many nodes are in a state, or the run has ended."""
        while True:
            project = await self.project(project_id)
            if project.node_counts[state] >= count or project.state not in _ACTIVE:
                return project
            await asyncio.sleep(0.05)


@asynccontextmanager
async def _pair() -> AsyncIterator[Pair]:
    async with (
        service("state_svc") as state,
        service("orchestrator_svc", "--state", state.address) as orchestrator,
        _stubs(state, orchestrator) as pair,
    ):
        yield pair


@asynccontextmanager
async def _stubs(state: Process, orchestrator: Process) -> AsyncIterator[Pair]:
    async with (
        grpc.aio.insecure_channel(state.address) as state_channel,
        grpc.aio.insecure_channel(orchestrator.address) as channel,
    ):
        store: Any = rpc.StateServiceStub(state_channel)
        yield Pair(state, orchestrator, store, orchestrator_rpc.OrchestratorServiceStub(channel))


async def sizes(report: Report, seconds: float) -> None:
    """The same flat plan at growing sizes; nobody watches. Plans above 4 999 tasks are staged."""
    for nodes in SIZES:
        async with _pair() as pair:
            process = pair.orchestrator
            await echo.beside(report)
            before, processor = process.resident_bytes(), process.cpu_seconds()
            started = time.perf_counter()
            project = await pair.start(nodes)
            peak = before
            while (await pair.project(project.project_id)).state in _ACTIVE:
                peak = max(peak, process.resident_bytes())
                await asyncio.sleep(0.1)
            took = time.perf_counter() - started
            report.add_rate(
                f"nodes/s, flat plan of {nodes}, nobody watches",
                nodes / took,
                orchestrator_us_per_node=(process.cpu_seconds() - processor) / nodes * 1e6,
                orchestrator_peak_bytes_per_node=(peak - before) / nodes,
            )


async def resume(report: Report, seconds: float) -> None:
    """kill -9 of the orchestrator in the middle of a large run, until it dispatches again."""
    nodes = SIZES[-1]
    async with service("state_svc") as state:
        flags = ("--state", state.address, "--name", "bench")
        async with (
            service("orchestrator_svc", *flags, kill=True) as first,
            _stubs(state, first) as pair,
        ):
            project_id = (await pair.start(nodes)).project_id
            await pair.until(project_id, "DONE", nodes // 4)
            done = (await pair.project(project_id)).node_counts["DONE"]
        started = time.perf_counter()
        async with service("orchestrator_svc", *flags) as second, _stubs(state, second) as pair:
            idle = second.resident_bytes()
            await pair.until(project_id, "DONE", done + 1)
            took = time.perf_counter() - started
            report.add(
                f"resume of {nodes} nodes after kill -9, s from start to the first new result",
                took,
                orchestrator_bytes_per_node=(second.resident_bytes() - idle) / nodes,
            )


async def fairness(report: Report, seconds: float) -> None:
    """Many small projects at once: how evenly they come to their ends."""
    async with _pair() as pair:
        gate = asyncio.Semaphore(50)

        async def start(number: int) -> None:
            async with gate:
                await pair.start(PROJECT_NODES, f"p{number}", slots=10)

        await echo.beside(report)
        began = time.perf_counter()
        await asyncio.gather(*(start(number) for number in range(PROJECTS)))
        spent: list[float] = []
        request = pb.ListProjectsRequest(page_size=1_000, states=_ACTIVE)
        while (await pair.store.ListProjects(request)).projects:  # noqa: ASYNC110 - from afar
            await asyncio.sleep(0.2)
        took = time.perf_counter() - began
        everything = pb.ListProjectsRequest(page_size=1_000)
        for project in (await pair.store.ListProjects(everything)).projects:
            if project.state != ProjectState.PROJECT_STATE_COMPLETED:
                raise RuntimeError(f"{project.project_id} has not completed")
            spent.append(project.end_time.ToNanoseconds() - project.start_time.ToNanoseconds())
        spent.sort()
        report.add_rate(
            f"nodes/s, {PROJECTS} projects of {PROJECT_NODES} nodes at once",
            PROJECTS * PROJECT_NODES / took,
            p50_s=spent[len(spent) // 2] / 1e9,
            slowest_by_median=spent[-1] / spent[len(spent) // 2],
        )
