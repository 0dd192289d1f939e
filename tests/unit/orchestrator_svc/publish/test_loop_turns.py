"""Reading and writing a large project leaves the loop to others in between."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable
from types import SimpleNamespace
from typing import Any

import pytest
from google.protobuf import json_format

from orchestrator_svc.graph.mutation import CreateNode
from orchestrator_svc.graph.types import NodeState, NodeType, TaskType
from orchestrator_svc.metrics import Metrics
from orchestrator_svc.publish import watch
from orchestrator_svc.publish.state_store import MUTATIONS_AT_ONCE, StateServiceStore
from orchestrator_svc.publish.watch import load_project
from ramify.v1 import node_pb2, plan_pb2, project_pb2
from ramify.v1 import state_service_pb2 as pb

NODES = 5_000


class OneChunk:
    """A watch whose snapshot is one message."""

    def __init__(self, chunk: pb.SnapshotChunk) -> None:
        self._chunk = chunk

    def WatchProject(self, request: pb.WatchProjectRequest, timeout: float) -> OneChunk:
        return self

    async def __aiter__(self) -> AsyncIterator[pb.WatchProjectResponse]:
        yield pb.WatchProjectResponse(snapshot=self._chunk)

    def cancel(self) -> None:
        pass


async def turns_during(work: Awaitable[Any]) -> tuple[int, Any]:
    """Return how often another task has its turn before some work is done, and what it returns."""
    turns, task = 0, asyncio.ensure_future(work)
    while not task.done():
        turns += 1
        await asyncio.sleep(0)
    return turns, task.result()


async def test_others_have_their_turns_while_a_large_plan_is_encoded() -> None:
    stub, stream = SimpleNamespace(), SimpleNamespace(buffer=None)
    store = StateServiceStore(stub, stream, Metrics())  # type: ignore[arg-type]
    goal, kind = "a goal", TaskType.SEARCH
    group = [
        CreateNode(
            f"n{i}", goal, goal, kind, NodeType.EXECUTE, 1, "root", (), NodeState.PENDING, {}
        )
        for i in range(NODES)
    ]
    turns, encoded = await turns_during(store._encoded("p", [group]))
    assert [len(row) for row in encoded] == [NODES]
    assert turns >= NODES // MUTATIONS_AT_ONCE


async def test_others_have_their_turns_while_the_nodes_of_a_project_are_read() -> None:
    state = node_pb2.NodeState.NODE_STATE_READY
    nodes = [node_pb2.Node(node_id=f"n{i}", state=state) for i in range(NODES)]
    chunk = pb.SnapshotChunk(project=project(), nodes=nodes, last=True, revision=2)
    turns, loaded = await turns_during(load_project(OneChunk(chunk), "p"))  # type: ignore[arg-type]
    assert [node.node_id for node in loaded.nodes] == [node.node_id for node in nodes]
    assert turns >= NODES // watch._NODES_AT_ONCE


@pytest.mark.parametrize("tasks, beside", [(10, False), (5_000, True)])
async def test_a_large_plan_is_read_beside_the_loop(
    tasks: int, beside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []
    read = json_format.MessageToDict

    def noted(*arguments: Any, **keys: Any) -> Any:
        threads.append(threading.current_thread())
        return read(*arguments, **keys)

    monkeypatch.setattr(watch, "MessageToDict", noted)
    plan = plan_pb2.Plan(
        goal="g", tasks=[plan_pb2.PlanTask(id=f"task-{i}", goal="a part") for i in range(tasks)]
    )
    chunk = pb.SnapshotChunk(project=project(plan), last=True, revision=2)
    loaded = await load_project(OneChunk(chunk), "p")  # type: ignore[arg-type]
    assert [thread is not threading.current_thread() for thread in threads] == [beside]
    options = loaded.agent_options["plan"]
    assert isinstance(options, dict)
    assert len(options["tasks"]) == tasks  # type: ignore[arg-type]


def project(plan: plan_pb2.Plan | None = None) -> project_pb2.Project:
    state = project_pb2.ProjectState.PROJECT_STATE_RUNNING
    return project_pb2.Project(project_id="p", state=state, plan=plan)
