"""Orders of an operator: pause, resume, cancel a node."""

from __future__ import annotations

import pytest

from orchestrator_svc.graph.decide import decide
from orchestrator_svc.graph.event import CommandGiven, Decided, TimeReached
from orchestrator_svc.graph.recover import begin
from orchestrator_svc.graph.types import (
    CommandState,
    CommandType,
    ErrorClass,
    NodeState,
    NodeType,
    ProjectState,
)
from tests.unit.orchestrator_svc.driven import (
    Driven,
    done,
    draft,
    failed,
    load_run,
    plan_of,
    planned,
)

S = NodeState
APPLIED, REFUSED = CommandState.APPLIED, CommandState.REFUSED
PAUSE, RESUME = CommandType.PAUSE_PROJECT, CommandType.RESUME_PROJECT
CANCEL = CommandType.CANCEL_NODE


def test_a_pause_lets_calls_in_flight_finish_and_begins_no_other() -> None:
    driven = planned(draft(), draft(), draft("part", 0))
    assert driven.order(PAUSE) == (
        APPLIED,
        "2 agent calls still run: root.1.0, root.1.1",
    )
    assert driven.project() is ProjectState.PAUSING
    driven.answer("root.1.0", done())
    assert driven.state("root.1.0") is S.DONE
    assert not driven.calls.keys() - {"root.1.1"}
    driven.answer("root.1.1", done())
    states = [driven.ledger.state]
    assert states == [ProjectState.PAUSED]
    assert driven.order(RESUME)[0] is APPLIED
    assert list(driven.calls) == ["root.1.2"]


def test_a_pause_with_nothing_running_is_complete_at_once() -> None:
    driven = planned(draft())
    driven.answer("root.1.0", failed())
    assert driven.order(PAUSE) == (APPLIED, "nothing runs")
    assert driven.project() is ProjectState.PAUSED
    assert driven.ledger.pause_time == driven.now


def test_backoffs_stand_still_while_paused() -> None:
    driven = planned(draft())
    driven.answer("root.1.0", failed())
    due = driven.node("root.1.0").next_attempt_time
    assert due is not None
    driven.now = due - 1.0
    driven.order(PAUSE)
    driven.now += 500.0
    driven.event(TimeReached())
    assert driven.run.next_due() is None
    assert not driven.calls
    driven.order(RESUME)
    assert driven.node("root.1.0").next_attempt_time == driven.now + 1.0
    driven.wait()
    assert list(driven.calls) == ["root.1.0"]


def test_backoffs_stand_still_over_a_crash_while_paused() -> None:
    driven = planned(draft())
    driven.answer("root.1.0", failed())
    due = driven.node("root.1.0").next_attempt_time
    assert due is not None
    driven.now = due - 1.0
    driven.order(PAUSE)
    driven.crash()
    assert driven.project() is ProjectState.PAUSED
    assert not driven.calls
    driven.now += 500.0
    driven.order(RESUME)
    assert driven.run.next_due() == driven.now + 1.0


@pytest.mark.parametrize("crash", [False, True])
def test_a_backoff_that_begins_during_a_pause_is_not_lengthened_by_it(crash: bool) -> None:
    driven = planned(draft(), draft())
    driven.order(PAUSE)
    driven.now += 600.0  # the call goes on for so long
    driven.answer("root.1.0", failed())
    driven.answer("root.1.1", done())
    assert driven.project() is ProjectState.PAUSED
    if crash:
        driven.crash()
    driven.now += 50.0
    driven.order(RESUME)
    assert driven.node("root.1.0").next_attempt_time == driven.now + 4.0
    driven.wait()
    assert list(driven.calls) == ["root.1.0"]


def test_nothing_begins_after_a_pause_that_was_durable_before_the_take_up() -> None:
    driven = planned(draft(), draft(), draft("part", 0))
    driven.ledger.give(CommandGiven("p", PAUSE))  # while nobody executes the run
    driven.crash()
    assert not driven.calls
    assert driven.project() is ProjectState.PAUSED
    driven.order(RESUME)
    assert set(driven.calls) == {"root.1.0", "root.1.1"}


def test_nothing_begins_before_the_last_order_that_was_loaded_is_heard() -> None:
    driven = planned(draft(), draft())
    retry = CommandGiven("r", CommandType.RETRY_NODE, "root.1.0")
    orders = [retry, CommandGiven("p", PAUSE), CommandGiven("q", CommandType.RETRY_NODE, "root")]
    for order in orders:
        driven.ledger.give(order)
    run = load_run(driven.ledger)
    run.open_orders.update(order.command_id for order in orders)
    decisions = [begin(run, driven.now), *(decide(run, [order], driven.now) for order in orders)]
    assert not any(decision.calls for decision in decisions)
    assert run.state is ProjectState.PAUSED


def test_what_an_order_leaves_running_begins_with_it() -> None:
    driven = planned(draft(), draft())
    driven.ledger.give(CommandGiven("c", CANCEL, "root.1.0"))
    driven.crash()
    assert set(driven.calls) == {"root.1.1"}
    assert driven.state("root.1.0") is S.CANCELLED


def test_a_crash_while_pausing_completes_the_pause_with_new_attempts() -> None:
    driven = planned(draft())
    driven.order(PAUSE)
    driven.crash()
    assert driven.project() is ProjectState.PAUSED
    assert driven.node("root.1.0").attempt == 2
    assert not driven.calls
    driven.order(RESUME)
    assert list(driven.calls) == ["root.1.0"]


