"""New plans: when the planner is asked again, what is superseded and what is reused (S4.6)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator_svc.engine.context import agent_input
from orchestrator_svc.graph.adopt import reusable, reuse
from orchestrator_svc.graph.budget import Budget
from orchestrator_svc.graph.event import Planned
from orchestrator_svc.graph.node import Json
from orchestrator_svc.graph.plan import DraftTask
from orchestrator_svc.graph.recovery import MAX_REPLANS
from orchestrator_svc.graph.settings import Settings
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
from tests.unit.orchestrator_svc.driven import (
    DEFAULTS,
    Driven,
    done,
    draft,
    failed,
    plan_of,
    planned,
)

S = NodeState
REPLAN = CommandType.REPLAN_NODE
INVALID = plan_of(draft("yes", 1), draft("yes", 0))


def task(goal: str, *depends_on: int, reuse: str = "") -> DraftTask:
    return DraftTask(goal, TaskType.SEARCH, NodeType.EXECUTE, depends_on, {}, reuse=reuse)


def of(*tasks: DraftTask) -> Planned:
    return Planned(tasks)


def replanned(*tasks: DraftTask) -> Driven:
    """Return a run whose root had the plan `tasks`, of which the first is done, and loses it."""
    driven = planned(*tasks)
    driven.answer("root.1.0", done("first"))
    assert driven.order(REPLAN, "root")[0] is CommandState.APPLIED
    return driven


@pytest.mark.parametrize("outcome", [INVALID, failed(ErrorClass.EXECUTION), done()])
def test_a_planner_that_fails_is_asked_again_with_the_reason_a_few_times(outcome: object) -> None:
    driven = Driven()
    for count in range(1, MAX_REPLANS + 1):
        driven.answer("root", outcome)  # type: ignore[arg-type]
        root = driven.node("root")
        assert (root.state, root.replan_count, root.retry_count) == (S.NEEDS_REPLAN, count, 0)
        assert root.next_attempt_time is not None
        driven.wait()
        call = driven.calls["root"]
        assert (call.stage, call.attempt) == (Stage.PLAN, count + 1)
        seen = agent_input(driven.run, call, project_id="p", options={})
        assert root.error is not None
        assert seen.replan_reason == root.error.message
    driven.answer("root", outcome)  # type: ignore[arg-type]
    assert driven.state("root") is S.FAILED
    assert driven.project() is ProjectState.FAILED


def test_a_planner_that_corrects_itself_loses_nothing() -> None:
    driven = Driven()
    driven.answer("root", INVALID)
    driven.crash()
    driven.wait()
    driven.answer("root", plan_of(draft()))
    root = driven.node("root")
    assert (root.state, root.error, root.replan_reason) == (S.PLAN_DONE, None, "")
    assert root.children == ("root.1.0",)


def test_the_old_plan_is_cancelled_shown_and_superseded_and_ids_are_new() -> None:
    driven = planned(task("one"), task("two"), task("three", 1))
    driven.answer("root.1.0", done())
    assert driven.order(REPLAN, "root")[0] is CommandState.APPLIED
    assert driven.state("root.1.1") is S.CANCELLED
    assert driven.state("root.1.2") is S.CANCELLED
    assert driven.cancelled == ["root.1.1"]
    call = driven.calls["root"]
    seen = agent_input(driven.run, call, project_id="p", options={})
    assert seen.replan_reason == "because"
    assert [(node.node_id, node.state) for node in seen.previous] == [
        ("root.1.0", "DONE"),
        ("root.1.1", "CANCELLED"),
        ("root.1.2", "CANCELLED"),
    ]
    driven.answer("root", of(task("other"), task("another")))
    root = driven.node("root")
    assert root.children == ("root.2.0", "root.2.1")
    assert root.sub_graph_id == "root.2"
    assert [n.node_id for n in driven.ledger.nodes.values() if n.superseded] == [
        "root.1.0",
        "root.1.1",
        "root.1.2",
    ]


def test_a_finished_task_that_the_new_plan_has_again_is_reused() -> None:
    driven = replanned(task("one"), task("two"))
    driven.answer("root", of(task("new"), task("one"), task("last", 0, 1)))
    assert driven.node("root").children == ("root.2.0", "root.1.0", "root.2.2")
    assert not driven.node("root.1.0").superseded
    assert driven.node("root.2.2").depends_on == ("root.2.0", "root.1.0")
    driven.answer("root.1.1", done())  # late, from the old plan
    driven.answer("root.2.0", done())
    driven.answer("root.2.2", done())
    call = driven.calls["root"]
    seen = agent_input(driven.run, call, project_id="p", options={})
    assert [child.output.text for child in seen.children if child.output] == [
        "done",
        "first",
        "done",
    ]
    driven.answer("root", done())
    assert driven.project() is ProjectState.COMPLETED
    assert driven.moves_of("root.1.0").count(S.DONE) == 1


def test_a_task_is_reused_by_its_name_whatever_its_goal() -> None:
    driven = replanned(task("one"), task("two"))
    driven.answer("root", of(task("more"), task("reworded", reuse="root.1.0")))
    assert driven.node("root").children == ("root.2.0", "root.1.0")


@pytest.mark.parametrize("name", ["root.1.1", "nobody", "root"])
def test_what_is_not_finished_cannot_be_reused(name: str) -> None:
    driven = replanned(task("one"), task("two"))
    driven.answer("root", of(task("again", reuse=name)))
    root = driven.node("root")
    assert root.state is S.NEEDS_REPLAN
    assert f"'{name}' is no finished task of the last plan" in root.replan_reason


def test_a_task_with_other_inputs_is_not_the_same() -> None:
    driven = planned(task("one"), task("two", 0))
    driven.answer("root.1.0", done())
    driven.answer("root.1.1", done())
    driven.order(REPLAN, "root")
    driven.answer("root", done())  # the aggregation that was under way: too late
    driven.answer("root", of(task("zero"), task("two", 0)))
    assert driven.node("root").children == ("root.2.0", "root.2.1")


def test_a_chain_is_reused_as_far_as_it_is_the_same() -> None:
    driven = planned(task("one"), task("two", 0), task("three", 1))
    driven.answer("root.1.0", done())
    driven.answer("root.1.1", done())
    driven.order(REPLAN, "root")
    driven.answer("root", of(task("three", 1), task("two", 2), task("one")))
    assert driven.node("root").children == ("root.2.0", "root.1.1", "root.1.0")


def test_a_plan_of_finished_tasks_only_is_aggregated_at_once() -> None:
    driven = replanned(task("one"), task("two"))
    driven.answer("root", of(task("one")))
    assert driven.calls["root"].stage is Stage.AGGREGATE


def test_ids_stay_new_over_many_plans_and_crashes() -> None:
    driven = planned(task("one"))
    for number in range(2, 5):
        driven.crash()
        assert driven.order(REPLAN, "root")[0] is CommandState.APPLIED
        driven.answer("root", of(task(f"try {number}")))
        assert driven.node("root").children == (f"root.{number}.0",)


def test_an_exhausted_child_lets_its_parent_be_planned_anew_by_policy() -> None:
    settings = replace(DEFAULTS, max_retries=0, on_exhausted=OnExhausted.REPLAN)
    driven = planned(task("one"), task("two"), settings=settings)
    driven.answer("root.1.0", done())
    for number in range(1, MAX_REPLANS + 1):
        broken = driven.node("root").children[-1]
        driven.answer(broken, failed())
        root = driven.node("root")
        assert (root.state, root.replan_count) == (S.RUNNING, number)
        assert broken in root.replan_reason
        driven.answer("root", of(task("one"), task("two")))
    driven.answer(driven.node("root").children[-1], failed())
    assert driven.state(driven.node("root").children[-1]) is S.FAILED
    driven.answer("root", done())
    assert driven.project() is ProjectState.PARTIAL


def test_a_crash_in_a_replan_loses_neither_the_reason_nor_what_is_finished() -> None:
    driven = replanned(task("one"), task("two"))
    driven.crash()
    seen = agent_input(driven.run, driven.calls["root"], project_id="p", options={})
    assert seen.replan_reason == "because"
    driven.answer("root", of(task("one"), task("six")))
    assert driven.node("root").children == ("root.1.0", "root.2.1")


class Goal(str):
    """Text that counts how often it is compared."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        Goal.compared += 1
        return str(self) == other

    __hash__ = str.__hash__


