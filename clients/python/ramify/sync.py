"""The client for code without an event loop."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Coroutine, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from google.protobuf.struct_pb2 import Value

from ramify.calls import CallPolicy
from ramify.client import AsyncClient
from ramify.cursor import WatchOptions, WatchStart
from ramify.events import WatchEvent
from ramify.v1 import orchestrator_service_pb2 as orchestrator_pb2
from ramify.v1 import state_service_pb2 as state_pb2
from ramify.v1.explain_pb2 import Explanation
from ramify.v1.node_pb2 import Node, NodeState
from ramify.v1.payload_pb2 import Payload
from ramify.v1.plan_pb2 import Plan
from ramify.v1.project_pb2 import ExecutionSettings, Project, ProjectState, StateSettings
from ramify.v1.review_pb2 import ProposedPlan, Review, ReviewDecision, ReviewState
from ramify.v1.stage_pb2 import StageRecord
from ramify.watch import WatchPolicy

_T = TypeVar("_T")


class RamifyClient:
    """`AsyncClient` with blocking methods, for scripts and notebooks.

    One thread of its own runs the event loop; the methods may be called from any thread, but not
    from that loop. Use `with`, or call `close`.
    """

    def __init__(
        self,
        state: str | None = None,
        orchestrator: str | None = None,
        *,
        actor: str = "",
        policy: CallPolicy | None = None,
    ) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="ramify-client", daemon=True
        )
        self._thread.start()
        self._client = self._run(_open(state, orchestrator, actor, policy))

    def __enter__(self) -> Self:
        """Return the client itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connections and end the thread."""
        self.close()

    def close(self) -> None:
        """Close the connections and end the thread. A second call does nothing."""
        if self._loop.is_closed():
            return
        self._run(self._loop.shutdown_asyncgens())
        self._run(self._client.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def start_project(
        self,
        goal: str = "",
        *,
        plan: Plan | None = None,
        project_id: str = "",
        profile: str = "",
        settings: ExecutionSettings | None = None,
        state_settings: StateSettings | None = None,
        agent_options: Mapping[str, Value] | None = None,
        labels: Mapping[str, str] | None = None,
        request_id: str = "",
    ) -> Project:
        """Create a project and begin to execute it."""
        return self._run(
            self._client.start_project(
                goal,
                plan=plan,
                project_id=project_id,
                profile=profile,
                settings=settings,
                state_settings=state_settings,
                agent_options=agent_options,
                labels=labels,
                request_id=request_id,
            )
        )

    def cancel_project(
        self, project_id: str, *, reason: str = ""
    ) -> orchestrator_pb2.CancelProjectResponse:
        """Order the end of a run."""
        return self._run(self._client.cancel_project(project_id, reason=reason))

    def explain_project(self, project_id: str) -> Explanation:
        """Return why a project is not running, or what it does."""
        return self._run(self._client.explain_project(project_id))

    def explain_node(self, project_id: str, node_id: str) -> Explanation:
        """Return why a node is not running, with its latest changes of state."""
        return self._run(self._client.explain_node(project_id, node_id))

    def pause_project(
        self, project_id: str, *, reason: str = ""
    ) -> orchestrator_pb2.CommandReceipt:
        """Let a run dispatch nothing more; the receipt says what still runs."""
        return self._run(self._client.pause_project(project_id, reason=reason))

    def resume_project(
        self, project_id: str, *, reason: str = ""
    ) -> orchestrator_pb2.CommandReceipt:
        """Let a paused run go on."""
        return self._run(self._client.resume_project(project_id, reason=reason))

    def cancel_node(
        self, project_id: str, node_id: str, *, reason: str = ""
    ) -> orchestrator_pb2.CommandReceipt:
        """Cancel a node with everything below it."""
        return self._run(self._client.cancel_node(project_id, node_id, reason=reason))

    def retry_node(
        self, project_id: str, node_id: str, *, reason: str = ""
    ) -> orchestrator_pb2.CommandReceipt:
        """Give a failed node another attempt."""
        return self._run(self._client.retry_node(project_id, node_id, reason=reason))

    def replan_node(
        self, project_id: str, node_id: str, *, reason: str = ""
    ) -> orchestrator_pb2.CommandReceipt:
        """Let a node be planned anew; the planner is told the reason."""
        return self._run(self._client.replan_node(project_id, node_id, reason=reason))

    def wait(self, project_id: str) -> Project:
        """Return the project once it has ended."""
        return self._run(self._client.wait(project_id))

    def watch(
        self,
        project_id: str,
        start: WatchStart | None = None,
        *,
        filter: state_pb2.WatchFilter | None = None,  # noqa: A002 - the contract's word
        policy: WatchPolicy | None = None,
        options: WatchOptions | None = None,
    ) -> Iterator[WatchEvent]:
        """Yield every change of a project; close the iterator or leave the loop to stop."""
        return self._iterate(
            self._client.watch(project_id, start, filter=filter, policy=policy, options=options)
        )

    def get_project(self, project_id: str) -> Project:
        """Return a project with its counts, state and head revision."""
        return self._run(self._client.get_project(project_id))

    def list_projects(
        self,
        *,
        states: Sequence[ProjectState.ValueType] = (),
        labels: Mapping[str, str] | None = None,
    ) -> Iterator[Project]:
        """Yield projects in the order of their creation."""
        return self._iterate(self._client.list_projects(states=states, labels=labels))

    def get_node(self, project_id: str, node_id: str) -> Node:
        """Return one node with its result."""
        return self._run(self._client.get_node(project_id, node_id))

    def list_nodes(
        self, project_id: str, *, states: Sequence[NodeState.ValueType] = ()
    ) -> Iterator[Node]:
        """Yield nodes in the order of their creation, all as of one revision."""
        return self._iterate(self._client.list_nodes(project_id, states=states))

    def get_review(self, project_id: str, review_id: str) -> Review:
        """Return one review, open or closed."""
        return self._run(self._client.get_review(project_id, review_id))

    def list_reviews(
        self, project_id: str = "", *, states: Sequence[ReviewState.ValueType] = ()
    ) -> Iterator[state_pb2.ListedReview]:
        """Yield the reviews of a project, or of all projects, oldest first."""
        return self._iterate(self._client.list_reviews(project_id, states=states))

    def resolve_review(
        self,
        project_id: str,
        review_id: str,
        decision: ReviewDecision.ValueType,
        *,
        etag: int = 0,
        instructions: str = "",
        modified_plan: ProposedPlan | None = None,
        comment: str = "",
        request_id: str = "",
    ) -> Review:
        """Decide an open review; return it as it is then."""
        return self._run(
            self._client.resolve_review(
                project_id,
                review_id,
                decision,
                etag=etag,
                instructions=instructions,
                modified_plan=modified_plan,
                comment=comment,
                request_id=request_id,
            )
        )

    def list_stages(self, project_id: str, *, node_id: str = "") -> Iterator[StageRecord]:
        """Yield what happened in the stages of a run or of one node, oldest first."""
        return self._iterate(self._client.list_stages(project_id, node_id=node_id))

    def put_payload(self, data: bytes | str, *, content_type: str = "") -> Payload:
        """Store a body; return it as a batch names it."""
        return self._run(self._client.put_payload(data, content_type=content_type))

    def get_payload(self, project_id: str, digest: str) -> bytes:
        """Return the bytes of a body that a run references."""
        return self._run(self._client.get_payload(project_id, digest))

    def get_stats(self, project_id: str = "") -> state_pb2.GetStatsResponse:
        """Return the counters of one project, or of the whole service."""
        return self._run(self._client.get_stats(project_id))

    def _run(self, work: Coroutine[Any, Any, _T]) -> _T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:  # Ctrl-C while waiting: do not leave the call running
            future.cancel()
            raise

    def _iterate(self, items: AsyncGenerator[_T, None]) -> Iterator[_T]:
        try:
            while True:
                try:
                    yield self._run(_next(items))
                except StopAsyncIteration:
                    return
        finally:
            if not self._loop.is_closed():  # closing the client has ended the iteration
                self._run(_close(items))


async def _open(
    state: str | None, orchestrator: str | None, actor: str, policy: CallPolicy | None
) -> AsyncClient:
    """Create the client on the loop that its channels will belong to."""
    return AsyncClient(state, orchestrator, actor=actor, policy=policy)


async def _next(items: AsyncGenerator[_T, None]) -> _T:
    return await anext(items)


async def _close(items: AsyncGenerator[object, None]) -> None:
    await items.aclose()
