"""Real services, and agents whose answers the store does not take as they are (S4.4, S4.9)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from ramify.v1.node_pb2 import ErrorClass
from ramify.v1.orchestrator_service_pb2 import ResolveReviewRequest
from ramify.v1.review_pb2 import Review, ReviewDecision, ReviewState
from ramify.v1.state_service_pb2 import ListReviewsRequest
from tests.support import state_process
from tests.support.careless import DENSE_LAYER, DENSE_TASKS, PROFILE, write_profile
from tests.support.orchestrator_process import OrchestratorProcess
from tests.support.runs import Runs, connect_both
from tests.support.state_process import StateProcess
from tests.support.wire import eventually

#: Enough of everything for a plan at a deep layer.
DENSE = {"max_recursion_depth": 9, "max_execution_steps": 0, "max_concurrent_nodes": 100}


@pytest.fixture(scope="module")
def careless(
    shared_state: StateProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OrchestratorProcess]:
    """An orchestrator whose profile `careless` has such agents."""
    folder = tmp_path_factory.mktemp("careless")
    flags = ("--profiles", str(write_profile(folder / "profiles")))
    process = OrchestratorProcess(folder / "data", shared_state.address, *flags, witnessed=False)
    process.start()
    yield process
    assert process.stop() == 0
    state_process.logs.pop(process.log, None)


@pytest.fixture
async def both(shared_state: StateProcess, careless: OrchestratorProcess) -> AsyncIterator[Runs]:
    """Both services; every test ends with the process that it began with."""
    pid = careless.pid
    async with connect_both(shared_state.address, careless.address) as runs:
        yield runs
    assert careless.running
    assert careless.pid == pid


@pytest.mark.parametrize(
    "word, reason",
    [
        ("deep", "task 0: the details are nested more than 16 levels deep"),
        ("long", "task 0: the details have 17621 bytes, at most 10000 are allowed"),
        (
            "huge",
            "task 0: the details have a number that cannot be stored exactly: "
            "a whole number of more than 308 digits",
        ),
    ],
)
async def test_a_plan_that_cannot_be_stored_is_rejected_to_its_planner_and_harms_no_other_run(
    both: Runs, word: str, reason: str
) -> None:
    other = await both.script(depth=1, breadth=2, delay_ms=500)
    project = await both.start(
        f"{word} task", profile=PROFILE, settings={"retry_delay_seconds": 0.0}
    )
    history = await both.finish(project.project_id)
    assert history.state == "FAILED"
    root = history.nodes["root"]
    assert root.error.error_class == ErrorClass.ERROR_CLASS_INVALID_OUTPUT
    assert root.error.message == f"invalid plan: {reason}"
    assert root.replan_count == 2, "the planner was told why, twice"
    assert root.usage.agent_calls == 3, "and none of its calls was lost"
    assert (await both.finish(other.project_id)).state == "COMPLETED"


async def test_a_plan_whose_dependencies_alone_are_more_than_a_batch_is_staged(both: Runs) -> None:
    project = await both.start("dense task", profile=PROFILE, settings=DENSE)
    history = await both.finish(project.project_id, seconds=180)
    assert history.state == "COMPLETED"
    assert len(history.nodes) == 1 + DENSE_LAYER + DENSE_TASKS


async def test_an_approved_plan_that_is_more_than_a_batch_is_staged(both: Runs) -> None:
    settings = {**DENSE, "enable_hitl": True, "hitl_root_plan_only": False}
    project = await both.start("dense task", profile=PROFILE, settings=settings)
    async with both.follow(project.project_id) as follower:
        for number in range(DENSE_LAYER + 1):
            review = await opened(both, project.project_id, number)
            await both.stub.ResolveReview(
                ResolveReviewRequest(
                    project_id=project.project_id,
                    review_id=review.review_id,
                    decision=ReviewDecision.REVIEW_DECISION_APPROVE,
                )
            )
        assert await follower.ended(180) == "COMPLETED"


async def opened(runs: Runs, project_id: str, number: int) -> Review:
    """Return the n-th review of a project, once it is open."""
    found: list[Review] = []

    async def there() -> bool:
        answer = await runs.wire.stub.ListReviews(ListReviewsRequest(project_id=project_id))
        found[:] = [item.review for item in answer.reviews]
        return len(found) > number

    await eventually(there, "a review is open")
    return next(r for r in found if r.state == ReviewState.REVIEW_STATE_OPEN)


@pytest.mark.parametrize("word", ["fraction", "clock", "error", "surrogate", "many", "note"])
async def test_what_an_agent_says_beside_its_answer_is_made_storable_and_its_work_counts_once(
    both: Runs, word: str
) -> None:
    project = await both.start(f"{word} task", profile=PROFILE)
    history = await both.finish(project.project_id)
    assert history.state == "COMPLETED"
    assert history.nodes["root.1.0"].attempt == 1
    assert history.nodes["root.1.0"].usage.agent_calls == 1


async def test_a_planner_with_a_thousand_uses_of_tools_is_recorded_in_one_batch_with_its_plan(
    both: Runs,
) -> None:
    project = await both.start("tools task", profile=PROFILE)
    assert (await both.finish(project.project_id)).state == "COMPLETED"


@pytest.mark.parametrize(
    "word, error_class, text",
    [
        ("negative", "INVALID_OUTPUT", "spend: input_tokens is -5, a number from 0 to"),
        ("endless", "INVALID_OUTPUT", "spend: input_tokens is a int, a number from 0 to"),
        ("cause", "AUTH", "no key"),
        ("class", "EXECUTION", "SOMETHING: no key"),
    ],
)
async def test_a_node_whose_agent_says_what_cannot_be_kept_fails_with_the_reason(
    both: Runs, word: str, error_class: str, text: str
) -> None:
    settings = {"max_retries": 1, "retry_delay_seconds": 0.0}
    project = await both.start(f"{word} task", profile=PROFILE, settings=settings)
    history = await both.finish(project.project_id)
    assert history.state == "FAILED"
    node = history.nodes["root.1.0"]
    assert node.error.error_class == ErrorClass.Value(f"ERROR_CLASS_{error_class}")
    assert node.error.message.startswith(text)
    assert node.attempt == (1 if word == "cause" else 2)


@pytest.mark.parametrize(
    "word, reason",
    [
        ("unknown", "a change cannot be encoded: KeyError: 'NOPE' (node_id=root)"),
        ("numb", "TypeError: object of type 'int' has no len()"),
    ],
)
async def test_an_answer_that_no_check_foresaw_is_an_invalid_output_of_its_node(
    both: Runs, word: str, reason: str
) -> None:
    settings = {"retry_delay_seconds": 0.0}
    project = await both.start(f"{word} task", profile=PROFILE, settings=settings)
    history = await both.finish(project.project_id)
    assert history.state == "FAILED"
    root = history.nodes["root"]
    assert root.error.error_class == ErrorClass.ERROR_CLASS_INVALID_OUTPUT
    assert root.error.message == f"refused 3 times: {reason}"
    assert root.usage.agent_calls == 3
    assert root.replan_count == 2


async def test_one_careless_agent_costs_its_siblings_no_attempt(both: Runs) -> None:
    project = await both.start("mixed task", profile=PROFILE)
    history = await both.finish(project.project_id)
    assert history.state == "COMPLETED"
    assert {node.attempt for node in history.nodes.values()} == {1}
