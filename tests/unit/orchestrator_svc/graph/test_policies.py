"""Recovery and its end: the table, `on_exhausted` and `on_dependency_failure` (S2.3, S2.4)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator_svc.graph.recovery import FINAL, RECOVERY, Recovery
from orchestrator_svc.graph.types import (
    CommandType,
    ErrorClass,
    NodeState,
    NodeType,
    OnDependencyFailure,
    OnExhausted,
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
E = ErrorClass
NO_RETRY = replace(DEFAULTS, max_retries=0)


@pytest.mark.parametrize(
    "error_class, stage, recovery",
    [
        (E.TIMEOUT, Stage.EXECUTE, Recovery.TIMEOUT),
        (E.TIMEOUT, Stage.PLAN, Recovery.TIMEOUT),
        (E.RATE_LIMIT, Stage.EXECUTE, Recovery.RETRY),
        (E.CONNECTION, Stage.AGGREGATE, Recovery.RETRY),
        (E.INVALID_OUTPUT, Stage.PLAN, Recovery.REPLAN),
        (E.INVALID_OUTPUT, Stage.EXECUTE, Recovery.RETRY),
        (E.EXECUTION, Stage.PLAN, Recovery.REPLAN),
        (E.EXECUTION, Stage.EXECUTE, Recovery.RETRY),
        (E.AUTH, Stage.EXECUTE, Recovery.FAIL),
        (E.NO_EVIDENCE, Stage.EXECUTE, Recovery.FAIL),
        (E.CANCELLED, Stage.EXECUTE, Recovery.FAIL),
    ],
)
def test_the_recovery_table(error_class: ErrorClass, stage: Stage, recovery: Recovery) -> None:
    assert RECOVERY[error_class, stage] is recovery


def test_timeouts_have_a_limit_of_their_own_within_the_retries() -> None:
    settings = replace(DEFAULTS, max_retries=5, max_recovery_attempts=1)
    driven = planned(draft(), draft(), settings=settings)
    driven.answer("root.1.0", failed(E.CONNECTION))
    driven.wait()
    driven.answer("root.1.0", failed(E.TIMEOUT))
    node = driven.node("root.1.0")
    assert (node.state, node.retry_count, node.timeout_count) == (S.READY, 2, 1)
    driven.wait()
    driven.answer("root.1.0", failed(E.TIMEOUT))
    assert driven.state("root.1.0") is S.FAILED


@pytest.mark.execution_key("on_exhausted")
@pytest.mark.parametrize(
    "policy, node, project",
    [
        (OnExhausted.FAIL, S.FAILED, ProjectState.RUNNING),
        (OnExhausted.PAUSE, S.READY, ProjectState.PAUSING),
        (OnExhausted.REPLAN, S.FAILED, ProjectState.RUNNING),
        (OnExhausted.ASK, S.RUNNING, ProjectState.RUNNING),
    ],
)
def test_on_exhausted_decides_when_recoveries_are_used_up(
    policy: OnExhausted, node: NodeState, project: ProjectState
) -> None:
    driven = planned(draft(), draft(), settings=replace(NO_RETRY, on_exhausted=policy))
    driven.answer("root.1.0", failed())
    assert driven.state("root.1.0") is node
    assert driven.project() is project
    replans = policy is OnExhausted.REPLAN
    assert (driven.state("root") is S.RUNNING) == replans
    assert (driven.state("root.1.1") is S.CANCELLED) == replans


def test_a_node_has_a_policy_of_its_own() -> None:
    own = replace(draft(), on_exhausted=OnExhausted.PAUSE)
    driven = planned(draft(), own, settings=NO_RETRY)
    driven.answer("root.1.0", failed())
    assert driven.project() is ProjectState.RUNNING
    driven.answer("root.1.1", failed())
    assert driven.project() is ProjectState.PAUSED


@pytest.mark.parametrize("crash", [False, True])
def test_a_run_that_paused_for_a_failure_gives_the_node_a_fresh_start(crash: bool) -> None:
    settings = replace(DEFAULTS, max_retries=1, on_exhausted=OnExhausted.PAUSE)
    driven = planned(draft(), settings=settings)
    driven.answer("root.1.0", failed(E.CONNECTION))
    driven.wait()
    driven.answer("root.1.0", failed(E.CONNECTION))
    node = driven.node("root.1.0")
    assert driven.project() is ProjectState.PAUSED
    assert (node.state, node.attempt, node.retry_count) == (S.READY, 3, 0)
    assert node.error is not None
    if crash:
        driven.crash()
    driven.order(CommandType.RESUME_PROJECT)
    driven.answer("root.1.0", done())
    driven.answer("root", done())
    assert driven.project() is ProjectState.COMPLETED


def test_an_aggregation_that_paused_the_run_is_done_again_after_it() -> None:
    settings = replace(NO_RETRY, on_exhausted=OnExhausted.PAUSE)
    driven = planned(draft(), settings=settings)
    driven.answer("root.1.0", done())
    driven.answer("root", failed(E.AUTH))
    assert driven.project() is ProjectState.PAUSED
    driven.order(CommandType.RESUME_PROJECT)
    assert (driven.calls["root"].stage, driven.calls["root"].attempt) == (Stage.AGGREGATE, 2)


@pytest.mark.parametrize("error_class", sorted(FINAL))
@pytest.mark.parametrize("policy", [OnExhausted.PAUSE, OnExhausted.REPLAN])
def test_facts_and_decisions_are_final_whatever_the_policy(
    error_class: ErrorClass, policy: OnExhausted
) -> None:
    driven = planned(draft(), draft(), settings=replace(NO_RETRY, on_exhausted=policy))
    driven.answer("root.1.0", failed(error_class))
    assert driven.state("root.1.0") is S.FAILED
    assert driven.project() is ProjectState.RUNNING


@pytest.mark.execution_key("on_dependency_failure")
@pytest.mark.parametrize(
    "policy, node, root",
    [
        (OnDependencyFailure.FAIL, S.FAILED, S.PLAN_DONE),
        (OnDependencyFailure.RUN, S.RUNNING, S.PLAN_DONE),
        (OnDependencyFailure.SKIP, S.CANCELLED, S.PLAN_DONE),
        (OnDependencyFailure.REPLAN, S.CANCELLED, S.RUNNING),
    ],
)
def test_on_dependency_failure_decides_about_dependants(
    policy: OnDependencyFailure, node: NodeState, root: NodeState
) -> None:
    settings = replace(NO_RETRY, on_dependency_failure=policy)
    driven = planned(draft(), draft("part", 0), draft(), settings=settings)
    driven.answer("root.1.0", failed())
    assert driven.state("root.1.1") is node
    assert driven.state("root") is root


@pytest.mark.parametrize("policy", list(OnDependencyFailure))
def test_a_failure_that_was_not_settled_before_a_crash_is_settled_after_it(
    policy: OnDependencyFailure,
) -> None:
    settings = replace(NO_RETRY, on_dependency_failure=policy)
    driven = planned(draft(), draft("part", 0), draft("part", 1), draft(), settings=settings)
    other = planned(draft(), draft("part", 0), draft("part", 1), draft(), settings=settings)
    driven.ledger.nodes["root.1.0"].state = S.FAILED
    driven.ledger.nodes["root.1.0"].error = None
    driven.crash()
    other.answer("root.1.0", failed())
    assert driven.ledger.states() == other.ledger.states()


def test_a_run_waits_for_every_dependency_before_it_runs_anyway() -> None:
    settings = replace(NO_RETRY, on_dependency_failure=OnDependencyFailure.RUN)
    driven = planned(draft(), draft(), draft("part", 0, 1), settings=settings)
    driven.answer("root.1.0", failed())
    assert driven.state("root.1.2") is S.PENDING
    driven.answer("root.1.1", done())
    assert driven.state("root.1.2") is S.RUNNING


def test_what_was_skipped_is_no_failure_but_its_cause_is() -> None:
    skips = replace(draft("part", 0), on_dependency_failure=OnDependencyFailure.SKIP)
    driven = planned(draft(), skips, draft(), settings=NO_RETRY)
    driven.order(CommandType.CANCEL_NODE, "root.1.0")
    driven.answer("root.1.0", failed(E.CANCELLED))
    driven.answer("root.1.2", done())
    driven.answer("root", done())
    assert driven.project() is ProjectState.PARTIAL
    assert driven.ledger.error is not None
    assert driven.ledger.error.message == "1 of 4 nodes are not done: root.1.0 CANCELLED"


def test_a_partial_run_lists_what_failed_by_itself() -> None:
    driven = planned(draft(), draft("part", 0), draft(), settings=NO_RETRY)
    driven.answer("root.1.0", failed(E.AUTH))
    driven.answer("root.1.2", done())
    driven.answer("root", done())
    error = driven.ledger.error
    assert driven.project() is ProjectState.PARTIAL
    assert error is not None
    assert (error.error_class, error.node_id) == (E.AUTH, "root.1.0")
    assert error.message == "2 of 4 nodes are not done: root.1.0 FAILED (AUTH: it broke)"


def test_a_parent_without_a_finished_child_is_planned_anew_by_policy() -> None:
    settings = replace(NO_RETRY, on_dependency_failure=OnDependencyFailure.REPLAN)
    driven = planned(draft(), draft(), settings=settings)
    driven.answer("root.1.0", failed())
    driven.answer("root.1.1", failed())
    assert driven.state("root") is S.RUNNING
    assert "none of 2 children is done" in driven.node("root").replan_reason


def test_replans_of_a_tree_end() -> None:
    settings = replace(
        NO_RETRY,
        max_recursion_depth=2,
        on_exhausted=OnExhausted.REPLAN,
        on_dependency_failure=OnDependencyFailure.REPLAN,
    )
    driven = Driven(settings=settings)
    for _ in range(500):
        if not driven.calls:
            break
        node_id, call = next(iter(driven.calls.items()))
        if call.stage is Stage.PLAN:
            driven.answer(node_id, plan_of(draft(node_type=NodeType.PLAN), draft("part", 0)))
        else:
            driven.answer(node_id, failed())
    assert driven.project() is ProjectState.FAILED
