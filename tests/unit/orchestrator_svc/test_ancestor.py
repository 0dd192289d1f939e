"""What the ancestor got wrong and this core gets right: one test per finding, named after it.

Findings about strategies (W16), keys (W17), the doctor (W19) and isolation (W20)
are held where those parts are tested.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator_svc.graph.event import Call, Decided
from orchestrator_svc.graph.plan import check_plan
from orchestrator_svc.graph.recovery import MAX_REPLANS, RECOVERY, Recovery
from orchestrator_svc.graph.review import ReviewDecision
from orchestrator_svc.graph.settings import ExpiryPolicy
from orchestrator_svc.graph.types import (
    TERMINAL_PROJECT_STATES,
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

S = NodeState
NO_RETRY = replace(DEFAULTS, max_retries=0)


def test_w9_an_aggregator_is_called_once_per_attempt() -> None:
    """The ancestor called it five or six times, once per child that ended."""
    driven = planned(draft(), draft(), draft())
    begun: list[Call] = []
    for node_id in ("root.1.2", "root.1.0", "root.1.1"):
        begun += driven.answer(node_id, done()).calls
    assert [(call.stage, call.attempt) for call in begun] == [(Stage.AGGREGATE, 1)]
    driven.answer("root", failed(ErrorClass.CONNECTION))
    assert [(call.stage, call.attempt) for call in driven.wait().calls] == [(Stage.AGGREGATE, 2)]


def test_w10_a_dependant_begins_in_the_turn_in_which_its_dependency_ends() -> None:
    """The ancestor polled once a second, and idle slots waited for the slowest task."""
    driven = planned(draft(), draft("part", 0), draft(), settings=NO_RETRY)
    decision = driven.answer("root.1.0", done())
    assert [call.node_id for call in decision.calls] == ["root.1.1"]
    assert driven.state("root.1.2") is S.RUNNING, "a slow task holds nobody up"


def test_w11_a_failed_dependency_never_hangs_a_run() -> None:
    links = (draft("part", *((i - 1,) if i else ())) for i in range(5))
    driven = planned(*links, settings=NO_RETRY)
    driven.answer("root.1.0", failed())
    assert not driven.calls
    assert driven.ledger.state in TERMINAL_PROJECT_STATES
    assert {driven.state(f"root.1.{i}") for i in range(5)} == {S.FAILED}


@pytest.mark.parametrize(
    "error_class, stage, most",
    [
        (ErrorClass.TIMEOUT, Stage.EXECUTE, 1),
        (ErrorClass.RATE_LIMIT, Stage.EXECUTE, 2),
        (ErrorClass.INVALID_OUTPUT, Stage.PLAN, MAX_REPLANS),
    ],
)
def test_w12_every_recovery_is_reached_counted_and_bounded(
    error_class: ErrorClass, stage: Stage, most: int
) -> None:
    """The ancestor's retries were unreachable or endless."""
    assert RECOVERY[error_class, stage] is not Recovery.FAIL
    driven = Driven(settings=replace(DEFAULTS, max_retries=2, max_recovery_attempts=1))
    node_id = "root"
    if stage is Stage.EXECUTE:
        driven.answer("root", plan_of(draft(), draft()))
        node_id = "root.1.0"
    for _ in range(most):
        driven.answer(node_id, failed(error_class))
        driven.crash()  # the counts are stored
        while node_id not in driven.calls:
            driven.wait()
    driven.answer(node_id, failed(error_class))
    assert driven.state(node_id) is S.FAILED


@pytest.mark.parametrize(
    "outcomes, state",
    [
        ((done(), done()), ProjectState.COMPLETED),
        ((done(), failed(ErrorClass.AUTH)), ProjectState.PARTIAL),
        ((failed(ErrorClass.AUTH), failed(ErrorClass.AUTH)), ProjectState.FAILED),
    ],
)
def test_w13_failed_work_is_never_reported_as_success(
    outcomes: tuple[object, ...], state: ProjectState
) -> None:
    driven = planned(draft(), draft())
    for index, outcome in enumerate(outcomes):
        driven.answer(f"root.1.{index}", outcome)  # type: ignore[arg-type]
    if "root" in driven.calls:
        driven.answer("root", done())
    assert driven.project() is state
    assert (driven.ledger.error is None) == (state is ProjectState.COMPLETED)


@pytest.mark.parametrize("policy", ExpiryPolicy)
def test_w14_nothing_goes_on_without_the_human_who_was_asked_for(policy: ExpiryPolicy) -> None:
    """The ancestor never asked; time-outs, errors and unknown answers approved."""
    asking = replace(DEFAULTS, enable_hitl=True, hitl_expiry_policy=policy)
    driven = Driven(settings=asking)
    driven.answer("root", plan_of(draft()))
    driven.crash()
    assert list(driven.ledger.nodes) == ["root"]
    driven.decide("root.r1", ReviewDecision.REQUEST_MODIFICATION, "otherwise")
    driven.answer("root", failed(ErrorClass.CONNECTION))
    driven.wait()
    driven.tell()
    children = [node for node in driven.ledger.nodes if node != "root"]
    assert children == [], "neither an error nor the silence after it approves"
    assert (driven.state("root") is S.FAILED) == (policy is ExpiryPolicy.REJECT)


def test_w15_a_run_is_paused_resumed_and_cancelled_down_to_its_calls() -> None:
    driven = planned(draft(), draft(node_type=NodeType.PLAN))
    driven.answer("root.1.1", plan_of(draft()))
    assert driven.order(CommandType.PAUSE_PROJECT)[0] is CommandState.APPLIED
    assert driven.order(CommandType.RESUME_PROJECT)[0] is CommandState.APPLIED
    driven.cancel()
    assert sorted(driven.cancelled) == ["root.1.0", "root.1.1.1.0"]
    driven.answer_all(sorted(driven.calls), failed(ErrorClass.CANCELLED))
    assert driven.project() is ProjectState.CANCELLED


def test_w15_a_node_has_a_deadline_over_all_calls_of_an_attempt() -> None:
    driven = planned(draft(node_type=None))
    limit = driven.settings.node_execution_timeout_seconds
    decision = driven.answer("root.1.0", Decided(NodeType.EXECUTE), seconds=100.0)
    assert [call.timeout for call in decision.calls] == [limit - 100.0]


def test_w18_a_plan_is_checked_whole_and_all_its_faults_are_told() -> None:
    """The ancestor shifted indices, took cycles and guessed dependencies."""
    tasks = [draft("one", 1), draft("two", 0), draft("self", 2), draft("far", 9)]
    problems = check_plan(tasks, layer=0, max_depth=5, objective="all")
    text = "; ".join(problems)
    assert "0 → 1 → 0" in text
    assert "task 2: depends on itself" in text
    assert "task 3: depends on [9]" in text
    driven = Driven()
    driven.answer("root", plan_of(*tasks))
    assert list(driven.ledger.nodes) == ["root"], "nothing of it is written"
    driven.wait()
    driven.answer("root", plan_of(draft("first"), draft("second", 0)))
    assert driven.node("root.1.1").depends_on == ("root.1.0",), "indices mean what they say"
