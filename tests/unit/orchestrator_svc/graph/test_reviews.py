"""Humans are asked where the switches say, and only what they approve is carried out (SEM 27)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator_svc.engine.context import agent_input, outcome_of
from orchestrator_svc.graph.budget import Budget
from orchestrator_svc.graph.checkpoint import instructions_of
from orchestrator_svc.graph.event import Decided, Planned, ReviewClosed
from orchestrator_svc.graph.node import Result
from orchestrator_svc.graph.plan import MAX_GOAL_CHARS, DraftTask
from orchestrator_svc.graph.review import (
    MAX_ESCALATIONS,
    Answer,
    Checkpoint,
    Review,
    ReviewDecision,
    ReviewState,
)
from orchestrator_svc.graph.settings import ExpiryPolicy, Settings
from orchestrator_svc.graph.types import (
    CommandType,
    ErrorClass,
    NodeState,
    NodeType,
    OnDependencyFailure,
    OnExhausted,
    ProjectState,
    Stage,
    TaskType,
)
from tests.unit.orchestrator_svc.driven import DEFAULTS, Driven, done, draft, failed, plan_of

S = NodeState
APPROVE = ReviewDecision.APPROVE
MODIFY = ReviewDecision.REQUEST_MODIFICATION
REJECT = ReviewDecision.REJECT
ABORT = ReviewDecision.ABORT
ON = replace(DEFAULTS, enable_hitl=True)
QUIET = replace(ON, hitl_after_plan_generation=False)
PLAN = plan_of(draft("one"), draft("two", 0))


def asked(settings: Settings = ON) -> Driven:
    """Return a run whose root's plan waits for a human."""
    driven = Driven(settings=settings)
    driven.answer("root", PLAN)
    return driven


def only(driven: Driven) -> Review:
    """Return the one open review."""
    (review,) = driven.ledger.open_reviews()
    return review


def decide_all(driven: Driven) -> None:
    """Approve whatever is open until nothing is."""
    while reviews := driven.ledger.open_reviews():
        driven.decide(reviews[0].review_id, APPROVE)


def state(driven: Driven) -> ProjectState:
    """Return the durable state of the project."""
    return driven.ledger.state


def stage(driven: Driven) -> Stage:
    """Return what the root's open call is about."""
    return driven.calls["root"].stage


def run_to_end(driven: Driven) -> None:
    """Answer every call with success and approve everything."""
    while driven.calls or driven.ledger.open_reviews():
        decide_all(driven)
        for node_id in list(driven.calls):
            driven.answer(node_id, done())


# Switches


@pytest.mark.execution_key("enable_hitl")
@pytest.mark.parametrize("on", [True, False])
def test_nobody_is_asked_unless_it_is_switched_on(on: bool) -> None:
    driven = asked(replace(ON, enable_hitl=on))
    assert bool(driven.ledger.open_reviews()) == on
    assert (driven.state("root") is S.PLAN_DONE) != on


@pytest.mark.execution_key("hitl_after_plan_generation")
@pytest.mark.parametrize("on", [True, False])
def test_plans_are_reviewed_if_asked_for(on: bool) -> None:
    driven = asked(replace(ON, hitl_after_plan_generation=on))
    assert [r.checkpoint for r in driven.ledger.open_reviews()] == (
        [Checkpoint.PLAN_GENERATION] if on else []
    )


@pytest.mark.execution_key("hitl_root_plan_only")
@pytest.mark.parametrize("root_only", [True, False])
def test_plans_below_the_root_are_reviewed_if_asked_for(root_only: bool) -> None:
    driven = Driven(settings=replace(ON, hitl_root_plan_only=root_only))
    driven.answer("root", plan_of(draft(node_type=NodeType.PLAN), draft(node_type=NodeType.PLAN)))
    decide_all(driven)
    driven.answer_all(["root.1.0", "root.1.1"], plan_of(draft()))
    assert len(driven.ledger.open_reviews()) == (0 if root_only else 2)


@pytest.mark.execution_key("hitl_after_modified_plan")
@pytest.mark.parametrize("again", [True, False])
def test_a_changed_plan_is_reviewed_again_if_asked_for(again: bool) -> None:
    driven = asked(replace(ON, hitl_after_modified_plan=again))
    driven.decide("root.r1", MODIFY, "one task only")
    driven.answer("root", plan_of(draft("only")))
    assert (driven.state("root") is S.PLAN_DONE) != again
    assert bool(driven.ledger.open_reviews()) == again


