"""A tree that a foreign client has written and that cannot run is mended and ends, on record."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from google.protobuf.json_format import MessageToDict

from ramify.v1.node_pb2 import Node, NodeState, NodeType
from ramify.v1.project_pb2 import ProjectState
from tests.support.mutations import READY, RUNNING, change_project, create, patch
from tests.support.orchestrator_process import OrchestratorProcess
from tests.support.run_history import node_state
from tests.support.runs import connect_both
from tests.support.state_process import StateProcess
from tests.support.wire import connect, eventually

PLAN = NodeType.NODE_TYPE_PLAN
EXECUTE = NodeType.NODE_TYPE_EXECUTE


async def broken_tree(address: str) -> str:
    """Write a project whose nodes wait for each other over a parent, with a stray beside it."""
    async with connect(address) as wire:
        project_id = (await wire.create_project(profile="scripted")).project_id
        await wire.commit(
            project_id,
            create("root", node_type=PLAN, state=READY),
            create("a", "root", node_type=PLAN, state=READY),
            create("b", "root", node_type=EXECUTE, depends_on=["a"]),
            create("c", "root", node_type=EXECUTE, state=READY),
            create("a1", "a", 2, node_type=EXECUTE, depends_on=["b"]),
            create("a2", "a", 2, node_type=EXECUTE, state=READY),
            create("stray", node_type=EXECUTE, state=READY),
            change_project(state=ProjectState.PROJECT_STATE_RUNNING, root_node_id="root"),
            *(
                step
                for node_id, children in (("root", ["a", "b", "c"]), ("a", ["a1", "a2"]))
                for step in (
                    patch(node_id, state=RUNNING, attempt=1),
                    patch(
                        node_id,
                        state=NodeState.NODE_STATE_PLAN_DONE,
                        planned_sub_task_ids=children,
                    ),
                )
            ),
        )
    return project_id


def forced_by(node: Node) -> dict[str, str]:
    record: dict[str, str] = MessageToDict(node.aux_data["forced_by"])
    return record


async def test_a_tree_that_cannot_run_is_mended_on_record_and_ends(
    start_state: Callable[..., StateProcess], tmp_path: Path
) -> None:
    state = start_state()
    project_id = await broken_tree(state.address)
    orchestrator = OrchestratorProcess(tmp_path / "orchestrator", state.address)
    try:
        await asyncio.to_thread(orchestrator.start)
        async with connect_both(state.address, orchestrator.address) as runs:

            async def ended() -> bool:
                return (await runs.wire.project(project_id)).HasField("end_time")

            await eventually(ended, "the run ends", seconds=120)
            project = await runs.wire.project(project_id)
            nodes = {node.node_id: node for node in await runs.wire.nodes(project_id)}
    finally:
        orchestrator.kill()
    assert project.state == ProjectState.PROJECT_STATE_PARTIAL
    assert {node_id: node_state(node.state) for node_id, node in nodes.items()} == {
        "root": "DONE", "a": "DONE", "a1": "FAILED", "a2": "DONE", "b": "DONE", "c": "DONE",
        "stray": "CANCELLED",
    }  # fmt: skip
    assert forced_by(nodes["a1"]) == {
        "by": "doctor",
        "pattern": "circular_dependency",
        "action": "fail",
        "before": "PENDING",
        "after": "FAILED",
        "reason": "these wait for each other: a → a1 → b → a",
    }
    assert forced_by(nodes["stray"])["pattern"] == "orphaned_nodes"
    assert not nodes["stray"].usage.agent_calls
