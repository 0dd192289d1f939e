"""Policies that ask a human: `on_exhausted: ask` (S2.3) and `budget_policy: ask`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from orchestrator_svc.graph.budget import NO_ALLOWANCE, Allowance, Budget
from orchestrator_svc.graph.checkpoint import instructions_of
from orchestrator_svc.graph.doctor import examine
from orchestrator_svc.graph.event import CallEnded, Decided, Outcome, ReviewClosed
from orchestrator_svc.graph.mutation import NodeChanges, OpenReview, PatchNode
from orchestrator_svc.graph.plan import DraftTask
from orchestrator_svc.graph.review import Answer, Checkpoint, Review, ReviewDecision, ReviewState
from orchestrator_svc.graph.settings import BudgetPolicy, ExpiryPolicy, Settings
from orchestrator_svc.graph.types import (
    CommandState,
    CommandType,
    ErrorClass,
    NodeState,
    NodeType,
    OnExhausted,
    ProjectState,
    Stage,
    TaskType,
)
from orchestrator_svc.graph.usage import Usage
from orchestrator_svc.publish.convert import read_node, to_message
from orchestrator_svc.publish.review import read_review, review_message
from ramify.v1 import node_pb2, project_pb2, review_pb2
from tests.unit.orchestrator_svc.driven import (
    DEFAULTS,
    Driven,
    done,
    draft,
    failed,
    plan_of,
    planned,
)

S, P, E = NodeState, ProjectState, ErrorClass
APPROVE, REJECT = ReviewDecision.APPROVE, ReviewDecision.REJECT
MODIFY, ABORT = ReviewDecision.REQUEST_MODIFICATION, ReviewDecision.ABORT
ASKING = replace(DEFAULTS, max_retries=1, on_exhausted=OnExhausted.ASK)
SAVING = replace(DEFAULTS, budget_tokens=100, budget_policy=BudgetPolicy.ASK)


def only(driven: Driven) -> Review:
    """Return the one open review."""
    (review,) = driven.ledger.open_reviews()
    return review


def project(driven: Driven) -> ProjectState:
    return driven.ledger.state


def wear_out(driven: Driven, node_id: str = "root.1.0") -> None:
    """Use up the retries of a node that has one."""
    driven.answer(node_id, failed(E.CONNECTION))
    driven.wait()
    driven.answer(node_id, failed(E.CONNECTION))


def exhausted(settings: Settings = ASKING) -> Driven:
    """Return a run with one node that has failed for good beside one that runs."""
    driven = planned(draft(), draft(), settings=settings)
    wear_out(driven)
    return driven


# on_exhausted: ask


def test_a_node_whose_recoveries_are_used_up_waits_for_a_human_while_others_go_on() -> None:
    driven = exhausted()
    review = only(driven)
    assert (review.checkpoint, review.node_id) == (Checkpoint.EXHAUSTED, "root.1.0")
    assert review.message == "CONNECTION: it broke\nshall this be tried again: “part”?"
    node = driven.node("root.1.0")
    assert (node.state, node.waiting_on) == (S.RUNNING, review.waiting_on)
    assert node.error is not None
    assert project(driven) is P.RUNNING
    driven.answer("root.1.1", done())
    assert project(driven) is P.WAITING, "nothing goes on before a human answers"


@pytest.mark.parametrize("crash", [False, True])
@pytest.mark.parametrize("told", [False, True])
def test_an_approval_gives_another_attempt_with_fresh_counts(crash: bool, told: bool) -> None:
    driven = exhausted()
    if crash:
        driven.crash()
    event = driven.ledger.resolve(only(driven).review_id, APPROVE)
    if told:
        driven.event(event)
    else:
        driven.crash()  # decided while nobody executed the run
    node = driven.node("root.1.0")
    assert (node.state, node.attempt, node.retry_count) == (S.RUNNING, 3, 0)
    assert node.waiting_on == ""
    wear_out(driven)
    again = only(driven)
    assert (again.review_id, again.attempt) == ("root.1.0.r2", 2)
    driven.decide(again.review_id, APPROVE)
    driven.answer("root.1.0", done())
    assert driven.node("root.1.0").error is None


def test_a_rejection_fails_the_node_with_its_own_failure() -> None:
    driven = exhausted()
    driven.decide(only(driven).review_id, REJECT)
    node = driven.node("root.1.0")
    assert node.state is S.FAILED
    assert node.error is not None
    assert (node.error.error_class, node.error.message) == (E.CONNECTION, "it broke")
    driven.answer("root.1.1", done())
    driven.answer("root", done())
    assert project(driven) is P.PARTIAL


def test_an_abort_ends_the_run() -> None:
    driven = exhausted()
    driven.decide(only(driven).review_id, ABORT)
    driven.answer("root.1.1", failed(E.CANCELLED))
    assert project(driven) is P.CANCELLED


def test_instructions_go_to_the_agents_of_the_next_attempt() -> None:
    driven = exhausted()
    driven.decide(only(driven).review_id, MODIFY, "use the mirror")
    driven.crash()
    node = driven.run.nodes["root.1.0"]
    assert driven.calls["root.1.0"].stage is Stage.EXECUTE
    assert instructions_of(driven.run, node, Stage.EXECUTE) == "use the mirror"


@pytest.mark.parametrize("policy", ExpiryPolicy)
def test_silence_never_tries_again(policy: ExpiryPolicy) -> None:
    driven = exhausted(replace(ASKING, hitl_expiry_policy=policy))
    driven.answer("root.1.1", done())
    driven.wait()
    driven.tell()
    assert "root.1.0" not in driven.calls
    rejects = policy is ExpiryPolicy.REJECT
    assert (driven.state("root.1.0") is S.FAILED) == rejects
    assert bool(driven.ledger.open_reviews()) != rejects


@pytest.mark.parametrize("stage", [Stage.PLAN, Stage.AGGREGATE, Stage.ATOMIZE])
def test_every_stage_may_ask(stage: Stage) -> None:
    settings = replace(ASKING, max_retries=0)
    driven = Driven(settings=settings)
    node_id = "root"
    if stage is not Stage.PLAN:
        driven.answer("root", plan_of(draft(node_type=None)))
        node_id = "root.1.0"
    if stage is Stage.AGGREGATE:
        driven.answer("root.1.0", Decided(NodeType.EXECUTE))
        driven.answer("root.1.0", done())
        node_id = "root"
    assert driven.calls[node_id].stage is stage
    driven.answer(node_id, failed(E.CONNECTION))
    driven.crash()
    assert not driven.calls
    assert project(driven) is P.WAITING
    driven.decide(only(driven).review_id, APPROVE)
    assert driven.calls[node_id].stage is stage
    assert driven.node(node_id).attempt == 2


def test_one_question_lets_an_executor_try_again() -> None:
    """Who lets it be tried again is not asked whether it may begin."""
    settings = replace(
        ASKING,
        max_retries=0,
        enable_hitl=True,
        hitl_before_execute=True,
        hitl_after_plan_generation=False,
    )
    driven = planned(draft(), settings=settings)
    driven.decide(only(driven).review_id, APPROVE)
    driven.answer("root.1.0", failed())
    assert only(driven).checkpoint is Checkpoint.EXHAUSTED
    driven.decide(only(driven).review_id, APPROVE)
    assert driven.calls["root.1.0"].stage is Stage.EXECUTE


def test_what_no_policy_changes_is_not_asked_about() -> None:
    driven = planned(draft(), draft(), settings=ASKING)
    driven.answer("root.1.0", failed(E.NO_EVIDENCE))
    assert not driven.ledger.open_reviews()
    assert driven.state("root.1.0") is S.FAILED


def test_a_cancelled_node_withdraws_its_question() -> None:
    driven = exhausted()
    review_id = only(driven).review_id
    assert driven.order(CommandType.CANCEL_NODE, "root.1.0")[0] is CommandState.APPLIED
    assert driven.ledger.reviews[review_id].answer == Answer(ReviewState.WITHDRAWN)


def test_an_answer_that_says_nothing_is_asked_again() -> None:
    driven = exhausted()
    review = only(driven)
    driven.ledger.reviews[review.review_id].answer = Answer(ReviewState.WITHDRAWN)
    driven.event(ReviewClosed(review.review_id, Answer(ReviewState.WITHDRAWN)))
    assert only(driven).attempt == 2


# budget_policy: ask


def task(budget: Budget | None = None, *depends_on: int, plan: bool = False) -> DraftTask:
    kind = NodeType.PLAN if plan else NodeType.EXECUTE
    return DraftTask("part", TaskType.SEARCH, kind, depends_on, {}, budget)


def spend(driven: Driven, node_id: str, tokens: int, outcome: Outcome | None = None) -> None:
    call = driven.calls.pop(node_id)
    ended = CallEnded(node_id, call.number, outcome or done(), usage=Usage(tokens))
    driven.event(ended)


def broke(width: int = 3, settings: Settings = SAVING) -> Driven:
    """Return a run whose budget is used up before `width` tasks that need the first one."""
    driven = planned(task(), *(task(None, 0) for _ in range(width)), settings=settings)
    spend(driven, "root.1.0", 120)
    return driven


def test_a_used_up_budget_is_asked_about_once_for_all_that_it_forbids() -> None:
    driven = broke()
    review = only(driven)
    assert (review.checkpoint, review.node_id) == (Checkpoint.BUDGET, "root")
    assert review.message == (
        "budget of 100 tokens for root is used up: 120\n"
        "shall as much again be allowed for “a goal”?"
    )
    assert not driven.calls
    assert project(driven) is P.WAITING
    assert driven.node("root").waiting_on == "", "the node itself waits for its children"
    assert examine(driven.run) == [], "the doctor has nothing to mend"


@pytest.mark.parametrize("crash", [False, True])
@pytest.mark.parametrize("told", [False, True])
def test_an_approval_allows_as_much_again_whoever_goes_on(crash: bool, told: bool) -> None:
    driven = broke()
    if crash:
        driven.crash()
        assert not driven.calls
        assert project(driven) is P.WAITING
    event = driven.ledger.resolve(only(driven).review_id, APPROVE)
    if told:
        driven.event(event)
    else:
        driven.crash()
    assert len(driven.calls) == 3
    assert driven.node("root").allowance == Allowance(tokens=120)
    driven.crash()
    assert len(driven.calls) == 3, "what was allowed is not forgotten"
    spend(driven, "root.1.1", 50)
    spend(driven, "root.1.2", 50)
    spend(driven, "root.1.3", 0)
    assert only(driven).message.startswith("budget of 220 tokens for root is used up: 220")
    driven.decide(only(driven).review_id, APPROVE)
    driven.answer("root", done())
    assert project(driven) is P.COMPLETED


@pytest.mark.parametrize("crash", [False, True])
def test_a_rejection_fails_what_the_budget_forbids_now_and_later(crash: bool) -> None:
    driven = planned(task(), task(), task(None, 0), settings=SAVING)
    spend(driven, "root.1.0", 120)
    driven.decide(only(driven).review_id, REJECT)
    assert driven.state("root.1.2") is S.FAILED
    if crash:
        driven.crash()
        assert driven.state("root.1.1") is S.FAILED, "nor has another attempt"
    else:
        driven.answer("root.1.1", done())
    assert driven.state("root") is S.FAILED, "its aggregation has no budget either"
    error = driven.node("root").error
    assert error is not None
    assert error.error_class is E.LIMIT
    assert [r.checkpoint for r in driven.ledger.reviews.values()] == [Checkpoint.BUDGET]
    assert project(driven) is P.FAILED


def test_what_other_budgets_cover_goes_on_and_each_is_answered_alone() -> None:
    settings = replace(SAVING, budget_tokens=0)
    driven = planned(
        task(Budget(tokens=10), plan=True),
        task(Budget(tokens=10), plan=True),
        task(),
        settings=settings,
    )
    for number in range(2):
        spend(driven, f"root.1.{number}", 10, plan_of(task(), task()))
    assert set(driven.calls) == {"root.1.2"}
    assert project(driven) is P.RUNNING
    first, second = driven.ledger.open_reviews()
    assert [first.node_id, second.node_id] == ["root.1.0", "root.1.1"]
    driven.decide(first.review_id, APPROVE)
    assert set(driven.calls) == {"root.1.2", "root.1.0.1.0", "root.1.0.1.1"}
    driven.decide(second.review_id, REJECT)
    assert driven.state("root.1.1") is S.FAILED
    assert driven.state("root.1.0.1.0") is S.RUNNING


def test_a_raised_subtree_still_draws_on_the_budget_above_it() -> None:
    driven = planned(task(Budget(tokens=10), plan=True), task(), settings=SAVING)
    spend(driven, "root.1.0", 100, plan_of(task()))
    assert only(driven).node_id == "root.1.0"
    driven.decide(only(driven).review_id, APPROVE)
    assert only(driven).node_id == "root", "now that one forbids it"
    driven.decide(only(driven).review_id, APPROVE)
    assert driven.state("root.1.0.1.0") is S.RUNNING


def test_more_tokens_are_no_more_nodes() -> None:
    driven = planned(task(), task(None, 0), settings=replace(SAVING, budget_nodes=3))
    spend(driven, "root.1.0", 120)
    driven.decide(only(driven).review_id, APPROVE)
    allowance = driven.node("root").allowance
    assert (allowance.tokens, allowance.nodes) == (120, 0)


@pytest.mark.parametrize("policy", ExpiryPolicy)
def test_silence_never_allows_more(policy: ExpiryPolicy) -> None:
    driven = broke(settings=replace(SAVING, hitl_expiry_policy=policy))
    driven.wait()
    driven.tell()
    assert not driven.calls
    assert (driven.state("root.1.1") is S.FAILED) == (policy is ExpiryPolicy.REJECT)


def test_a_question_about_a_budget_ends_with_the_node_that_has_it() -> None:
    driven = planned(task(Budget(tokens=10), plan=True), task(), settings=SAVING)
    spend(driven, "root.1.0", 10, plan_of(task(), task()))
    review_id = only(driven).review_id
    assert driven.order(CommandType.CANCEL_NODE, "root.1.0")[0] is CommandState.APPLIED
    assert driven.ledger.reviews[review_id].answer == Answer(ReviewState.WITHDRAWN)
    driven.answer("root.1.1", done())
    driven.answer("root", done())
    assert project(driven) is P.PARTIAL


def test_a_plan_that_is_changed_on_request_waits_for_its_budget_without_being_forgotten() -> None:
    settings = replace(SAVING, enable_hitl=True)
    driven = Driven(settings=settings)
    spend(driven, "root", 100, plan_of(draft("one"), draft("two")))
    driven.decide(only(driven).review_id, MODIFY, "drop two")
    assert only(driven).checkpoint is Checkpoint.BUDGET
    driven.crash()
    driven.decide(only(driven).review_id, APPROVE)
    assert driven.calls["root"].stage is Stage.MODIFY
    root = driven.run.nodes["root"]
    assert instructions_of(driven.run, root, Stage.MODIFY) == "drop two"


def test_a_call_between_two_stages_waits_with_what_was_decided() -> None:
    part = DraftTask("part", TaskType.SEARCH, None, (), {})
    driven = planned(part, settings=SAVING)
    spend(driven, "root.1.0", 100, Decided(NodeType.EXECUTE))
    driven.crash()
    if driven.run.next_due() is not None:
        driven.wait()
    assert not driven.calls
    driven.decide(only(driven).review_id, APPROVE)
    assert driven.calls["root.1.0"].stage is Stage.EXECUTE
    assert driven.node("root.1.0").attempt == 1


def test_a_pause_raises_nothing_and_its_time_is_no_time_of_a_budget() -> None:
    settings = replace(SAVING, budget_tokens=0, budget_wall_seconds=60.0)
    driven = planned(task(), task(None, 0), settings=settings)
    driven.now += 30.0
    driven.order(CommandType.PAUSE_PROJECT)
    driven.answer("root.1.0", done())
    driven.now += 1_000.0
    driven.crash()
    driven.order(CommandType.RESUME_PROJECT)
    assert set(driven.calls) == {"root.1.1"}
    driven.now += 30.0
    driven.answer("root.1.1", done())
    assert only(driven).message.startswith("budget of 60 wall seconds for root is used up: 60")


def test_the_time_of_a_budget_begins_once() -> None:
    """A planner that is asked again, or another process, does not set it back."""
    settings = replace(DEFAULTS, budget_wall_seconds=60.0)
    driven = Driven(settings=settings)
    driven.now += 40.0
    driven.answer("root", failed())
    driven.wait()
    driven.crash()
    driven.now += 20.0
    driven.answer("root", plan_of(task()))
    assert driven.state("root.1.0") is S.FAILED


def test_resuming_with_the_policy_fail_allows_nothing() -> None:
    settings = replace(SAVING, budget_policy=BudgetPolicy.FAIL)
    driven = planned(task(), task(None, 0), settings=settings)
    driven.order(CommandType.PAUSE_PROJECT)
    spend(driven, "root.1.0", 100)
    driven.order(CommandType.RESUME_PROJECT)
    assert driven.state("root.1.1") is S.FAILED


def test_a_root_that_is_reopened_has_its_time_again() -> None:
    settings = replace(DEFAULTS, budget_wall_seconds=60.0)
    driven = planned(task(), settings=settings)
    driven.answer("root.1.0", done())
    driven.answer("root", failed(E.AUTH))
    driven.now += 86_400.0
    assert driven.reopen(CommandType.RETRY_NODE, "root")[0] is CommandState.APPLIED
    assert set(driven.calls) == {"root"}, "a day without a run is no time of it"
    assert driven.node("root").allowance.since == driven.now


def test_a_reopened_root_asks_again_about_a_budget_that_was_not_raised() -> None:
    driven = broke(1)
    driven.decide(only(driven).review_id, REJECT)
    assert project(driven) is P.FAILED
    assert driven.reopen(CommandType.RETRY_NODE, "root")[0] is CommandState.APPLIED
    driven.decide(only(driven).review_id, APPROVE)
    assert driven.calls["root"].stage is Stage.AGGREGATE


# In the words of the contract


def test_a_fork_finds_the_question_under_its_new_id() -> None:
    driven = broke()
    reviews = driven.ledger.reviews
    renamed = replace(reviews.pop(only(driven).review_id), review_id="again")
    reviews["again"] = renamed
    driven.crash()
    assert only(driven).review_id == "again", "it is not asked a second time"
    driven.decide("again", APPROVE)
    assert len(driven.calls) == 3


def test_a_question_that_is_gone_is_asked_again() -> None:
    driven = broke()
    driven.ledger.reviews.clear()
    driven.ledger.nodes["root"].reviews = 5
    driven.crash()
    assert only(driven).review_id == "root.r6"


def test_what_became_of_a_budget_is_stored_with_its_node() -> None:
    allowance = Allowance(
        since=1.5,
        stopped=2.5,
        tokens=7,
        cost_usd=0.25,
        wall_seconds=3.5,
        nodes=9,
        short=4,
        final=True,
        review_id="r",
    )
    stored = to_message(PatchNode("root", NodeChanges(allowance=allowance))).node.patch
    message = node_pb2.Node(node_id="root", state=node_pb2.NodeState.NODE_STATE_PLAN_DONE)
    message.aux_data["allowance"].CopyFrom(stored.aux_upserts["allowance"])
    assert read_node(message).allowance == allowance
    message.aux_data["allowance"].struct_value.fields["tokens"].number_value = float("nan")
    message.aux_data["allowance"].struct_value.fields["since"].null_value = 0  # type: ignore[assignment]
    assert read_node(message).allowance == replace(allowance, tokens=0, since=None)
    message.aux_data["allowance"].string_value = "much"
    assert read_node(message).allowance == NO_ALLOWANCE


@pytest.mark.parametrize("checkpoint", Checkpoint)
def test_every_checkpoint_has_its_word_in_the_contract(checkpoint: Checkpoint) -> None:
    review = Review(review_id="r", node_id="root", checkpoint=checkpoint, message="shall it?")
    message = review_message(OpenReview(review)).review.create
    message.review_id = "r"
    message.state = review_pb2.ReviewState.REVIEW_STATE_OPEN
    assert read_review(message) == review


@pytest.mark.parametrize(
    "known, contract",
    [
        (OnExhausted, node_pb2.ExhaustedPolicy),
        (BudgetPolicy, project_pb2.BudgetPolicy),
        (Checkpoint, review_pb2.ReviewCheckpoint),
    ],
)
def test_the_core_knows_every_choice_of_the_contract(known: Any, contract: Any) -> None:
    names = contract.DESCRIPTOR.values_by_name
    prefix = next(iter(names)).removesuffix("UNSPECIFIED")
    assert {name.removeprefix(prefix) for name in names} == {"UNSPECIFIED", *known.__members__}
