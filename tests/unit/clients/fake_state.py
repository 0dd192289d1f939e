"""A small state_svc and orchestrator_svc on the generated stubs, for tests of SDK and CLI.

Real enough to hold projects, commit batches, serve watches from any start and lose connections;
faults are switched on by attributes. It computes snapshots with its own loop, not with the
`View` under test.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc.aio
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from ramify.v1 import explain_pb2
from ramify.v1 import orchestrator_service_pb2 as orchestrator_pb2
from ramify.v1 import orchestrator_service_pb2_grpc as orchestrator_grpc
from ramify.v1 import state_service_pb2 as state_pb2
from ramify.v1 import state_service_pb2_grpc as state_grpc
from ramify.v1.mutation_pb2 import NodeChange, ProjectChange
from ramify.v1.node_pb2 import NodeState
from ramify.v1.project_pb2 import Project, ProjectState
from tests.unit.clients.fake_project import FakeProject, commit_time, project_state

#: What a servicer gets; the type parameters would say the message types once more.
Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


def status_of(
    code: grpc.StatusCode, reason: str, message: str, retry_ms: int = 0, **metadata: str
) -> grpc.Status:
    """Return a status that carries an `ErrorInfo` as state_svc sends it."""
    info, retry = AnyMessage(), AnyMessage()
    info.Pack(error_details_pb2.ErrorInfo(reason=reason, domain="ramify", metadata=metadata))
    delay = Duration(seconds=retry_ms // 1_000, nanos=retry_ms % 1_000 * 1_000_000)
    retry.Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    details = [retry, info] if retry_ms else [info]
    status = status_pb2.Status(code=code.value[0], message=message, details=details)
    return rpc_status.to_status(status)


class FakeState(state_grpc.StateServiceServicer):
    """Holds the projects. Faults apply to watches opened or messages sent after they are set."""

    def __init__(self) -> None:
        self.projects: dict[str, FakeProject] = {}
        self.requests: list[state_pb2.WatchProjectRequest] = []  #: watches, as asked for
        #: Answered to the next unary calls, in order; None: as if nothing was wrong.
        self.failures: list[grpc.Status | None] = []
        self.calls: list[str] = []  #: unary calls, by name
        self.cut_after: list[int] = []  #: per watch to come: messages before the line is cut
        self.skip_revisions: set[int] = set()  #: left out of watches, once each
        self.wrong_checksums = 0  #: bookmarks still to be sent with a wrong checksum
        self.hold_calls = False  #: unary calls get no answer
        self.snapshot_chunk_nodes = 2

    def create(self, project_id: str, goal: str = "a goal") -> FakeProject:
        """Create a project; its creation is revision 1."""
        project = Project(
            project_id=project_id,
            project_uid=f"uid-of-{project_id}",
            goal=goal,
            state=ProjectState.PROJECT_STATE_PENDING,
        )
        self.projects[project_id] = fake = FakeProject(project)
        fake.commit(ProjectChange(project=project))
        project.create_time.CopyFrom(commit_time(1))
        return fake

    async def WatchProject(
        self,
        request: state_pb2.WatchProjectRequest,
        context: Context,
    ) -> AsyncIterator[state_pb2.WatchProjectResponse]:
        self.requests.append(request)
        fake = await self._find(request.project_id, context)
        budget = self.cut_after.pop(0) if self.cut_after else None
        sent = itertools.count(1)
        async for response in self._watch(request, fake, context):
            yield response
            if budget is not None and next(sent) >= budget:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the line was cut")

    async def _watch(
        self,
        request: state_pb2.WatchProjectRequest,
        fake: FakeProject,
        context: Context,
    ) -> AsyncIterator[state_pb2.WatchProjectResponse]:
        uid = fake.project.project_uid
        yield state_pb2.WatchProjectResponse(
            created=state_pb2.WatchCreated(
                store_id="store", project_uid=uid, head_revision=fake.head, filter=request.filter
            )
        )
        start = request.WhichOneof("start")
        replaced = bool(request.project_uid) and request.project_uid != uid
        if replaced:
            yield state_pb2.WatchProjectResponse(
                resync=state_pb2.Resync(reason=state_pb2.RESYNC_REASON_PROJECT_REPLACED)
            )
        if replaced or start in (None, "snapshot"):
            position = fake.head
            for chunk in self._snapshot(fake):
                yield chunk
        elif start == "head":
            position = fake.head
        else:
            position = request.after_revision
            if position > fake.head:
                status = status_of(
                    grpc.StatusCode.OUT_OF_RANGE, "REVISION_AHEAD", "ahead of the store"
                )
                await context.abort_with_status(status)
        while True:
            while position < fake.head:
                delta = fake.deltas[position]
                position += 1
                if position in self.skip_revisions:
                    self.skip_revisions.discard(position)
                    continue
                yield state_pb2.WatchProjectResponse(resume_revision=position, delta=delta)
            lie = self.wrong_checksums > 0
            self.wrong_checksums -= lie
            yield state_pb2.WatchProjectResponse(
                resume_revision=position,
                bookmark=state_pb2.Bookmark(
                    revision=position, checksum=(fake.checksum() + lie) % 2**64
                ),
            )
            if position == fake.head:
                await fake.changed.wait()

    def _snapshot(self, fake: FakeProject) -> list[state_pb2.WatchProjectResponse]:
        nodes = list(fake.nodes.values())
        size = self.snapshot_chunk_nodes
        parts = [nodes[i : i + size] for i in range(0, len(nodes), size)] or [[]]
        chunks = []
        for number, part in enumerate(parts):
            last = number + 1 == len(parts)
            chunk = state_pb2.SnapshotChunk(revision=fake.head, chunk=number, last=last, nodes=part)
            if number == 0:
                chunk.project.CopyFrom(fake.project)
            if last:
                chunk.checksum = fake.checksum()
            chunks.append(
                state_pb2.WatchProjectResponse(
                    resume_revision=fake.head if last else 0, snapshot=chunk
                )
            )
        return chunks

    async def GetProject(
        self,
        request: state_pb2.GetProjectRequest,
        context: Context,
    ) -> state_pb2.GetProjectResponse:
        await self._unary("GetProject", context)
        fake = await self._find(request.project_id, context)
        response = state_pb2.GetProjectResponse(project=fake.project)
        response.project.revision = fake.head
        for node in fake.nodes.values():
            name = NodeState.Name(node.state).removeprefix("NODE_STATE_")
            response.project.node_counts[name] += 1
        return response

    async def ListProjects(
        self,
        request: state_pb2.ListProjectsRequest,
        context: Context,
    ) -> state_pb2.ListProjectsResponse:
        await self._unary("ListProjects", context)
        chosen = [
            fake.project
            for fake in self.projects.values()
            if not request.states or fake.project.state in request.states
        ]
        first = int(request.page_token or 0)
        page = chosen[first : first + 2]
        token = str(first + 2) if first + 2 < len(chosen) else ""
        return state_pb2.ListProjectsResponse(projects=page, next_page_token=token)

    async def GetNode(
        self,
        request: state_pb2.GetNodeRequest,
        context: Context,
    ) -> state_pb2.GetNodeResponse:
        await self._unary("GetNode", context)
        fake = await self._find(request.project_id, context)
        if request.node_id not in fake.nodes:
            status = status_of(grpc.StatusCode.NOT_FOUND, "NODE_NOT_FOUND", "no such node")
            await context.abort_with_status(status)
        return state_pb2.GetNodeResponse(node=fake.nodes[request.node_id], revision=fake.head)

    async def ListNodes(
        self,
        request: state_pb2.ListNodesRequest,
        context: Context,
    ) -> state_pb2.ListNodesResponse:
        await self._unary("ListNodes", context)
        fake = await self._find(request.project_id, context)
        nodes = list(fake.nodes.values())
        first = int(request.page_token or 0)
        token = str(first + 2) if first + 2 < len(nodes) else ""
        return state_pb2.ListNodesResponse(
            nodes=nodes[first : first + 2], next_page_token=token, revision=fake.head
        )

    async def GetStats(
        self,
        request: state_pb2.GetStatsRequest,
        context: Context,
    ) -> state_pb2.GetStatsResponse:
        await self._unary("GetStats", context)
        return state_pb2.GetStatsResponse(stats=state_pb2.Stats(total_updates=7, commits=3))

    async def GetServerInfo(
        self,
        request: state_pb2.GetServerInfoRequest,
        context: Context,
    ) -> state_pb2.GetServerInfoResponse:
        await self._unary("GetServerInfo", context)
        return state_pb2.GetServerInfoResponse(version="0.0", store_id="store")

    async def _unary(self, name: str, context: Context) -> None:
        self.calls.append(name)
        if self.hold_calls:
            await asyncio.Event().wait()
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            await context.abort_with_status(failure)

    async def _find(self, project_id: str, context: Context) -> FakeProject:
        if project_id not in self.projects:
            await context.abort_with_status(
                status_of(
                    grpc.StatusCode.NOT_FOUND,
                    "PROJECT_NOT_FOUND",
                    f"no project {project_id}",
                    project_id=project_id,
                )
            )
        return self.projects[project_id]


class FakeOrchestrator(orchestrator_grpc.OrchestratorServiceServicer):
    """Creates the projects it is asked to start; a test moves them on."""

    def __init__(self, state: FakeState) -> None:
        self.state = state
        self.started: list[orchestrator_pb2.StartProjectRequest] = []
        self.cancelled: list[orchestrator_pb2.CancelProjectRequest] = []
        self.failures: list[grpc.Status] = []
        self.script: Sequence[tuple[NodeChange | ProjectChange, ...]] = ()
        self.explanation = explain_pb2.Explanation()

    async def StartProject(
        self,
        request: orchestrator_pb2.StartProjectRequest,
        context: Context,
    ) -> orchestrator_pb2.StartProjectResponse:
        self.started.append(request)
        if self.failures:
            await context.abort_with_status(self.failures.pop(0))
        fake = self.state.create(request.project_id or "run-1", request.goal)
        project = Project()
        project.CopyFrom(fake.project)
        for changes in self.script:
            fake.commit(*changes)
        return orchestrator_pb2.StartProjectResponse(project=project)

    async def CancelProject(
        self,
        request: orchestrator_pb2.CancelProjectRequest,
        context: Context,
    ) -> orchestrator_pb2.CancelProjectResponse:
        self.cancelled.append(request)
        fake = self.state.projects[request.project_id]
        fake.commit(project_state(ProjectState.PROJECT_STATE_CANCELLED))
        return orchestrator_pb2.CancelProjectResponse(command_id="c1", revision=fake.head)

    async def GetRunner(
        self,
        request: orchestrator_pb2.GetRunnerRequest,
        context: Context,
    ) -> orchestrator_pb2.GetRunnerResponse:
        return orchestrator_pb2.GetRunnerResponse(version="0.0", holder="fake")

    async def ExplainProject(
        self, request: explain_pb2.ExplainProjectRequest, context: Context
    ) -> explain_pb2.ExplainProjectResponse:
        return explain_pb2.ExplainProjectResponse(explanation=self.explanation)

    async def ExplainNode(
        self, request: explain_pb2.ExplainNodeRequest, context: Context
    ) -> explain_pb2.ExplainNodeResponse:
        return explain_pb2.ExplainNodeResponse(explanation=self.explanation)


@dataclass
class FakeServices:
    """Both fakes behind one real server on a port of its own."""

    state: FakeState
    orchestrator: FakeOrchestrator
    address: str
    server: grpc.aio.Server


@asynccontextmanager
async def fake_services(address: str = "127.0.0.1:0") -> AsyncIterator[FakeServices]:
    """Serve both fakes until the context ends."""
    state = FakeState()  # type: ignore[abstract]  # the rest answers UNIMPLEMENTED
    orchestrator = FakeOrchestrator(state)  # type: ignore[abstract]
    # Without this the server takes the client's keepalive pings for an attack.
    server = grpc.aio.server(options=[("grpc.http2.min_ping_interval_without_data_ms", 5_000)])
    state_grpc.add_StateServiceServicer_to_server(state, server)
    orchestrator_grpc.add_OrchestratorServiceServicer_to_server(orchestrator, server)
    port = server.add_insecure_port(address)
    await server.start()
    try:
        yield FakeServices(state, orchestrator, f"127.0.0.1:{port}", server)
    finally:
        await server.stop(None)
