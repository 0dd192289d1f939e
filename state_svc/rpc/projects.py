"""RPCs about projects and single batches."""

from __future__ import annotations

import uuid
from contextlib import aclosing

from ramify.v1.project_pb2 import Project, ProjectState
from ramify.v1.state_service_pb2 import (
    CommitBatchRequest,
    CommitBatchResponse,
    CreateProjectRequest,
    CreateProjectResponse,
    FlushProjectRequest,
    FlushProjectResponse,
    GetProjectRequest,
    GetProjectResponse,
    ListProjectsRequest,
    ListProjectsResponse,
)
from state_svc.errors import BatchRejected, InvalidRequest, RamifyError, StoreUnavailable
from state_svc.ingest.admission import admit
from state_svc.lease.clock import lease_is_held
from state_svc.model import validate
from state_svc.model.entity import create_project
from state_svc.model.ids import NO_PROJECT_ID, is_project_id
from state_svc.model.limits import MAX_PLAN_BYTES
from state_svc.model.project import Applied, LiveProject, View
from state_svc.rpc.convert import MAX_PAGE_BYTES, check_enum, page_size
from state_svc.rpc.once import once
from state_svc.service import Service, new_id, now_micros
from state_svc.store.base import RequestRecord


class ProjectRpcs:
    """Handlers by RPC name."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def commit_batch(self, request: CommitBatchRequest) -> CommitBatchResponse:
        """Write one batch; the answer comes when it is durable (SEM 3)."""
        service = self._service
        service.check_open()

        async def commit() -> RequestRecord:
            micros = now_micros()
            try:
                project, applied = await self._admit(request, micros)
            except RamifyError:
                known = request.project_id in service.projects
                service.metrics.rejected(request.project_id if known else None)
                raise
            record = RequestRecord(
                "CommitBatch", request.request_id, project.project_id, applied.revision, micros
            )
            await service.commit(
                project,
                applied,
                size=request.ByteSize(),
                request=record if request.request_id else None,
            )
            return record

        record = await once(service, "CommitBatch", request.request_id, request.project_id, commit)
        project = await service.live(record.project_id)
        return CommitBatchResponse(revision=record.revision, project_uid=project.uid)

    async def _admit(self, request: CommitBatchRequest, micros: int) -> tuple[LiveProject, Applied]:
        """Apply a batch; look up the payloads that it names and that are not known yet."""
        service = self._service
        payloads = service.payloads

        async def once() -> tuple[LiveProject, Applied]:
            project = await service.live(request.project_id)
            applied = admit(
                project, request, limits=service.limits, micros=micros, payloads=payloads.known
            )
            return project, applied

        try:
            return await once()
        except BatchRejected as rejected:
            if not rejected.missing or not await payloads.learn(rejected.missing):
                raise
        return await once()

    async def create_project(self, request: CreateProjectRequest) -> CreateProjectResponse:
        """Create a project; it can be found once it is durable."""
        service = self._service
        service.check_open()
        self._check_create(request)

        async def create() -> RequestRecord:
            project_id = request.project_id or new_id("run")
            service.projects.check_free(project_id)
            entity = Project(project_id=project_id, project_uid=uuid.uuid4().hex)
            for field, value in request.ListFields():
                if field.name in ("goal", "profile"):
                    setattr(entity, field.name, value)
                elif field.name in ("settings", "state_settings", "plan"):
                    getattr(entity, field.name).CopyFrom(value)
            for key, option in request.agent_options.items():
                entity.agent_options[key].CopyFrom(option)
            entity.labels.update(request.labels)
            micros = now_micros()
            project = LiveProject(View(entity=entity))
            applied = create_project(entity, micros=micros, actor=request.actor)
            record = RequestRecord("CreateProject", request.request_id, project_id, 1, micros)
            service.projects.add(project)
            try:
                await service.commit(
                    project,
                    applied,
                    size=request.ByteSize(),
                    request=record if request.request_id else None,
                )
            except RamifyError:
                service.projects.discard(project)
                raise
            return record

        record = await once(
            service, "CreateProject", request.request_id, request.project_id, create
        )
        project = await service.live(record.project_id)
        return CreateProjectResponse(project=project.view.to_project())

    async def get_project(self, request: GetProjectRequest) -> GetProjectResponse:
        """Return a project as it is committed, or as it was."""
        project = await self._service.live(request.project_id)
        view = await self._service.past.view_at(project, request.at_revision)
        return GetProjectResponse(project=view.to_project())

    async def list_projects(self, request: ListProjectsRequest) -> ListProjectsResponse:
        """List projects by state, label and lease; the token is the last id of the page."""
        size = page_size(request.page_size)
        check_enum("states", request.states, ProjectState.values())
        states = frozenset(request.states)
        if request.page_token and request.page_token not in self._service.projects:
            raise InvalidRequest(field="page_token", problem="is not from this service")
        response = ListProjectsResponse()
        taken = 0
        entities = self._service.projects.entities(request.page_token, states)
        async with aclosing(entities):
            async for entity, revision, compacted in entities:
                if any(entity.labels.get(key) != value for key, value in request.labels.items()):
                    continue
                if request.HasField("leased") and request.leased != lease_is_held(
                    entity, self._service.leases
                ):
                    continue
                taken += entity.ByteSize() - entity.plan.ByteSize()
                if len(response.projects) == size or (response.projects and taken > MAX_PAGE_BYTES):
                    response.next_page_token = response.projects[-1].project_id
                    break
                shown = response.projects.add()
                shown.CopyFrom(entity)
                shown.ClearField("plan")
                shown.revision = revision
                shown.compacted_revision = compacted
        return response

    async def flush_project(self, request: FlushProjectRequest) -> FlushProjectResponse:
        """Return when everything accepted for a project is durable.

        Raises `StoreUnavailable` if it could not be stored.
        """
        project = await self._service.live(request.project_id)
        if not await self._service.committer.settled(project):
            problem = "what was accepted was not stored; whoever sent it has been told"
            raise StoreUnavailable(problem=problem)
        return FlushProjectResponse(revision=project.view.revision)

    def _check_create(self, request: CreateProjectRequest) -> None:
        if request.project_id and not is_project_id(request.project_id):
            raise InvalidRequest(field="project_id", problem=NO_PROJECT_ID)
        if not request.goal:
            raise InvalidRequest(field="goal", problem="is needed")
        if request.plan.ByteSize() > MAX_PLAN_BYTES:
            problem = f"at most {MAX_PLAN_BYTES} bytes"
            raise InvalidRequest(field="plan", problem=problem)
        found = validate.first_problem(request, validate.PROJECT_FIELDS)
        if found is not None:
            raise InvalidRequest(field=found[0], problem=found[1])
        if problem := validate.check_name(request.actor):
            raise InvalidRequest(field="actor", problem=problem)
