"""Stage records in the words of the contract."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration

from orchestrator_svc.graph import types
from orchestrator_svc.graph.mutation import AddStage
from orchestrator_svc.graph.trace import Body, ToolCall
from orchestrator_svc.publish.convert import set_error, set_time
from ramify.v1 import mutation_pb2, payload_pb2, stage_pb2

STAGES = {s: stage_pb2.Stage.Value(f"STAGE_{s.upper()}") for s in types.Stage}


def stage_message(mutation: AddStage) -> mutation_pb2.Mutation:
    """Return the record of a stage as the contract has it."""
    message = mutation_pb2.Mutation()
    message.stage.stage_id = mutation.stage_id
    record = message.stage.create
    trace = mutation.trace
    record.node_id = mutation.node_id
    record.attempt = trace.attempt
    record.stage = STAGES[mutation.stage]
    record.agent_name = trace.agent_name
    record.model = trace.model
    record.late = mutation.late
    set_body(record.input, trace.input)
    if trace.output is not None:
        set_body(record.output, trace.output)
    if trace.prompt is not None:
        set_body(record.prompt, trace.prompt)
    if trace.response is not None:
        set_body(record.response, trace.response)
    for call in trace.tool_calls:
        _set_tool_call(record.tool_calls.add(), call)
    usage = record.usage
    usage.agent_calls = 1
    usage.input_tokens = trace.usage.input_tokens
    usage.output_tokens = trace.usage.output_tokens
    usage.cost_micro_usd = trace.usage.cost_micro_usd
    set_time(record.start_time, trace.started)
    set_time(record.end_time, trace.started + trace.seconds)
    _set_duration(record.duration, trace.seconds)
    if mutation.error is not None:
        set_error(record.error, mutation.error)
    return message


def set_body(target: payload_pb2.Payload, body: Body) -> None:
    """Write a body as it is, or the reference to it."""
    target.content_type = body.content_type
    if body.digest:
        target.ref.digest = body.digest
        target.ref.is_text = body.is_text
    elif body.data:
        target.data = body.data
    else:
        target.text = body.text


def _set_tool_call(target: stage_pb2.ToolCall, call: ToolCall) -> None:
    target.tool_name = call.tool_name
    target.error = call.error
    if call.arguments is not None:
        set_body(target.arguments, call.arguments)
    if call.result is not None:
        set_body(target.result, call.result)
    if call.seconds is not None:
        _set_duration(target.duration, call.seconds)


def _set_duration(target: Duration, seconds: float) -> None:
    target.FromNanoseconds(int(seconds * 1e9))
