"""A lease is granted when it is durable, and its epoch to one holder only (SEM 2, 16)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

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


async def test_a_renewal_loads_no_project_and_one_that_cannot_be_read_costs_no_other_lease() -> (
    None
):
    """Else anybody could have all projects in memory, held or not, with one call."""
    store = MemoryStore()
    async with embedded(store) as running:
        uids = []
        for project_id in ("bad", "damaged", "good"):
            await running.create(project_id)
            await _acquire(running, "h", project_id)
            uids.append((await running.service.live(project_id)).uid)
    damage(store, uids[1])
    record = store._projects[uids[0]]
    store._projects[uids[0]] = replace(record, data=record.data[:-1] + b"\0")
    held = [HeldLease(project_id=name, lease_epoch=1) for name in ("bad", "damaged", "good")]
    async with embedded(store) as running:
        leases = running.service.leases
        assert not leases._deadlines
        for holder, lost in (("x", ["bad", "damaged", "good"]), ("h", ["bad"])):
            request = RenewLeasesRequest(holder=holder, leases=held)
            answer = await LeaseRpcs(running.service).renew_leases(request)
            assert [lease.project_id for lease in answer.lost] == lost
        assert set(leases._deadlines) == {(uid, 1) for uid in uids[1:]}
        assert not running.service.projects.live()


async def test_of_two_that_ask_at_once_one_gets_the_lease(service: Embedded) -> None:
    first, second = _acquire(service, "a"), _acquire(service, "b")
    await asyncio.wait([first, second])
    assert first.exception() is None
    assert isinstance(second.exception(), LeaseHeld)


async def test_a_lease_of_nobody_cannot_be_released(service: Embedded) -> None:
    with pytest.raises(InvalidRequest):
        await LeaseRpcs(service.service).release_lease(ReleaseLeaseRequest(project_id="p"))
    assert (await service.service.live("p")).view.revision == 1
