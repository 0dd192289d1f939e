"""An open review outlives `kill -9` of both services, and answering it continues the run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import pytest

from ramify.v1.review_pb2 import ReviewCheckpoint, ReviewDecision
from tests.support.orchestrator_process import ORCHESTRATOR, STATE, Services
from tests.support.research import running
from tests.support.reviews import APPROVE, ASKING, MODIFY, asked, open_reviews, resolve

BOTH = (STATE, ORCHESTRATOR)


@pytest.mark.parametrize(
    "victims",
    [
        pytest.param(BOTH, id="both"),
        pytest.param((STATE,), id="state", marks=pytest.mark.slow),
        pytest.param((ORCHESTRATOR,), id="orchestrator", marks=pytest.mark.slow),
    ],
)
async def test_an_open_review_is_still_there_and_no_work_is_done_twice(
    make_services: Callable[..., Services], victims: Sequence[str]
) -> None:
    async with running(make_services()) as (services, runs):
        keys = {**ASKING, "hitl_root_plan_only": False}
        project_id = (await runs.script(keys, depth=2, breadth=2)).project_id
        async with runs.follow(project_id) as follower:
            (root,) = await asked(runs, project_id)
            await resolve(runs, project_id, root.review_id, APPROVE)
            before = await asked(runs, project_id, 2)
            await services.kill_and_restart(victims)
            await runs.ready()
            assert await open_reviews(runs, project_id) == before
            for review in before:
                await resolve(runs, project_id, review.review_id, APPROVE)
            assert await follower.ended() == "COMPLETED"
        history = follower.history
    history.check_accounts()
    assert {node.attempt for node in history.nodes.values()} == {1}, "nothing was begun again"
    assert not history.interruptions
    calls = Counter((call.node_id, call.stage) for call in services.orchestrator.calls())
    assert set(calls.values()) == {1}, "no agent was asked twice"
    for node in history.nodes.values():
        planned = bool(node.planned_sub_task_ids)
        assert node.usage.agent_calls == 1 + planned, "planned and aggregated, or executed, once"


@pytest.mark.slow
@pytest.mark.parametrize("decision", [APPROVE, MODIFY], ids=["approve", "modify"])
async def test_a_decision_is_carried_out_by_whoever_executes_the_run_next(
    make_services: Callable[..., Services], decision: ReviewDecision.ValueType
) -> None:
    """The orchestrator dies right after it has answered; the decision is durable by then."""
    async with running(make_services()) as (services, runs):
        project_id = (await runs.script(ASKING)).project_id
        (review,) = await asked(runs, project_id)
        instructions = "drop 3" if decision == MODIFY else ""
        await resolve(runs, project_id, review.review_id, decision, instructions=instructions)
        await services.kill_and_restart(BOTH)
        await runs.ready()
        if decision == MODIFY:
            (second,) = await asked(runs, project_id)
            assert len(second.plan.tasks) == 2
            await resolve(runs, project_id, second.review_id, APPROVE)
        history = await runs.finish(project_id)
    assert history.state == "COMPLETED"
    assert len(history.nodes) == (3 if decision == MODIFY else 4)


FAILS_ONCE = {"rules": [{"node": "root.1.0", "attempts": [1], "error": "EXECUTION"}]}
TRIES_AGAIN = {"on_exhausted": "EXHAUSTED_POLICY_ASK", "max_retries": 0}
SPENDS = {"input_tokens": 10}  #: each call
SAVES = {"budget_policy": "BUDGET_POLICY_ASK", "budget_tokens": 15}


@pytest.mark.parametrize(
    "keys, options, checkpoint",
    [
        pytest.param(TRIES_AGAIN, FAILS_ONCE, "EXHAUSTED", id="exhausted"),
        pytest.param(SAVES, SPENDS, "BUDGET", id="budget"),
    ],
)
async def test_what_a_policy_asks_waits_for_its_answer_through_the_death_of_both_services(
    make_services: Callable[..., Services],
    keys: dict[str, object],
    options: dict[str, object],
    checkpoint: str,
) -> None:
    async with running(make_services()) as (services, runs):
        project_id = (await runs.script(keys, **options)).project_id
        async with runs.follow(project_id) as follower:
            (review,) = await asked(runs, project_id)
            assert ReviewCheckpoint.Name(review.checkpoint) == f"REVIEW_CHECKPOINT_{checkpoint}"
            await follower.until(lambda history: history.state == "WAITING")
            await services.kill_and_restart(BOTH)
            await runs.ready()
            assert [r.review_id for r in await open_reviews(runs, project_id)] == [review.review_id]
            await resolve(runs, project_id, review.review_id, APPROVE)
            assert await follower.ended() == "COMPLETED"
    follower.history.check_accounts()
    calls = Counter((call.node_id, call.stage) for call in services.orchestrator.calls())
    twice = [("root.1.0", "execute")] if checkpoint == "EXHAUSTED" else []
    assert [call for call, count in calls.items() if count > 1] == twice
