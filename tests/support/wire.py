"""A connection to state_svc: the generated stub, and short ways to call it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from grpc_status import rpc_status

from ramify.ending import Ending
from ramify.v1.mutation_pb2 import Mutation
from ramify.v1.node_pb2 import Node
from ramify.v1.project_pb2 import Project
from ramify.v1.state_service_pb2 import (
    CommitBatchRequest,
    CreateProjectRequest,
    FlushProjectRequest,
    GetNodeRequest,
    GetProjectRequest,
    GetStatsRequest,
    ListNodesRequest,
    ListProjectsRequest,
    Stats,
    WatchProjectRequest,
)
from ramify.v1.state_service_pb2_grpc import StateServiceStub
from tests.support.bound import WAIT_SECONDS
from tests.support.producer import RawProducer
from tests.support.watch import RawWatch

if TYPE_CHECKING:
    from ramify.v1.state_service_pb2_grpc import StateServiceAsyncStub

OPTIONS: list[tuple[str, int]] = [
    # Each test its own connection: gRPC would share one between channels to the same address.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.max_send_message_length", 64 << 20),
    ("grpc.initial_reconnect_backoff_ms", 50),
    # The time that an attempt to connect has: a busy machine needs it.
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.max_reconnect_backoff_ms", 200),
]
#: A client whose unread messages stop its peer after 64 KiB, not after some MiB.
SMALL_WINDOW: list[tuple[str, int]] = [
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 65_535),
]
#: SEM 33: a client that must notice a dead peer within 16 seconds.
KEEPALIVE: list[tuple[str, int]] = [
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]

_names = itertools.count(1)


@dataclass(frozen=True)
class Refusal:
    """A status as a client sees it, taken apart."""

    code: grpc.StatusCode
    reason: str
    message: str
    metadata: dict[str, str]
    fields: list[str]  #: of BadRequest
    retry: bool  #: whether RetryInfo is there


class Wire:
    """One channel to a service."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.stub: StateServiceAsyncStub = StateServiceStub(channel)

    async def create_project(self, project_id: str = "", **fields: Any) -> Project:
        """Create a project and return it; its id is made up unless given."""
        request = CreateProjectRequest(
            project_id=project_id or f"project-{next(_names)}",
            goal=fields.pop("goal", "prove it over the wire"),
            **fields,
        )
        return (await self.stub.CreateProject(request, timeout=WAIT_SECONDS)).project

    async def project(self, project_id: str) -> Project:
        """Return a project."""
        request = GetProjectRequest(project_id=project_id)
        return (await self.stub.GetProject(request, timeout=WAIT_SECONDS)).project

    async def projects(self) -> list[Project]:
        """Return up to 1 000 projects."""
        request = ListProjectsRequest(page_size=1_000)
        response = await self.stub.ListProjects(request, timeout=WAIT_SECONDS)
        return list(response.projects)

    async def commit(self, project_id: str, *mutations: Mutation, **fields: Any) -> int:
        """Commit a batch; return its revision."""
        request = CommitBatchRequest(project_id=project_id, mutations=mutations, **fields)
        return (await self.stub.CommitBatch(request, timeout=WAIT_SECONDS)).revision

    async def node(self, project_id: str, node_id: str, *, include_pending: bool = False) -> Node:
        """Return a node."""
        request = GetNodeRequest(
            project_id=project_id, node_id=node_id, include_pending=include_pending
        )
        return (await self.stub.GetNode(request, timeout=WAIT_SECONDS)).node

    async def accepted(self, project_id: str, node_id: str) -> None:
        """Wait until a node is there, durable or not."""

        async def there() -> bool:
            nodes = await self.nodes(project_id, include_pending=True)
            return node_id in [node.node_id for node in nodes]

        await eventually(there, f"{node_id} is accepted")

    async def flush(self, project_id: str) -> int:
        """Wait until everything accepted is durable; return the head."""
        request = FlushProjectRequest(project_id=project_id)
        return (await self.stub.FlushProject(request, timeout=WAIT_SECONDS)).revision

    async def nodes(self, project_id: str, **fields: Any) -> list[Node]:
        """Return all nodes that a listing shows, and check that its pages have one revision."""
        found: list[Node] = []
        revisions: set[int] = set()
        token = ""
        while True:
            request = ListNodesRequest(
                project_id=project_id, page_size=1_000, page_token=token, **fields
            )
            page = await self.stub.ListNodes(request, timeout=WAIT_SECONDS)
            found.extend(page.nodes)
            revisions.add(page.revision)
            token = page.next_page_token
            if not token:
                assert len(revisions) == 1
                return found

    async def stats(self, project_id: str = "") -> Stats:
        """Return counters of a project or of the service."""
        request = GetStatsRequest(project_id=project_id)
        return (await self.stub.GetStats(request, timeout=WAIT_SECONDS)).stats

    def watch(self, project_id: str, **fields: Any) -> RawWatch:
        """Return a watch, to be used as a context."""
        return RawWatch(self.stub, WatchProjectRequest(project_id=project_id, **fields))

    def producer(self, producer_id: str = "", epoch: int = 0) -> RawProducer:
        """Return a producer, to be used as a context."""
        return RawProducer(self.stub, producer_id, epoch)


@asynccontextmanager
async def connect(
    address: str, options: list[tuple[str, int]] | None = None
) -> AsyncIterator[Wire]:
    """Open a channel of its own."""
    merged = list({**dict(OPTIONS), **dict(options or [])}.items())
    async with grpc.aio.insecure_channel(address, merged) as channel:
        yield Wire(channel)


async def refusal(call: Awaitable[Any]) -> Refusal:
    """Await a call that must fail; return its status, which must be one of ours."""
    ending = Ending(call) if isinstance(call, grpc.aio.Call) else None
    try:
        answer = await call
    except grpc.aio.AioRpcError as error:
        return read_refusal(await ending.cause(error) if ending else error)
    raise AssertionError(f"it was not refused but answered {answer}")


def read_refusal(error: grpc.aio.AioRpcError) -> Refusal:
    """Return a status taken apart; it must carry exactly one ErrorInfo of domain `ramify`."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    assert status is not None, f"{error.code()} without details: {error.details()}"
    info, bad = ErrorInfo(), BadRequest()
    infos = [detail for detail in status.details if detail.Is(ErrorInfo.DESCRIPTOR)]
    assert len(infos) == 1
    infos[0].Unpack(info)
    assert info.domain == "ramify"
    for detail in status.details:
        if detail.Is(BadRequest.DESCRIPTOR):
            detail.Unpack(bad)
    return Refusal(
        code=error.code(),
        reason=info.reason,
        message=error.details() or "",
        metadata=dict(info.metadata),
        fields=[violation.field for violation in bad.field_violations],
        retry=any(detail.Is(RetryInfo.DESCRIPTOR) for detail in status.details),
    )


async def eventually(
    holds: Callable[[], Awaitable[bool] | bool], what: str, seconds: float = WAIT_SECONDS
) -> None:
    """Poll until something holds; fail after a deadline."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while True:
        outcome = holds()
        if await outcome if isinstance(outcome, Awaitable) else outcome:
            return
        assert loop.time() < deadline, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.02)
