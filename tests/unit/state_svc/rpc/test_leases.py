"""A lease is granted when it is durable, and its epoch to one holder only (SEM 2, 16)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from ramify.v1.state_service_pb2 import (
    AcquireLeaseRequest,
    AcquireLeaseResponse,
    HeldLease,
    ReleaseLeaseRequest,
    RenewLeasesRequest,
)
from state_svc.errors import InvalidRequest, LeaseHeld, StoreUnavailable
from state_svc.rpc.leases import LeaseRpcs
from state_svc.store.memory import MemoryStore
from tests.support.damage import damage
from tests.support.embedded import Embedded, embedded


@pytest.fixture
async def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
async def service(store: MemoryStore) -> AsyncIterator[Embedded]:
    async with embedded(store) as running:
        await running.create("p")
        yield running


def _acquire(
    service: Embedded, holder: str, project_id: str = "p"
) -> asyncio.Task[AcquireLeaseResponse]:
    request = AcquireLeaseRequest(project_id=project_id, holder=holder)
    return asyncio.create_task(LeaseRpcs(service.service).acquire_lease(request))


async def test_a_repeat_is_not_answered_with_a_grant_that_failed(
    service: Embedded, store: MemoryStore
) -> None:
    """Else the next holder gets the same epoch, and both may write."""
    store.fail_next = "before"
    first, repeat = _acquire(service, "a"), _acquire(service, "a")
    await asyncio.wait([first, repeat])
    assert isinstance(first.exception(), StoreUnavailable)
    granted = await repeat
    lease = (await service.service.live("p")).view.entity.lease
    assert (lease.holder, lease.lease_epoch) == ("a", granted.lease_epoch)
    with pytest.raises(LeaseHeld):
        await _acquire(service, "b")


async def test_a_repeat_waits_for_the_grant_and_gets_the_same_epoch(service: Embedded) -> None:
    first, repeat = _acquire(service, "a"), _acquire(service, "a")
    assert (await first).lease_epoch == (await repeat).lease_epoch == 1
    assert (await repeat).revision == 2


async def test_a_project_that_cannot_be_read_does_not_cost_the_other_leases() -> None:
    store = MemoryStore()
    async with embedded(store) as running:
        for project_id in ("bad", "good"):
            await running.create(project_id)
            await _acquire(running, "h", project_id)
        uid = (await running.service.live("bad")).uid
    damage(store, uid)
    held = [HeldLease(project_id=name, lease_epoch=1) for name in ("bad", "good")]
    async with embedded(store) as running:
        project = await running.service.live("good")
        assert (project.uid, 1) not in running.service.leases._deadlines
        request = RenewLeasesRequest(holder="h", leases=held)
        answer = await LeaseRpcs(running.service).renew_leases(request)
        assert [lost.project_id for lost in answer.lost] == ["bad"]
        assert (project.uid, 1) in running.service.leases._deadlines


async def test_of_two_that_ask_at_once_one_gets_the_lease(service: Embedded) -> None:
    first, second = _acquire(service, "a"), _acquire(service, "b")
    await asyncio.wait([first, second])
    assert first.exception() is None
    assert isinstance(second.exception(), LeaseHeld)


async def test_a_lease_of_nobody_cannot_be_released(service: Embedded) -> None:
    with pytest.raises(InvalidRequest):
        await LeaseRpcs(service.service).release_lease(ReleaseLeaseRequest(project_id="p"))
    assert (await service.service.live("p")).view.revision == 1
