"""RPCs about pins: revisions whose history stays."""

from __future__ import annotations

from ramify.v1.state_service_pb2 import (
    PinRevisionRequest,
    PinRevisionResponse,
    UnpinRevisionRequest,
    UnpinRevisionResponse,
)
from state_svc.errors import InvalidRequest, RevisionAhead, RevisionCompacted
from state_svc.model import limits, validate
from state_svc.model.entity import change_pin
from state_svc.model.ids import is_id
from state_svc.model.project import LiveProject
from state_svc.service import Service, now_micros


class PinRpcs:
    """Handlers by RPC name."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def pin_revision(self, request: PinRevisionRequest) -> PinRevisionResponse:
        """Pin a retained revision; a repeat changes nothing."""
        project = await self._project(request)
        view, pins = project.view, project.entity.pins.revisions
        revision = request.revision or view.revision
        if revision > view.revision:
            raise RevisionAhead(revision=revision, head_revision=view.revision)
        if revision < view.compacted:
            raise RevisionCompacted(revision=revision, compacted_revision=view.compacted)
        if request.pin not in pins and len(pins) >= limits.MAX_PINS:
            problem = f"a project has at most {limits.MAX_PINS} pins"
            raise InvalidRequest(field="pin", problem=problem)
        if pins.get(request.pin) != revision:
            await self._commit(project, request, revision)
        else:
            await self._service.committer.settled(project)
            if project.entity.pins.revisions.get(request.pin) != revision:
                return await self.pin_revision(request)  # the pin was pending and has failed
        return PinRevisionResponse(revision=revision)

    async def unpin_revision(self, request: UnpinRevisionRequest) -> UnpinRevisionResponse:
        """Remove a pin, if it is there."""
        project = await self._project(request)
        if request.pin not in project.entity.pins.revisions:
            await self._service.committer.settled(project)
            if request.pin in project.entity.pins.revisions:
                return await self.unpin_revision(request)  # its removal was pending and has failed
            return UnpinRevisionResponse(unpinned=False)
        await self._commit(project, request, 0)
        return UnpinRevisionResponse(unpinned=True)

    async def _project(self, request: PinRevisionRequest | UnpinRevisionRequest) -> LiveProject:
        self._service.check_open()
        if not is_id(request.pin):
            raise InvalidRequest(field="pin", problem="is not a valid name")
        if problem := validate.check_name(request.actor):
            raise InvalidRequest(field="actor", problem=problem)
        return await self._service.live(request.project_id)

    async def _commit(
        self,
        project: LiveProject,
        request: PinRevisionRequest | UnpinRevisionRequest,
        revision: int,
    ) -> None:
        applied = change_pin(
            project, request.pin, revision, micros=now_micros(), actor=request.actor
        )
        await self._service.commit(project, applied, size=request.ByteSize())
