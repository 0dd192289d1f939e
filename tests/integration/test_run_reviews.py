"""Reviews of the real services: answered through any client, once, and through `ramify review`."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from ramify.v1.explain_pb2 import BlockerKind, ExplainNodeRequest, ExplainProjectRequest
from ramify.v1.node_pb2 import TaskType
from ramify.v1.orchestrator_service_pb2 import ResumeProjectRequest
from ramify.v1.project_pb2 import ProjectState
from ramify.v1.review_pb2 import ProposedPlan, ProposedTask, ReviewCheckpoint
from ramify.v1.state_service_pb2 import ForkProjectRequest, GetReviewRequest
from tests.support.reviews import (
    ABORT,
    APPROVE,
    ASKING,
    MODIFY,
    REJECT,
    asked,
    open_reviews,
    resolve,
)
from tests.support.runs import Runs
from tests.support.wire import eventually, refusal


async def test_a_plan_is_shown_changed_approved_and_only_then_carried_out(runs: Runs) -> None:
    project = await runs.script(ASKING)
    project_id = project.project_id
    (first,) = await asked(runs, project_id)
    assert first.checkpoint == ReviewCheckpoint.REVIEW_CHECKPOINT_PLAN_GENERATION
    assert len(first.plan.tasks) == 3
    nodes = await runs.wire.nodes(project_id)
    assert [node.node_id for node in nodes] == ["root"]
    assert nodes[0].waiting_on == f"review:{first.review_id}"
    assert (await runs.wire.project(project_id)).open_review_count == 1

    await resolve(runs, project_id, first.review_id, MODIFY, instructions="drop 2; add Prove it")
    (second,) = await asked(runs, project_id)
    assert (second.attempt, second.agent_name) == (2, "scripted")
    assert [task.goal[-6:] for task in second.plan.tasks] == ["part 1", "part 3", "ove it"]

    answer = await resolve(runs, project_id, second.review_id, APPROVE, etag=second.version)
    assert answer.review.actor == "ada"
    history = await runs.finish(project_id)
    assert history.state == "COMPLETED"
    assert len(history.nodes) == 4
    assert history.nodes["root"].usage.agent_calls == 3, "plan, modify, aggregate"


async def test_a_review_is_decided_once(runs: Runs) -> None:
    project_id = (await runs.script(ASKING)).project_id
    (review,) = await asked(runs, project_id)
    stale = resolve(runs, project_id, review.review_id, APPROVE, etag=review.version + 1)
    refused = await refusal(stale)
    assert (refused.code, refused.reason) == (grpc.StatusCode.ABORTED, "VERSION_CONFLICT")

    answers = await asyncio.gather(
        *(
            resolve(runs, project_id, review.review_id, REJECT, request_id="only-once")
            for _ in range(4)
        )
    )
    assert len({answer.revision for answer in answers}) == 1
    refused = await refusal(resolve(runs, project_id, review.review_id, APPROVE))
    expected = (grpc.StatusCode.FAILED_PRECONDITION, "REVIEW_CLOSED")
    assert (refused.code, refused.reason) == expected
    assert "REJECT by ada" in refused.message
    again = await resolve(runs, project_id, review.review_id, REJECT, request_id="only-once")
    assert again.revision == answers[0].revision
    history = await runs.finish(project_id)
    assert history.state == "FAILED"
    assert history.nodes["root"].error.message == "rejected by ada"


async def test_aborting_in_a_review_cancels_the_run(runs: Runs) -> None:
    project_id = (await runs.script(ASKING)).project_id
    (review,) = await asked(runs, project_id)
    await resolve(runs, project_id, review.review_id, ABORT)
    assert (await runs.finish(project_id)).state == "CANCELLED"


@pytest.mark.parametrize(
    "fields, field",
    [
        ({"decision": 0}, "decision"),
        ({"decision": 99}, "decision"),
        ({"decision": MODIFY}, "instructions"),
        ({"decision": APPROVE, "instructions": "faster"}, "instructions"),
        ({"decision": APPROVE, "comment": "x" * 5_000}, "comment"),
        ({"decision": REJECT, "modified_plan": ProposedPlan()}, "modified_plan"),
        ({"decision": APPROVE, "modified_plan": ProposedPlan()}, "modified_plan"),
        (
            {
                "decision": APPROVE,
                "modified_plan": ProposedPlan(
                    tasks=[
                        ProposedTask(
                            goal="itself", task_type=TaskType.TASK_TYPE_WRITE, depends_on=[0]
                        )
                    ]
                ),
            },
            "modified_plan",
        ),
    ],
)
async def test_a_bad_decision_names_its_field_and_decides_nothing(
    runs: Runs, fields: dict[str, Any], field: str
) -> None:
    project_id = (await runs.script(ASKING)).project_id
    (review,) = await asked(runs, project_id)
    refused = await refusal(resolve(runs, project_id, review.review_id, **fields))
    assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.metadata["field"] == field
    request = GetReviewRequest(project_id=project_id, review_id=review.review_id)
    assert (await runs.wire.stub.GetReview(request)).review == review
    await resolve(runs, project_id, review.review_id, ABORT)


async def test_an_unknown_review_is_not_found(runs: Runs) -> None:
    project_id = (await runs.script()).project_id
    refused = await refusal(resolve(runs, project_id, "root.r9", APPROVE))
    assert refused.reason == "REVIEW_NOT_FOUND"


async def test_reviews_in_nested_plans_are_answered_each_alone(runs: Runs) -> None:
    keys = {**ASKING, "hitl_root_plan_only": False}
    project = await runs.script(keys, depth=2, breadth=2)
    project_id = project.project_id
    (root,) = await asked(runs, project_id)
    await resolve(runs, project_id, root.review_id, APPROVE)
    left, right = await asked(runs, project_id, 2)
    await resolve(runs, project_id, right.review_id, REJECT)
    assert [review.review_id for review in await open_reviews(runs, project_id)] == [left.review_id]
    await resolve(runs, project_id, left.review_id, APPROVE)
    history = await runs.finish(project_id)
    assert history.state == "PARTIAL"
    assert history.nodes[right.node_id].error.message == "rejected by ada"
    assert history.nodes[left.node_id].usage.agent_calls == 2, "plan, aggregate"


async def test_a_run_that_waits_says_so(runs: Runs) -> None:
    project_id = (await runs.script(ASKING)).project_id
    await asked(runs, project_id)

    async def waits() -> bool:
        state = (await runs.wire.project(project_id)).state
        return state == ProjectState.PROJECT_STATE_WAITING

    await eventually(waits, "the project is WAITING")
    await runs.cancel(project_id)
    assert (await runs.finish(project_id)).state == "CANCELLED"
    assert not await open_reviews(runs, project_id)


async def test_a_review_of_a_fork_has_what_was_left_of_its_time(runs: Runs) -> None:
    """SEM 20, 32: its time goes on when the fork is resumed, and did not before."""
    keys = {**ASKING, "hitl_expiry_policy": "REVIEW_EXPIRY_POLICY_REJECT"}
    project_id = (await runs.script(keys)).project_id
    (review,) = await asked(runs, project_id)
    fork = (await runs.wire.stub.ForkProject(ForkProjectRequest(project_id=project_id))).project
    assert fork.HasField("pause_time")
    (copy,) = await asked(runs, fork.project_id)
    assert copy.expire_time == review.expire_time
    await runs.stub.ResumeProject(ResumeProjectRequest(project_id=fork.project_id))

    async def moved() -> bool:
        (copy,) = await open_reviews(runs, fork.project_id)
        return copy.expire_time.ToNanoseconds() > review.expire_time.ToNanoseconds()

    await eventually(moved, "the time of the pause to be added")
    (copy,) = await open_reviews(runs, fork.project_id)
    paused = copy.expire_time.ToMicroseconds() - review.expire_time.ToMicroseconds()
    resumed = (await runs.wire.project(fork.project_id)).update_time.ToMicroseconds()
    assert 0 < paused <= resumed - fork.pause_time.ToMicroseconds()


async def test_a_large_result_is_reviewed_and_kept(runs: Runs) -> None:
    """Its body lies in the payload store; the review, the node and the fork name it."""
    keys: dict[str, Any] = {
        **ASKING,
        "hitl_after_plan_generation": False,
        "hitl_aggregation_review": True,
    }
    keys |= {"max_execution_steps": 0, "max_concurrent_nodes": 200}
    project_id = (await runs.script(keys, breadth=1_500)).project_id
    (review,) = await asked(runs, project_id)
    assert review.result.WhichOneof("body") == "ref"
    await resolve(runs, project_id, review.review_id, APPROVE)
    history = await runs.finish(project_id)
    assert history.state == "COMPLETED"
    assert history.nodes["root"].result.ref.digest == review.result.ref.digest


async def test_a_failed_task_is_tried_again_as_a_human_says(runs: Runs) -> None:
    keys = {"on_exhausted": "EXHAUSTED_POLICY_ASK", "max_retries": 0}
    rules = [{"node": "root.1.0", "attempts": [1, 2], "error": "EXECUTION"}]
    project_id = (await runs.script(keys, rules=rules)).project_id
    (first,) = await asked(runs, project_id)
    assert first.message.startswith("EXECUTION: scripted failure\nshall this be tried again")
    await resolve(runs, project_id, first.review_id, APPROVE)
    (second,) = await asked(runs, project_id)
    assert second.attempt == 2
    explained = await runs.stub.ExplainNode(
        ExplainNodeRequest(project_id=project_id, node_id="root.1.0")
    )
    asking = BlockerKind.BLOCKER_KIND_REVIEW
    (blocker,) = [b for b in explained.explanation.blockers if b.kind == asking]
    assert second.review_id in blocker.message
    await resolve(runs, project_id, second.review_id, REJECT)
    history = await runs.finish(project_id)
    assert history.state == "PARTIAL"
    assert history.nodes["root.1.0"].error.message == "scripted failure"


async def test_a_used_up_budget_is_raised_or_not_but_never_modified(runs: Runs) -> None:
    keys = {"budget_policy": "BUDGET_POLICY_ASK", "budget_tokens": 15}
    project_id = (await runs.script(keys, input_tokens=10, chain=True)).project_id
    (first,) = await asked(runs, project_id)
    assert first.node_id == "root"
    assert first.message.startswith("budget of 15 tokens for root is used up: 20")
    modified = resolve(runs, project_id, first.review_id, MODIFY, instructions="less")
    refused = await refusal(modified)
    assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "approve, reject or abort" in refused.message
    explained = await runs.stub.ExplainProject(ExplainProjectRequest(project_id=project_id))
    blockers = explained.explanation.blockers
    (blocker,) = [b for b in blockers if b.kind == BlockerKind.BLOCKER_KIND_BUDGET]
    assert first.review_id in blocker.message
    await resolve(runs, project_id, first.review_id, APPROVE)
    (second,) = await asked(runs, project_id)
    assert second.message.startswith("budget of 35 tokens for root is used up: 40")
    await resolve(runs, project_id, second.review_id, REJECT)
    history = await runs.finish(project_id)
    assert history.state == "FAILED", "its aggregation has no budget"
    assert history.nodes["root"].error.message == "budget of 35 tokens for root is used up: 40"
