"""The blocking client does what the asynchronous one does, from a thread without a loop."""

import asyncio
import inspect
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from types import GenericAlias
from typing import get_args, get_origin

import grpc
import pytest

from ramify import AsyncClient, RamifyClient, WatchSnapshot
from ramify.backoff import Backoff
from ramify.calls import CallPolicy
from ramify.errors import ClientClosedError, ProjectNotFoundError
from ramify.v1.project_pb2 import ProjectState
from tests.support.bound import WAIT_SECONDS
from tests.unit.clients.fake_project import node_created, project_state
from tests.unit.clients.fake_state import FakeServices, status_of


async def test_a_script_starts_watches_and_reads_a_run(
    services: FakeServices, tmp_path: Path
) -> None:
    services.orchestrator.script = [
        (node_created("root"),),
        (project_state(ProjectState.PROJECT_STATE_COMPLETED),),
    ]

    def script() -> None:
        with RamifyClient(services.address, services.address) as client:
            project = client.start_project("a goal")
            ended = client.wait(project.project_id)
            assert ended.state == ProjectState.PROJECT_STATE_COMPLETED
            events = client.watch(project.project_id)
            assert isinstance([next(events), next(events)][-1], WatchSnapshot)
            assert [n.node_id for n in client.list_nodes(project.project_id)] == ["root"]
            assert [p.project_id for p in client.list_projects()] == ["run-1"]
            assert client.get_node("run-1", "root").goal == "goal of root"
            assert client.get_stats().stats.commits == 3
            client.cancel_project("run-1")
            with pytest.raises(ProjectNotFoundError):
                client.get_project("other")
        client.close()

    await asyncio.to_thread(script)


def public(client: type) -> dict[str, inspect.Signature]:
    """Return the public methods of a class with what they take and return."""
    return {
        name: inspect.signature(member)
        for name, member in inspect.getmembers(client, callable)
        if not name.startswith("_")
    }


def blocking(returned: object) -> object:
    """Return what a blocking method returns for an asynchronous one."""
    if get_origin(returned) is not AsyncGenerator:
        return returned
    return GenericAlias(Iterator, get_args(returned)[0])


def test_every_method_is_there_under_its_name_with_its_arguments_and_documented() -> None:
    expected = {
        name: taken.replace(return_annotation=blocking(taken.return_annotation))
        for name, taken in public(AsyncClient).items()
    }
    expected["close"] = expected.pop("aclose")
    assert public(RamifyClient) == expected
    assert inspect.signature(RamifyClient) == inspect.signature(AsyncClient)
    for name in expected:
        assert not inspect.iscoroutinefunction(getattr(RamifyClient, name))
        assert (getattr(RamifyClient, name).__doc__ or "").strip()


async def test_both_clients_tell_whom_they_talk_to(services: FakeServices) -> None:
    def script() -> None:
        with RamifyClient(services.address, services.address) as client:
            assert client.state_address == client.orchestrator_address == services.address

    await asyncio.to_thread(script)


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.get_project("run-1"),
        lambda client: client.wait("run-1"),
        lambda client: list(client.watch("run-1")),
    ],
    ids=["get_project", "wait", "watch"],
)
async def test_a_call_between_two_tries_ends_when_another_thread_closes_the_client(
    services: FakeServices, monkeypatch: pytest.MonkeyPatch, ask: Callable[[RamifyClient], object]
) -> None:
    hour = 3_600.0
    failed_once = threading.Event()

    def delay(_: Backoff, attempt: int) -> float:
        failed_once.set()
        return hour

    monkeypatch.setattr(Backoff, "delay", delay)
    services.state.create("run-1")
    services.state.cut_after = [1]
    services.state.failures = [
        status_of(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE", "the store is away")
    ]
    errors = []

    def call(client: RamifyClient) -> None:
        try:
            ask(client)
        except Exception as error:
            errors.append(type(error))

    def script() -> None:
        policy = CallPolicy(timeout=2 * hour)
        client = RamifyClient(services.address, services.address, policy=policy)
        caller = threading.Thread(target=call, args=(client,), daemon=True)
        caller.start()
        assert failed_once.wait(WAIT_SECONDS)
        client.close()
        caller.join(WAIT_SECONDS)
        assert errors == [ClientClosedError]

    await asyncio.to_thread(script)


async def test_a_closed_client_says_so(services: FakeServices) -> None:
    services.state.create("run-1")

    def script() -> None:
        with RamifyClient(services.address, services.address) as client:
            begun = client.watch("run-1")
            next(begun)
            left = client.watch("run-1")
            next(left)
        with pytest.raises(ClientClosedError):
            client.get_project("run-1")
        with pytest.raises(ClientClosedError):
            next(client.watch("run-1"))
        with pytest.raises(ClientClosedError):
            next(begun)
        del left

    await asyncio.to_thread(script)


def test_an_iterator_that_the_loop_s_own_thread_frees_ends_without_blocking_it() -> None:
    ended = threading.Event()

    async def items() -> AsyncGenerator[int, None]:
        try:
            yield 1
        finally:
            ended.set()

    client = RamifyClient()
    held = [client._iterate(items)]
    assert next(held[0]) == 1
    client._loop.call_soon_threadsafe(held.clear)  # as the collector may, in any thread
    assert ended.wait(WAIT_SECONDS)
    client.close()
