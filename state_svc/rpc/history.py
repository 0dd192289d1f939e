"""RPCs about the past of projects: differences, forks, compaction, deletion."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from itertools import islice

from ramify.v1.state_service_pb2 import (
    CompactProjectRequest,
    CompactProjectResponse,
    DeleteProjectRequest,
    DeleteProjectResponse,
    DiffProjectRequest,
    DiffProjectResponse,
    ForkProjectRequest,
    ForkProjectResponse,
    WatchEndReason,
)
from state_svc.codec.snapshot import SnapshotRecord, encode_snapshot, freeze
from state_svc.errors import InvalidRequest, ProjectActive, RevisionAhead
from state_svc.history.archive import name_payloads
from state_svc.history.newcomer import store_newcomer
from state_svc.history.past import differing, fork_view, node_diff
from state_svc.lease.clock import lease_is_held
from state_svc.model import transitions
from state_svc.model.ids import NO_PROJECT_ID, is_project_id
from state_svc.model.project import LiveProject
from state_svc.rpc.convert import MAX_PAGE_BYTES, page_size, parse_place
from state_svc.rpc.once import once
from state_svc.service import Service, new_id, now_micros
from state_svc.store.base import RequestRecord


class HistoryRpcs:
    """Handlers by RPC name."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def diff_project(self, request: DiffProjectRequest) -> DiffProjectResponse:
        """Return one page of the nodes that differ; the token is `to_revision.position`."""
        size = page_size(request.page_size)
        if not request.from_revision:
            raise InvalidRequest(field="from_revision", problem="is needed")
        project = await self._service.live(request.project_id)
        head = project.view.revision
        if request.from_revision > head:
            raise RevisionAhead(revision=request.from_revision, head_revision=head)
        to_revision, start = request.to_revision or head, 0
        if request.page_token:
            to_revision, start = parse_place(request.page_token)
        if to_revision < request.from_revision:
            raise InvalidRequest(field="to_revision", problem="is before from_revision")
        if to_revision == request.from_revision:
            await self._service.past.view_at(project, to_revision)
            return DiffProjectResponse(to_revision=to_revision)
        before = await self._service.past.view_at(project, request.from_revision)
        after = await self._service.past.view_at(project, to_revision)
        response = DiffProjectResponse(to_revision=to_revision)
        pairs = islice(differing(before.nodes, after.nodes), start, None)
        taken = 0
        for pair in pairs:
            diff = node_diff(*pair)
            taken += diff.ByteSize()
            if len(response.nodes) == size or (response.nodes and taken > MAX_PAGE_BYTES):
                response.next_page_token = f"{to_revision}.{start + len(response.nodes)}"
                break
            response.nodes.append(diff)
        return response

    async def fork_project(self, request: ForkProjectRequest) -> ForkProjectResponse:
        """Write the view at a revision as revision 1 of a new, paused project."""
        service = self._service
        service.check_open()
        if request.new_project_id and not is_project_id(request.new_project_id):
            raise InvalidRequest(field="new_project_id", problem=NO_PROJECT_ID)

        async def fork() -> RequestRecord:
            project = await service.live(request.project_id)
            source = await service.past.view_at(project, request.at_revision)
            project_id = request.new_project_id or new_id("fork")
            service.projects.check_free(project_id)
            view = fork_view(source, project_id, uuid.uuid4().hex, now_micros())
            record = RequestRecord("ForkProject", request.request_id, project_id, 1, view.micros)
            await self._store_fork(LiveProject(view), record)
            return record

        record = await once(
            service, "ForkProject", request.request_id, request.new_project_id, fork
        )
        project = await service.live(record.project_id)
        return ForkProjectResponse(project=project.view.to_project())

    async def _store_fork(self, fork: LiveProject, request: RequestRecord) -> None:
        """Store a project as a snapshot at its revision 1."""
        service = self._service

        async def write() -> None:
            await name_payloads(service.store, fork.view)
            records = encode_snapshot(freeze(fork))
            while (record := await asyncio.to_thread(_next, records)) is not None:
                await service.store.put_snapshot_chunk(record)

        await store_newcomer(service.store, service.projects, fork, request, write)

    async def compact_project(self, request: CompactProjectRequest) -> CompactProjectResponse:
        """Drop segments up to the newest snapshot that is not after the revision asked for."""
        service = self._service
        service.check_open()
        project = await service.live(request.project_id)
        head = project.view.revision
        wanted = request.revision or head
        if wanted > head:
            raise RevisionAhead(revision=wanted, head_revision=head)
        compacted = await service.snapshots.compact(project, wanted)
        return CompactProjectResponse(compacted_revision=compacted)

    async def delete_project(self, request: DeleteProjectRequest) -> DeleteProjectResponse:
        """Delete a project that has ended, or any with `force`; its watches end."""
        service = self._service
        service.check_open()

        async def delete() -> RequestRecord:
            project = await service.live(request.project_id)
            self._check_ended(project, request)
            project.closed = True  # what was accepted is settled, and nothing comes after it
            try:
                await service.committer.settled(project)
                self._check_ended(project, request)
                await service.projects.delete(project)
            except BaseException:
                project.closed = False
                raise
            entity = project.entity
            service.metrics.forget(project.project_id)
            service.leases.end(project.uid, entity.lease.lease_epoch)
            service.snapshots.forget(project)
            service.payloads.collect_soon()
            service.hub.end(project, WatchEndReason.WATCH_END_REASON_PROJECT_DELETED)
            return RequestRecord("DeleteProject", "", project.project_id, 0, now_micros())

        # It goes on when its caller gives up, so that nothing half-happens; a repeat that comes
        # meanwhile waits for it.
        await service.requests.once("DeleteProject", request.project_id, delete)
        return DeleteProjectResponse()

    def _check_ended(self, project: LiveProject, request: DeleteProjectRequest) -> None:
        """Raise `ProjectActive` for a project that may be executed, unless by `force`."""
        entity = project.entity
        if not request.force and (
            entity.state not in transitions.PROJECT.terminal
            or lease_is_held(entity, self._service.leases)
        ):
            raise ProjectActive(
                project_id=project.project_id, state=transitions.PROJECT.names[entity.state]
            )


def _next(records: Iterator[SnapshotRecord]) -> SnapshotRecord | None:
    return next(records, None)
