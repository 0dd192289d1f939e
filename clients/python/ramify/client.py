"""The asynchronous client of both services."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from types import TracebackType
from typing import Self

from google.protobuf.struct_pb2 import Value

from ramify.addresses import orchestrator_address, state_address
from ramify.calls import PAGE_SIZE, CallPolicy, call, new_request_id
from ramify.channel import open_channel
from ramify.cursor import WatchCursor, WatchOptions, WatchStart
from ramify.events import WatchEvent
from ramify.states import TERMINAL_PROJECT_STATES
from ramify.transfer import Transfers
from ramify.v1 import explain_pb2
from ramify.v1 import orchestrator_service_pb2 as orchestrator_pb2
from ramify.v1 import state_service_pb2 as state_pb2
from ramify.v1.explain_pb2 import Explanation
from ramify.v1.mutation_pb2 import Mutation
from ramify.v1.node_pb2 import Node, NodeState
from ramify.v1.orchestrator_service_pb2_grpc import OrchestratorServiceStub
from ramify.v1.plan_pb2 import Plan
from ramify.v1.project_pb2 import ExecutionSettings, Project, ProjectState, StateSettings
from ramify.v1.review_pb2 import ProposedPlan, Review, ReviewDecision, ReviewState
from ramify.v1.state_service_pb2_grpc import StateServiceStub
from ramify.view import View
from ramify.watch import WatchPolicy, watch


class AsyncClient(Transfers):
    """Starts, reads, follows and cancels runs.

    Addresses come from the arguments, else from `RAMIFY_STATE` and `RAMIFY_ORCHESTRATOR`, else
    they are those of `ramify up`. Connections open on first use. Every unary call ends within the
    deadline of `policy` and is repeated on retryable failures; changes carry a `request_id`,
    generated unless given, so that a repeat has no second effect. Failures are `RamifyError`s.

    Belongs to one event loop. Use `async with`, or call `aclose`.
    """

    def __init__(
        self,
        state: str | None = None,
        orchestrator: str | None = None,
        *,
        actor: str = "",
        policy: CallPolicy | None = None,
    ) -> None:
        self.state_address = state_address(state)
        self.orchestrator_address = orchestrator_address(orchestrator)
        self._actor = actor
        self._policy = policy or CallPolicy()
        self._state_channel = open_channel(self.state_address)
        self._orchestrator_channel = open_channel(self.orchestrator_address)
        self._state = StateServiceStub(self._state_channel)
        self._orchestrator = OrchestratorServiceStub(self._orchestrator_channel)

    async def __aenter__(self) -> Self:
        """Return the client itself."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connections."""
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections; open calls and watches end."""
        await self._state_channel.close()
        await self._orchestrator_channel.close()

    # -- runs ----------------------------------------------------------------

    async def start_project(
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
        validate_only: bool = False,
    ) -> Project:
        """Create a project and begin to execute it; return it as it is then.

        It has either a goal, which agents plan, or a plan (`ramify.plan_file` reads one from a
        file). Repeating a `request_id` within 24 hours returns the first project;
        `validate_only` returns what it would be like. Raises `PlanNotAllowedError`.
        """
        if bool(goal) == (plan is not None):
            raise ValueError("a run has either a goal or a plan")
        request = orchestrator_pb2.StartProjectRequest(
            request_id=request_id or new_request_id(),
            project_id=project_id,
            plan=plan,
            profile=profile,
            settings=settings,
            state_settings=state_settings,
            agent_options=agent_options,
            labels=labels,
            actor=self._actor,
            validate_only=validate_only,
        )
        if plan is None:
            request.goal = goal
        method = self._orchestrator.StartProject
        response = await call(
            method, request, address=self.orchestrator_address, policy=self._policy
        )
        return response.project

    async def cancel_project(
        self, project_id: str, *, reason: str = "", request_id: str = ""
    ) -> orchestrator_pb2.CancelProjectResponse:
        """Order the end of a run. The order is durable on return; the run may still be ending.

        Raises `ProjectEndedError` if there is nothing left to cancel.
        """
        request = orchestrator_pb2.CancelProjectRequest(
            project_id=project_id,
            request_id=request_id or new_request_id(),
            reason=reason,
            actor=self._actor,
        )
        method = self._orchestrator.CancelProject
        return await call(method, request, address=self.orchestrator_address, policy=self._policy)

    async def pause_project(
        self, project_id: str, *, reason: str = "", request_id: str = ""
    ) -> orchestrator_pb2.CommandReceipt:
        """Let a run dispatch nothing more; the receipt's `answer` says what still runs.

        Raises `ProjectEndedError`, or `CommandRefusedError` with what would work.
        """
        request = orchestrator_pb2.PauseProjectRequest(
            project_id=project_id,
            request_id=request_id or new_request_id(),
            reason=reason,
            actor=self._actor,
        )
        method = self._orchestrator.PauseProject
        response = await call(
            method, request, address=self.orchestrator_address, policy=self._policy
        )
        return response.receipt

    async def resume_project(
        self, project_id: str, *, reason: str = "", request_id: str = ""
    ) -> orchestrator_pb2.CommandReceipt:
        """Let a paused run go on. Raises `CommandRefusedError` if it is not paused."""
        request = orchestrator_pb2.ResumeProjectRequest(
            project_id=project_id,
            request_id=request_id or new_request_id(),
            reason=reason,
            actor=self._actor,
        )
        method = self._orchestrator.ResumeProject
        response = await call(
            method, request, address=self.orchestrator_address, policy=self._policy
        )
        return response.receipt

    async def cancel_node(
        self, project_id: str, node_id: str, *, reason: str = "", request_id: str = ""
    ) -> orchestrator_pb2.CommandReceipt:
        """Cancel a node with everything below it.

        Raises `CommandRefusedError` if there is nothing to cancel.
        """
        request = orchestrator_pb2.CancelNodeRequest(
            project_id=project_id,
            node_id=node_id,
            request_id=request_id or new_request_id(),
            reason=reason,
            actor=self._actor,
        )
        method = self._orchestrator.CancelNode
        response = await call(
            method, request, address=self.orchestrator_address, policy=self._policy
        )
        return response.receipt

    async def retry_node(
        self, project_id: str, node_id: str, *, reason: str = "", request_id: str = ""
    ) -> orchestrator_pb2.CommandReceipt:
        """Give a failed node another attempt, with fresh counts.

        What failed for it goes on when it is done. Raises `CommandRefusedError` with what would
        work instead.
        """
        request = orchestrator_pb2.RetryNodeRequest(
            project_id=project_id,
            node_id=node_id,
            request_id=request_id or new_request_id(),
            reason=reason,
            actor=self._actor,
        )
        method = self._orchestrator.RetryNode
        response = await call(
            method, request, address=self.orchestrator_address, policy=self._policy
        )
        return response.receipt

    async def replan_node(
        self, project_id: str, node_id: str, *, reason: str = "", request_id: str = ""
    ) -> orchestrator_pb2.CommandReceipt:
        """Let a node be planned anew; the planner is told the reason.

        Raises `CommandRefusedError` with what would work instead.
        """
        request = orchestrator_pb2.ReplanNodeRequest(
            project_id=project_id,
            node_id=node_id,
            request_id=request_id or new_request_id(),
            reason=reason,
            actor=self._actor,
        )
        method = self._orchestrator.ReplanNode
        response = await call(
            method, request, address=self.orchestrator_address, policy=self._policy
        )
        return response.receipt

    async def resolve_review(
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
        """Decide an open review; return it as it is then. The decision is durable on return.

        With `etag`, the review's version, raises `VersionConflictError` if it has changed since.
        Raises `ReviewClosedError` if it was decided before; the message says what and by whom.
        """
        request = orchestrator_pb2.ResolveReviewRequest(
            project_id=project_id,
            review_id=review_id,
            etag=etag,
            decision=decision,
            instructions=instructions,
            modified_plan=modified_plan,
            comment=comment,
            request_id=request_id or new_request_id(),
            actor=self._actor,
        )
        method = self._orchestrator.ResolveReview
        response = await call(
            method, request, address=self.orchestrator_address, policy=self._policy
        )
        return response.review

    async def get_runner(self) -> orchestrator_pb2.GetRunnerResponse:
        """Return what the orchestrator does at the moment."""
        request = orchestrator_pb2.GetRunnerRequest()
        method = self._orchestrator.GetRunner
        return await call(method, request, address=self.orchestrator_address, policy=self._policy)

    async def explain_project(self, project_id: str) -> Explanation:
        """Return why a project is not running, or what it does."""
        request = explain_pb2.ExplainProjectRequest(project_id=project_id)
        method = self._orchestrator.ExplainProject
        response = await call(
            method, request, address=self.orchestrator_address, policy=self._policy
        )
        return response.explanation

    async def explain_node(self, project_id: str, node_id: str) -> Explanation:
        """Return why a node is not running, with its latest changes of state."""
        request = explain_pb2.ExplainNodeRequest(project_id=project_id, node_id=node_id)
        method = self._orchestrator.ExplainNode
        response = await call(
            method, request, address=self.orchestrator_address, policy=self._policy
        )
        return response.explanation

    async def wait(self, project_id: str) -> Project:
        """Return the project once it has ended, however long that takes."""
        view = View()
        async for event in self.watch(project_id):
            view.apply(event)
            if view.project is not None and view.project.state in TERMINAL_PROJECT_STATES:
                break
        return await self.get_project(project_id)

    # -- following -----------------------------------------------------------

    def watch(
        self,
        project_id: str,
        start: WatchStart | None = None,
        *,
        filter: state_pb2.WatchFilter | None = None,  # noqa: A002 - the contract's word
        fail_if_compacted: bool = False,
        bookmark_interval_ms: int = 0,
        policy: WatchPolicy | None = None,
        options: WatchOptions | None = None,
    ) -> AsyncGenerator[WatchEvent, None]:
        """Yield every change of a project from `start` (default: a snapshot) on, for ever.

        What a change carries is the project's choice unless `options` says. While this watch is
        behind, successive changes of a node may come joined, in deltas marked `coalesced`; ask for
        `WatchOptions(coalescing="never")` to see each.

        Resumes by itself where it was, across reconnects and restarts of state_svc; see
        `ramify.watch.watch`. Feed the events to a `View` to have the project at hand.
        """
        cursor = WatchCursor(
            project_id,
            start or WatchStart.snapshot(),
            filter,
            fail_if_compacted,
            bookmark_interval_ms,
            options,
        )
        return watch(
            self._state.WatchProject,
            cursor,
            address=self.state_address,
            policy=policy or WatchPolicy(),
        )

    # -- reading -------------------------------------------------------------

    async def get_project(self, project_id: str, *, at_revision: int = 0) -> Project:
        """Return a project with its counts, state and revision; as it was, if one is given."""
        request = state_pb2.GetProjectRequest(project_id=project_id, at_revision=at_revision)
        method = self._state.GetProject
        response = await call(method, request, address=self.state_address, policy=self._policy)
        return response.project

    async def list_projects(
        self,
        *,
        states: Sequence[ProjectState.ValueType] = (),
        labels: Mapping[str, str] | None = None,
    ) -> AsyncGenerator[Project, None]:
        """Yield projects in the order of their creation, page by page."""
        request = state_pb2.ListProjectsRequest(page_size=PAGE_SIZE, states=states, labels=labels)
        method = self._state.ListProjects
        while True:
            page = await call(method, request, address=self.state_address, policy=self._policy)
            for project in page.projects:
                yield project
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def get_node(
        self, project_id: str, node_id: str, *, include_pending: bool = False, whole: bool = True
    ) -> Node:
        """Return one node with its result; with `whole`, wherever the body of it lies."""
        request = state_pb2.GetNodeRequest(
            project_id=project_id, node_id=node_id, include_pending=include_pending
        )
        method = self._state.GetNode
        response = await call(method, request, address=self.state_address, policy=self._policy)
        node = response.node
        if whole and node.HasField("result"):
            node.result.CopyFrom(await self.whole(project_id, node.result))
        return node

    async def list_nodes(
        self,
        project_id: str,
        *,
        states: Sequence[NodeState.ValueType] = (),
        parent_node_id: str = "",
        text: str = "",
        at_revision: int = 0,
    ) -> AsyncGenerator[Node, None]:
        """Yield nodes in the order of their creation, all as of one revision (0: the head)."""
        request = state_pb2.ListNodesRequest(
            project_id=project_id,
            page_size=PAGE_SIZE,
            states=states,
            parent_node_id=parent_node_id,
            text=text,
            at_revision=at_revision,
        )
        method = self._state.ListNodes
        while True:
            page = await call(method, request, address=self.state_address, policy=self._policy)
            for node in page.nodes:
                yield node
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def get_review(self, project_id: str, review_id: str) -> Review:
        """Return one review, open or closed."""
        request = state_pb2.GetReviewRequest(project_id=project_id, review_id=review_id)
        method = self._state.GetReview
        response = await call(method, request, address=self.state_address, policy=self._policy)
        return response.review

    async def list_reviews(
        self,
        project_id: str = "",
        *,
        states: Sequence[ReviewState.ValueType] = (),
        node_id: str = "",
    ) -> AsyncGenerator[state_pb2.ListedReview, None]:
        """Yield the reviews of a project, or of all projects, oldest first."""
        request = state_pb2.ListReviewsRequest(
            project_id=project_id, page_size=PAGE_SIZE, states=states, node_id=node_id
        )
        method = self._state.ListReviews
        while True:
            page = await call(method, request, address=self.state_address, policy=self._policy)
            for item in page.reviews:
                yield item
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def get_stats(self, project_id: str = "") -> state_pb2.GetStatsResponse:
        """Return the counters of one project, or of the whole service."""
        request = state_pb2.GetStatsRequest(project_id=project_id)
        method = self._state.GetStats
        return await call(method, request, address=self.state_address, policy=self._policy)

    async def get_server_info(self) -> state_pb2.GetServerInfoResponse:
        """Return versions, limits and the identity of the store."""
        request = state_pb2.GetServerInfoRequest()
        method = self._state.GetServerInfo
        return await call(method, request, address=self.state_address, policy=self._policy)

    # -- the past ------------------------------------------------------------

    async def diff_project(
        self, project_id: str, from_revision: int, to_revision: int = 0
    ) -> AsyncGenerator[state_pb2.NodeDiff, None]:
        """Yield the nodes that differ between two revisions (0: the head)."""
        request = state_pb2.DiffProjectRequest(
            project_id=project_id,
            from_revision=from_revision,
            to_revision=to_revision,
            page_size=PAGE_SIZE,
        )
        method = self._state.DiffProject
        while True:
            page = await call(method, request, address=self.state_address, policy=self._policy)
            for node in page.nodes:
                yield node
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def fork_project(
        self,
        project_id: str,
        *,
        at_revision: int = 0,
        new_project_id: str = "",
        request_id: str = "",
    ) -> Project:
        """Make a new, paused project from a revision (0: the head) and return it."""
        request = state_pb2.ForkProjectRequest(
            project_id=project_id,
            at_revision=at_revision,
            new_project_id=new_project_id,
            request_id=request_id or new_request_id(),
        )
        method = self._state.ForkProject
        response = await call(method, request, address=self.state_address, policy=self._policy)
        return response.project

    async def compact_project(self, project_id: str, *, revision: int = 0) -> int:
        """Drop history up to a revision (0: the head); return up to where it is gone."""
        request = state_pb2.CompactProjectRequest(project_id=project_id, revision=revision)
        method = self._state.CompactProject
        response = await call(method, request, address=self.state_address, policy=self._policy)
        return response.compacted_revision

    async def pin_revision(self, project_id: str, pin: str, *, revision: int = 0) -> int:
        """Keep the history from a revision (0: the head) on, under a name; return which."""
        request = state_pb2.PinRevisionRequest(
            project_id=project_id, pin=pin, revision=revision, actor=self._actor
        )
        method = self._state.PinRevision
        response = await call(method, request, address=self.state_address, policy=self._policy)
        return response.revision

    async def unpin_revision(self, project_id: str, pin: str) -> bool:
        """Remove a pin; return whether there was one."""
        request = state_pb2.UnpinRevisionRequest(project_id=project_id, pin=pin, actor=self._actor)
        method = self._state.UnpinRevision
        response = await call(method, request, address=self.state_address, policy=self._policy)
        return response.unpinned

    async def delete_project(self, project_id: str, *, force: bool = False) -> None:
        """Delete a project with its history; `force` also one that has not ended."""
        request = state_pb2.DeleteProjectRequest(project_id=project_id, force=force)
        method = self._state.DeleteProject
        await call(method, request, address=self.state_address, policy=self._policy)

    # -- writing by hand -----------------------------------------------------

    async def create_project(
        self,
        goal: str,
        *,
        project_id: str = "",
        labels: Mapping[str, str] | None = None,
        request_id: str = "",
    ) -> Project:
        """Create a project that no orchestrator has to know; return it at revision 1."""
        request = state_pb2.CreateProjectRequest(
            project_id=project_id,
            goal=goal,
            labels=labels,
            request_id=request_id or new_request_id(),
            actor=self._actor,
        )
        method = self._state.CreateProject
        response = await call(method, request, address=self.state_address, policy=self._policy)
        return response.project

    async def commit_batch(
        self,
        project_id: str,
        mutations: Sequence[Mutation],
        *,
        expected_revision: int | None = None,
        lease_epoch: int = 0,
        request_id: str = "",
    ) -> state_pb2.CommitBatchResponse:
        """Write one batch, all or nothing; it is durable on return."""
        request = state_pb2.CommitBatchRequest(
            project_id=project_id,
            mutations=mutations,
            expected_revision=expected_revision,
            lease_epoch=lease_epoch,
            request_id=request_id or new_request_id(),
            actor=self._actor,
        )
        method = self._state.CommitBatch
        return await call(method, request, address=self.state_address, policy=self._policy)

    async def flush_project(self, project_id: str) -> int:
        """Wait until everything accepted is durable; return the head revision then."""
        request = state_pb2.FlushProjectRequest(project_id=project_id)
        method = self._state.FlushProject
        response = await call(method, request, address=self.state_address, policy=self._policy)
        return response.revision