def test_reuse_compares_each_task_of_a_large_plan_a_few_times_only() -> None:
    """Not each with every finished child: plans have up to 200 000 tasks."""
    width = 2_000
    driven = planned(*(task(f"part {n}") for n in range(width)))
    for child in driven.run.nodes.values():
        child.state = S.DONE
    finished = reusable(driven.run, driven.run.nodes["root"])
    again = [task(Goal(f"part {width - n}")) for n in range(width)]
    Goal.compared = 0
    chosen = reuse(again, finished)
    assert chosen == {n: f"root.1.{width - n}" for n in range(1, width)}
    assert Goal.compared <= 4 * width


def test_equal_tasks_are_reused_once_each_whatever_their_details_look_like() -> None:
    def part(value: Json) -> DraftTask:
        return replace(task("same"), details={"n": value, "m": [1, {"k": None}]})

    driven = planned(part(1.0), part(1), part(True), part("1"))
    for child in driven.run.nodes.values():
        child.state = S.DONE
    finished = reusable(driven.run, driven.run.nodes["root"])
    chosen = reuse([part(True), part(1), part(2), part(1.0), part(1)], finished)
    assert chosen == {0: "root.1.2", 1: "root.1.0", 3: "root.1.1"}


def group(goal: str, *depends_on: int) -> DraftTask:
    return DraftTask(goal, TaskType.AGGREGATE, NodeType.PLAN, depends_on, {})


