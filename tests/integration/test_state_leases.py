"""Leases on the real service: one holder, fenced at its next batch, time on the service's clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from ramify.v1.error_pb2 import ErrorReason
from ramify.v1.state_service_pb2 import (
    AcquireLeaseRequest,
    AcquireLeaseResponse,
    CommitBatchRequest,
    HeldLease,
    ListProjectsRequest,
    ReleaseLeaseRequest,
    RenewLeasesRequest,
)
from tests.support.mutations import batch, create, order_cancel, patch
from tests.support.state_process import StateProcess
from tests.support.wire import Refusal, Wire, connect, eventually, read_refusal, refusal

Start = Callable[..., StateProcess]


async def acquire(
    wire: Wire, project_id: str, holder: str, seconds: float | None = None
) -> AcquireLeaseResponse:
    """Acquire a lease."""
    request = AcquireLeaseRequest(project_id=project_id, holder=holder)
    if seconds is not None:
        request.ttl.CopyFrom(Duration(nanos=0, seconds=int(seconds)))
    return await wire.stub.AcquireLease(request)


async def release(wire: Wire, project_id: str, holder: str, lease_epoch: int) -> None:
    """Give a lease back."""
    request = ReleaseLeaseRequest(project_id=project_id, holder=holder, lease_epoch=lease_epoch)
    assert (await wire.stub.ReleaseLease(request)).released


async def take_over(wire: Wire, project_id: str, holder: str) -> int:
    """Ask for a lease until it is granted; return its epoch."""
    granted: list[int] = []

    async def ask() -> bool:
        try:
            granted.append((await acquire(wire, project_id, holder, 60)).lease_epoch)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.FAILED_PRECONDITION:
                raise
            return False
        return True

    await eventually(ask, "the lease runs out")
    return granted[0]


async def refused_batch(wire: Wire, project_id: str, lease_epoch: int) -> Refusal:
    """Commit with a lease epoch; it must be refused."""
    request = CommitBatchRequest(
        project_id=project_id, mutations=[create("stale")], lease_epoch=lease_epoch
    )
    return await refusal(wire.stub.CommitBatch(request))


async def test_a_leased_project_takes_only_its_holders_batches(shared_wire: Wire) -> None:
    wire = shared_wire
    project_id = (await wire.create_project()).project_id
    lease = await acquire(wire, project_id, "first")
    assert (lease.lease_epoch, lease.revision, lease.ttl.seconds) == (1, 2, 10)
    for stale in (0, 2, 2**64 - 1):
        shown = await refused_batch(wire, project_id, stale)
        assert (shown.code, shown.reason) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "PRODUCER_FENCED",
        )
        assert shown.metadata["lease_epoch"] == "1"
        assert shown.metadata["holder"] == "first"
    async with wire.producer() as producer:
        await producer.send(batch(project_id, 1, create("stale")))
        error = (await producer.rejected(project_id, 1)).error
        assert error.reason == ErrorReason.ERROR_REASON_PRODUCER_FENCED
        await producer.send(batch(project_id, 1, create("a"), lease_epoch=1))
        assert await producer.acked(project_id, 1, corrected=True) == 3
    assert await wire.commit(project_id, patch("a", goal="another"), lease_epoch=1) == 4
    # Commands come from anyone (SEM 2, 19); together with another change they do not.
    assert await wire.commit(project_id, order_cancel("c")) == 5
    shown = await refusal(
        wire.stub.CommitBatch(
            CommitBatchRequest(project_id=project_id, mutations=[order_cancel("d"), create("x")])
        )
    )
    assert shown.reason == "PRODUCER_FENCED"
    assert [node.node_id for node in await wire.nodes(project_id)] == ["a"]


async def test_a_held_lease_is_refused_to_others_and_renewed_for_its_holder(
    shared_wire: Wire,
) -> None:
    wire = shared_wire
    project_id = (await wire.create_project()).project_id
    lease = await acquire(wire, project_id, "first")
    request = AcquireLeaseRequest(project_id=project_id, holder="second")
    shown = await refusal(wire.stub.AcquireLease(request))
    assert (shown.code, shown.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "LEASE_HELD")
    assert shown.metadata["holder"] == "first"
    again = await acquire(wire, project_id, "first")
    assert again.lease_epoch == lease.lease_epoch
    assert (await wire.project(project_id)).revision == 2, "a renewal is not a revision"


async def test_of_many_who_ask_at_once_one_gets_the_lease(shared_wire: Wire) -> None:
    wire = shared_wire
    project_id = (await wire.create_project()).project_id
    answers = await asyncio.gather(
        *[acquire(wire, project_id, f"holder-{n}") for n in range(20)], return_exceptions=True
    )
    granted = [answer for answer in answers if isinstance(answer, AcquireLeaseResponse)]
    assert [answer.lease_epoch for answer in granted] == [1]


async def test_after_its_time_a_lease_is_taken_over_and_the_old_holder_is_fenced(
    shared_wire: Wire,
) -> None:
    wire = shared_wire
    project_id = (await wire.create_project()).project_id
    loop = asyncio.get_running_loop()
    began = loop.time()
    old = await acquire(wire, project_id, "old", 1)
    new = await take_over(wire, project_id, "new")
    assert loop.time() - began >= 1
    assert new == old.lease_epoch + 1
    shown = await refused_batch(wire, project_id, old.lease_epoch)
    assert (shown.reason, shown.metadata["lease_epoch"]) == ("PRODUCER_FENCED", str(new))
    held = HeldLease(project_id=project_id, lease_epoch=old.lease_epoch)
    unknown = HeldLease(project_id="nobody", lease_epoch=1)
    response = await wire.stub.RenewLeases(RenewLeasesRequest(holder="old", leases=[held, unknown]))
    assert list(response.lost) == [held, unknown]
    released = await wire.stub.ReleaseLease(
        ReleaseLeaseRequest(project_id=project_id, holder="old", lease_epoch=old.lease_epoch)
    )
    assert not released.released
    assert await wire.commit(project_id, create("a"), lease_epoch=new)


async def test_a_renewed_lease_outlives_its_time(shared_wire: Wire) -> None:
    """Renewed for three times its length, it is never given away; then it runs out."""
    wire = shared_wire
    project_id = (await wire.create_project()).project_id
    ttl, loop = 2, asyncio.get_running_loop()
    reasons: set[str] = set()

    async def keep() -> int:
        """Hold it for so long; return its epoch, 0 if this machine did not renew it in time."""
        renewed = began = loop.time()
        held = HeldLease(
            project_id=project_id,
            lease_epoch=(await acquire(wire, project_id, "keeper", ttl)).lease_epoch,
        )
        renewal = RenewLeasesRequest(holder="keeper", leases=[held])
        while loop.time() - began < 3 * ttl:
            now = loop.time()
            if (await wire.stub.RenewLeases(renewal)).lost:
                assert loop.time() - renewed >= ttl
                return 0
            renewed = now
            try:
                taken = await acquire(wire, project_id, "other")
            except grpc.aio.AioRpcError as error:
                reasons.add(read_refusal(error).reason)
            else:
                assert loop.time() - renewed >= ttl
                await release(wire, project_id, "other", taken.lease_epoch)
                return 0
        return held.lease_epoch

    kept = 0
    while not kept:
        kept = await keep()
    assert reasons == {"LEASE_HELD"}
    assert await take_over(wire, project_id, "other") == kept + 1


async def test_a_released_project_takes_anyones_batches_and_its_epoch_grows(
    shared_wire: Wire,
) -> None:
    wire = shared_wire
    project_id = (await wire.create_project()).project_id
    lease = await acquire(wire, project_id, "first")

    async def leased(flag: bool) -> bool:
        response = await wire.stub.ListProjects(ListProjectsRequest(leased=flag, page_size=1_000))
        return project_id in [project.project_id for project in response.projects]

    assert await leased(True)
    assert not await leased(False)
    await release(wire, project_id, "first", lease.lease_epoch)
    assert not await leased(True)
    assert await leased(False)
    assert (await refused_batch(wire, project_id, 1)).reason == "PRODUCER_FENCED"
    assert await wire.commit(project_id, create("a")) == 4
    assert (await acquire(wire, project_id, "first")).lease_epoch == 2


@pytest.mark.parametrize("seconds", [0, 61, 10**6, -1])
async def test_a_time_out_of_range_is_refused(shared_wire: Wire, seconds: int) -> None:
    wire = shared_wire
    project_id = (await wire.create_project()).project_id
    request = AcquireLeaseRequest(project_id=project_id, holder="h", ttl=Duration(seconds=seconds))
    shown = await refusal(wire.stub.AcquireLease(request))
    assert (shown.reason, shown.fields) == ("INVALID_REQUEST", ["ttl"])
    assert not (await wire.project(project_id)).HasField("lease")


async def test_after_a_restart_a_lease_has_its_full_time_again(start_state: Start) -> None:
    """Its holder, its epoch and what they fence are durable."""
    state = start_state()
    async with connect(state.address) as wire:
        project_id = (await wire.create_project()).project_id
        lease = await acquire(wire, project_id, "first", 60)
    await asyncio.to_thread(state.restart)
    async with connect(state.address) as wire:
        assert (await wire.project(project_id)).lease.ttl.seconds == 60
        request = AcquireLeaseRequest(project_id=project_id, holder="second")
        assert (await refusal(wire.stub.AcquireLease(request))).reason == "LEASE_HELD"
        assert (await refused_batch(wire, project_id, 0)).reason == "PRODUCER_FENCED"
        assert await wire.commit(project_id, create("a"), lease_epoch=lease.lease_epoch) == 3
        held = HeldLease(project_id=project_id, lease_epoch=lease.lease_epoch)
        response = await wire.stub.RenewLeases(RenewLeasesRequest(holder="first", leases=[held]))
        assert not response.lost


async def test_a_lease_from_before_a_restart_runs_out(start_state: Start) -> None:
    state = start_state()
    async with connect(state.address) as wire:
        project_id = (await wire.create_project()).project_id
        await acquire(wire, project_id, "first", 2)
    state.kill()
    loop = asyncio.get_running_loop()
    began = loop.time()
    await asyncio.to_thread(state.start)
    async with connect(state.address) as wire:
        assert await take_over(wire, project_id, "second") == 2
    assert loop.time() - began >= 2, "its time began anew"
