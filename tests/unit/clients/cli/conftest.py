"""Runs the command in this process against fakes that serve from a thread of their own."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pytest

from ramify.cli.main import invoke
from ramify.v1.mutation_pb2 import NodeChange, ProjectChange
from ramify.v1.node_pb2 import NodePatch, NodeState
from ramify.v1.payload_pb2 import Payload
from ramify.v1.project_pb2 import ProjectPatch, ProjectState
from tests.unit.clients.fake_project import node_created, node_state, project_state
from tests.unit.clients.fake_state import FakeServices, fake_services

REPORT = "# Report\n\nIt works. (`a.md:1`)\n"


@dataclass
class Result:
    """What a command printed and returned."""

    code: int
    out: str
    err: str


Ramify = Callable[..., Result]


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServices]:
    """Both fakes; the environment leads the command to them."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    context = fake_services()
    running = asyncio.run_coroutine_threadsafe(context.__aenter__(), loop).result()
    monkeypatch.setenv("RAMIFY_STATE", running.address)
    monkeypatch.setenv("RAMIFY_ORCHESTRATOR", running.address)
    yield running
    stopping = context.__aexit__(None, None, None)
    asyncio.run_coroutine_threadsafe(stopping, loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture
def ramify(capsys: pytest.CaptureFixture[str]) -> Ramify:
    """Run the command; its streams are not terminals."""

    def run(*args: str) -> Result:
        code = invoke(list(args))
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run


def finished_run(
    state: ProjectState.ValueType = ProjectState.PROJECT_STATE_COMPLETED,
) -> Sequence[tuple[NodeChange | ProjectChange, ...]]:
    """Return the revisions of a run with a root, one child and a report."""
    running, done = NodeState.NODE_STATE_RUNNING, NodeState.NODE_STATE_DONE
    result = Payload(content_type="text/markdown", text=REPORT)
    return [
        (
            project_state(ProjectState.PROJECT_STATE_RUNNING, ProjectPatch(root_node_id="root")),
            node_created("root"),
        ),
        (node_state("root", running),),
        (node_created("child", "root", layer=1), node_state("child", running)),
        (node_state("child", done, NodePatch(output_summary="found")),),
        (node_state("root", done, NodePatch(result=result)),),
        (project_state(state),),
    ]
