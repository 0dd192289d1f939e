"""Every stage that ends is recorded once, with its outcome and in its batch (SEM 20, 28)."""

from __future__ import annotations

from orchestrator_svc.graph.event import CallEnded, Outcome
from orchestrator_svc.graph.mutation import AddStage, PatchNode
from orchestrator_svc.graph.run import stage_id
from orchestrator_svc.graph.trace import Body, Trace
from orchestrator_svc.graph.types import ErrorClass, NodeState, Stage
from tests.unit.orchestrator_svc.driven import (
    Driven,
    done,
    draft,
    failed,
    plan_of,
    planned,
)


def answer(driven: Driven, node_id: str, outcome: Outcome) -> list[AddStage]:
    """End a call with a trace; return the records that the decision adds."""
    call = driven.calls.pop(node_id)
    trace = Trace(
        attempt=call.attempt,
        agent_name=call.agent_name,
        started=5.0,
        seconds=0.25,
        input=Body(text="in"),
    )
    driven.event(CallEnded(node_id, call.number, outcome, 0.25, trace=trace))
    return [m for group in driven.last.groups for m in group if isinstance(m, AddStage)]


def test_a_record_comes_before_its_outcome_in_one_group() -> None:
    driven = planned(draft(), draft())
    (record,) = answer(driven, "root.1.0", done())
    group = next(group for group in driven.last.groups if record in group)
    patch = next(m for m in group if isinstance(m, PatchNode))
    assert patch.changes["state"] is NodeState.DONE
    assert (record.node_id, record.stage) == ("root.1.0", Stage.EXECUTE)
    assert record.trace.attempt == 1
    assert record.trace.agent_name == "execute-SEARCH"
    assert (record.error, record.late) == (None, False)


def test_every_stage_of_a_node_has_an_id_of_its_own() -> None:
    driven = Driven()
    records = answer(driven, "root", failed())
    driven.wait()
    records += answer(driven, "root", plan_of(draft()))
    records += answer(driven, "root.1.0", done())
    records += answer(driven, "root", done())
    assert [record.stage_id for record in records] == [
        "root.s1",
        "root.s2",
        "root.1.0.s1",
        "root.s3",
    ]
    assert [record.stage for record in records] == [
        Stage.PLAN,
        Stage.PLAN,
        Stage.EXECUTE,
        Stage.AGGREGATE,
    ]
    assert [record.trace.attempt for record in records] == [1, 2, 1, 2]


def test_a_failure_is_recorded_as_what_it_was() -> None:
    driven = planned(draft())
    (record,) = answer(driven, "root.1.0", failed(ErrorClass.RATE_LIMIT))
    assert record.error is not None
    assert (record.error.error_class, record.error.message) == (ErrorClass.RATE_LIMIT, "it broke")


def test_an_answer_that_cannot_be_used_is_recorded_with_the_reason() -> None:
    driven = Driven()
    (record,) = answer(driven, "root", plan_of(draft("part", 0)))
    assert record.error is not None
    assert record.error.error_class is ErrorClass.INVALID_OUTPUT
    assert "invalid plan" in record.error.message
    driven.wait()
    (record,) = answer(driven, "root", done())
    assert record.error is not None
    assert "no plan answer" in record.error.message


def test_a_result_that_comes_after_a_cancellation_is_kept_as_a_record_only() -> None:
    driven = planned(draft(), draft())
    driven.cancel()
    (record,) = answer(driven, "root.1.0", done())
    assert record.late
    assert driven.state("root.1.0") is NodeState.CANCELLED
    assert driven.node("root.1.0").result is None
    (record,) = answer(driven, "root.1.1", failed(ErrorClass.CANCELLED))
    assert not record.late, "it was cancelled and answered nothing"
    assert record.error is not None


def test_a_call_without_a_trace_adds_no_record() -> None:
    driven = planned(draft())
    driven.answer("root.1.0", done())
    assert not [m for g in driven.last.groups for m in g if isinstance(m, AddStage)]


def test_the_id_of_a_record_is_never_too_long() -> None:
    long = "n" * 128
    assert len(stage_id(long, 10_000)) <= 128
    assert stage_id(long, 1) != stage_id("m" * 128, 1)
