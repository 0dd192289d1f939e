"""The time of a budget stands still while a run waits for nothing but humans (SEM 27)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator_svc.graph.event import Decided
from orchestrator_svc.graph.review import Review, ReviewDecision
from orchestrator_svc.graph.settings import BudgetPolicy
from orchestrator_svc.graph.types import CommandType, NodeType, ProjectState
from tests.unit.orchestrator_svc.driven import (
    DEFAULTS,
    Driven,
    done,
    draft,
    load_run,
    plan_of,
    planned,
)

P = ProjectState
APPROVE = ReviewDecision.APPROVE
TIMED = replace(
    DEFAULTS,
    budget_wall_seconds=60.0,
    budget_policy=BudgetPolicy.ASK,
    enable_hitl=True,
    hitl_timeout_seconds=0.0,
)


def only(driven: Driven) -> Review:
    """Return the one open review."""
    (review,) = driven.ledger.open_reviews()
    return review


def wall_used(driven: Driven) -> float:
    """Return the seconds that the root's budget has used, as another process reads them."""
    (use,) = load_run(driven.ledger, driven.settings).accounts.report(driven.now)
    return use.used


@pytest.mark.parametrize("crash", [False, True])
@pytest.mark.parametrize("paused", [False, True])
def test_the_time_in_which_only_humans_are_waited_for_is_no_time_of_a_budget(
    crash: bool, paused: bool
) -> None:
    """SEM 27: clocks stop. A pause, a crash or an answer in between changes nothing of that."""
    driven = Driven(settings=TIMED)
    driven.now += 20.0
    driven.answer("root", plan_of(draft(), draft("part", 0)))
    assert driven.project() is P.WAITING
    driven.now += 1_000.0
    if paused:
        driven.order(CommandType.PAUSE_PROJECT)
        driven.now += 1_000.0
    if crash:
        driven.crash()
        driven.now += 1_000.0
    driven.decide(only(driven).review_id, APPROVE)
    if paused:
        driven.now += 1_000.0
        driven.order(CommandType.RESUME_PROJECT)
    assert wall_used(driven) == 20.0
    driven.now += 39.0
    driven.answer("root.1.0", done())
    assert set(driven.calls) == {"root.1.1"}
    driven.now += 1.0
    driven.answer("root.1.1", done())
    assert only(driven).message.startswith("budget of 60 wall seconds for root is used up: 60")
    driven.now += 1_000.0
    assert wall_used(driven) == 60.0, "also while this question is open"
    driven.decide(only(driven).review_id, APPROVE)
    assert wall_used(driven) == 60.0
    assert set(driven.calls) == {"root"}


def test_the_time_of_a_budget_goes_on_while_anything_else_does() -> None:
    settings = replace(TIMED, hitl_after_plan_generation=False, hitl_before_execute=True)
    settings = replace(settings, hitl_after_atomizer=True)
    driven = planned(draft(), draft(node_type=None), settings=settings)
    assert len(driven.ledger.open_reviews()) == 1
    assert driven.project() is P.RUNNING
    driven.now += 25.0
    assert wall_used(driven) == 25.0
    driven.answer("root.1.1", Decided(NodeType.EXECUTE))
    driven.now += 500.0
    assert wall_used(driven) == 25.0


def test_a_crash_between_the_states_of_waiting_loses_no_time_of_a_budget() -> None:
    """Whether its time stands still is settled anew by whoever takes the run up."""
    driven = Driven(settings=TIMED)
    driven.answer("root", plan_of(draft()))
    root = driven.ledger.nodes["root"]
    root.allowance = replace(root.allowance, stopped=None)  # that was not durable yet
    driven.crash()
    assert root.allowance.stopped == driven.now
    driven.ledger.state = P.RUNNING
    driven.ledger.resolve("root.r1", APPROVE)
    driven.crash()
    assert root.allowance.stopped is None
