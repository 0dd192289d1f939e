"""The blocking client does what the asynchronous one does, from a thread without a loop."""

import asyncio
from pathlib import Path

import pytest

from ramify import RamifyClient, WatchSnapshot
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
