"""Budgets hold before each dispatch, over subtrees, attempts and crashes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator_svc.agents.base import PlannedTask
from orchestrator_svc.graph.budget import Budget
from orchestrator_svc.graph.event import CallEnded, CommandGiven, Decided, Outcome
from orchestrator_svc.graph.mutation import CreateNode
from orchestrator_svc.graph.plan import DraftTask
from orchestrator_svc.graph.settings import BudgetPolicy, Settings
from orchestrator_svc.graph.types import (
    TERMINAL_PROJECT_STATES,
    CommandState,
    CommandType,
    ErrorClass,
    NodeState,
    NodeType,
    ProjectState,
    Stage,
    TaskType,
)
from orchestrator_svc.graph.usage import Usage
from orchestrator_svc.publish.convert import read_node, to_message
from orchestrator_svc.publish.review import read_plan, set_plan
from ramify.v1.node_pb2 import NodeState as NodeStateEnum
from ramify.v1.review_pb2 import ProposedPlan
from tests.unit.orchestrator_svc.driven import (
    DEFAULTS,
    Driven,
    done,
    failed,
    plan_of,
    planned,
)

S, P = NodeState, ProjectState


def limited(**keys: Any) -> Settings:
    return replace(DEFAULTS, **keys)


def task(budget: Budget | None = None, *depends_on: int, plan: bool = False) -> DraftTask:
    kind = NodeType.PLAN if plan else NodeType.EXECUTE
    return DraftTask("part", TaskType.SEARCH, kind, depends_on, {}, budget)


def answer(driven: Driven, node_id: str, outcome: Outcome, tokens: int, cost: int = 0) -> None:
    call = driven.calls.pop(node_id)
    driven.event(CallEnded(node_id, call.number, outcome, usage=Usage(tokens, 0, cost)))


def state_of(driven: Driven) -> ProjectState:
    return driven.ledger.state


def why(driven: Driven, node_id: str) -> str:
    error = driven.node(node_id).error
    assert error is not None
    assert error.error_class is ErrorClass.LIMIT
    return error.message


@pytest.mark.execution_key("budget_tokens")
@pytest.mark.parametrize("limit, second", [(0, S.RUNNING), (100, S.FAILED), (101, S.RUNNING)])
def test_budget_tokens_bounds_the_run(limit: int, second: NodeState) -> None:
    driven = planned(task(), task(None, 0), settings=limited(budget_tokens=limit))
    answer(driven, "root.1.0", done(), 100)
    assert driven.state("root.1.1") is second
    if second is S.FAILED:
        assert why(driven, "root.1.1") == "budget of 100 tokens for root is used up: 100"
        assert driven.ledger.state is P.FAILED


@pytest.mark.execution_key("budget_cost_usd")
@pytest.mark.parametrize("limit, second", [(0.5, S.FAILED), (0.6, S.RUNNING)])
def test_budget_cost_usd_bounds_the_run(limit: float, second: NodeState) -> None:
    driven = planned(task(), task(None, 0), settings=limited(budget_cost_usd=limit))
    answer(driven, "root.1.0", done(), 0, cost=500_000)
    assert driven.state("root.1.1") is second


@pytest.mark.execution_key("budget_wall_seconds")
@pytest.mark.parametrize("limit, second", [(60.0, S.FAILED), (61.0, S.RUNNING)])
def test_budget_wall_seconds_bounds_the_run(limit: float, second: NodeState) -> None:
    driven = planned(task(), task(None, 0), settings=limited(budget_wall_seconds=limit))
    driven.now += 60.0
    driven.answer("root.1.0", done())
    assert driven.state("root.1.1") is second


@pytest.mark.execution_key("budget_nodes")
@pytest.mark.parametrize("limit, accepted", [(3, True), (2, False)])
def test_budget_nodes_refuses_a_plan_beyond_it(limit: int, accepted: bool) -> None:
    driven = Driven(settings=limited(budget_nodes=limit))
    driven.answer("root", plan_of(task(), task()))
    assert (driven.state("root") is S.PLAN_DONE) is accepted
    if not accepted:
        error = driven.node("root").error
        assert error is not None
        assert error.message == "invalid plan: asks for 2 nodes, 1 are left for root"


@pytest.mark.execution_key("budget_policy")
@pytest.mark.parametrize(
    "policy, state", [("fail", P.FAILED), ("pause", P.PAUSED), ("ask", P.WAITING)]
)
def test_budget_policy_says_what_follows(policy: str, state: ProjectState) -> None:
    settings = limited(budget_tokens=100, budget_policy=BudgetPolicy(policy))
    driven = planned(task(), task(None, 0), settings=settings)
    answer(driven, "root.1.0", done(), 100)
    assert driven.ledger.state is state


def resume(driven: Driven, command_id: str) -> None:
    command = CommandGiven(command_id, CommandType.RESUME_PROJECT)
    driven.ledger.give(command)
    driven.event(command)


PAUSING = limited(budget_tokens=100, budget_policy=BudgetPolicy.PAUSE)


@pytest.mark.parametrize("crash", [False, True])
def test_each_resume_allows_as_much_again_even_by_another_process(crash: bool) -> None:
    driven = planned(task(), task(None, 0), task(None, 1), settings=PAUSING)
    for number in range(3):
        assert set(driven.calls) == {f"root.1.{number}"}
        answer(driven, f"root.1.{number}", done(), 100)
        assert driven.ledger.state is P.PAUSED
        assert not driven.calls
        if crash:
            driven.crash()
        resume(driven, f"c{number}")
    driven.answer("root", done())
    assert driven.ledger.state is P.COMPLETED


def test_a_pause_lets_calls_in_flight_end() -> None:
    driven = planned(task(), task(), task(None, 0), settings=PAUSING)
    answer(driven, "root.1.0", done(), 100)
    assert state_of(driven) is P.PAUSING
    answer(driven, "root.1.1", done(), 50)
    assert state_of(driven) is P.PAUSED
    assert driven.state("root.1.2") is S.READY


def test_a_pause_between_two_stages_keeps_what_was_decided() -> None:
    driven = planned(DraftTask("part", TaskType.SEARCH, None, (), {}), settings=PAUSING)
    assert driven.calls["root.1.0"].stage is Stage.ATOMIZE
    answer(driven, "root.1.0", Decided(NodeType.EXECUTE), 100)
    assert state_of(driven) is P.PAUSED
    driven.crash()
    resume(driven, "c")
    driven.wait()
    stages = [call.stage for call in driven.calls.values()]
    assert stages == [Stage.EXECUTE]


# Subtrees


def test_a_subtree_has_its_own_limit_and_draws_on_those_above() -> None:
    driven = planned(task(Budget(tokens=50)), task(), settings=limited(budget_tokens=100))
    answer(driven, "root.1.0", failed(), 50)
    driven.wait()
    assert why(driven, "root.1.0") == "budget of 50 tokens for root.1.0 is used up: 50"
    answer(driven, "root.1.1", failed(), 50)
    driven.wait()
    assert why(driven, "root.1.1") == "budget of 100 tokens for root is used up: 100"


def test_a_subtrees_budget_covers_everything_below_it_over_a_crash() -> None:
    driven = planned(task(Budget(tokens=100), plan=True), task())
    answer(driven, "root.1.0", plan_of(task(), task(None, 0)), 60)
    answer(driven, "root.1.0.1.0", done(), 40)
    assert "for root.1.0 is used up: 100" in why(driven, "root.1.0.1.1")
    driven.answer("root.1.1", done())
    assert driven.state("root.1.1") is S.DONE, "others do not pay for it"
    again = planned(task(Budget(tokens=100), plan=True), task())
    answer(again, "root.1.0", plan_of(task(), task(None, 0)), 60)
    again.crash()
    answer(again, "root.1.0.1.0", done(), 40)
    assert "for root.1.0 is used up: 100" in why(again, "root.1.0.1.1")


def test_a_budget_of_depth_ends_planning_below() -> None:
    driven = planned(task(Budget(depth=1), plan=True), task(plan=True))
    driven.answer("root.1.0", plan_of(task(plan=True)))
    driven.answer("root.1.1", plan_of(task(plan=True)))
    assert driven.calls["root.1.0.1.0"].stage is Stage.EXECUTE
    assert driven.calls["root.1.1.1.0"].stage is Stage.PLAN


@pytest.mark.parametrize(
    "budgets, problem",
    [
        ((Budget(tokens=60), Budget(tokens=50)), "asks for 110 tokens, 100 are left for root"),
        ((Budget(tokens=60), Budget(tokens=40)), ""),
        ((Budget(cost_usd=3.0),), "asks for 3 cost usd, 2 are left for root"),
        ((Budget(wall_seconds=70.0),), "asks for 70 wall seconds, 60 are left for root"),
        ((Budget(wall_seconds=60.0), Budget(wall_seconds=60.0)), ""),
    ],
)
def test_children_share_what_is_left(budgets: tuple[Budget, ...], problem: str) -> None:
    settings = limited(budget_tokens=100, budget_cost_usd=2.0, budget_wall_seconds=60.0)
    driven = Driven(settings=settings)
    driven.answer("root", plan_of(*(task(budget) for budget in budgets)))
    error = driven.node("root").error
    assert (error.message if error else "") == (f"invalid plan: {problem}" if problem else "")


@pytest.mark.parametrize("bad", [{"tokens": -1}, {"cost_usd": float("nan")}, {"depth": -2}])
def test_what_is_no_limit_is_refused_from_a_planner(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="has to be 0 to"):
        PlannedTask.model_validate({"goal": "a goal", "task_type": "SEARCH", "budget": bad})


def test_a_planners_budget_is_stored_with_the_node() -> None:
    driven = planned(task(Budget(tokens=7, wall_seconds=1.5)), task())
    made = [m for g in driven.last.groups for m in g if isinstance(m, CreateNode)]
    message = to_message(made[0]).node.create
    message.state = NodeStateEnum.NODE_STATE_READY
    assert read_node(message).budget == Budget(tokens=7, wall_seconds=1.5)
    message.aux_data["budget"].string_value = "much"
    assert read_node(message).budget is None


def test_a_plan_keeps_its_budgets_while_a_human_looks_at_it() -> None:
    tasks = (task(Budget(tokens=7, cost_usd=0.5, nodes=3)), task())
    message = ProposedPlan()
    set_plan(message, tasks)
    assert read_plan(message) == tasks
    message.tasks[0].budget.cost_usd = -1.0
    assert read_plan(message)[0].budget is None


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 60)), max_size=30),
    st.integers(1, 200),
    st.lists(st.integers(0, 100), min_size=3, max_size=3),
)
def test_no_call_begins_once_a_limit_above_it_is_used_up(
    answers: list[tuple[int, int]], limit: int, limits: list[int]
) -> None:
    """Never more than one call's cost beyond a limit, with one call at a time."""
    settings = limited(budget_tokens=limit, max_concurrent_nodes=1, max_retries=0)
    tasks = [task(Budget(tokens=min(n, limit // 3))) for n in limits]
    driven = planned(*tasks, settings=settings)
    spent = {"root": 0}
    for choice, tokens in answers:
        if not driven.calls:
            break
        node_id = sorted(driven.calls)[choice % len(driven.calls)]
        assert spent["root"] < limit
        budget = driven.run.nodes[node_id].budget
        assert not budget or not budget.tokens or spent.get(node_id, 0) < budget.tokens
        spent["root"] += tokens
        spent[node_id] = spent.get(node_id, 0) + tokens
        answer(driven, node_id, done(), tokens)
    assert driven.calls or driven.ledger.state in TERMINAL_PROJECT_STATES


def test_a_budget_of_depth_forbids_new_plans_too() -> None:
    driven = planned(task(Budget(depth=1), plan=True))
    driven.answer("root.1.0", plan_of(task(), task()))
    driven.answer("root.1.0.1.0", done())
    state, answer_ = driven.order(CommandType.REPLAN_NODE, "root.1.0.1.0")
    assert state is CommandState.REFUSED
    assert "deepest layer" in answer_


def test_a_reused_task_needs_no_room_in_a_budget_of_nodes() -> None:
    driven = planned(task(), task(), settings=limited(budget_nodes=4))
    driven.answer("root.1.0", done())
    assert driven.order(CommandType.REPLAN_NODE, "root")[0] is CommandState.APPLIED
    driven.answer("root.1.1", failed(ErrorClass.CANCELLED))
    kept = DraftTask("part", TaskType.SEARCH, NodeType.EXECUTE, (), {}, reuse="root.1.0")
    driven.answer("root", plan_of(kept, task()))
    assert driven.node("root").children == ("root.1.0", "root.2.1")
