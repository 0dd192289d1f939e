"""The life of a node, as decisions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from orchestrator_svc.graph.event import CallEnded, CallProgressed, CommandGiven, Decided, Draining
from orchestrator_svc.graph.mutation import CreateNode, PatchNode, PatchProject
from orchestrator_svc.graph.node import Result
from orchestrator_svc.graph.recovery import RECOVERY, Recovery
from orchestrator_svc.graph.types import (
    CommandState,
    CommandType,
    ErrorClass,
    NodeState,
    NodeType,
    ProjectState,
    Stage,
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

RETRIED = [
    c for c in ErrorClass if RECOVERY[c, Stage.EXECUTE] in (Recovery.RETRY, Recovery.TIMEOUT)
]
S = NodeState


def test_a_new_project_creates_claims_and_calls_its_root_in_one_revision() -> None:
    driven = Driven()
    assert driven.ledger.state is ProjectState.RUNNING
    assert driven.ledger.root_id == "root"
    assert driven.ledger.revision == 2
    assert driven.moves_of("root") == [S.READY, S.RUNNING]
    call = driven.calls["root"]
    assert (call.stage, call.attempt, call.number) == (Stage.PLAN, 1, 1)
    assert driven.node("root").node_type is NodeType.PLAN


def test_children_and_their_parents_plan_done_are_one_group() -> None:
    driven = Driven()
    decision = driven.answer("root", plan_of(draft("one"), draft("two", 0)))
    group = next(g for g in decision.groups if any(isinstance(m, CreateNode) for m in g))
    assert [type(m) for m in group] == [CreateNode, CreateNode, PatchNode]
    assert driven.state("root") is S.PLAN_DONE
    assert driven.node("root").children == ("root.1.0", "root.1.1")
    assert driven.node("root").sub_graph_id == "root.1"


def test_the_end_of_a_node_and_the_claims_of_its_dependants_are_one_revision() -> None:
    driven = planned(draft("one"), draft("two", 0), draft("three", 0))
    before = driven.ledger.revision
    driven.answer("root.1.0", done())
    assert driven.ledger.revision == before + 1
    assert driven.moves_of("root.1.1") == [S.PENDING, S.READY, S.RUNNING]
    assert set(driven.calls) == {"root.1.1", "root.1.2"}


def test_a_run_without_failures_is_completed() -> None:
    driven = planned(draft("one"), draft("two", 0))
    driven.answer("root.1.0", done())
    driven.answer("root.1.1", done())
    assert driven.calls["root"].stage is Stage.AGGREGATE
    assert driven.state("root") is S.AGGREGATING
    driven.answer("root", done("report"))
    assert driven.ledger.state is ProjectState.COMPLETED
    assert driven.node("root").result == Result(text="report")
    assert not driven.calls


def test_a_parent_aggregates_once_when_its_last_child_ends() -> None:
    driven = planned(draft(), draft(), draft())
    for number in range(3):
        assert "root" not in driven.calls
        driven.answer(f"root.1.{number}", done())
    assert driven.moves_of("root").count(S.AGGREGATING) == 1


def test_an_undecided_child_is_atomized_and_then_executed_in_the_same_attempt() -> None:
    driven = planned(draft(node_type=None))
    assert driven.calls["root.1.0"].stage is Stage.ATOMIZE
    driven.answer("root.1.0", Decided(NodeType.EXECUTE))
    call = driven.calls["root.1.0"]
    assert (call.stage, call.attempt, call.number) == (Stage.EXECUTE, 1, 2)
    assert driven.node("root.1.0").node_type is NodeType.EXECUTE


def test_an_undecided_child_that_is_not_atomic_is_planned() -> None:
    driven = planned(draft(node_type=None))
    driven.answer("root.1.0", Decided(NodeType.PLAN))
    driven.answer("root.1.0", plan_of(draft()))
    assert driven.node("root.1.0.1.0").layer == 2


@pytest.mark.parametrize(
    "changes, node_type, stage",
    [
        ({}, None, Stage.ATOMIZE),
        ({}, NodeType.PLAN, Stage.PLAN),
        ({}, NodeType.EXECUTE, Stage.EXECUTE),
        ({"skip_atomization": True}, None, Stage.EXECUTE),
        ({"skip_atomization": True}, NodeType.PLAN, Stage.PLAN),
        ({"max_recursion_depth": 1}, NodeType.PLAN, Stage.EXECUTE),
        ({"max_recursion_depth": 1}, None, Stage.EXECUTE),
    ],
)
def test_the_first_stage_follows_the_plan_the_depth_and_the_settings(
    changes: dict[str, Any], node_type: NodeType | None, stage: Stage
) -> None:
    driven = planned(draft(node_type=node_type), settings=replace(DEFAULTS, **changes))
    assert driven.calls["root.1.0"].stage is stage


def test_the_root_is_atomized_when_planning_is_not_forced() -> None:
    driven = Driven(settings=replace(DEFAULTS, force_root_node_planning=False))
    assert driven.calls["root"].stage is Stage.ATOMIZE
    driven.answer("root", Decided(NodeType.EXECUTE))
    driven.answer("root", done())
    assert driven.ledger.state is ProjectState.COMPLETED


def test_no_more_calls_than_slots_are_open_and_a_free_slot_is_filled_at_once() -> None:
    driven = planned(
        *(draft() for _ in range(5)), settings=replace(DEFAULTS, max_concurrent_nodes=2)
    )
    assert len(driven.calls) == 2
    driven.answer("root.1.0", done())
    assert set(driven.calls) == {"root.1.1", "root.1.2"}


def test_an_invalid_plan_is_written_nowhere_and_the_planner_is_asked_again() -> None:
    driven = Driven()
    driven.answer("root", plan_of(draft("x", 7), draft("yes", 1)))
    root = driven.node("root")
    assert list(driven.ledger.nodes) == ["root"]
    assert (root.state, root.attempt, root.replan_count) == (S.NEEDS_REPLAN, 2, 1)
    assert root.error is not None
    assert root.error.error_class is ErrorClass.INVALID_OUTPUT
    for problem in ("1 characters", "[7]", "depends on itself"):
        assert problem in root.error.message
    driven.wait()
    driven.answer("root", plan_of(draft()))
    assert driven.node("root").error is None


def test_an_answer_of_another_stage_is_invalid_output() -> None:
    driven = Driven()
    driven.answer("root", done())
    error = driven.node("root").error
    assert error is not None
    assert error.error_class is ErrorClass.INVALID_OUTPUT


@pytest.mark.parametrize("error_class", RETRIED)
def test_a_failure_that_may_pass_is_retried_with_backoff_up_to_max_retries(
    error_class: ErrorClass,
) -> None:
    driven = planned(draft(), draft())
    for retry, delay in ((1, 4.0), (2, 8.0)):
        driven.answer("root.1.0", failed(error_class))
        node = driven.node("root.1.0")
        assert (node.state, node.attempt, node.retry_count) == (S.READY, retry + 1, retry)
        assert node.next_attempt_time == driven.now + delay
        assert "root.1.0" not in driven.calls
        driven.wait()
        assert driven.node("root.1.0").next_attempt_time is None
    driven.answer("root.1.0", failed(error_class))
    node = driven.node("root.1.0")
    assert (node.state, node.attempt, node.retry_count) == (S.FAILED, 3, 2)
    assert node.error is not None
    assert node.error.error_class is error_class


@pytest.mark.parametrize("error_class", [c for c in ErrorClass if c not in RETRIED])
def test_a_failure_that_cannot_pass_ends_the_node_at_once(error_class: ErrorClass) -> None:
    driven = planned(draft(), draft())
    driven.answer("root.1.0", failed(error_class))
    assert driven.state("root.1.0") is S.FAILED
    assert driven.node("root.1.0").retry_count == 0


def test_a_node_in_backoff_holds_no_slot() -> None:
    driven = planned(draft(), draft(), settings=replace(DEFAULTS, max_concurrent_nodes=1))
    driven.answer("root.1.0", failed())
    assert set(driven.calls) == {"root.1.1"}


def test_a_failed_aggregation_is_retried_as_a_new_attempt_and_then_fails_the_node() -> None:
    driven = planned(draft())
    driven.answer("root.1.0", done())
    for attempt in (1, 2, 3):
        call = driven.calls["root"]
        assert (call.stage, call.attempt) == (Stage.AGGREGATE, attempt)
        driven.answer("root", failed())
        if attempt < 3:
            assert driven.state("root") is S.AGGREGATING
            driven.wait()
    assert driven.state("root") is S.FAILED
    assert driven.moves_of("root").count(S.AGGREGATING) == 1
    assert driven.ledger.state is ProjectState.FAILED


def test_time_of_earlier_calls_of_an_attempt_counts_against_its_timeout() -> None:
    driven = planned(draft(node_type=None))
    driven.answer("root.1.0", Decided(NodeType.EXECUTE), seconds=400.0)
    assert driven.calls["root.1.0"].timeout == 2_000.0
    driven.answer("root.1.0", failed(), seconds=1.0)
    driven.wait()
    assert driven.calls["root.1.0"].timeout == 2_400.0


def test_an_outcome_of_an_earlier_call_is_dropped() -> None:
    driven = planned(draft())
    first = driven.calls["root.1.0"].number
    driven.answer("root.1.0", failed())
    driven.wait()
    assert not driven.event(CallEnded("root.1.0", first, done()))
    assert not driven.event(CallEnded("nobody", 1, done()))
    assert driven.state("root.1.0") is S.RUNNING


def test_the_step_limit_fails_what_is_left_and_the_run_ends_truthfully() -> None:
    driven = planned(
        *(draft() for _ in range(4)),
        settings=replace(DEFAULTS, max_execution_steps=3, max_concurrent_nodes=2),
    )
    driven.answer("root.1.0", done())
    assert [driven.state(f"root.1.{n}") for n in (1, 2, 3)] == [S.RUNNING, S.FAILED, S.FAILED]
    driven.answer("root.1.1", done())
    root = driven.node("root")
    assert root.error is not None
    assert (root.state, root.error.error_class) == (S.FAILED, ErrorClass.LIMIT)
    assert driven.ledger.state is ProjectState.FAILED
    assert driven.run.steps == 3


def test_the_step_limit_counts_what_an_earlier_process_dispatched() -> None:
    driven = planned(draft(), settings=replace(DEFAULTS, max_execution_steps=2))
    driven.crash()
    assert driven.state("root.1.0") is S.FAILED
    assert driven.ledger.state is ProjectState.FAILED


def test_cancel_ends_what_does_not_run_in_one_revision_and_asks_for_the_end_of_the_rest() -> None:
    driven = planned(draft(), draft("two", 0), settings=replace(DEFAULTS, max_concurrent_nodes=1))
    before = driven.ledger.revision
    driven.cancel()
    assert driven.ledger.revision == before + 2  # the order itself, and its effect
    assert driven.ledger.state is ProjectState.CANCELLING
    assert driven.state("root") is S.CANCELLED
    assert driven.state("root.1.1") is S.CANCELLED
    assert driven.state("root.1.0") is S.RUNNING
    assert driven.cancelled == ["root.1.0"]
    assert driven.ledger.commands == {"c": CommandState.APPLIED}


def test_a_result_that_comes_after_cancel_is_dropped() -> None:
    driven = planned(draft())
    driven.cancel()
    driven.answer("root.1.0", done())
    assert driven.state("root.1.0") is S.CANCELLED
    assert driven.node("root.1.0").result is None
    assert driven.ledger.state is ProjectState.CANCELLED


def test_a_second_cancel_is_applied_too_and_one_after_the_end_is_refused() -> None:
    driven = planned(draft())
    driven.cancel("c1")
    driven.cancel("c2")
    driven.answer("root.1.0", done())
    driven.cancel("c3")
    assert driven.ledger.commands == {
        "c1": CommandState.APPLIED,
        "c2": CommandState.APPLIED,
        "c3": CommandState.REFUSED,
    }


def test_an_order_is_answered_once_however_often_it_is_seen() -> None:
    driven = planned(draft())
    driven.cancel()
    assert not driven.event(CommandGiven("c", CommandType.CANCEL_PROJECT))


def test_an_order_of_a_newer_version_is_refused() -> None:
    driven = planned(draft())
    command = CommandGiven("c", CommandType.UNKNOWN)
    driven.ledger.give(command)
    driven.event(command)
    assert driven.ledger.commands == {"c": CommandState.REFUSED}
    assert driven.ledger.state is ProjectState.RUNNING


def test_draining_gives_nodes_back_as_new_attempts_without_a_retry_or_a_crash() -> None:
    driven = planned(draft(), draft())
    driven.run.draining = True
    driven.event(Draining())
    for number in (0, 1):
        node = driven.node(f"root.1.{number}")
        assert (node.state, node.attempt, node.retry_count) == (S.READY, 2, 0)
        assert node.crash_redispatches == 0
    driven.crash()
    assert {call.attempt for call in driven.calls.values()} == {2}


def test_draining_gives_an_aggregation_back_without_a_crash() -> None:
    driven = planned(draft())
    driven.answer("root.1.0", done())
    driven.run.draining = True
    driven.event(Draining())
    driven.calls.clear()
    driven.crash()
    driven.wait()
    call = driven.calls["root"]
    assert (call.stage, call.attempt) == (Stage.AGGREGATE, 2)
    assert driven.node("root").crash_redispatches == 0


def test_results_that_nobody_can_read_any_more_are_freed() -> None:
    driven = planned(draft(node_type=NodeType.PLAN), draft("two", 0))
    driven.answer("root.1.0", plan_of(draft()))
    driven.answer("root.1.0.1.0", done())
    nodes = driven.run.nodes
    kept = [node_id for node_id in nodes if nodes[node_id].result]
    assert kept == ["root.1.0.1.0"]
    driven.answer("root.1.0", done())
    kept = [node_id for node_id in nodes if nodes[node_id].result]
    assert kept == ["root.1.0"]


def test_the_project_ends_in_the_batch_of_its_root() -> None:
    driven = planned(draft())
    driven.answer("root.1.0", done())
    decision = driven.answer("root", done())
    assert [type(m) for m in decision.groups[-1]] == [PatchNode, PatchProject]


def test_what_an_open_call_reports_is_stored_and_what_an_ended_one_reports_is_not() -> None:
    driven = planned(draft())
    call = driven.calls["root.1.0"]
    driven.event(CallProgressed("root.1.0", call.number, "halfway"))
    assert driven.node("root.1.0").progress == "halfway"
    driven.answer("root.1.0", done())
    assert not driven.event(CallProgressed("root.1.0", call.number, "late"))
    assert driven.node("root.1.0").progress == "halfway"
