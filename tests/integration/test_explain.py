"""ExplainProject and ExplainNode on real processes: whichever orchestrator is asked."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from orchestrator_svc.graph.settings import Settings
from orchestrator_svc.publish.scene import load_scene
from ramify.v1.explain_pb2 import (
    BlockerKind,
    ExplainNodeRequest,
    ExplainProjectRequest,
    Explanation,
    Outlook,
)
from ramify.v1.node_pb2 import NodeState
from ramify.v1.orchestrator_service_pb2 import ResumeProjectRequest
from tests.support.bound import WAIT_SECONDS
from tests.support.runs import Runs
from tests.support.wire import eventually

K, S = BlockerKind, NodeState
FIRST_HANGS = [{"node": "root.1.0", "hang": True}]


async def project(runs: Runs, project_id: str) -> Explanation:
    request = ExplainProjectRequest(project_id=project_id)
    return (await runs.stub.ExplainProject(request, timeout=WAIT_SECONDS)).explanation


async def node(runs: Runs, project_id: str, node_id: str) -> Explanation:
    request = ExplainNodeRequest(project_id=project_id, node_id=node_id)
    return (await runs.stub.ExplainNode(request, timeout=WAIT_SECONDS)).explanation


async def stuck(runs: Runs, **settings: Any) -> str:
    """Start a run of three children in a row of which the first never ends."""
    chosen = {"max_concurrent_nodes": 1, **settings}
    project_id = (await runs.script(chosen, chain=True, rules=FIRST_HANGS)).project_id
    async with runs.follow(project_id) as follower:
        await follower.until(
            lambda history: (
                "root.1.0" in history.nodes
                and history.nodes["root.1.0"].state == S.NODE_STATE_RUNNING
            )
        )
    return project_id


async def test_explaining_reads_neither_goals_nor_results(runs: Runs) -> None:
    """They are most of what a large run has, and nothing is explained by them."""
    started = await runs.script(breadth=3, output_chars=3_000)
    history = await runs.finish(started.project_id)
    stored = await load_scene(runs.wire.stub, started.project_id)
    scene = stored.scene(Settings(), problem="", live=None)
    assert set(scene.nodes) == set(history.nodes)
    assert all(not node.goal and node.result is None for node in scene.nodes.values())


async def test_a_chain_of_dependencies_is_followed_to_the_call_that_is_open(runs: Runs) -> None:
    project_id = await stuck(runs)
    found = Explanation()

    async def call_is_open() -> bool:
        found.CopyFrom(await node(runs, project_id, "root.1.2"))
        return found.blockers[-1].live

    await eventually(call_is_open, "the agent that was announced is called")
    assert [(b.kind, b.blocked_node_id, b.node_id) for b in found.blockers] == [
        (K.BLOCKER_KIND_DEPENDENCY, "root.1.2", "root.1.1"),
        (K.BLOCKER_KIND_DEPENDENCY, "root.1.1", "root.1.0"),
        (K.BLOCKER_KIND_CALL, "root.1.0", ""),
    ]
    assert found.live
    assert found.blockers[-1].root_cause
    assert found.blockers[-1].HasField("until_time")
    assert found.outlook == Outlook.OUTLOOK_RUNNING
    whole = await project(runs, project_id)
    assert (whole.state, whole.blockers[-1].blocked_node_id) == ("RUNNING", "root.1.0")
    await runs.cancel(project_id)
    await runs.finish(project_id)
    ended = await project(runs, project_id)
    assert (ended.outlook, ended.live, ended.state) == (Outlook.OUTLOOK_ENDED, False, "CANCELLED")


async def test_seed_004_2_and_6_the_life_of_a_node_is_told_from_its_records(runs: Runs) -> None:
    rule = {"node": "root.1.0", "attempts": [1], "error": "CONNECTION"}
    project_id = (await runs.script({"max_retries": 1}, rules=[rule])).project_id
    await runs.finish(project_id)
    found = await node(runs, project_id, "root.1.0")
    names = [S.Name(move.to_state).removeprefix("NODE_STATE_") for move in found.moves]
    assert names == ["READY", "RUNNING", "READY", "RUNNING", "DONE"]
    assert all(move.revision and move.HasField("commit_time") for move in found.moves)


async def test_a_backoff_says_when_the_next_attempt_begins(runs: Runs) -> None:
    rule = {"node": "root.1.0", "error": "RATE_LIMIT"}
    settings = {"max_retries": 9, "retry_delay_seconds": 3600.0}
    project_id = (await runs.script(settings, breadth=1, rules=[rule])).project_id
    async with runs.follow(project_id) as follower:
        await follower.until(
            lambda history: (
                "root.1.0" in history.nodes
                and history.nodes["root.1.0"].HasField("next_attempt_time")
            )
        )
    found = await node(runs, project_id, "root.1.0")
    (only,) = found.blockers
    stored = await runs.wire.node(project_id, "root.1.0")
    assert only.kind == K.BLOCKER_KIND_RATE_LIMIT
    assert only.until_time == stored.next_attempt_time
    assert found.outlook == Outlook.OUTLOOK_WAITING
    await runs.cancel(project_id)


@pytest.mark.parametrize(
    "project_id, node_id, code",
    [
        ("", "", grpc.StatusCode.INVALID_ARGUMENT),
        ("nobody", "", grpc.StatusCode.NOT_FOUND),
        ("nobody", "a", grpc.StatusCode.NOT_FOUND),
    ],
)
async def test_a_bad_question_is_refused(
    runs: Runs, project_id: str, node_id: str, code: grpc.StatusCode
) -> None:
    question = node(runs, project_id, node_id) if node_id else project(runs, project_id)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await question
    assert refused.value.code() == code


async def test_of_a_run_that_has_ended_no_time_goes_on(runs: Runs) -> None:
    rule = {"node": "root.1.0", "error": "AUTH"}
    started = await runs.script({"budget_wall_seconds": 3_600.0}, breadth=1, rules=[rule])
    project_id = started.project_id
    await runs.finish(project_id)
    ended = await runs.wire.project(project_id)
    answers = [await project(runs, project_id) for _ in range(2)]
    (use,) = answers[0].budgets
    assert (
        0 < use.used <= (ended.end_time.ToMicroseconds() - ended.create_time.ToMicroseconds()) / 1e6
    )
    for answer in answers:
        assert answer.blockers
        for field in ("explain_time", "revision", "holder"):  # its lease may be free by now
            answer.ClearField(field)
    assert answers[0] == answers[1]


async def test_a_used_up_budget_pauses_the_run_and_says_so_until_it_is_resumed(
    runs: Runs,
) -> None:
    settings = {"budget_tokens": 250, "budget_policy": "BUDGET_POLICY_PAUSE"}
    started = await runs.script(settings, breadth=2, chain=True, input_tokens=90)
    project_id = started.project_id
    async with runs.follow(project_id) as follower:
        await follower.until(lambda history: history.state == "PAUSED")
    found = await project(runs, project_id)
    budget = next(b for b in found.blockers if b.kind == K.BLOCKER_KIND_BUDGET)
    assert budget.remedy == f"ramify resume {project_id}"
    assert budget.root_cause
    (use,) = found.budgets
    assert (use.node_id, use.resource, use.limit, use.used) == ("root", "tokens", 250, 270)
    assert found.outlook == Outlook.OUTLOOK_NEEDS_ACTION
    await runs.stub.ResumeProject(ResumeProjectRequest(project_id=project_id), timeout=WAIT_SECONDS)
    assert (await runs.finish(project_id)).state == "COMPLETED"
    usage = [node.usage.input_tokens for node in await runs.wire.nodes(project_id)]
    assert usage == [180, 90, 90]
