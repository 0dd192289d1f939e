"""An execution that ends by a refusal is no crash; one that comes again and again is an outcome."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator_svc.graph.decide import decide, first_turn
from orchestrator_svc.graph.event import CallEnded, CommandGiven, Produced, TurnFailed
from orchestrator_svc.graph.node import Result
from orchestrator_svc.graph.recover import begin
from orchestrator_svc.graph.recovery import MAX_CRASH_REDISPATCHES
from orchestrator_svc.graph.setback import MAX_REFUSALS, REMEMBERED_SECONDS, Setback, Setbacks
from orchestrator_svc.graph.types import (
    CommandState,
    CommandType,
    ErrorClass,
    NodeState,
    ProjectState,
)
from tests.unit.orchestrator_svc.driven import Driven, draft, load_run, planned

S = NodeState
AWAY = Setback(reason="the store is away", kind="StoreUnavailable", passes=True)
REFUSED = Setback(reason="no", kind="InvalidMutation", refused=True)


def about(node_id: str) -> Setback:
    return Setback(reason="no", kind="InvalidMutation", node_id=node_id, refused=True)


def again(driven: Driven, setback: Setback) -> None:
    """Lose everything that is not durable by a setback, and take the run up again."""
    driven.calls.clear()
    driven.run = load_run(driven.ledger, driven.settings)
    driven.run.setback = setback
    driven._take(begin(driven.run, driven.now))


def outcome_of(setback: Setback) -> Setback:
    setbacks = Setbacks()
    for _ in range(MAX_REFUSALS):
        setbacks.add(setback, 0.0)
    assert setbacks.latest is not None
    assert setbacks.latest.is_outcome
    return setbacks.latest


@pytest.mark.parametrize("setback", [AWAY, REFUSED, about("root.1.1")])
def test_what_cut_off_a_call_without_being_its_fault_does_not_count_as_a_crash(
    setback: Setback,
) -> None:
    driven = planned(draft(), draft())
    for _ in range(MAX_CRASH_REDISPATCHES + 2):
        again(driven, setback)
    node = driven.node("root.1.0")
    assert node.state is S.RUNNING
    assert (node.crash_redispatches, node.retry_count) == (0, 0)
    assert node.attempt == MAX_CRASH_REDISPATCHES + 3


def test_a_refusal_that_names_a_node_is_an_invalid_output_of_that_node_alone() -> None:
    driven = planned(draft(), draft())
    again(driven, about("root.1.1"))
    error = driven.node("root.1.1").error
    assert error is not None
    assert (error.error_class, error.message) == (
        ErrorClass.INVALID_OUTPUT,
        "its outcome cannot be stored: no",
    )
    assert driven.node("root.1.1").retry_count == 1
    assert driven.node("root.1.0").error is None
    driven.crash()
    again(driven, about("root"))
    assert driven.node("root").error is None, "it waits for its children: nothing of it is lost"


def test_a_planner_whose_plan_is_refused_is_asked_again_with_the_reason() -> None:
    driven = Driven()
    again(driven, about("root"))
    assert driven.state("root") is S.NEEDS_REPLAN
    assert "cannot be stored: no" in driven.node("root").replan_reason


def test_what_is_refused_again_and_again_fails_its_node_and_then_the_run() -> None:
    driven = planned(draft(), draft())
    setbacks = Setbacks()
    for _ in range(MAX_REFUSALS):
        setbacks.add(about("root.1.1"), 0.0)
    assert setbacks.latest is not None
    again(driven, setbacks.latest)
    error = driven.node("root.1.1").error
    assert error is not None
    assert (driven.state("root.1.1"), error.message) == (S.FAILED, "refused 3 times: no")
    assert driven.state("root.1.0") is S.RUNNING
    for _ in range(MAX_REFUSALS):
        setbacks.add(about("root.1.1"), 1.0)
    again(driven, setbacks.latest)
    assert driven.ledger.state is ProjectState.FAILED
    assert driven.ledger.error is not None
    assert driven.ledger.error.message == "refused 3 times: no"


@pytest.mark.parametrize("node_id", ["", "gone"])
def test_what_is_refused_of_no_node_fails_the_run_in_any_state(node_id: str) -> None:
    for driven in (Driven(), planned(draft(), draft())):
        again(driven, outcome_of(about(node_id)))
        assert driven.ledger.state is ProjectState.FAILED
        assert driven.ledger.error is not None
        assert driven.ledger.error.message == "refused 3 times: no"
        assert not driven.calls
        assert all(n.state in (S.FAILED, S.CANCELLED) for n in driven.ledger.nodes.values())


_SETBACKS = st.sampled_from([AWAY, REFUSED, about("a"), about("b"), Setback(reason="unknown")])


@given(st.lists(st.tuples(_SETBACKS, st.sampled_from([1.0, REMEMBERED_SECONDS + 1])), max_size=12))
def test_only_the_same_refusal_in_a_row_is_an_outcome(found: list[tuple[Setback, float]]) -> None:
    setbacks, now, row = Setbacks(), 0.0, list[tuple[Setback, float]]()
    for setback, wait in found:
        now += wait
        setbacks.add(setback, now)
        latest = setbacks.latest
        assert latest is not None
        if not setback.refused:
            assert latest == setback
            continue
        if row and (row[-1][0] != setback or now - row[-1][1] > REMEMBERED_SECONDS):
            row = []
        row.append((setback, now))
        assert latest.is_outcome == (len(row) == MAX_REFUSALS)
        row = row[: MAX_REFUSALS - 1] if not latest.is_outcome else []


def test_an_order_to_cancel_comes_before_everything_that_may_be_refused() -> None:
    driven = planned(draft(), draft())
    order = CommandGiven("c", CommandType.CANCEL_PROJECT)
    driven.ledger.give(order)
    run = load_run(driven.ledger)
    run.open_orders.add("c")
    driven.run = run
    driven.calls.clear()
    moves = len(driven.ledger.moves)
    driven._take(first_turn(run, [order], driven.now))
    assert driven.ledger.state is ProjectState.CANCELLED
    assert driven.ledger.commands == {"c": CommandState.APPLIED}
    assert {state for _, state, _ in driven.ledger.moves[moves:]} == {S.CANCELLED}


def test_an_error_in_the_turn_of_one_node_names_it() -> None:
    driven = planned(draft(), draft())
    call = driven.calls["root.1.0"]
    bad = CallEnded("root.1.0", call.number, Produced(Result()), seconds="long")  # type: ignore[arg-type]
    with pytest.raises(TurnFailed, match="TypeError") as caught:
        decide(driven.run, [bad], driven.now)
    assert caught.value.node_id == "root.1.0"
