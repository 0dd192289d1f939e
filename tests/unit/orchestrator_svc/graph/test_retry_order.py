"""RetryNode and ReplanNode: legal results at any time, or the reason and what works (SEM 25)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator_svc.engine.context import missing_results
from orchestrator_svc.graph.event import Failed, Produced
from orchestrator_svc.graph.types import (
    CommandState,
    CommandType,
    ErrorClass,
    NodeState,
    NodeType,
    OnDependencyFailure,
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

S = NodeState
APPLIED, REFUSED = CommandState.APPLIED, CommandState.REFUSED
RETRY, REPLAN = CommandType.RETRY_NODE, CommandType.REPLAN_NODE
NO_RETRY = replace(DEFAULTS, max_retries=0)


def chain() -> Driven:
    """Return a run of a chain of three whose first node failed, beside one that runs."""
    driven = planned(draft(), draft("part", 0), draft("part", 1), draft(), settings=NO_RETRY)
    driven.answer("root.1.0", failed())
    assert driven.state("root.1.2") is S.FAILED
    return driven


@pytest.mark.parametrize("crash", [False, True])
def test_a_retried_node_and_what_failed_for_it_go_on(crash: bool) -> None:
    driven = chain()
    assert driven.order(RETRY, "root.1.0")[0] is APPLIED
    node = driven.node("root.1.0")
    assert (node.state, node.attempt, node.retry_count) == (S.RUNNING, 2, 0)
    if crash:
        driven.crash()
    driven.answer("root.1.3", done())
    assert driven.state("root") is S.PLAN_DONE, "it waits for the retried node"
    driven.answer("root.1.0", done())
    assert driven.state("root.1.1") is S.RUNNING
    assert driven.state("root.1.2") is S.FAILED
    driven.answer("root.1.1", done())
    driven.answer("root.1.2", done())
    driven.answer("root", done())
    assert driven.project() is ProjectState.COMPLETED
    assert driven.node("root.1.1").error is None


def test_dependants_go_on_after_a_crash_between_the_result_and_them() -> None:
    driven = chain()
    driven.order(RETRY, "root.1.0")
    driven.ledger.nodes["root.1.0"].state = S.DONE
    driven.ledger.nodes["root.1.0"].error = None
    driven.crash()
    assert driven.state("root.1.1") is S.RUNNING
    assert [call.node_id for call in driven.calls.values()].count("root.1.1") == 1


@pytest.mark.parametrize("crash", [False, True])
@pytest.mark.parametrize("outcome", [done(), failed()])
def test_what_is_ready_waits_for_a_dependency_that_is_retried(
    outcome: Produced | Failed, crash: bool
) -> None:
    settings = replace(
        NO_RETRY, max_concurrent_nodes=1, on_dependency_failure=OnDependencyFailure.RUN
    )
    driven = planned(draft(), draft(), draft("part", 0), settings=settings)
    driven.answer("root.1.0", failed())
    assert (driven.state("root.1.1"), driven.state("root.1.2")) == (S.RUNNING, S.READY)
    assert driven.order(RETRY, "root.1.0")[0] is APPLIED
    driven.answer("root.1.1", done())
    if crash:
        driven.crash()
    assert (driven.state("root.1.0"), driven.state("root.1.2")) == (S.RUNNING, S.READY)
    driven.answer("root.1.0", outcome)
    assert driven.state("root.1.2") is S.RUNNING


def test_a_retried_node_may_fail_again() -> None:
    driven = chain()
    driven.order(RETRY, "root.1.0")
    driven.answer("root.1.0", failed())
    driven.answer("root.1.3", done())
    driven.answer("root", done())
    assert driven.project() is ProjectState.PARTIAL


def test_a_backoff_is_ended() -> None:
    driven = planned(draft())
    driven.answer("root.1.0", failed())
    assert driven.order(RETRY, "root.1.0") == (APPLIED, "its backoff is over")
    assert driven.calls["root.1.0"].attempt == 2
    assert driven.node("root.1.0").retry_count == 1


def test_a_node_none_of_whose_children_is_done_is_planned_again() -> None:
    driven = planned(draft(node_type=NodeType.PLAN), draft(), settings=NO_RETRY)
    driven.answer("root.1.0", plan_of(draft("one"), draft("two", 0)))
    driven.answer("root.1.0.1.0", failed())
    assert driven.state("root.1.0") is S.FAILED
    assert driven.order(RETRY, "root.1.0")[0] is APPLIED
    assert driven.calls["root.1.0"].stage is Stage.PLAN


@pytest.mark.parametrize(
    "node_id, words",
    [
        ("root.1.1", "RetryNode root.1.0"),
        ("root.1.3", "is RUNNING, not FAILED"),
        ("root", "is PLAN_DONE, not FAILED"),
        ("nobody", "there is no node 'nobody'"),
    ],
)
def test_a_retry_that_cannot_work_names_what_does(node_id: str, words: str) -> None:
    state, answer = chain().order(RETRY, node_id)
    assert state is REFUSED
    assert words in answer


def test_a_retry_below_an_ancestor_that_has_gone_on_names_replan_and_fork() -> None:
    driven = chain()
    driven.answer("root.1.3", done())
    assert driven.state("root") is S.AGGREGATING
    state, answer = driven.order(RETRY, "root.1.0")
    assert state is REFUSED
    assert answer == (
        "root above it is AGGREGATING; ReplanNode root takes it up again, "
        "ForkProject goes back to an earlier revision"
    )


def test_done_and_cancelled_nodes_are_not_retried() -> None:
    driven = planned(draft(), draft(), draft())
    driven.answer("root.1.0", done())
    driven.order(CommandType.CANCEL_NODE, "root.1.1")
    assert "ReplanNode root makes a new node" in driven.order(RETRY, "root.1.1")[1]
    assert "ReplanNode root.1.0" in driven.order(RETRY, "root.1.0")[1]


def test_no_evidence_is_not_retried() -> None:
    driven = planned(draft(), draft())
    driven.answer("root.1.0", failed(ErrorClass.NO_EVIDENCE))
    state, answer = driven.order(RETRY, "root.1.0")
    assert state is REFUSED
    assert "ReplanNode root" in answer


def test_the_failed_root_of_an_ended_project_is_retried() -> None:
    driven = planned(draft("one"), draft("two"), settings=NO_RETRY)
    driven.answer("root.1.0", done("kept"))
    driven.answer("root.1.1", done())
    driven.answer("root", failed(ErrorClass.AUTH))
    assert driven.project() is ProjectState.FAILED
    assert driven.reopen(RETRY, "root")[0] is APPLIED
    assert driven.project() is ProjectState.RUNNING
    assert driven.calls["root"].stage is Stage.AGGREGATE, "its plan is kept"
    driven.answer("root", done())
    assert driven.project() is ProjectState.COMPLETED
    assert driven.ledger.error is None


def test_a_partial_project_is_replanned_from_its_root() -> None:
    driven = planned(draft("one"), draft("two"), settings=NO_RETRY)
    driven.answer("root.1.0", done("kept"))
    driven.answer("root.1.1", failed())
    driven.answer("root", done())
    assert driven.project() is ProjectState.PARTIAL
    assert driven.reopen(REPLAN, "root") == (APPLIED, "")
    driven.answer("root", plan_of(draft("one"), draft("two")))
    assert driven.node("root").children == ("root.1.0", "root.2.1")
    driven.answer("root.2.1", done())
    driven.answer("root", done())
    assert driven.project() is ProjectState.COMPLETED


def test_a_project_that_was_reopened_for_nothing_ends_as_before() -> None:
    driven = planned(draft(), draft(), settings=NO_RETRY)
    driven.answer("root.1.0", done())
    driven.answer("root.1.1", failed())
    driven.answer("root", done())
    state, answer = driven.reopen(RETRY, "root.1.1")
    assert state is REFUSED
    assert "ReplanNode root" in answer
    assert driven.project() is ProjectState.PARTIAL


@pytest.mark.parametrize("state", [S.PLAN_DONE, S.AGGREGATING, S.RUNNING])
def test_a_node_at_work_is_replanned(state: NodeState) -> None:
    driven = planned(draft(node_type=NodeType.PLAN), draft())
    if state is not S.RUNNING:
        driven.answer("root.1.0", plan_of(draft()))
    if state is S.AGGREGATING:
        driven.answer("root.1.0.1.0", done())
    assert driven.state("root.1.0") is state
    assert driven.order(REPLAN, "root.1.0")[0] is APPLIED
    if state is not S.PLAN_DONE:
        assert driven.state("root.1.0") is S.NEEDS_REPLAN, "its call has to end first"
        driven.answer("root.1.0", plan_of(draft()))  # the old call: too late
    assert driven.calls["root.1.0"].stage is Stage.PLAN
    driven.answer("root.1.0", plan_of(draft("other")))
    assert driven.state("root.1.0") is S.PLAN_DONE


def test_a_done_node_is_replanned_before_anybody_uses_it() -> None:
    driven = planned(draft(), draft("part", 0, 2), draft())
    driven.answer("root.1.0", done())
    assert driven.order(REPLAN, "root.1.0")[0] is APPLIED
    driven.answer("root.1.2", done())
    assert driven.state("root.1.1") is S.PENDING
    driven.answer("root.1.0", plan_of(draft()))
    driven.answer("root.1.0.1.0", done())
    driven.answer("root.1.0", done())
    assert driven.state("root.1.1") is S.RUNNING


def test_a_result_that_is_being_used_is_not_replaced() -> None:
    driven = planned(draft(), draft("part", 0))
    driven.answer("root.1.0", done())
    state, answer = driven.order(REPLAN, "root.1.0")
    assert state is REFUSED
    assert "ReplanNode root plans both anew" in answer


def test_what_cannot_have_a_plan_is_not_replanned() -> None:
    driven = planned(draft(), settings=replace(DEFAULTS, max_recursion_depth=1))
    state, answer = driven.order(REPLAN, "root.1.0")
    assert state is REFUSED
    assert "deepest layer" in answer


def test_a_node_that_was_queued_twice_still_waits_for_the_end_of_its_backoff() -> None:
    settings = replace(
        DEFAULTS, max_concurrent_nodes=1, on_dependency_failure=OnDependencyFailure.RUN
    )
    first = replace(draft(), max_retries=0)
    driven = planned(first, draft("part", 0), draft(), settings=settings)
    driven.answer("root.1.0", failed())
    assert driven.order(RETRY, "root.1.0")[0] is APPLIED
    assert driven.order(CommandType.CANCEL_NODE, "root.1.0")[0] is APPLIED
    assert list(driven.run.queue).count("root.1.1") == 2
    driven.answer("root.1.2", done())
    driven.answer("root.1.1", failed())
    due = driven.node("root.1.1").next_attempt_time
    assert due is not None
    assert due > driven.now
    assert not driven.calls, "its second place in the line is no way around the backoff"
    driven.wait()
    assert list(driven.calls) == ["root.1.1"]


@pytest.mark.parametrize("crash", [False, True])
def test_a_retried_aggregation_keeps_the_plan_and_what_is_done_of_it(crash: bool) -> None:
    driven = planned(draft(), draft(node_type=NodeType.PLAN), draft(), settings=NO_RETRY)
    driven.answer("root.1.1", plan_of(draft(), draft()))
    driven.answer("root.1.1.1.0", done())
    driven.answer("root.1.1.1.1", failed())
    driven.answer("root.1.1", failed(ErrorClass.AUTH))
    assert driven.state("root.1.1") is S.FAILED
    if crash:
        driven.crash()
    state, answer = driven.order(RETRY, "root.1.1")
    assert (state, answer.partition(",")[0]) == (APPLIED, "its plan is kept")
    call = driven.calls["root.1.1"]
    assert (call.stage, call.attempt) == (Stage.AGGREGATE, 2)
    assert missing_results(driven.run, call) == ["root.1.1.1.0"], "to be fetched for the agent"
    assert driven.moves_of("root.1.1")[-4:] == [S.READY, S.RUNNING, S.PLAN_DONE, S.AGGREGATING]
    if crash:
        driven.crash()
        assert driven.calls["root.1.1"].stage is Stage.AGGREGATE
    driven.answer("root.1.1", done())
    assert driven.node("root.1.1").error is None
    assert driven.moves_of("root.1.1.1.0").count(S.DONE) == 1, "finished work is not redone"


def test_a_node_that_failed_before_its_new_plan_is_planned_again() -> None:
    driven = planned(draft(), draft(), settings=NO_RETRY)
    driven.answer("root.1.0", done())
    assert driven.order(REPLAN, "root")[0] is APPLIED
    driven.answer("root.1.1", failed(ErrorClass.CANCELLED))
    driven.answer("root", failed(ErrorClass.AUTH))
    assert driven.project() is ProjectState.FAILED
    assert driven.reopen(RETRY, "root")[0] is APPLIED
    assert driven.calls["root"].stage is Stage.PLAN
