"""Limits on the fields of a mutation: each check returns what is wrong, or an empty string."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.struct_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp

from ramify.v1.command_pb2 import CommandState, CommandType
from ramify.v1.node_pb2 import (
    DependencyPolicy,
    ErrorClass,
    ExhaustedPolicy,
    NodeError,
    NodeState,
    NodeType,
    TaskType,
)
from ramify.v1.payload_pb2 import Payload
from ramify.v1.project_pb2 import ExecutionSettings, ProjectState, StateSettings
from ramify.v1.setting_pb2 import setting_rule
from state_svc.model import limits
from state_svc.model.ids import is_id

Check = Callable[[Any], str]

_NODE_STATES = frozenset(NodeState.values()) - {0}
_NODE_TYPES = frozenset(NodeType.values())
_TASK_TYPES = frozenset(TaskType.values()) - {0}
_ERROR_CLASSES = frozenset(ErrorClass.values())
_EXHAUSTED = frozenset(ExhaustedPolicy.values())
_DEPENDENCY = frozenset(DependencyPolicy.values())
_PROJECT_STATES = frozenset(ProjectState.values()) - {0}
_COMMAND_TYPES = frozenset(CommandType.values()) - {0}
_COMMAND_OUTCOMES = frozenset(CommandState.values()) - {0, CommandState.COMMAND_STATE_OPEN}


def longest(most: int) -> Check:
    """Return a check that a string has at most `most` characters."""

    def check(value: str) -> str:
        return f"has {len(value)} characters, at most {most} are allowed" * (len(value) > most)

    return check


def one_of(numbers: frozenset[int]) -> Check:
    """Return a check that an enum number is known and allowed here."""

    def check(value: int) -> str:
        return "" if value in numbers else f"{value} is not an allowed value of this enum"

    return check


def set_by_state_svc(_: object) -> str:
    """Refuse a field whatever it holds."""
    return "is set by state_svc only"


def _goal(value: str) -> str:
    if len(value) < limits.MIN_GOAL_CHARS:
        return f"has {len(value)} characters, at least {limits.MIN_GOAL_CHARS} are needed"
    return _goal_length(value)


def _payload(value: Payload) -> str:
    size = value.ByteSize()
    if size > _MAX_PAYLOAD:
        return f"has {size} bytes, at most {_MAX_PAYLOAD} are allowed"
    return _name(value.content_type) and f"content_type {_name(value.content_type)}"


def _error(value: NodeError) -> str:
    if value.error_class not in _ERROR_CLASSES:
        return f"{value.error_class} is not a known error_class"
    if len(value.message) > limits.MAX_TEXT_CHARS:
        return f"message has more than {limits.MAX_TEXT_CHARS} characters"
    if value.node_id and not is_id(value.node_id):
        return "node_id is not a valid id"
    return ""


def _time(value: Timestamp) -> str:
    if _FIRST_SECOND <= value.seconds <= _LAST_SECOND and 0 <= value.nanos < 1_000_000_000:
        return ""
    return "is not a time between the years 1 and 9999"


def _node_id(value: str) -> str:
    return "" if is_id(value) else f"{value!r} is not a valid id"


def _id_list(value: list[str]) -> str:
    if len(value) > _MAX_CHILDREN:
        return f"has {len(value)} ids, at most {_MAX_CHILDREN} are allowed"
    bad = next((item for item in value if not is_id(item)), None)
    return "" if bad is None else f"{bad!r} is not a valid id"


def _dependencies(value: list[str]) -> str:
    if len(value) > limits.MAX_DEPENDENCIES:
        return f"has {len(value)} ids, at most {limits.MAX_DEPENDENCIES} are allowed"
    return "names a node twice" if len(set(value)) != len(value) else ""


def check_values(value: Mapping[str, Value]) -> str:
    """Return what is wrong with a map of attributes or options."""
    return check_map(value) or check_shown(value.values())


def check_map(value: Mapping[str, Value]) -> str:
    """Return why a map of attributes or options is too large."""
    if len(value) > limits.MAX_MAP_KEYS:
        return f"has {len(value)} keys, at most {limits.MAX_MAP_KEYS} are allowed"
    size = sum(len(key.encode()) + item.ByteSize() for key, item in value.items())
    if size > limits.MAX_MAP_BYTES:
        return f"has {size} bytes, at most {limits.MAX_MAP_BYTES} are allowed"
    return ""


def check_shown(values: Iterable[Value]) -> str:
    """Return why a value cannot be shown as JSON, or not by a reader whose nesting is limited.

    A batch may hold most of a million values, so what is plain costs no more than its kind.
    """
    for depth in range(limits.MAX_VALUE_DEPTH + 1):
        inner: list[Value] = []
        for value in values:
            kind = value.WhichOneof("kind")
            if kind in _PLAIN:
                continue
            if kind is None:
                return "has a key or an item without a value; use null_value for null"
            if kind == "struct_value":
                inner += value.struct_value.fields.values()
            elif kind == "list_value":
                inner += value.list_value.values
            elif not math.isfinite(value.number_value):
                return f"has the number {value.number_value}, which JSON does not know"
        if inner and depth == limits.MAX_VALUE_DEPTH:
            return f"is nested more than {limits.MAX_VALUE_DEPTH} levels deep"
        if not inner:
            break
        values = inner
    return ""


def check_labels(value: Mapping[str, str]) -> str:
    """Return what is wrong with a map of labels."""
    if len(value) > limits.MAX_MAP_KEYS:
        return f"has {len(value)} keys, at most {limits.MAX_MAP_KEYS} are allowed"
    for key, item in value.items():
        if not key or len(key) > limits.MAX_NAME_CHARS or len(item) > limits.MAX_NAME_CHARS:
            return f"keys and values have 1 to {limits.MAX_NAME_CHARS} characters"
    return ""


def check_settings(value: ExecutionSettings | StateSettings) -> str:
    """Return what is wrong with settings of a project; only the ranges of the contract."""
    for field, number in value.ListFields():
        rule = field.GetOptions().Extensions[setting_rule]
        if field.enum_type is not None:
            if number == 0 or number not in field.enum_type.values_by_number:
                return f"{field.name} is {number}, which is not one of its values"
        elif field.cpp_type != FieldDescriptor.CPPTYPE_BOOL and not rule.min <= number <= rule.max:
            return f"{field.name} is {number}, allowed are {rule.min:.16g} to {rule.max:.16g}"
    return ""


_PLAIN = frozenset({"bool_value", "string_value", "null_value"})
_FIRST_SECOND, _LAST_SECOND = -62_135_596_800, 253_402_300_799  #: of `Timestamp`, since 1970
_MAX_PAYLOAD = limits.Limits().max_payload_bytes
_MAX_CHILDREN = limits.Limits().max_batch_mutations
_goal_length = longest(limits.Limits().max_goal_chars)
_name = longest(limits.MAX_NAME_CHARS)
_text = longest(limits.MAX_TEXT_CHARS)
_request_id = longest(limits.MAX_REQUEST_ID_CHARS)
_sub_graph = longest(limits.MAX_REQUEST_ID_CHARS)

#: Checks by field name, the same for `Node` and `NodePatch`.
NODE_FIELDS: dict[str, Check] = {
    "goal": _goal,
    "overall_objective": _goal_length,
    "task_type": one_of(_TASK_TYPES),
    "node_type": one_of(_NODE_TYPES),
    "depends_on": _dependencies,
    "state": one_of(_NODE_STATES),
    "next_attempt_time": _time,
    "agent_name": _name,
    "result": _payload,
    "output_summary": _text,
    "error": _error,
    "sub_graph_id": _sub_graph,
    "planned_sub_task_ids": _id_list,
    "waiting_on": _name,
    "replan_reason": _text,
    "on_exhausted": one_of(_EXHAUSTED),
    "on_dependency_failure": one_of(_DEPENDENCY),
    "aux_data": check_values,
}

#: Checks of the fields of a new node by name.
NEW_NODE_FIELDS: dict[str, Check] = NODE_FIELDS | dict.fromkeys(
    ("version", "create_time", "update_time", "start_time", "end_time", "update_revision"),
    set_by_state_svc,
)

#: Checks of project fields by name.
PROJECT_FIELDS: dict[str, Check] = {
    "goal": _goal,
    "state": one_of(_PROJECT_STATES),
    "profile": _name,
    "settings": check_settings,
    "state_settings": check_settings,
    "agent_options": check_values,
    "labels": check_labels,
    "error": _error,
    "pause_time": _time,
}

#: Checks of command fields by name.
COMMAND_FIELDS: dict[str, Check] = {
    "type": one_of(_COMMAND_TYPES),
    "actor": _name,
    "message": _text,
    "node_id": _node_id,
}

check_outcome: Check = one_of(_COMMAND_OUTCOMES)
check_command_state: Check = one_of(_COMMAND_OUTCOMES | {CommandState.COMMAND_STATE_OPEN})
check_name: Check = _name
check_request_id: Check = _request_id
check_text: Check = _text
check_payload: Check = _payload
check_error: Check = _error
check_time: Check = _time
check_traceparent: Check = longest(limits.MAX_TRACEPARENT_CHARS)


def first_problem(message: Any, checks: Mapping[str, Check]) -> tuple[str, str] | None:
    """Return (field, what is wrong) of the first set field that fails its check."""
    for field, value in message.ListFields():
        check = checks.get(field.name)
        if check is not None and (problem := check(value)):
            return field.name, problem
    return None