@pytest.mark.parametrize("crash", [False, True])
def test_a_node_between_two_stages_waits_and_keeps_its_attempt(crash: bool) -> None:
    driven = planned(draft(node_type=None))
    driven.order(PAUSE)
    driven.answer("root.1.0", Decided(NodeType.EXECUTE))
    assert driven.project() is ProjectState.PAUSED
    assert driven.state("root.1.0") is S.RUNNING
    if crash:
        driven.crash()
    driven.order(RESUME)
    if crash:
        driven.wait()
    assert driven.calls["root.1.0"].attempt == 1
    assert driven.calls["root.1.0"].stage == "execute"


def test_a_run_that_finishes_while_pausing_ends() -> None:
    driven = planned(draft())
    driven.answer("root.1.0", done())
    driven.order(PAUSE)
    driven.answer("root", done())
    assert driven.project() is ProjectState.COMPLETED


def test_pausing_twice_changes_nothing_and_resuming_a_running_run_is_refused() -> None:
    driven = planned(draft())
    driven.order(PAUSE)
    assert driven.order(PAUSE)[0] is APPLIED
    driven.order(RESUME)
    assert driven.order(RESUME) == (REFUSED, "the project is RUNNING, not paused")


def test_a_paused_run_can_be_cancelled() -> None:
    driven = planned(draft())
    driven.answer("root.1.0", failed())
    driven.order(PAUSE)
    driven.crash()
    driven.cancel()
    assert driven.project() is ProjectState.CANCELLED
    assert driven.ledger.pause_time is None


def test_cancelling_a_node_cancels_its_subtree_and_settles_what_needs_it() -> None:
    driven = planned(draft(node_type=NodeType.PLAN), draft("part", 0), draft())
    driven.answer("root.1.0", plan_of(draft(), draft("part", 0)))
    assert driven.order(CANCEL, "root.1.0") == (APPLIED, "3 nodes are cancelled")
    assert driven.cancelled == ["root.1.0.1.0"]
    assert [driven.state(f"root.1.0{x}") for x in ("", ".1.0", ".1.1")] == [S.CANCELLED] * 3
    assert driven.state("root.1.1") is S.FAILED
    assert driven.node("root.1.1").error is not None
    assert driven.state("root.1.2") is S.RUNNING
    driven.answer("root.1.2", done())
    driven.answer("root", done())
    assert driven.project() is ProjectState.PARTIAL


def test_a_late_answer_of_a_cancelled_node_is_kept_out_and_frees_its_slot() -> None:
    driven = planned(draft(), draft())
    driven.order(CANCEL, "root.1.0")
    assert driven.run.busy == 2
    driven.answer("root.1.0", done())
    assert driven.run.busy == 1
    assert driven.state("root.1.0") is S.CANCELLED
    assert driven.node("root.1.0").result is None


def test_the_subtree_of_a_cancelled_node_is_completed_after_a_crash() -> None:
    driven = planned(draft(node_type=NodeType.PLAN), draft())
    driven.answer("root.1.0", plan_of(draft(), draft("part", 0)))
    driven.ledger.nodes["root.1.0"].state = S.CANCELLED  # the first batch of the order
    driven.crash()
    assert driven.state("root.1.0.1.0") is S.CANCELLED
    assert driven.state("root.1.0.1.1") is S.CANCELLED


def test_a_cancelled_node_leaves_no_timer_behind() -> None:
    driven = planned(draft(), draft())
    driven.answer("root.1.0", failed())
    assert driven.run.next_due() is not None
    driven.order(CANCEL, "root.1.0")
    assert driven.run.next_due() is None


def test_cancelling_the_root_cancels_the_run() -> None:
    driven = planned(draft())
    assert driven.order(CANCEL, "root")[0] is APPLIED
    driven.answer("root.1.0", failed(ErrorClass.CANCELLED))
    assert driven.project() is ProjectState.CANCELLED


def test_what_has_ended_or_does_not_exist_cannot_be_cancelled() -> None:
    driven = planned(draft(), draft())
    driven.answer("root.1.0", done())
    assert driven.order(CANCEL, "root.1.0") == (REFUSED, "root.1.0 is DONE already")
    assert driven.order(CANCEL, "x") == (REFUSED, "there is no node 'x'")


def test_orders_are_refused_while_cancelling() -> None:
    driven = Driven()
    driven.cancel()
    for kind in (PAUSE, RESUME, CANCEL):
        assert driven.order(kind, "root") == (REFUSED, "the project is being cancelled")


def test_what_is_below_a_cancelled_node_ends_by_the_order_and_not_by_the_doctor() -> None:
    """The end of the run that the order leads to comes after that of the whole subtree."""
    driven = planned(draft(node_type=NodeType.PLAN))
    driven.answer("root.1.0", plan_of(draft(), draft("part", 0)))
    assert driven.order(CANCEL, "root.1.0") == (APPLIED, "3 nodes are cancelled")
    assert driven.project() is ProjectState.FAILED
    below = [driven.node(f"root.1.0.1.{n}") for n in range(2)]
    assert [(node.state, node.forced) for node in below] == [(S.CANCELLED, None)] * 2
    assert driven.cancelled == ["root.1.0.1.0"], "its call is ended once"
