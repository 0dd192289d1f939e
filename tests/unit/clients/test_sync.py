"""The blocking client does what the asynchronous one does, from a thread without a loop."""

import asyncio
import inspect
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from types import GenericAlias
from typing import get_args, get_origin

import pytest

from ramify import AsyncClient, RamifyClient, WatchSnapshot
from ramify.errors import ProjectNotFoundError
from ramify.v1.project_pb2 import ProjectState
from tests.unit.clients.fake_project import node_created, project_state
from tests.unit.clients.fake_state import FakeServices


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
