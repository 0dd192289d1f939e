"""Unary calls: typed errors, deadlines, retries that have no second effect."""

import time

import grpc
import pytest

from ramify.calls import CallPolicy
from ramify.client import AsyncClient
from ramify.errors import (
    BY_REASON,
    DeadlineError,
    NodeNotFoundError,
    OverloadedError,
    ProjectNotFoundError,
    RamifyError,
    StoreUnavailableError,
    UnavailableError,
    error_for,
)
from ramify.v1.error_pb2 import ErrorReason
from ramify.v1.node_pb2 import NodeState
from ramify.v1.project_pb2 import ProjectState
from tests.support.bound import WAIT_SECONDS
from tests.unit.clients.conftest import AT_ONCE
from tests.unit.clients.fake_project import node_created, project_state
from tests.unit.clients.fake_state import FakeServices, fake_services, status_of

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


def test_every_reason_of_the_contract_has_a_class() -> None:
    names = {name.removeprefix("ERROR_REASON_") for name in ErrorReason.keys()}  # noqa: SIM118
    assert set(BY_REASON) == names - {"UNSPECIFIED"}


@pytest.mark.parametrize("reason", ["SERVER_DRAINING", "STORE_UNAVAILABLE", "OVERLOADED"])
def test_only_these_reasons_are_retryable(reason: str) -> None:
    assert error_for("", reason, "x").retryable
    others = set(BY_REASON) - {"SERVER_DRAINING", "STORE_UNAVAILABLE", "OVERLOADED"}
    assert not any(error_for("", other, "x").retryable for other in others)


def test_an_unknown_reason_falls_back_to_the_class_of_its_code() -> None:
    error = error_for("UNAVAILABLE", "BRAND_NEW", "x")
    assert isinstance(error, UnavailableError)
    assert error.reason == "BRAND_NEW"
    assert type(error_for("UNKNOWN", "", "x")) is RamifyError


async def test_retryable_failures_are_repeated(services: FakeServices, client: AsyncClient) -> None:
    services.state.create("p")
    services.state.failures = [
        status_of(UNAVAILABLE, "STORE_UNAVAILABLE", "disk full"),
        status_of(UNAVAILABLE, "SERVER_DRAINING", "stopping"),
    ]
    assert (await client.get_project("p")).project_id == "p"
    assert services.state.calls == ["GetProject"] * 3


async def test_retries_end_with_the_last_error(services: FakeServices, client: AsyncClient) -> None:
    services.state.failures = [
        status_of(UNAVAILABLE, "STORE_UNAVAILABLE", "disk full", path="x") for _ in range(9)
    ]
    with pytest.raises(StoreUnavailableError, match="disk full") as caught:
        await client.get_project("p")
    assert caught.value.metadata == {"path": "x"}
    assert len(services.state.calls) == CallPolicy().max_attempts


async def test_a_retry_waits_as_long_as_the_server_asks(
    services: FakeServices, client: AsyncClient
) -> None:
    services.state.create("p")
    overloaded = status_of(grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", "full", retry_ms=80)
    services.state.failures = [overloaded]
    began = time.monotonic()
    await client.get_project("p")
    assert time.monotonic() - began >= 0.08


async def test_a_wait_beyond_the_deadline_is_not_begun(services: FakeServices) -> None:
    services.state.failures = [
        status_of(grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", "full", retry_ms=60_100)
    ]
    policy = CallPolicy(timeout=WAIT_SECONDS)
    async with AsyncClient(services.address, services.address, policy=policy) as hasty:
        with pytest.raises(OverloadedError) as caught:
            await hasty.get_project("p")
    assert caught.value.retry_after == 60.1


async def test_other_failures_are_not_repeated(services: FakeServices, client: AsyncClient) -> None:
    with pytest.raises(ProjectNotFoundError):
        await client.get_project("p")
    assert len(services.state.calls) == 1


async def test_a_repeated_change_keeps_its_request_id(
    services: FakeServices, client: AsyncClient
) -> None:
    services.orchestrator.failures = [status_of(UNAVAILABLE, "STORE_UNAVAILABLE", "x")]
    await client.start_project("a goal")
    first, second = services.orchestrator.started
    assert first.request_id == second.request_id != ""
    await client.start_project("a goal", request_id="mine", project_id="p2")
    assert services.orchestrator.started[-1].request_id == "mine"


async def test_overload_without_our_reason_is_not_mistaken_for_ours(
    services: FakeServices, client: AsyncClient
) -> None:
    services.state.failures = [
        status_of(grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", "queue full")
    ] * CallPolicy().max_attempts
    with pytest.raises(OverloadedError):
        await client.get_project("p")


async def test_nobody_at_the_address_is_said_with_the_address() -> None:
    async with fake_services() as gone:
        address = gone.address
    policy = CallPolicy(max_attempts=2, backoff=AT_ONCE)
    async with AsyncClient(address, address, policy=policy) as client:
        with pytest.raises(UnavailableError, match=f"cannot reach {address}"):
            await client.get_project("p")


async def test_a_call_ends_with_its_deadline(services: FakeServices) -> None:
    services.state.hold_calls = True
    policy = CallPolicy(timeout=0.05)
    async with AsyncClient(services.address, services.address, policy=policy) as client:
        with pytest.raises(DeadlineError, match="in time"):
            await client.get_project("p")


async def test_listings_read_all_pages(services: FakeServices, client: AsyncClient) -> None:
    for name in ("a", "b", "c", "d", "e"):
        services.state.create(name)
    fake = services.state.projects["a"]
    fake.commit(*(node_created(f"n{number}") for number in range(5)))
    fake.commit(project_state(ProjectState.PROJECT_STATE_RUNNING))
    assert [p.project_id async for p in client.list_projects()] == ["a", "b", "c", "d", "e"]
    running = client.list_projects(states=[ProjectState.PROJECT_STATE_RUNNING])
    assert [p.project_id async for p in running] == ["a"]
    assert [n.node_id async for n in client.list_nodes("a")] == ["n0", "n1", "n2", "n3", "n4"]
    assert (await client.get_project("a")).node_counts == {"PENDING": 5}


async def test_nodes_are_read_by_id(services: FakeServices, client: AsyncClient) -> None:
    services.state.create("p").commit(node_created("n"))
    node = await client.get_node("p", "n")
    assert node.state == NodeState.NODE_STATE_PENDING
    with pytest.raises(NodeNotFoundError):
        await client.get_node("p", "other")


async def test_wait_returns_the_project_once_it_has_ended(
    services: FakeServices, client: AsyncClient
) -> None:
    services.orchestrator.script = [(project_state(ProjectState.PROJECT_STATE_PARTIAL),)]
    project = await client.start_project("a goal")
    ended = await client.wait(project.project_id)
    assert ended.state == ProjectState.PROJECT_STATE_PARTIAL


async def test_cancelling_orders_the_end(services: FakeServices, client: AsyncClient) -> None:
    services.state.create("p")
    await client.cancel_project("p", reason="enough")
    (request,) = services.orchestrator.cancelled
    assert request.reason == "enough"
    assert request.request_id
