"""Failed dependencies, parents of failed children, and the truth about a project (SEM 25, 26)."""

from __future__ import annotations

import itertools

import pytest

from orchestrator_svc.graph.types import ErrorClass, NodeState, NodeType, ProjectState
from tests.unit.orchestrator_svc.driven import Driven, done, draft, failed, plan_of, planned

S = NodeState


def test_transitive_dependants_of_a_failed_node_fail_and_name_where_it_began() -> None:
    driven = planned(draft(), draft("two", 0), draft("three", 1), draft("four"))
    driven.answer("root.1.0", failed(ErrorClass.AUTH))
    for node_id in ("root.1.1", "root.1.2"):
        error = driven.node(node_id).error
        assert error is not None
        assert driven.state(node_id) is S.FAILED
        assert (error.error_class, error.node_id) == (ErrorClass.DEPENDENCY_FAILED, "root.1.0")
    assert driven.state("root.1.3") is S.RUNNING


def test_a_parent_with_one_done_child_still_aggregates_and_the_project_is_partial() -> None:
    driven = planned(draft(), draft())
    driven.answer("root.1.0", failed(ErrorClass.AUTH))
    driven.answer("root.1.1", done())
    driven.answer("root", done())
    assert driven.state("root") is S.DONE
    assert driven.ledger.state is ProjectState.PARTIAL


def test_a_parent_without_a_done_child_fails_and_the_project_says_where_it_began() -> None:
    driven = planned(draft(node_type=NodeType.PLAN), draft("two", 0))
    driven.answer("root.1.0", plan_of(draft(), draft()))
    driven.answer("root.1.0.1.0", failed(ErrorClass.NO_EVIDENCE))
    driven.answer("root.1.0.1.1", failed(ErrorClass.NO_EVIDENCE))
    assert driven.ledger.states() == {
        "root": S.FAILED,
        "root.1.0": S.FAILED,
        "root.1.1": S.FAILED,
        "root.1.0.1.0": S.FAILED,
        "root.1.0.1.1": S.FAILED,
    }
    assert driven.ledger.state is ProjectState.FAILED
    error = driven.ledger.error
    assert error is not None
    assert (error.error_class, error.node_id) == (ErrorClass.NO_EVIDENCE, "root.1.0.1.0")
    assert not driven.calls


def test_a_root_that_fails_by_itself_fails_the_project() -> None:
    driven = Driven()
    driven.answer("root", failed(ErrorClass.NO_EVIDENCE))
    assert driven.ledger.state is ProjectState.FAILED
    assert driven.ledger.error is not None
    assert driven.ledger.error.error_class is ErrorClass.NO_EVIDENCE


def test_a_long_chain_fails_without_recursion() -> None:
    driven = planned(*(draft("part", *([i - 1] if i else [])) for i in range(3_000)))
    driven.answer("root.1.0", failed(ErrorClass.AUTH))
    assert set(driven.ledger.states().values()) == {S.FAILED}


@pytest.mark.parametrize("outcomes", list(itertools.product([True, False], repeat=3)))
def test_project_state_is_truthful_for_every_outcome_of_three_children(
    outcomes: tuple[bool, ...],
) -> None:
    driven = planned(draft(), draft(), draft())
    for number, good in enumerate(outcomes):
        driven.answer(f"root.1.{number}", done() if good else failed(ErrorClass.AUTH))
    if any(outcomes):
        driven.answer("root", done())
    expected = (
        ProjectState.COMPLETED
        if all(outcomes)
        else ProjectState.PARTIAL
        if any(outcomes)
        else ProjectState.FAILED
    )
    assert driven.ledger.state is expected
