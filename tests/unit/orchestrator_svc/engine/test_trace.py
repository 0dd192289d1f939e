"""What is recorded of a call: what went in and what came out, as it was (S4.9)."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator_svc.agents.base import (
    AgentInput,
    NodeType,
    Output,
    Plan,
    PlannedTask,
    RelatedNode,
    TaskType,
    ToolCall,
    Verdict,
    note_model,
    note_tool,
    open_call,
)
from orchestrator_svc.engine.activity import Activity
from orchestrator_svc.engine.context import MAX_RESULT_BYTES
from orchestrator_svc.engine.trace import TraceNotes, input_body, output_body
from orchestrator_svc.graph.event import Call
from orchestrator_svc.graph.mutation import AddStage
from orchestrator_svc.graph.trace import MAX_TOOL_BYTES, MAX_TOOL_CALLS, Body
from orchestrator_svc.graph.types import Stage
from orchestrator_svc.graph.usage import NO_USAGE
from orchestrator_svc.publish.bodies import MAX_STAGE_INLINE
from orchestrator_svc.publish.stages import stage_message
from ramify.v1.stage_pb2 import StageRecord
from state_svc.model.limits import Limits
from state_svc.model.stage import add_stage

_TASK = AgentInput(
    project_id="p",
    node_id="n",
    attempt=2,
    goal="find it",
    task_type=TaskType.SEARCH,
    layer=1,
    max_depth=5,
    overall_objective="know",
    dependencies=(
        RelatedNode(
            node_id="d",
            goal="before",
            task_type=TaskType.THINK,
            state="DONE",
            output=Output(text="x" * 9_000),
        ),
    ),
    details={"place": [0, 1]},
)
_CALL = Call("n", 3, 2, Stage.EXECUTE, "searcher", 10.0)


def test_an_input_names_the_nodes_whose_results_it_held() -> None:
    body = input_body(_TASK)
    given = json.loads(body.text)
    assert given["goal"] == "find it"
    assert given["dependencies"] == [{"node_id": "d", "state": "DONE"}]
    assert given["details"] == {"place": [0, 1]}
    assert len(body.text) < 1_000, "results are not repeated"


def test_the_plan_of_a_project_is_not_repeated_in_the_record_of_every_task() -> None:
    options: dict[str, object] = {"plan": {"tasks": [{"name": "x" * 100_000}]}, "shown": True}
    given = json.loads(input_body(_TASK.model_copy(update={"options": options})).text)
    assert given["options"] == {"shown": True}


def test_an_input_is_recorded_with_every_field_that_is_set() -> None:
    related = (RelatedNode(node_id="r", goal="g", task_type=TaskType.THINK, state="FAILED"),)
    plan = Plan(tasks=(PlannedTask(goal="part", task_type=TaskType.WRITE),))
    values: dict[str, object] = {"node_type": NodeType.PLAN, "proposal": plan}
    for name, field in AgentInput.model_fields.items():
        if "RelatedNode" in str(field.annotation):
            values[name] = related
        elif field.annotation is str and not getattr(_TASK, name):
            values[name] = "said"
    values["options"] = {"corpus": "stdlib"}
    given = json.loads(input_body(_TASK.model_copy(update=values)).text)
    assert set(given) == set(AgentInput.model_fields) - {"project_id", "node_id", "attempt"}
    assert given["proposal"] == {"tasks": [{"goal": "part", "task_type": "WRITE"}]}


@pytest.mark.parametrize(
    "answer, expected",
    [
        (Output(text="é"), Body("text/plain", "é")),
        (Output(content_type="image/png", data=b"\x89"), Body("image/png", data=b"\x89")),
        (Output(text="\ud800"), Body("text/plain", "?")),
        (Output(content_type="x" * 300, text="y"), Body("text/plain", "y")),
        (None, None),
        ("no answer at all", None),
    ],
)
def test_an_output_is_kept_as_it_was_or_as_near_as_can_be_stored(
    answer: object, expected: Body | None
) -> None:
    assert output_body(answer) == expected


def test_verdicts_and_plans_are_json() -> None:
    verdict = output_body(Verdict(node_type=NodeType.PLAN, reason="large"))
    assert verdict is not None
    assert json.loads(verdict.text) == {"node_type": "PLAN", "reason": "large"}
    task = PlannedTask(goal="part", task_type=TaskType.WRITE, depends_on=())
    plan = output_body(Plan(tasks=(task,)))
    assert plan is not None
    assert json.loads(plan.text) == {"tasks": [{"goal": "part", "task_type": "WRITE"}]}


async def test_an_agent_says_what_its_model_and_its_tools_did() -> None:
    activity = Activity(lambda _: None)
    token = open_call.set(activity)
    try:
        note_model("small", "first", "one")
        note_model("large", "second", "two")
        note_tool(ToolCall(tool_name="search", arguments=Body(text="q"), seconds=0.5, error="none"))
    finally:
        open_call.reset(token)
    trace = activity.notes.finish(_CALL, _TASK, 7.0, 0.25, NO_USAGE)
    assert (trace.model, trace.prompt, trace.response) == (
        "large",
        Body(text="second"),
        Body(text="two"),
    )
    assert [call.tool_name for call in trace.tool_calls] == ["search"]
    assert (trace.attempt, trace.agent_name) == (2, "searcher")
    assert (trace.started, trace.seconds) == (7.0, 0.25)


def test_what_is_not_reported_is_not_there() -> None:
    trace = TraceNotes().finish(_CALL, _TASK, 7.0, 0.25, NO_USAGE)
    assert (trace.model, trace.prompt, trace.response, trace.tool_calls, trace.output) == (
        "",
        None,
        None,
        (),
        None,
    )


def test_a_record_has_a_bounded_number_of_tool_calls() -> None:
    notes = TraceNotes()
    for _ in range(MAX_TOOL_CALLS + 5):
        notes.tool_call(ToolCall(tool_name="t"))
    assert len(notes.finish(_CALL, _TASK, 0.0, 0.0, NO_USAGE).tool_calls) == MAX_TOOL_CALLS


def test_a_result_may_be_as_large_as_the_payload_store_takes() -> None:
    assert Limits().max_stored_payload_bytes == MAX_RESULT_BYTES


_ANY_TEXT = st.text(max_size=20) | st.sampled_from(["x" * 5_000, "\udfff", "🌳" * 5_000, ""])
_ANYTHING = (
    st.none() | st.integers() | st.just(10**400) | st.floats() | st.binary(max_size=3) | _ANY_TEXT
)
_BODIES = st.none() | st.builds(Body, content_type=_ANYTHING, text=_ANYTHING, data=_ANYTHING)


@given(
    st.lists(
        st.builds(
            ToolCall,
            tool_name=_ANYTHING,
            arguments=_BODIES | _ANYTHING,
            result=_BODIES,
            seconds=_ANYTHING,
            error=_ANYTHING,
        ),
        max_size=3,
    )
)
def test_the_use_of_a_tool_is_recorded_whatever_an_agent_says_of_it(calls: list[ToolCall]) -> None:
    notes = TraceNotes()
    for call in calls:
        notes.tool_call(call)
    record = _stored(notes)
    assert len(record.tool_calls) == len(calls)


def test_the_time_of_a_tool_that_a_clock_set_back_has_made_negative_is_none() -> None:
    notes = TraceNotes()
    for seconds in (-0.001, 0.25, float("inf"), float("nan")):
        notes.tool_call(ToolCall(tool_name="t", error="e" * 5_000, seconds=seconds))
    calls = _stored(notes).tool_calls
    assert [c.HasField("duration") for c in calls] == [True, True, True, False]
    assert calls[0].duration.ToMilliseconds() == 0
    assert calls[1].duration.ToMilliseconds() == 250
    assert calls[0].error == "e" * 4_095 + "…"


@pytest.mark.parametrize("size", [0, 600, 1_024, 3_000])
def test_of_many_uses_of_tools_the_first_are_recorded_as_far_as_a_batch_has_room(size: int) -> None:
    notes = TraceNotes()
    body = Body(text="b" * size)
    for _ in range(MAX_TOOL_CALLS + 5):
        notes.tool_call(ToolCall(tool_name="t", arguments=body, result=body, error="e" * size))
    record = _stored(notes)
    for call in record.tool_calls:  # as `publish/bodies.py` does
        for payload in (call.arguments, call.result):
            if len(payload.text) > MAX_STAGE_INLINE:
                payload.ref.digest = "sha256:" + "0" * 64
    assert record.ByteSize() < MAX_TOOL_BYTES + 10_000
    assert len(record.tool_calls) == (MAX_TOOL_CALLS if not size else len(record.tool_calls))
    assert record.ByteSize() > MAX_TOOL_BYTES // 2 or not size, "nor is room left for many"


def _stored(notes: TraceNotes) -> StageRecord:
    """Return the record as the store takes it; it raises `Problem` for what it refuses."""
    trace = notes.finish(_CALL, _TASK, 0.0, 0.0, NO_USAGE)
    record = StageRecord()
    message = stage_message(AddStage("s", "n", Stage.EXECUTE, trace))
    add_stage(message.stage, 1, record)
    return record
