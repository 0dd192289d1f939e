"""Orders to runs of the real services: pause, resume, cancel a node; repeats and refusals."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import grpc

from ramify.v1.command_pb2 import CommandState
from ramify.v1.explain_pb2 import BlockerKind, ExplainProjectRequest
from ramify.v1.orchestrator_service_pb2 import (
    CancelNodeRequest,
    CancelProjectRequest,
    PauseProjectRequest,
    ReplanNodeRequest,
    ResumeProjectRequest,
    RetryNodeRequest,
)
from ramify.v1.project_pb2 import BroadcastMode
from tests.support.mutations import order_cancel
from tests.support.runs import Follower, Runs
from tests.support.wire import eventually, refusal

APPLIED = CommandState.COMMAND_STATE_APPLIED
ONE_HANGS = {"node": "root.1.0", "stage": "execute", "hang": True}


def one_hangs(history: Any) -> bool:
    """Whether all but the node that hangs are done."""
    return bool(history.count("RUNNING") == 1 and history.count("DONE") == 2)


async def paused(runs: Runs, follower: Follower, project_id: str) -> None:
    """Pause a run of which one call hangs, and end that call."""
    await follower.until(one_hangs)
    request = PauseProjectRequest(project_id=project_id, request_id="p", reason="to look")
    receipt = (await runs.stub.PauseProject(request)).receipt
    assert receipt.state == APPLIED
    assert receipt.answer == "1 agent call still runs: root.1.0"
    assert (await runs.stub.PauseProject(request)).receipt == receipt, "a repeat is one order"
    await follower.until(lambda history: history.state == "PAUSING")
    cancel = CancelNodeRequest(project_id=project_id, node_id="root.1.0", actor="me")
    assert (await runs.stub.CancelNode(cancel)).receipt.state == APPLIED
    await follower.until(lambda history: history.state == "PAUSED")


async def test_an_order_is_answered_whatever_the_project_sends_to_its_watchers(runs: Runs) -> None:
    settings = {"broadcast_mode": BroadcastMode.BROADCAST_MODE_FULL}
    project_id = (await runs.script(rules=[ONE_HANGS], settings=settings)).project_id
    async with runs.follow(project_id) as follower:
        await follower.until(one_hangs)
        request = CancelNodeRequest(project_id=project_id, node_id="root.1.1")
        refused = await refusal(runs.stub.CancelNode(request))
        assert refused.reason == "COMMAND_REFUSED"
        request = CancelNodeRequest(project_id=project_id, node_id="root.1.0")
        assert (await runs.stub.CancelNode(request)).receipt.state == APPLIED
        await follower.ended()


async def test_a_run_is_paused_and_resumed(runs: Runs) -> None:
    project_id = (await runs.script(rules=[ONE_HANGS])).project_id
    async with runs.follow(project_id) as follower:
        await paused(runs, follower, project_id)
        assert (await runs.wire.project(project_id)).HasField("pause_time")
        before = len(follower.history.dispatches)
        resumed = await runs.stub.ResumeProject(ResumeProjectRequest(project_id=project_id))
        assert resumed.receipt.state == APPLIED
        assert await follower.ended() == "PARTIAL"
        assert len(follower.history.dispatches) == before + 1, "only the aggregation was left"
        assert follower.history.states[-4:] == ["PAUSING", "PAUSED", "RUNNING", "PARTIAL"]
    assert not (await runs.wire.project(project_id)).HasField("pause_time")


async def test_an_order_that_cannot_work_is_refused_with_the_reason(runs: Runs) -> None:
    project_id = (await runs.script(rules=[ONE_HANGS])).project_id
    async with runs.follow(project_id) as follower:
        await follower.until(one_hangs)
        refused = await refusal(
            runs.stub.ResumeProject(ResumeProjectRequest(project_id=project_id))
        )
        assert refused.code == grpc.StatusCode.FAILED_PRECONDITION
        assert refused.reason == "COMMAND_REFUSED"
        assert "not paused" in refused.message
        assert f"project_id={project_id}" in refused.message
        request = CancelNodeRequest(project_id=project_id, node_id="root.1.1")
        refused = await refusal(runs.stub.CancelNode(request))
        assert refused.reason == "COMMAND_REFUSED"
        assert "is DONE already" in refused.message
        refused = await refusal(runs.stub.CancelNode(CancelNodeRequest(project_id=project_id)))
        assert (refused.reason, refused.fields) == ("INVALID_REQUEST", ["node_id"])
        await runs.cancel(project_id)
        assert await follower.ended() == "CANCELLED"
    refused = await refusal(runs.stub.PauseProject(PauseProjectRequest(project_id=project_id)))
    assert refused.reason == "PROJECT_ENDED"


async def reasons(runs: Runs, project_id: str, node_id: str) -> list[str]:
    """Return why each order about a run, or about a node if one is named, is refused."""
    stub, run, node = runs.stub, {"project_id": project_id}, {"node_id": node_id}
    calls: list[Awaitable[object]]
    if node_id:
        calls = [
            stub.CancelNode(CancelNodeRequest(**run, **node)),
            stub.RetryNode(RetryNodeRequest(**run, **node)),
            stub.ReplanNode(ReplanNodeRequest(**run, **node)),
        ]
    else:
        calls = [
            stub.CancelProject(CancelProjectRequest(**run)),
            stub.PauseProject(PauseProjectRequest(**run)),
            stub.ResumeProject(ResumeProjectRequest(**run)),
        ]
    return [(await refusal(call)).reason for call in calls]


async def test_an_order_about_what_is_not_there_says_so_whatever_the_run_is_doing(
    runs: Runs,
) -> None:
    assert await reasons(runs, "no-run", "") == ["PROJECT_NOT_FOUND"] * 3
    assert await reasons(runs, "no-run", "root") == ["PROJECT_NOT_FOUND"] * 3
    project_id = (await runs.script(rules=[ONE_HANGS])).project_id
    async with runs.follow(project_id) as follower:
        await follower.until(one_hangs)
        revision = (await runs.wire.project(project_id)).revision
        assert await reasons(runs, project_id, "nobody") == ["NODE_NOT_FOUND"] * 3
        assert (await runs.wire.project(project_id)).revision == revision, "nothing was ordered"
        await runs.cancel(project_id)
        assert await follower.ended() == "CANCELLED"
    assert await reasons(runs, project_id, "nobody") == ["NODE_NOT_FOUND"] * 3
    assert await reasons(runs, project_id, "") == ["PROJECT_ENDED"] * 3
    assert await reasons(runs, project_id, "root") == ["PROJECT_ENDED", *["COMMAND_REFUSED"] * 2]
    assert await reasons(runs, project_id, "root.1.1") == [
        "PROJECT_ENDED",
        *["COMMAND_REFUSED"] * 2,
    ]


async def test_a_node_is_replanned_and_what_is_finished_is_reused(runs: Runs) -> None:
    rules = [
        {"node": "root.1.0.1.0", "stage": "execute", "attempts": [1], "error": "AUTH"},
        {"node": "root.1.1.1.0", "stage": "execute", "hang": True},
    ]
    project_id = (await runs.script(depth=2, breadth=2, rules=rules)).project_id
    async with runs.follow(project_id) as follower:
        await follower.until(
            lambda history: history.count("FAILED") == 1 and history.count("DONE") == 3
        )
        retry = RetryNodeRequest(project_id=project_id, node_id="root.1.0.1.0", reason="again")
        refused = await refusal(runs.stub.RetryNode(retry))
        assert refused.reason == "COMMAND_REFUSED"
        assert "ReplanNode root.1.0" in refused.message
        replan = ReplanNodeRequest(project_id=project_id, node_id="root.1.0", reason="again")
        assert (await runs.stub.ReplanNode(replan)).receipt.state == APPLIED
        await follower.until(
            lambda history: history.nodes["root.1.0"].plan_count == 2 and history.count("DONE") == 4
        )
        assert list(follower.history.nodes["root.1.0"].planned_sub_task_ids) == [
            "root.1.0.2.0",
            "root.1.0.1.1",
        ]
        await runs.stub.CancelNode(CancelNodeRequest(project_id=project_id, node_id="root.1.1.1.0"))
        assert await follower.ended() == "PARTIAL"
    project = await runs.wire.project(project_id)
    assert "root.1.1.1.0 CANCELLED" in project.error.message


async def test_the_root_of_an_ended_run_reopens_it(runs: Runs) -> None:
    rule = {"node": "root", "stage": "aggregate", "attempts": [1], "error": "AUTH"}
    project_id = (await runs.script(rules=[rule])).project_id
    async with runs.follow(project_id) as follower:
        assert await follower.ended() == "FAILED"
        before = len(follower.history.dispatches)
        request = RetryNodeRequest(project_id=project_id, node_id="root.1.0")
        refused = await refusal(runs.stub.RetryNode(request))
        assert "ReplanNode root" in refused.message
        request = RetryNodeRequest(project_id=project_id, node_id="root", request_id="again")
        receipt = (await runs.stub.RetryNode(request)).receipt
        assert receipt.state == APPLIED
        assert (await runs.stub.RetryNode(request)).receipt == receipt
        await follower.until(lambda history: history.state == "COMPLETED")
        stages = [dispatch.stage for dispatch in follower.history.dispatches[before:]]
        assert stages == ["aggregate"], "nothing else has failed"
    project = await runs.wire.project(project_id)
    assert not project.HasField("error")
    refused = await refusal(
        runs.stub.RetryNode(RetryNodeRequest(project_id=project_id, node_id="root"))
    )
    assert "ReplanNode root" in refused.message


async def test_orders_about_a_run_whose_profile_nobody_has_are_carried_out(runs: Runs) -> None:
    """Also one that came to the store by another way than an orchestrator."""
    project_id = "foreign"
    await runs.wire.create_project(project_id, profile="gone", goal="a goal")
    async with runs.follow(project_id) as follower:
        receipt = (await runs.stub.PauseProject(PauseProjectRequest(project_id=project_id))).receipt
        assert (receipt.state, receipt.answer) == (APPLIED, "nothing runs")
        await follower.until(lambda history: history.state == "PAUSED")
        resume = ResumeProjectRequest(project_id=project_id)
        assert (await runs.stub.ResumeProject(resume)).receipt.state == APPLIED
        await follower.until(lambda history: history.state == "RUNNING")

        async def explained() -> bool:
            request = ExplainProjectRequest(project_id=project_id)
            found = (await runs.stub.ExplainProject(request)).explanation
            causes = {blocker.kind for blocker in found.blockers if blocker.root_cause}
            return causes == {BlockerKind.BLOCKER_KIND_AGENT} and (
                "has no profile 'gone'" in found.summary and "`profiles`" in found.summary
            )

        await eventually(explained, "it says what is missing, whoever held it for a moment")
        await runs.wire.commit(project_id, order_cancel("by-hand"))
        assert await follower.ended() == "CANCELLED"
    assert not follower.history.dispatches