@pytest.mark.execution_key("hitl_after_atomizer")
@pytest.mark.parametrize("on", [True, False])
def test_verdicts_are_reviewed_if_asked_for(on: bool) -> None:
    driven = Driven(settings=replace(QUIET, hitl_after_atomizer=on, force_root_node_planning=False))
    driven.answer("root", Decided(NodeType.EXECUTE))
    assert bool(driven.ledger.open_reviews()) == on
    decide_all(driven)
    assert stage(driven) is Stage.EXECUTE


@pytest.mark.execution_key("hitl_before_execute")
@pytest.mark.parametrize("on", [True, False])
def test_executions_are_reviewed_if_asked_for(on: bool) -> None:
    driven = asked(replace(QUIET, hitl_before_execute=on))
    assert bool(driven.ledger.open_reviews()) == on
    assert driven.state("root.1.0") is (S.READY if on else S.RUNNING)
    decide_all(driven)
    assert driven.calls["root.1.0"].stage is Stage.EXECUTE


@pytest.mark.execution_key("hitl_aggregation_review")
@pytest.mark.parametrize("on", [True, False])
def test_results_of_aggregations_are_reviewed_if_asked_for(on: bool) -> None:
    driven = asked(replace(QUIET, hitl_aggregation_review=on))
    for node_id in ("root.1.0", "root.1.1", "root"):
        driven.answer(node_id, done("the report"))
    assert driven.state("root") is (S.AGGREGATING if on else S.DONE)
    decide_all(driven)
    assert driven.node("root").result == Result(text="the report")
    assert state(driven) is ProjectState.COMPLETED
    assert driven.moves_of("root").count(S.AGGREGATING) == 1


@pytest.mark.execution_key("hitl_timeout_seconds")
@pytest.mark.parametrize("seconds, expires", [(60.0, 1_060.0), (0.0, None)])
def test_a_review_knows_when_its_policy_acts(seconds: float, expires: float | None) -> None:
    driven = asked(replace(ON, hitl_timeout_seconds=seconds))
    assert only(driven).expire_time == expires
    assert driven.run.next_due() == expires


# A plan


def test_a_plan_waits_in_its_review_and_nothing_of_it_exists() -> None:
    driven = asked()
    review = only(driven)
    assert list(driven.ledger.nodes) == ["root"]
    assert (review.review_id, review.attempt, review.agent_name) == ("root.r1", 1, "plan-WRITE")
    assert review.proposal == PLAN.tasks
    assert driven.node("root").waiting_on == "review:root.r1"
    assert (driven.state("root"), driven.run.busy) == (S.RUNNING, 0)
    assert state(driven) is ProjectState.WAITING


def test_an_approved_plan_is_carried_out_in_one_revision() -> None:
    driven = asked()
    before = driven.ledger.revision
    driven.decide("root.r1", APPROVE)
    assert driven.ledger.revision == before + 2, "the decision, and everything that follows"
    assert driven.state("root") is S.PLAN_DONE
    assert state(driven) is ProjectState.RUNNING
    assert driven.node("root").waiting_on == ""
    run_to_end(driven)
    assert state(driven) is ProjectState.COMPLETED


def test_a_human_may_approve_a_plan_of_their_own() -> None:
    driven = asked()
    driven.decide("root.r1", APPROVE, modified_plan=(draft("mine"),))
    assert [node.goal for node in driven.ledger.nodes.values()] == ["a goal", "mine"]


def test_a_plan_that_cannot_be_carried_out_is_asked_about_again() -> None:
    driven = asked()
    driven.decide("root.r1", APPROVE, modified_plan=(draft("mine", 0),))
    review = only(driven)
    assert (review.review_id, review.attempt) == ("root.r2", 2)
    assert "depends on itself" in review.message
    assert review.proposal == PLAN.tasks
    assert list(driven.ledger.nodes) == ["root"]


