"""Continuing a run from what is durable (SEM 21)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator_svc.graph.decide import decide
from orchestrator_svc.graph.event import CallEnded, Decided, TimeReached
from orchestrator_svc.graph.recovery import MAX_CRASH_REDISPATCHES
from orchestrator_svc.graph.types import ErrorClass, NodeState, NodeType, ProjectState, Stage
from tests.unit.orchestrator_svc.driven import (
    Driven,
    done,
    draft,
    failed,
    plan_of,
    planned,
    with_node,
)
from tests.unit.orchestrator_svc.ledger import Ledger

S = NodeState


def test_a_running_node_is_dispatched_again_as_a_new_attempt_without_a_retry() -> None:
    driven = planned(draft())
    driven.crash()
    node = driven.node("root.1.0")
    assert (node.state, node.attempt, node.retry_count) == (S.RUNNING, 2, 0)
    assert driven.moves_of("root.1.0") == [S.READY, S.RUNNING, S.READY, S.RUNNING]
    assert driven.calls["root.1.0"].attempt == 2


def test_a_done_node_is_never_dispatched_again() -> None:
    driven = planned(draft(), draft("two", 0))
    driven.answer("root.1.0", done("kept"))
    driven.crash()
    assert set(driven.calls) == {"root.1.1"}
    assert driven.moves_of("root.1.0").count(S.DONE) == 1
    result = driven.run.nodes["root.1.0"].result
    assert result is not None
    assert result.text == "kept"


def test_an_aggregation_is_dispatched_again_as_a_new_attempt() -> None:
    driven = planned(draft())
    driven.answer("root.1.0", done())
    driven.crash()
    call = driven.calls["root"]
    assert (call.stage, call.attempt) == (Stage.AGGREGATE, 2)
    assert driven.node("root").next_attempt_time is None


def test_five_crashes_in_a_row_fail_the_node() -> None:
    driven = planned(draft(), draft())
    driven.answer("root.1.1", done())
    for _ in range(MAX_CRASH_REDISPATCHES - 1):
        driven.crash()
        assert driven.state("root.1.0") is S.RUNNING
    driven.crash()
    assert driven.state("root.1.0") is S.FAILED


def test_an_outcome_between_crashes_starts_the_count_anew() -> None:
    driven = planned(draft())
    for _ in range(MAX_CRASH_REDISPATCHES - 1):
        driven.crash()
    driven.answer("root.1.0", failed())
    assert driven.node("root.1.0").crash_redispatches == 0
    driven.wait()
    driven.crash()
    assert driven.state("root.1.0") is S.RUNNING


def test_retry_counts_and_backoff_survive_a_crash() -> None:
    driven = planned(draft())
    driven.answer("root.1.0", failed())
    due = driven.node("root.1.0").next_attempt_time
    driven.crash()
    assert not driven.calls
    assert driven.run.next_due() == due
    driven.wait()
    assert driven.calls["root.1.0"].attempt == 2
    assert driven.node("root.1.0").retry_count == 1


def test_an_aggregation_in_backoff_survives_a_crash_without_another_attempt() -> None:
    driven = planned(draft())
    driven.answer("root.1.0", done())
    driven.answer("root", failed())
    driven.crash()
    assert driven.node("root").attempt == 2
    driven.wait()
    assert driven.calls["root"].attempt == 2


def test_what_a_planner_attached_is_there_after_a_crash() -> None:
    task = replace(draft(), details={"facet": "how", "weights": [1.0, 0.5], "deep": {"n": 3.0}})
    driven = planned(task)
    before = dict(driven.run.nodes["root.1.0"].details)
    driven.crash()
    assert driven.run.nodes["root.1.0"].details == before
    assert before["weights"] == [1, 0.5]


def test_a_node_that_was_decided_is_not_atomized_again() -> None:
    driven = planned(draft(node_type=None))
    driven.answer("root.1.0", Decided(NodeType.EXECUTE))
    driven.crash()
    assert driven.calls["root.1.0"].stage is Stage.EXECUTE


def test_a_cancellation_is_completed_by_whoever_takes_the_project_up() -> None:
    driven = planned(draft(), draft("two", 0))
    driven.cancel()
    driven.crash()
    assert driven.ledger.state is ProjectState.CANCELLED
    assert set(driven.ledger.states().values()) == {S.CANCELLED}
    assert not driven.calls


def test_an_ended_project_is_left_alone() -> None:
    ledger = Ledger(state=ProjectState.COMPLETED, root_id="root")
    driven = Driven(ledger)
    assert not driven.last
    assert ledger.revision == 1


@pytest.mark.parametrize("split", range(1, 12))
def test_a_decision_that_became_durable_in_part_is_completed(split: int) -> None:
    """A failure that settles many nodes may be split over batches; a crash comes in between."""
    driven = planned(*(draft("part", *([0] if i else [])) for i in range(10)), draft("last"))
    driven.answer("root.1.10", done())
    before = driven.ledger
    call = driven.calls["root.1.0"]
    decision = decide(
        driven.run, [CallEnded("root.1.0", call.number, failed(ErrorClass.AUTH))], driven.now
    )
    before.commit(decision.groups[:split])
    driven.crash()
    assert driven.state("root") is S.AGGREGATING
    driven.answer("root", done())
    assert driven.ledger.state is ProjectState.PARTIAL


@pytest.mark.parametrize("state", list(NodeState))
def test_a_project_goes_on_to_its_end_from_a_node_in_any_state(state: NodeState) -> None:
    driven = with_node(state, attempt=1, agent_calls=1, children=(), node_type=NodeType.EXECUTE)
    for _ in range(20):
        if driven.calls:
            driven.answer(next(iter(driven.calls)), done())
        elif driven.run.next_due() is not None:
            driven.wait()
    assert driven.run.ended
    assert driven.ledger.state in (ProjectState.COMPLETED, ProjectState.PARTIAL)


def test_a_planned_node_taken_up_between_plan_and_children_runs_them() -> None:
    driven = planned(draft(node_type=NodeType.PLAN))
    driven.answer("root.1.0", plan_of(draft(), draft("two", 0)))
    driven.crash()
    assert set(driven.calls) == {"root.1.0.1.0"}


@pytest.mark.parametrize("crash", [False, True])
def test_a_backoff_is_no_longer_than_its_cap_though_the_clock_is_set_back(crash: bool) -> None:
    """Or though who takes over has a clock that is behind."""
    driven = planned(draft(), draft())
    driven.answer("root.1.0", failed(ErrorClass.CONNECTION))
    driven.now -= 3_600.0
    if crash:
        driven.crash()
    else:
        driven.event(TimeReached())
    assert driven.calls["root.1.0"].attempt == 2


def test_a_backoff_goes_on_when_another_process_takes_over() -> None:
    driven = planned(draft(), draft())
    driven.answer("root.1.0", failed(ErrorClass.CONNECTION))
    driven.now += 1.0
    driven.crash()
    assert "root.1.0" not in driven.calls
    driven.wait()
    assert driven.calls["root.1.0"].attempt == 2
