"""The calls of a client about the history of projects."""

from collections.abc import AsyncGenerator

from ramify.calls import PAGE_SIZE, new_request_id
from ramify.connection import Connection
from ramify.v1 import state_service_pb2 as state_pb2
from ramify.v1.project_pb2 import Project


class Past(Connection):
    """Calls that compare, fork, keep, drop and delete history."""

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
        while True:
            page = await self._ask_state(self._state.DiffProject, request)
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
        return (await self._ask_state(self._state.ForkProject, request)).project

    async def compact_project(self, project_id: str, *, revision: int = 0) -> int:
        """Drop history up to a revision (0: the head); return up to where it is gone."""
        request = state_pb2.CompactProjectRequest(project_id=project_id, revision=revision)
        return (await self._ask_state(self._state.CompactProject, request)).compacted_revision

    async def pin_revision(self, project_id: str, pin: str, *, revision: int = 0) -> int:
        """Keep the history from a revision (0: the head) on, under a name; return which."""
        request = state_pb2.PinRevisionRequest(
            project_id=project_id, pin=pin, revision=revision, actor=self._actor
        )
        return (await self._ask_state(self._state.PinRevision, request)).revision

    async def unpin_revision(self, project_id: str, pin: str) -> bool:
        """Remove a pin; return whether there was one."""
        request = state_pb2.UnpinRevisionRequest(project_id=project_id, pin=pin, actor=self._actor)
        return (await self._ask_state(self._state.UnpinRevision, request)).unpinned

    async def delete_project(self, project_id: str, *, force: bool = False) -> None:
        """Delete a project with its history; `force` also one that has not ended."""
        request = state_pb2.DeleteProjectRequest(project_id=project_id, force=force)
        await self._ask_state(self._state.DeleteProject, request)