def test_a_rejected_node_fails_and_is_not_tried_again() -> None:
    driven = asked()
    driven.decide("root.r1", REJECT)
    error = driven.node("root").error
    assert error is not None
    assert (error.error_class, error.message) == (ErrorClass.REJECTED, "rejected by ada")
    assert state(driven) is ProjectState.FAILED
    assert driven.node("root").retry_count == 0


def test_aborting_cancels_the_whole_run() -> None:
    driven = Driven(settings=replace(ON, hitl_root_plan_only=False))
    driven.answer("root", plan_of(draft(node_type=NodeType.PLAN), draft()))
    driven.decide("root.r1", APPROVE)
    driven.answer("root.1.0", PLAN)
    driven.decide("root.1.0.r1", ABORT)
    assert state(driven) is ProjectState.CANCELLING
    assert driven.cancelled == ["root.1.1"]
    driven.answer("root.1.1", failed(ErrorClass.CANCELLED))
    assert state(driven) is ProjectState.CANCELLED


# Modification


def test_instructions_go_to_the_modifier_with_the_plan() -> None:
    driven = asked()
    driven.decide("root.r1", MODIFY, "drop the second")
    call = driven.calls["root"]
    assert (call.stage, call.agent_name, call.attempt) == (Stage.MODIFY, "modify-WRITE", 1)
    root = driven.run.nodes["root"]
    assert instructions_of(driven.run, root, Stage.MODIFY) == "drop the second"
    assert instructions_of(driven.run, root, Stage.PLAN) == ""
    assert driven.node("root").waiting_on == ""
    assert state(driven) is ProjectState.RUNNING


def test_the_modifier_gets_every_word_of_the_plan() -> None:
    task = DraftTask(
        goal="one goal",
        task_type=TaskType.CUSTOM,
        node_type=NodeType.EXECUTE,
        depends_on=(),
        details={"task": "x"},
        budget=Budget(tokens=5),
        on_exhausted=OnExhausted.PAUSE,
        on_dependency_failure=OnDependencyFailure.RUN,
        max_retries=0,
    )
    driven = Driven(settings=ON)
    driven.answer("root", Planned((task,)))
    driven.decide("root.r1", MODIFY, "as it is")
    seen = agent_input(driven.run, driven.calls["root"], project_id="p", options={}).proposal
    assert seen is not None
    answer = outcome_of(seen)
    assert isinstance(answer, Planned)
    assert answer.tasks == (task,)


def test_each_modification_is_another_review_with_the_next_attempt() -> None:
    driven = asked()
    for attempt in (2, 3, 4):
        driven.decide(only(driven).review_id, MODIFY, "again")
        driven.answer("root", plan_of(draft(f"try {attempt}")))
        review = only(driven)
        assert (review.attempt, review.checkpoint) == (attempt, Checkpoint.PLAN_MODIFICATION)
    driven.decide(only(driven).review_id, APPROVE)
    assert driven.node("root.1.0").goal == "try 4"
    assert driven.node("root").attempt == 1


@pytest.mark.parametrize(
    "outcome, reason",
    [
        (failed(), "it broke"),
        (plan_of(draft("x" * (MAX_GOAL_CHARS + 1))), "characters"),
        (plan_of(draft("self", 0)), "depends on itself"),
    ],
)
def test_a_modification_that_fails_is_told_and_approves_nothing(
    outcome: object, reason: str
) -> None:
    driven = asked(replace(ON, hitl_expiry_policy=ExpiryPolicy.APPROVE))
    driven.decide("root.r1", MODIFY, "otherwise")
    driven.answer("root", outcome)  # type: ignore[arg-type]
    review = only(driven)
    assert reason in review.message
    assert review.proposal == PLAN.tasks
    assert review.expiry_policy is ExpiryPolicy.PARK, "silence is no approval of a refused plan"
    assert driven.node("root").retry_count == 0


def test_a_verdict_is_given_again_with_the_instructions() -> None:
    settings = replace(QUIET, hitl_after_atomizer=True, force_root_node_planning=False)
    driven = Driven(settings=settings)
    driven.answer("root", Decided(NodeType.EXECUTE))
    driven.decide("root.r1", MODIFY, "split it")
    assert stage(driven) is Stage.ATOMIZE
    assert instructions_of(driven.run, driven.run.nodes["root"], Stage.ATOMIZE) == "split it"
    driven.answer("root", Decided(NodeType.PLAN))
    assert (only(driven).attempt, only(driven).proposal) == (2, NodeType.PLAN)
    driven.decide("root.r2", APPROVE)
    assert stage(driven) is Stage.PLAN