def with_a_failed_group(*more: DraftTask, settings: Settings = DEFAULTS) -> Driven:
    """Return a run of which a group `root.1.0` has failed over the second of its two tasks.

    Its first task is done, the run is PARTIAL.
    """
    settings = replace(settings, max_retries=0)
    driven = planned(group("both"), task("else"), *more, settings=settings)
    driven.answer("root.1.1", done("else"))
    driven.answer("root.1.0", of(task("one"), task("two")))
    driven.answer("root.1.0.1.0", done("one"))
    driven.answer("root.1.0.1.1", failed())
    driven.answer("root.1.0", failed(ErrorClass.DEPENDENCY_FAILED))
    for item in range(len(more)):
        assert driven.state(f"root.1.{item + 2}") is S.FAILED
    driven.answer("root", done())
    assert driven.project() is ProjectState.PARTIAL
    return driven


def test_a_failed_group_that_the_new_plan_has_again_keeps_its_finished_tasks() -> None:
    driven = with_a_failed_group(task("last", 0))
    assert driven.reopen(REPLAN, "root")[0] is CommandState.APPLIED
    driven.answer("root", of(group("both"), task("else"), task("last", 0)))
    assert driven.node("root").children == ("root.1.0", "root.1.1", "root.2.2")
    again = driven.calls["root.1.0"]
    assert (again.stage, again.attempt) == (Stage.PLAN, 2)
    seen = agent_input(driven.run, again, project_id="p", options={})
    assert [child.state for child in seen.previous] == ["DONE", "FAILED"]
    assert driven.state("root.2.2") is S.PENDING
    driven.answer("root.1.0", of(task("one"), task("two")))
    assert driven.node("root.1.0").children == ("root.1.0.1.0", "root.1.0.2.1")
    driven.answer("root.1.0.2.1", done("two"))
    driven.answer("root.1.0", done("both"))
    driven.answer("root.2.2", done("last"))
    driven.answer("root", done())
    assert driven.project() is ProjectState.COMPLETED
    assert driven.moves_of("root.1.0.1.0").count(S.DONE) == 1
    assert driven.node("root.1.0.1.1").superseded


def test_a_crash_while_a_failed_group_goes_on_loses_nothing() -> None:
    driven = with_a_failed_group()
    driven.reopen(REPLAN, "root")
    driven.answer("root", of(group("both"), task("else")))
    driven.crash()
    assert driven.state("root.1.0") is S.RUNNING
    driven.answer("root.1.0", of(task("one"), task("two")))
    driven.crash()
    driven.answer("root.1.0.2.1", done("two"))
    driven.answer("root.1.0", done("both"))
    driven.answer("root", done())
    assert driven.project() is ProjectState.COMPLETED


def test_a_failed_group_that_fails_again_ends_the_run_again() -> None:
    driven = with_a_failed_group()
    driven.reopen(REPLAN, "root")
    driven.answer("root", of(group("both"), task("else")))
    driven.answer("root.1.0", of(task("one"), task("two")))
    driven.answer("root.1.0.2.1", failed())
    driven.answer("root.1.0", failed(ErrorClass.DEPENDENCY_FAILED))
    driven.answer("root", done())
    assert driven.project() is ProjectState.PARTIAL


@pytest.mark.parametrize(
    "other",
    [
        group("another"),
        replace(group("both"), max_retries=7),
        replace(group("both"), on_exhausted=OnExhausted.PAUSE),
        replace(group("both"), budget=Budget(tokens=10)),
        replace(group("both"), node_type=NodeType.EXECUTE),
        group("both", 1),
    ],
)
def test_a_failed_group_that_is_not_the_same_is_made_anew(other: DraftTask) -> None:
    driven = with_a_failed_group()
    driven.reopen(REPLAN, "root")
    driven.answer("root", of(other, task("else")))
    assert driven.node("root").children == ("root.2.0", "root.1.1")
    assert driven.node("root.1.0").superseded
    assert driven.node("root.1.0.1.0").superseded


def test_groups_in_a_failed_group_go_on_too() -> None:
    driven = planned(group("outer"), settings=replace(DEFAULTS, max_retries=0))
    driven.answer("root.1.0", of(group("inner")))
    inner = "root.1.0.1.0"
    driven.answer(inner, of(task("one"), task("two")))
    driven.answer(f"{inner}.1.0", done())
    driven.answer(f"{inner}.1.1", failed())
    driven.answer(inner, failed(ErrorClass.DEPENDENCY_FAILED))
    assert driven.state("root.1.0") is S.FAILED
    assert driven.project() is ProjectState.FAILED
    assert driven.reopen(REPLAN, "root")[0] is CommandState.APPLIED
    driven.answer("root", of(group("outer")))
    driven.answer("root.1.0", of(group("inner")))
    driven.answer(inner, of(task("one"), task("two")))
    assert driven.node(inner).children == (f"{inner}.1.0", f"{inner}.2.1")
