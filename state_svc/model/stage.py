"""Stage records: what may be written, and what they reference (SEM 28). Pure.

They are append-only and not part of a project's view: `apply.py` checks them and hands them to
the log, nothing else remembers them.
"""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf.duration_pb2 import Duration

from ramify.v1.error_pb2 import ErrorReason
from ramify.v1.mutation_pb2 import StageMutation
from ramify.v1.payload_pb2 import Payload
from ramify.v1.stage_pb2 import Stage, StageRecord, ToolCall
from state_svc.model import limits, validate
from state_svc.model.ids import is_id
from state_svc.model.node import set_micros
from state_svc.model.problem import Problem

_INVALID = ErrorReason.ERROR_REASON_INVALID_MUTATION
_BODIES = ("input", "output", "prompt", "response")
_OUTPUT_ONLY = ("create_time", "revision")
_MOST_SECONDS = 315_576_000_000  #: of a `Duration`; JSON has no more


def _duration(value: Duration) -> str:
    if 0 <= value.seconds <= _MOST_SECONDS and 0 <= value.nanos < 1_000_000_000:
        return ""
    return f"is negative or has more than {_MOST_SECONDS} seconds"


def _tool_calls(value: list[ToolCall]) -> str:
    if len(value) > limits.MAX_TOOL_CALLS:
        return f"has {len(value)} items, at most {limits.MAX_TOOL_CALLS} are allowed"
    for number, call in enumerate(value):
        found = validate.first_problem(call, _TOOL_CALL_FIELDS)
        if found is not None:
            return f"item {number}: {found[0]} {found[1]}"
    return ""


check_duration: validate.Check = _duration
_TOOL_CALL_FIELDS: dict[str, validate.Check] = {
    "tool_name": validate.check_name,
    "arguments": validate.check_payload,
    "result": validate.check_payload,
    "duration": _duration,
    "error": validate.check_text,
}
_FIELDS: dict[str, validate.Check] = {
    **dict.fromkeys(_OUTPUT_ONLY, validate.set_by_state_svc),
    "stage": validate.one_of(frozenset(Stage.values()) - {0}),
    "agent_name": validate.check_name,
    "model": validate.check_name,
    "tool_calls": _tool_calls,
    "start_time": validate.check_time,
    "end_time": validate.check_time,
    "duration": _duration,
    "error": validate.check_error,
    **dict.fromkeys(_BODIES, validate.check_payload),
}
#: Of a record as it is stored.
_STORED_FIELDS = _FIELDS | {"create_time": validate.check_time}


def add_stage(mutation: StageMutation, micros: int, stage: StageRecord) -> None:
    """Write the record that a mutation adds, stamped. Its node is the caller's to look up.

    Raises `Problem`.
    """
    if mutation.WhichOneof("change") != "create":
        raise Problem(_INVALID, "stage.change", "create is needed")
    request = mutation.create
    if not is_id(mutation.stage_id):
        raise Problem(_INVALID, "stage.stage_id", f"{mutation.stage_id!r} is not a valid id")
    if request.stage_id not in ("", mutation.stage_id):
        raise Problem(_INVALID, "stage.create.stage_id", "differs from stage.stage_id")
    for name in ("node_id", "stage"):
        if not getattr(request, name):
            raise Problem(_INVALID, f"stage.create.{name}", "is needed")
    found = validate.first_problem(request, _FIELDS)
    if found is not None:
        raise Problem(_INVALID, f"stage.create.{found[0]}", found[1])
    stage.CopyFrom(request)
    stage.stage_id = mutation.stage_id
    set_micros(stage.create_time, micros)


def stored_stage_problem(stage: StageRecord) -> str:
    """Return what is wrong with a record that was not written here; empty if nothing is."""
    for name in ("stage_id", "node_id"):
        if not is_id(getattr(stage, name)):
            return f"{name} is not a valid id"
    if not stage.stage or stage.revision:
        return "its stage is missing, or its revision is set"
    found = validate.first_problem(stage, _STORED_FIELDS)
    return "" if found is None else f"{found[0]} {found[1]}"


def bodies(stage: StageRecord) -> Iterator[tuple[str, Payload]]:
    """Yield the bodies of a record that are set, with the path of each."""
    for name in _BODIES:
        if stage.HasField(name):  # type: ignore[arg-type]
            yield name, getattr(stage, name)
    for number, call in enumerate(stage.tool_calls):
        if call.HasField("arguments"):
            yield f"tool_calls[{number}].arguments", call.arguments
        if call.HasField("result"):
            yield f"tool_calls[{number}].result", call.result