def test_an_aggregation_is_made_again_as_a_new_attempt() -> None:
    driven = asked(replace(QUIET, hitl_aggregation_review=True))
    for node_id in ("root.1.0", "root.1.1", "root"):
        driven.answer(node_id, done())
    driven.decide("root.r1", MODIFY, "shorter")
    call = driven.calls["root"]
    assert (call.stage, call.attempt) == (Stage.AGGREGATE, 2)
    assert instructions_of(driven.run, driven.run.nodes["root"], Stage.AGGREGATE) == "shorter"


def test_instructions_before_an_execution_go_to_every_try_of_the_executor() -> None:
    driven = asked(replace(QUIET, hitl_before_execute=True, retry_delay_seconds=0.0))
    driven.decide("root.1.0.r1", MODIFY, "only the summary")
    for _ in range(2):
        node = driven.run.nodes["root.1.0"]
        assert instructions_of(driven.run, node, Stage.EXECUTE) == "only the summary"
        driven.answer("root.1.0", failed())
        driven.wait()
    assert driven.calls["root.1.0"].attempt == 3
    assert not driven.ledger.open_reviews(), "a retry asks nobody again"


# Expiry


@pytest.mark.execution_key("hitl_expiry_policy")
@pytest.mark.parametrize(
    "policy, then",
    [
        (ExpiryPolicy.PARK, ProjectState.WAITING),
        (ExpiryPolicy.ESCALATE, ProjectState.WAITING),
        (ExpiryPolicy.REJECT, ProjectState.FAILED),
        (ExpiryPolicy.APPROVE, ProjectState.RUNNING),
    ],
)
def test_the_policy_decides_when_nobody_does(policy: ExpiryPolicy, then: ProjectState) -> None:
    driven = asked(replace(ON, hitl_expiry_policy=policy))
    driven.wait()
    driven.tell()
    assert state(driven) is then
    assert driven.ledger.reviews["root.r1"].overdue == (then is ProjectState.WAITING)


def test_a_parked_review_is_marked_once_and_waits_for_ever() -> None:
    driven = asked()
    driven.wait()
    assert only(driven).overdue
    assert driven.run.next_due() is None
    driven.crash()
    assert driven.run.next_due() is None
    driven.decide("root.r1", APPROVE)
    assert driven.state("root") is S.PLAN_DONE


def test_escalations_are_counted_and_bounded() -> None:
    driven = asked(replace(ON, hitl_expiry_policy=ExpiryPolicy.ESCALATE))
    for count in range(1, MAX_ESCALATIONS + 1):
        driven.wait()
        assert only(driven).escalations == count
    assert driven.run.next_due() is None


@pytest.mark.parametrize("policy", [ExpiryPolicy.REJECT, ExpiryPolicy.APPROVE])
def test_a_human_who_decides_at_the_last_moment_has_decided(policy: ExpiryPolicy) -> None:
    """The decision is durable before the expiry, which has no effect then."""
    driven = asked(replace(ON, hitl_expiry_policy=policy))
    told = driven.ledger.resolve("root.r1", MODIFY, "wait, change it")
    driven.wait()
    assert driven.ledger.closed == [told]
    driven.event(told)
    assert stage(driven) is Stage.MODIFY


def test_reviews_do_not_expire_while_the_run_is_paused() -> None:
    driven = asked(replace(ON, hitl_expiry_policy=ExpiryPolicy.REJECT))
    driven.order(CommandType.PAUSE_PROJECT)
    assert driven.run.next_due() is None
    driven.now += 5_000.0
    driven.order(CommandType.RESUME_PROJECT)
    assert state(driven) is ProjectState.WAITING
    assert only(driven).expire_time == 1_000.0 + 1_200.0 + 5_000.0


