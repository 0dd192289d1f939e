"""A connection to both services: starts runs, and follows one through whatever happens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import grpc
import grpc.aio
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Value

from ramify.v1.node_pb2 import Node
from ramify.v1.orchestrator_service_pb2 import (
    CancelProjectRequest,
    GetRunnerRequest,
    StartProjectRequest,
)
from ramify.v1.orchestrator_service_pb2_grpc import OrchestratorServiceStub
from ramify.v1.payload_pb2 import Payload
from ramify.v1.project_pb2 import ExecutionSettings, Project
from ramify.v1.state_service_pb2 import (
    Coalescing,
    EntityKind,
    GetServerInfoRequest,
    WatchFilter,
    WatchMode,
    WatchProjectRequest,
)
from tests.support.bound import WAIT_SECONDS
from tests.support.payloads import get
from tests.support.run_history import RunHistory
from tests.support.watch import WatchLog
from tests.support.wire import OPTIONS, Wire, connect, eventually

if TYPE_CHECKING:
    from ramify.v1.orchestrator_service_pb2_grpc import OrchestratorServiceAsyncStub
    from ramify.v1.state_service_pb2_grpc import StateServiceAsyncStub

QUESTION = "How does asyncio cancel tasks, and what should code do to clean up?"
_PAUSE_SECONDS = 0.02  #: between connections of a follower
_ALL = WatchFilter(
    kinds=[
        EntityKind.ENTITY_KIND_NODE,
        EntityKind.ENTITY_KIND_PROJECT,
        EntityKind.ENTITY_KIND_COMMAND,
    ]
)


class Follower:
    """Watches a run from revision 1 on the bare stub, resuming by itself after every loss.

    The log proves that every revision comes exactly once, the history that each is legal.
    """

    def __init__(self, stub: StateServiceAsyncStub, project_id: str) -> None:
        self.log = WatchLog()
        self.history = RunHistory()
        self.connections = 0
        self._project_id = project_id
        self._uid = ""
        self._stub = stub
        self._changed = asyncio.Condition()
        self._defect: BaseException | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._follow(), name="follower")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._task.cancel()
        await asyncio.wait((self._task,))
        if kind is None and self._defect is not None:
            raise self._defect

    @property
    def revision(self) -> int:
        """Everything through this revision was seen."""
        return self.log.announced

    async def until(
        self, holds: Callable[[RunHistory], object], seconds: float = WAIT_SECONDS
    ) -> None:
        """Wait until something holds about the history."""
        await self._until(lambda: holds(self.history), seconds)

    async def through(self, revision: int, seconds: float = WAIT_SECONDS) -> None:
        """Wait until a revision was seen, or the run is over before it."""
        await self._until(lambda: self.revision >= revision or self.history.ended, seconds)

    async def caught_up(self, revision: int, seconds: float = WAIT_SECONDS) -> None:
        """Wait until a revision was seen."""
        await self._until(lambda: self.revision >= revision, seconds)

    async def ended(self, seconds: float = WAIT_SECONDS) -> str:
        """Wait until the run is over; return its state."""
        await self.until(lambda history: history.ended, seconds)
        return self.history.state

    async def _until(self, holds: Callable[[], object], seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds), self._changed:
                while not holds():
                    if self._defect is not None:
                        raise self._defect
                    await self._changed.wait()
        except TimeoutError:
            nodes = self.history.nodes.values()
            raise AssertionError(
                f"not within {seconds} s; at revision {self.revision}, "
                f"{self.connections} connections, project {self.history.state}, open: "
                f"{[n.node_id for n in nodes if not n.HasField('end_time')]}"
            ) from None

    async def _follow(self) -> None:
        try:
            while True:
                await self._connect_once()
                await asyncio.sleep(_PAUSE_SECONDS)
        except asyncio.CancelledError:
            raise
        except BaseException as defect:
            async with self._changed:
                self._defect = defect
                self._changed.notify_all()

    async def _connect_once(self) -> None:
        request = WatchProjectRequest(
            project_id=self._project_id,
            project_uid=self._uid,
            fail_if_compacted=True,
            filter=_ALL,
            bookmark_interval_ms=200,
            mode=WatchMode.WATCH_MODE_DIFF,
            coalescing=Coalescing.COALESCING_NEVER,
        )
        if self.log.resume:
            request.after_revision = self.log.resume
        else:
            request.from_beginning = True
        self.log.begin(request)
        call = self._stub.WatchProject(request)
        try:
            async for message in call:
                async with self._changed:
                    self.log.take(message)
                    assert not self.log.resyncs
                    if message.HasField("created"):
                        self.connections += 1
                        self._uid = message.created.project_uid
                    self.history.take(message.delta.changes, message.delta.revisions)
                    self._changed.notify_all()
        except grpc.aio.AioRpcError as error:
            # CANCELLED: the service stopped before this call had begun in earnest.
            if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                raise
        finally:
            call.cancel()


class Runs:
    """Both services as a client sees them."""

    def __init__(self, wire: Wire, channel: grpc.aio.Channel) -> None:
        self.wire = wire
        self.channel = channel
        self.stub: OrchestratorServiceAsyncStub = OrchestratorServiceStub(channel)

    async def ready(self) -> None:
        """Wait until both services answer: a channel notices a restart with a delay."""
        await self.state_ready()
        await _answers(lambda: self.stub.GetRunner(GetRunnerRequest()))

    async def state_ready(self) -> None:
        """Wait until state_svc answers."""
        await _answers(lambda: self.wire.stub.GetServerInfo(GetServerInfoRequest()))

    async def start(
        self,
        goal: str = QUESTION,
        *,
        profile: str = "corpus",
        settings: dict[str, Any] | None = None,
        options: dict[str, Any] | None = None,
        **fields: Any,
    ) -> Project:
        """Start a run; return its project."""
        request = StartProjectRequest(
            goal=goal,
            profile=profile,
            settings=ExecutionSettings(**settings) if settings else None,
            agent_options={key: as_value(item) for key, item in (options or {}).items()},
            **fields,
        )
        return (await self.stub.StartProject(request, timeout=WAIT_SECONDS)).project

    async def script(self, settings: dict[str, Any] | None = None, **options: Any) -> Project:
        """Start a run of the scripted agents, without a backoff unless `settings` has one."""
        chosen = {"retry_delay_seconds": 0.0, **(settings or {})}
        return await self.start(
            "a scripted run", profile="scripted", settings=chosen, options=options
        )

    async def cancel(self, project_id: str, **fields: Any) -> int:
        """Order the end of a run; return the revision of the order."""
        request = CancelProjectRequest(project_id=project_id, **fields)
        return (await self.stub.CancelProject(request, timeout=WAIT_SECONDS)).revision

    def follow(self, project_id: str) -> Follower:
        """Return a follower, to be used as a context."""
        return Follower(self.wire.stub, project_id)

    async def finish(self, project_id: str, seconds: float = WAIT_SECONDS) -> RunHistory:
        """Wait for the end of a run; return its whole history, checked."""
        async with self.follow(project_id) as follower:
            await follower.ended(seconds)
        follower.history.check_accounts()
        return follower.history

    async def report(self, project_id: str) -> str:
        """Return the result of the root, which must be Markdown."""
        project = await self.wire.project(project_id)
        result = (await self.wire.node(project_id, project.root_node_id)).result
        assert result.content_type == "text/markdown"
        return await self.text(project_id, result)

    async def text(self, project_id: str, payload: Payload) -> str:
        """Return the text of a payload, wherever it lies."""
        if payload.HasField("ref"):
            assert payload.ref.is_text
            return (await get(self.wire, project_id, payload.ref.digest))[1].decode()
        assert payload.text
        return payload.text


def holders(follower: Follower) -> list[str]:
    """Return who was given the project's lease, in the order of the history; "" gave it back."""
    return [
        change.project.patch.lease.holder
        for _, changes in sorted(follower.log.changes.items())
        for change in changes
        if change.project.patch.HasField("lease")
    ]


async def _answers(call: Callable[[], Awaitable[object]]) -> None:
    async def answered() -> bool:
        try:
            await call()
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            return False
        return True

    await eventually(answered, "the service answers")


def results(history: RunHistory) -> dict[str, bytes]:
    """Return what each node is about and produced, without what a disturbance may change."""

    def essence(node: Node) -> bytes:
        copy = Node()
        copy.CopyFrom(node)
        for name in (
            "version", "attempt", "usage", "create_time", "update_time", "start_time",
            "end_time", "update_revision",
        ):  # fmt: skip
            copy.ClearField(name)
        return copy.SerializeToString(deterministic=True)

    return {node_id: essence(node) for node_id, node in history.nodes.items()}


def as_value(item: Any) -> Value:
    """Return JSON as a value of the contract."""
    return ParseDict(item, Value())


@asynccontextmanager
async def connect_both(state_address: str, orchestrator_address: str) -> AsyncIterator[Runs]:
    """Open channels of its own to both services."""
    async with AsyncExitStack() as stack:
        wire = await stack.enter_async_context(connect(state_address))
        channel = await stack.enter_async_context(
            grpc.aio.insecure_channel(orchestrator_address, OPTIONS)
        )
        yield Runs(wire, channel)
