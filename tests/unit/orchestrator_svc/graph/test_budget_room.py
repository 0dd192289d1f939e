"""A plan with more nodes than a budget has left waits for what the policy says (S2.8)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator_svc.graph.budget import Budget
from orchestrator_svc.graph.plan import DraftTask
from orchestrator_svc.graph.review import Checkpoint, Review, ReviewDecision
from orchestrator_svc.graph.settings import BudgetPolicy, Settings
from orchestrator_svc.graph.types import (
    CommandState,
    CommandType,
    NodeState,
    NodeType,
    ProjectState,
    Stage,
    TaskType,
)
from tests.unit.orchestrator_svc.driven import DEFAULTS, Driven, done, plan_of, planned

S, P = NodeState, ProjectState
APPROVE, REJECT = ReviewDecision.APPROVE, ReviewDecision.REJECT


def only(driven: Driven) -> Review:
    """Return the one open review."""
    (review,) = driven.ledger.open_reviews()
    return review


def project(driven: Driven) -> ProjectState:
    return driven.ledger.state


def task(budget: Budget | None = None, *depends_on: int, plan: bool = False) -> DraftTask:
    kind = NodeType.PLAN if plan else NodeType.EXECUTE
    return DraftTask("part", TaskType.SEARCH, kind, depends_on, {}, budget)


ROOMY = replace(DEFAULTS, budget_nodes=3, budget_policy=BudgetPolicy.ASK)
FOUR, TWO = (plan_of(*(task() for _ in range(width))) for width in (4, 2))


def cramped(settings: Settings = ROOMY) -> Driven:
    """Return a run whose planner has asked for one node more than its budget has room for."""
    driven = Driven(settings=settings)
    driven.answer("root", plan_of(*(task() for _ in range(3))))
    return driven


def test_a_plan_with_more_nodes_than_are_left_waits_for_a_human() -> None:
    driven = cramped()
    review = only(driven)
    assert (review.checkpoint, review.node_id) == (Checkpoint.BUDGET, "root")
    assert review.message.startswith(
        "a plan needs 3 more, which the budget of 3 nodes for root has not: 1 used\n"
    )
    assert (driven.state("root"), project(driven)) == (S.READY, P.WAITING)
    assert not driven.calls
    driven.crash()
    assert not driven.calls, "nor is the planner asked again after a crash"
    assert only(driven).review_id == review.review_id


@pytest.mark.parametrize("crash", [False, True])
def test_an_approval_gives_the_plan_as_much_room_again(crash: bool) -> None:
    driven = cramped()
    driven.decide(only(driven).review_id, APPROVE)
    if crash:
        driven.crash()
    assert driven.calls["root"].stage is Stage.PLAN
    driven.answer("root", plan_of(*(task() for _ in range(3))))
    assert driven.state("root") is S.PLAN_DONE
    assert driven.node("root").allowance.nodes == 3, "so it may have six"


@pytest.mark.parametrize("policy", [BudgetPolicy.ASK, BudgetPolicy.PAUSE])
def test_a_plan_of_any_size_gets_its_room_in_the_end(policy: BudgetPolicy) -> None:
    """Each time as many nodes again are allowed as the budget has."""
    driven = Driven(settings=replace(ROOMY, budget_policy=policy))
    ten = plan_of(*(task() for _ in range(10)))
    for limit in (3, 6, 9):
        driven.answer("root", ten)
        if policy is BudgetPolicy.ASK:
            review = only(driven)
            needs = f"a plan needs 10 more, which the budget of {limit} nodes for root has not"
            assert review.message.startswith(needs)
            driven.decide(review.review_id, APPROVE)
        else:
            assert project(driven) is P.PAUSED
            driven.order(CommandType.RESUME_PROJECT)
    driven.answer("root", ten)
    assert driven.state("root") is S.PLAN_DONE
    assert len(driven.calls) == 10


def test_after_a_refusal_the_planner_has_to_make_do() -> None:
    driven = cramped()
    driven.decide(only(driven).review_id, REJECT)
    driven.answer("root", FOUR)
    root = driven.node("root")
    assert (root.state, root.replan_count) == (S.NEEDS_REPLAN, 1)
    assert root.replan_reason == "invalid plan: asks for 4 nodes, 2 are left for root"
    driven.wait()
    driven.answer("root", TWO)
    assert driven.state("root") is S.PLAN_DONE
    assert not driven.ledger.open_reviews()


def test_a_plan_without_room_pauses_the_run_and_resuming_gives_it_some() -> None:
    driven = cramped(replace(ROOMY, budget_policy=BudgetPolicy.PAUSE))
    assert (driven.state("root"), project(driven)) == (S.READY, P.PAUSED)
    driven.crash()
    assert driven.order(CommandType.RESUME_PROJECT)[0] is CommandState.APPLIED
    driven.answer("root", plan_of(*(task() for _ in range(3))))
    assert driven.state("root") is S.PLAN_DONE


def test_others_go_on_while_a_plan_waits_for_room_below_one_node() -> None:
    part = task(Budget(nodes=2), plan=True)
    driven = planned(part, task(), settings=replace(ROOMY, budget_nodes=0))
    driven.answer("root.1.0", FOUR)
    assert only(driven).node_id == "root.1.0"
    assert project(driven) is P.RUNNING
    driven.answer("root.1.1", done())
    assert project(driven) is P.WAITING


def test_what_is_wrong_with_a_plan_besides_its_size_is_not_asked_about() -> None:
    driven = Driven(settings=ROOMY)
    driven.answer("root", plan_of(task(None, 0), task(), task()))
    assert driven.state("root") is S.NEEDS_REPLAN
    assert not driven.ledger.open_reviews()