@pytest.mark.parametrize("crash", [False, True])
def test_a_review_that_is_opened_during_a_pause_has_all_of_its_time(crash: bool) -> None:
    driven = Driven(settings=replace(ON, hitl_expiry_policy=ExpiryPolicy.REJECT))
    driven.order(CommandType.PAUSE_PROJECT)
    driven.now += 5_000.0
    driven.answer("root", plan_of(draft()))
    if crash:
        driven.crash()
    driven.now += 100.0
    driven.order(CommandType.RESUME_PROJECT)
    assert state(driven) is ProjectState.WAITING
    assert only(driven).expire_time == driven.now + 1_200.0


def test_a_human_may_decide_about_the_last_node_while_the_run_is_paused() -> None:
    driven = asked(replace(QUIET, hitl_aggregation_review=True))
    for node_id in ("root.1.0", "root.1.1", "root"):
        driven.answer(node_id, done("the report"))
    driven.order(CommandType.PAUSE_PROJECT)
    assert state(driven) is ProjectState.PAUSED
    driven.decide("root.r1", APPROVE)
    assert state(driven) is ProjectState.COMPLETED


# Crashes


@pytest.mark.parametrize("crashes", [1, 3])
def test_an_open_review_survives_crashes_and_costs_nothing(crashes: int) -> None:
    driven = asked()
    for _ in range(crashes):
        driven.crash()
    assert state(driven) is ProjectState.WAITING
    assert only(driven).review_id == "root.r1"
    root = driven.node("root")
    assert (root.attempt, root.crash_redispatches, root.agent_calls) == (1, 0, 1)
    assert not driven.calls
    driven.decide("root.r1", APPROVE)
    assert driven.state("root") is S.PLAN_DONE


@pytest.mark.parametrize("decision", [APPROVE, MODIFY, REJECT, ABORT])
def test_a_decision_taken_while_nobody_executed_the_run_is_found(decision: ReviewDecision) -> None:
    driven = asked()
    driven.ledger.resolve("root.r1", decision, "otherwise" if decision is MODIFY else "")
    driven.crash()
    expected = {
        APPROVE: (S.PLAN_DONE, ProjectState.RUNNING),
        MODIFY: (S.RUNNING, ProjectState.RUNNING),
        REJECT: (S.FAILED, ProjectState.FAILED),
        ABORT: (S.CANCELLED, ProjectState.CANCELLED),
    }
    assert (driven.state("root"), state(driven)) == expected[decision]


def test_a_modification_that_a_crash_cut_off_is_made_again() -> None:
    driven = asked()
    driven.decide("root.r1", MODIFY, "otherwise")
    driven.crash()
    call = driven.calls["root"]
    assert (call.stage, call.attempt) == (Stage.MODIFY, 2)
    assert instructions_of(driven.run, driven.run.nodes["root"], Stage.MODIFY) == "otherwise"
    driven.answer("root", plan_of(draft("new")))
    assert only(driven).review_id == "root.r2"


def test_an_approval_before_an_execution_outlives_a_crash() -> None:
    driven = asked(replace(QUIET, hitl_before_execute=True))
    decide_all(driven)
    driven.crash()
    assert driven.calls["root.1.0"].attempt == 2
    assert not [r for r in driven.ledger.open_reviews() if r.node_id == "root.1.0"]


def test_a_node_that_waits_for_nothing_known_begins_anew() -> None:
    driven = asked()
    del driven.ledger.reviews["root.r1"]
    driven.crash()
    assert stage(driven) is Stage.PLAN


# Several at once


def nested() -> Driven:
    """Return a run with reviews of two plans, one inside the other's sibling, at once."""
    driven = Driven(settings=replace(ON, hitl_root_plan_only=False))
    driven.answer("root", plan_of(*[draft(node_type=NodeType.PLAN)] * 3))
    driven.decide("root.r1", APPROVE)
    driven.answer("root.1.0", plan_of(draft(node_type=NodeType.PLAN)))
    driven.decide("root.1.0.r1", APPROVE)
    driven.answer("root.1.0.1.0", PLAN)
    driven.answer("root.1.1", PLAN)
    return driven


