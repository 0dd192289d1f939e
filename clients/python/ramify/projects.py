"""The calls of a client that read projects and nodes, and those that write them by hand."""

from collections.abc import AsyncGenerator, Mapping, Sequence

from ramify.calls import PAGE_SIZE, new_request_id
from ramify.transfer import Transfers
from ramify.v1 import state_service_pb2 as state_pb2
from ramify.v1.mutation_pb2 import Mutation
from ramify.v1.node_pb2 import Node, NodeState
from ramify.v1.project_pb2 import Project, ProjectState


class Projects(Transfers):
    """Calls of state_svc about projects and their nodes as they are."""

    async def get_project(self, project_id: str, *, at_revision: int = 0) -> Project:
        """Return a project with its counts, state and revision; as it was, if one is given."""
        request = state_pb2.GetProjectRequest(project_id=project_id, at_revision=at_revision)
        return (await self._ask_state(self._state.GetProject, request)).project

    async def list_projects(
        self,
        *,
        states: Sequence[ProjectState.ValueType] = (),
        labels: Mapping[str, str] | None = None,
    ) -> AsyncGenerator[Project, None]:
        """Yield projects in the order of their creation, page by page."""
        request = state_pb2.ListProjectsRequest(page_size=PAGE_SIZE, states=states, labels=labels)
        while True:
            page = await self._ask_state(self._state.ListProjects, request)
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
        response = await self._ask_state(self._state.GetNode, request)
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
        while True:
            page = await self._ask_state(self._state.ListNodes, request)
            for node in page.nodes:
                yield node
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def get_stats(self, project_id: str = "") -> state_pb2.GetStatsResponse:
        """Return the counters of one project, or of the whole service."""
        request = state_pb2.GetStatsRequest(project_id=project_id)
        return await self._ask_state(self._state.GetStats, request)

    async def get_server_info(self) -> state_pb2.GetServerInfoResponse:
        """Return versions, limits and the identity of the store."""
        request = state_pb2.GetServerInfoRequest()
        return await self._ask_state(self._state.GetServerInfo, request)

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
        return (await self._ask_state(self._state.CreateProject, request)).project

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
        return await self._ask_state(self._state.CommitBatch, request)

    async def flush_project(self, project_id: str) -> int:
        """Wait until everything accepted is durable; return the head revision then."""
        request = state_pb2.FlushProjectRequest(project_id=project_id)
        return (await self._ask_state(self._state.FlushProject, request)).revision
