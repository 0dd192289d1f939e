"""RPCs about leases (SEM 2, 16)."""

from __future__ import annotations

import logging

from google.protobuf.duration_pb2 import Duration

from ramify.v1.state_service_pb2 import (
    AcquireLeaseRequest,
    AcquireLeaseResponse,
    HeldLease,
    ReleaseLeaseRequest,
    ReleaseLeaseResponse,
    RenewLeasesRequest,
    RenewLeasesResponse,
)
from state_svc.errors import CorruptRecord, InvalidRequest, LeaseHeld, ProjectNotFound
from state_svc.lease.clock import lease_is_held, lease_now, lease_ttl
from state_svc.lease.table import DEFAULT_TTL, MAX_TTL, MIN_TTL
from state_svc.model.entity import change_lease
from state_svc.model.ids import is_producer_id
from state_svc.service import Service, now_micros

_log = logging.getLogger(__name__)
_MAX_RENEWALS = 10_000


class LeaseRpcs:
    """Handlers by RPC name."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def acquire_lease(self, request: AcquireLeaseRequest) -> AcquireLeaseResponse:
        """Grant a free or expired lease as a revision, or renew the holder's own."""
        service = self._service
        service.check_open()
        if not is_producer_id(request.holder):
            raise InvalidRequest(field="holder", problem="is not a valid holder id")
        ttl = request.ttl.ToNanoseconds() / 1e9 if request.HasField("ttl") else DEFAULT_TTL
        if not MIN_TTL <= ttl <= MAX_TTL:
            raise InvalidRequest(field="ttl", problem=f"is {ttl} s, allowed are 1 to 60 s")
        project = await service.live(request.project_id)
        lease = project.entity.lease
        epoch = lease.lease_epoch
        mine = lease.holder == request.holder
        if not mine:
            if lease_is_held(project.entity, service.leases):
                raise LeaseHeld(project_id=project.project_id, holder=lease.holder)
            service.leases.end(project.uid, epoch)
            epoch += 1
        # From here on a batch of a former holder is refused.
        service.leases.renew(project.uid, epoch, ttl=ttl, now=lease_now())
        if mine and lease_ttl(project.entity) == ttl:
            await service.committer.settled(project)
            lease = project.entity.lease
            if (lease.holder, lease.lease_epoch) != (request.holder, epoch):
                # The grant was pending and has failed, or it was released: ask anew.
                return await self.acquire_lease(request)
        else:
            applied = change_lease(
                project, request.holder, epoch, ttl=ttl, micros=now_micros(), actor=request.holder
            )
            await service.commit(project, applied, size=request.ByteSize())
            service.leases.renew(project.uid, epoch, ttl=ttl, now=lease_now())
        return AcquireLeaseResponse(
            lease_epoch=epoch, revision=project.view.revision, ttl=_duration(ttl)
        )

    async def renew_leases(self, request: RenewLeasesRequest) -> RenewLeasesResponse:
        """Give the holder's leases their full time again; name those that are lost.

        No project is loaded for it. The lease of one whose record cannot be read is lost.
        """
        service = self._service
        if len(request.leases) > _MAX_RENEWALS:
            raise InvalidRequest(field="leases", problem=f"at most {_MAX_RENEWALS} are allowed")
        now = lease_now()
        lost: list[HeldLease] = []
        for held in request.leases:
            try:
                entity = service.projects.entity(held.project_id)
            except ProjectNotFound:
                lost.append(held)
                continue
            except CorruptRecord as error:  # of this project alone: the others go on
                _log.error("project cannot be read", extra={"fields": error.fields})
                lost.append(held)
                continue
            lease = entity.lease
            if (lease.holder, lease.lease_epoch) == (request.holder, held.lease_epoch):
                ttl = lease_ttl(entity)
                service.leases.renew(entity.project_uid, held.lease_epoch, ttl=ttl, now=now)
            else:
                lost.append(held)
        return RenewLeasesResponse(lost=lost)

    async def release_lease(self, request: ReleaseLeaseRequest) -> ReleaseLeaseResponse:
        """End a lease as a revision, if it is still the holder's."""
        service = self._service
        if not is_producer_id(request.holder):
            raise InvalidRequest(field="holder", problem="is not a valid holder id")
        project = await service.live(request.project_id)
        lease = project.entity.lease
        if (lease.holder, lease.lease_epoch) != (request.holder, request.lease_epoch):
            return ReleaseLeaseResponse(released=False)
        applied = change_lease(
            project, "", lease.lease_epoch, micros=now_micros(), actor=request.holder
        )
        await service.commit(project, applied, size=request.ByteSize())
        service.leases.end(project.uid, lease.lease_epoch)
        return ReleaseLeaseResponse(released=True)


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(int(seconds * 1e9))
    return duration