def test_reviews_in_nested_plans_are_answered_each_alone() -> None:
    driven = nested()
    assert {r.node_id for r in driven.ledger.open_reviews()} == {"root.1.0.1.0", "root.1.1"}
    assert state(driven) is ProjectState.RUNNING, "root.1.2 is still being planned"
    driven.decide("root.1.1.r1", APPROVE)
    assert driven.state("root.1.1") is S.PLAN_DONE
    assert driven.state("root.1.0.1.0") is S.RUNNING
    assert only(driven).node_id == "root.1.0.1.0"
    driven.decide("root.1.0.1.0.r1", REJECT)
    assert driven.state("root.1.0") is S.FAILED
    driven.answer("root.1.2", plan_of(draft()))
    run_to_end(driven)
    assert state(driven) is ProjectState.PARTIAL
    done_moves = [id_ for id_, state, _ in driven.ledger.moves if state is S.DONE]
    assert len(done_moves) == len(set(done_moves))


def test_the_run_waits_only_when_nothing_else_can_go_on() -> None:
    driven = nested()
    driven.answer("root.1.2", plan_of(draft()))
    assert len(driven.ledger.open_reviews()) == 3
    assert state(driven) is ProjectState.WAITING
    driven.decide("root.1.2.r1", APPROVE)
    assert state(driven) is ProjectState.RUNNING
    driven.answer("root.1.2.1.0", done())
    driven.answer("root.1.2", done())
    assert state(driven) is ProjectState.WAITING


def test_the_backoff_of_a_node_that_has_ended_does_not_hide_that_a_human_is_needed() -> None:
    driven = nested()
    driven.answer("root.1.2", failed())
    assert state(driven) is ProjectState.RUNNING, "root.1.2 is tried again"
    driven.order(CommandType.CANCEL_NODE, "root.1.2")
    assert state(driven) is ProjectState.WAITING


def test_a_cancelled_run_takes_its_questions_back() -> None:
    driven = nested()
    driven.cancel()
    states = {r.answer.state for r in driven.ledger.reviews.values() if r.answer}
    assert not driven.ledger.open_reviews()
    assert states == {ReviewState.RESOLVED, ReviewState.WITHDRAWN}


def test_an_answer_that_comes_after_the_node_has_ended_changes_nothing() -> None:
    driven = nested()
    late = ReviewClosed("root.1.1.r1", Answer(ReviewState.RESOLVED, APPROVE))
    driven.order(CommandType.CANCEL_NODE, "root.1.1")
    before = len(driven.ledger.nodes)
    driven.event(late)
    assert len(driven.ledger.nodes) == before
    assert driven.state("root.1.1") is S.CANCELLED


def test_an_answer_that_comes_twice_is_acted_on_once() -> None:
    driven = asked()
    told = driven.ledger.resolve("root.r1", APPROVE)
    driven.event(told, told)
    driven.event(told)
    assert len(driven.ledger.nodes) == 3


def test_a_withdrawn_question_is_asked_again_while_the_node_needs_it() -> None:
    driven = asked()
    review = driven.ledger.reviews["root.r1"]
    review.answer = Answer(ReviewState.WITHDRAWN)
    driven.event(ReviewClosed("root.r1", review.answer))
    assert only(driven).review_id == "root.r2"


def test_a_result_that_waits_for_a_human_is_not_lost_at_the_step_limit() -> None:
    settings = replace(QUIET, hitl_aggregation_review=True, hitl_root_plan_only=False)
    driven = Driven(settings=replace(settings, max_execution_steps=5))
    driven.answer("root", plan_of(draft(node_type=NodeType.PLAN), draft("after", 0)))
    driven.answer("root.1.0", plan_of(draft()))
    driven.answer("root.1.0.1.0", done())
    driven.answer("root.1.0", done("kept"))
    driven.decide("root.1.0.r1", APPROVE)
    assert driven.node("root.1.0").result == Result(text="kept")


def test_the_modifier_gets_every_field_of_the_proposed_plan() -> None:
    task = replace(
        draft("one"),
        details={"k": 1},
        budget=Budget(tokens=7),
        max_retries=9,
        on_exhausted=OnExhausted.ASK,
        on_dependency_failure=OnDependencyFailure.SKIP,
    )
    driven = Driven(settings=ON)
    driven.answer("root", plan_of(task))
    driven.decide("root.r1", MODIFY, "drop nothing")
    given = agent_input(driven.run, driven.calls["root"], project_id="p", options={})
    assert given.proposal is not None
    (shown,) = given.proposal.tasks
    for name in type(shown).model_fields:
        assert getattr(shown, name) == getattr(task, name), name
