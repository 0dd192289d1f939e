"""Each field is accepted at its limit and refused one beyond it, with its path."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from google.protobuf.json_format import MessageToJson
from google.protobuf.struct_pb2 import ListValue, Value
from google.protobuf.timestamp_pb2 import Timestamp

from ramify.v1.command_pb2 import Command, CommandPatch, CommandType
from ramify.v1.mutation_pb2 import CommandMutation, Mutation
from ramify.v1.node_pb2 import (
    DependencyPolicy,
    ErrorClass,
    ExhaustedPolicy,
    Node,
    NodeError,
    NodePatch,
    NodeType,
    TaskType,
)
from ramify.v1.payload_pb2 import Payload
from ramify.v1.project_pb2 import ExecutionSettings, Project
from state_svc.model import limits, validate
from tests.support.live import INVALID, live_project, node, refusals, write
from tests.support.mutations import change_project, create, order_cancel, patch

_LIMITS = limits.Limits()
_TIMEOUT = ErrorClass.ERROR_CLASS_TIMEOUT


def _payload(size: int) -> Payload:
    payload = Payload(data=b"x" * (size - 8))
    payload.data += b"x" * (size - payload.ByteSize())
    assert payload.ByteSize() == size
    return payload


def _values(keys: int) -> dict[str, Value]:
    return {f"k{i}": Value(number_value=i) for i in range(keys)}


def _values_of_size(size: int) -> dict[str, Value]:
    value = Value(string_value="")
    value.string_value = "x" * (size - 100)
    value.string_value += "x" * (size - 1 - value.ByteSize())
    assert 1 + value.ByteSize() == size
    return {"k": value}


#: Values that no JSON tool can show; they would break every such reader of the project.
_NOT_JSON = [
    Value(),
    Value(number_value=float("nan")),
    Value(number_value=float("inf")),
    Value(number_value=float("-inf")),
]
_BIG = Value(string_value="x" * 10)


def _nested(value: Value) -> Value:
    """Return a value that holds another one deep inside."""
    outer = Value()
    outer.struct_value.fields["a"].list_value.values.append(Value(bool_value=True))
    outer.struct_value.fields["a"].list_value.values.append(value)
    return outer


def _longest(most: int) -> tuple[str, str]:
    return "é" * most, "é" * (most + 1)


#: Fields of nodes that may be patched: (field, at its limit, one beyond).
_NODE: list[tuple[str, Any, Any]] = [
    ("goal", *_longest(_LIMITS.max_goal_chars)),
    ("goal", "x" * limits.MIN_GOAL_CHARS, "x" * (limits.MIN_GOAL_CHARS - 1)),
    ("node_type", max(NodeType.values()), max(NodeType.values()) + 1),
    ("agent_name", *_longest(limits.MAX_NAME_CHARS)),
    ("waiting_on", *_longest(limits.MAX_NAME_CHARS)),
    ("replan_reason", *_longest(limits.MAX_TEXT_CHARS)),
    ("output_summary", *_longest(limits.MAX_TEXT_CHARS)),
    ("sub_graph_id", *_longest(limits.MAX_REQUEST_ID_CHARS)),
    ("result", _payload(_LIMITS.max_payload_bytes), _payload(_LIMITS.max_payload_bytes + 1)),
    (
        "result",
        Payload(content_type="x" * limits.MAX_NAME_CHARS),
        Payload(content_type="x" * (limits.MAX_NAME_CHARS + 1)),
    ),
    (
        "error",
        NodeError(error_class=_TIMEOUT, message="é" * limits.MAX_TEXT_CHARS),
        NodeError(error_class=_TIMEOUT, message="é" * (limits.MAX_TEXT_CHARS + 1)),
    ),
    ("error", NodeError(node_id="a" * 128), NodeError(node_id="a" * 129)),
    (
        "error",
        NodeError(error_class=max(ErrorClass.values())),
        NodeError(error_class=max(ErrorClass.values()) + 1),  # type: ignore[arg-type]
    ),
    (
        "planned_sub_task_ids",
        ["a"] * _LIMITS.max_batch_mutations,
        ["a"] * (_LIMITS.max_batch_mutations + 1),
    ),
    ("planned_sub_task_ids", ["a" * 128], ["b", "a" * 129]),
    ("next_attempt_time", Timestamp(seconds=253_402_300_799), Timestamp(seconds=253_402_300_800)),
    ("next_attempt_time", Timestamp(nanos=999_999_999), Timestamp(nanos=1_000_000_000)),
    ("next_attempt_time", Timestamp(seconds=-62_135_596_800), Timestamp(seconds=-62_135_596_801)),
    ("next_attempt_time", Timestamp(seconds=-1, nanos=0), Timestamp(seconds=1, nanos=-1)),
]
#: … and those that are only set when the node is created.
_NEW_NODE: list[tuple[str, Any, Any]] = [
    *_NODE,
    ("overall_objective", *_longest(_LIMITS.max_goal_chars)),
    ("task_type", max(TaskType.values()), max(TaskType.values()) + 1),
    ("on_exhausted", max(ExhaustedPolicy.values()), max(ExhaustedPolicy.values()) + 1),
    (
        "on_dependency_failure",
        max(DependencyPolicy.values()),
        max(DependencyPolicy.values()) + 1,
    ),
    ("aux_data", _values(limits.MAX_MAP_KEYS), _values(limits.MAX_MAP_KEYS + 1)),
    (
        "aux_data",
        _values_of_size(limits.MAX_MAP_BYTES),
        _values_of_size(limits.MAX_MAP_BYTES + 1),
    ),
    ("aux_data", {"k": Value(null_value=0)}, {"k": Value()}),  # type: ignore[arg-type]
    ("aux_data", {"é" * 8_000: _BIG}, {"é" * 8_190: _BIG}),
    *(("aux_data", {"k": Value(number_value=1e308)}, {"k": _nested(bad)}) for bad in _NOT_JSON),
]


def _names(cases: list[tuple[str, Any, Any]]) -> list[str]:
    return [f"{at}-{field}" for at, (field, _, _) in enumerate(cases)]


@pytest.mark.parametrize("field, most, beyond", _NEW_NODE, ids=_names(_NEW_NODE))
def test_a_field_of_a_new_node_is_taken_at_its_limit_and_not_beyond(
    field: str, most: Any, beyond: Any
) -> None:
    def made(value: Any) -> Mutation:
        fields: dict[str, Any] = {field: value}
        return create("a", **fields)

    assert refusals(live_project(), made(most)) == []
    assert refusals(live_project(), made(beyond)) == [(0, INVALID, f"node.create.{field}")]


@pytest.mark.parametrize("field, most, beyond", _NODE, ids=_names(_NODE))
def test_a_field_of_a_patch_is_taken_at_its_limit_and_not_beyond(
    field: str, most: Any, beyond: Any
) -> None:
    def made(value: Any) -> Mutation:
        fields: dict[str, Any] = {field: value}
        return patch("a", **fields)

    project = live_project(create("a"))
    assert refusals(project, made(most)) == []
    assert refusals(project, made(beyond)) == [(0, INVALID, f"node.patch.{field}")]


def test_the_patchable_and_the_new_fields_with_a_limit_are_all_tried_here() -> None:
    tried = {field for field, _, _ in _NEW_NODE} | {"depends_on", "state"}
    assert tried == set(validate.NODE_FIELDS)


def test_every_field_of_a_node_has_a_limit_or_needs_none() -> None:
    edges = {"node_id", "layer", "parent_node_id"}  # checked against the other nodes
    numbers = {"attempt", "retry_count", "usage", "superseded"}
    numbers |= {"plan_count", "replan_count", "timeout_count"}
    covered = {*validate.NEW_NODE_FIELDS, *edges, *numbers}
    assert {field.name for field in Node.DESCRIPTOR.fields} == covered
    rules = {"aux_upserts", "aux_removals", "clear_fields"}
    assert {field.name for field in NodePatch.DESCRIPTOR.fields} <= covered | rules


def test_dependencies_are_taken_at_their_limit_and_not_beyond() -> None:
    ids = [f"d{i}" for i in range(limits.MAX_DEPENDENCIES + 1)]
    project = live_project(*(create(node_id) for node_id in ids))
    assert refusals(project, create("a", depends_on=ids[:-1])) == []
    assert refusals(project, create("a", depends_on=ids)) == [
        (0, INVALID, "node.create.depends_on")
    ]


def test_attributes_are_counted_with_those_that_are_there() -> None:
    project = live_project(create("a", aux_data=_values(limits.MAX_MAP_KEYS)))
    more = {"new": Value(number_value=1)}
    assert refusals(project, patch("a", aux_upserts=more)) == [
        (0, INVALID, "node.patch.aux_upserts")
    ]
    assert refusals(project, patch("a", aux_upserts=more, aux_removals=["k0"])) == []
    assert refusals(project, patch("a", aux_upserts={"k0": Value(number_value=9)})) == []
    empty = patch("a", aux_upserts={"k0": Value()})
    assert refusals(project, empty) == [(0, INVALID, "node.patch.aux_upserts")]


@pytest.mark.parametrize("bad", _NOT_JSON, ids=str)
def test_an_attribute_that_json_cannot_show_is_refused(bad: Value) -> None:
    project = live_project(create("a"))
    for value in (bad, _nested(bad), _nested(_nested(bad))):
        assert refusals(project, patch("a", aux_upserts={"k": value})) == [
            (0, INVALID, "node.patch.aux_upserts")
        ]
    good = _nested(_nested(Value(number_value=-1.5)))
    write(project, patch("a", aux_upserts={"k": good}))
    MessageToJson(node(project, "a"))


def test_an_attribute_is_nested_to_its_limit_and_not_beyond() -> None:
    """A reader's parser has a limit of its own, which what is stored must not reach."""
    value = Value(bool_value=True)
    for level in range(limits.MAX_VALUE_DEPTH):
        outer = Value()
        if level % 2:
            outer.list_value.values.append(value)
        else:
            outer.struct_value.fields["a"].CopyFrom(value)
        value = outer
    assert validate.check_values({"k": value}) == ""
    outer = Value()
    outer.list_value.values.append(value)
    assert "levels deep" in validate.check_values({"k": outer})


def test_a_plain_value_costs_no_call_of_its_own() -> None:
    """A batch may hold most of a million, and all else waits while it is checked."""
    value = Value(list_value=ListValue(values=[Value(bool_value=False)] * 3_900))
    calls = 0

    def count(frame: object, event: str, arg: object) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        problem = validate.check_values({"k": value})
    finally:
        sys.setprofile(None)
    assert problem == ""
    assert calls < 20


def test_of_a_patch_the_values_that_were_there_are_not_looked_at_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked_at = 0
    check = validate.check_shown

    def counted(values: Iterable[Value]) -> str:
        nonlocal looked_at
        seen = list(values)
        looked_at += len(seen)
        return check(seen)

    project = live_project(create("n", aux_data=_values(60)))
    monkeypatch.setattr(validate, "check_shown", counted)
    write(project, patch("n", aux_upserts={"k1": Value(number_value=7)}))
    assert looked_at == 1


def test_labels_are_counted_with_those_that_are_there() -> None:
    project = live_project(create("a"))
    most = {f"k{i}": "v" for i in range(limits.MAX_MAP_KEYS)}
    write(project, change_project(label_upserts=most))
    found = [(0, INVALID, "project.patch.label_upserts")]
    assert refusals(project, change_project(label_upserts={"new": "v"})) == found
    renamed = change_project(label_upserts={"new": "v"}, label_removals=["k0"])
    assert refusals(project, renamed) == []


@pytest.mark.parametrize(
    "labels, good",
    [
        ({"k" * 255: "v" * 255}, True),
        ({"k" * 256: "v"}, False),
        ({"k": "v" * 256}, False),
        ({"": "v"}, False),
        ({"k": ""}, True),
    ],
)
def test_a_label_has_a_key_and_is_not_long(labels: dict[str, str], good: bool) -> None:
    found = refusals(live_project(), change_project(label_upserts=labels))
    assert found == ([] if good else [(0, INVALID, "project.patch.label_upserts")])


def _command(field: str, value: Any) -> Mutation:
    fields: dict[str, Any] = {"type": CommandType.COMMAND_TYPE_CANCEL_PROJECT, field: value}
    return Mutation(command=CommandMutation(command_id="c", create=Command(**fields)))


_COMMANDS: list[tuple[str, Any, Any]] = [
    ("type", max(CommandType.values()), max(CommandType.values()) + 1),
    ("actor", *_longest(limits.MAX_NAME_CHARS)),
    ("message", *_longest(limits.MAX_TEXT_CHARS)),
]


@pytest.mark.parametrize("field, most, beyond", _COMMANDS, ids=_names(_COMMANDS))
def test_a_field_of_a_command_is_taken_at_its_limit_and_not_beyond(
    field: str, most: Any, beyond: Any
) -> None:
    assert refusals(live_project(), _command(field, most)) == []
    assert refusals(live_project(), _command(field, beyond)) == [
        (0, INVALID, f"command.create.{field}")
    ]


def test_the_message_of_an_outcome_is_taken_at_its_limit_and_not_beyond() -> None:
    project = live_project(order_cancel("c"))
    most, beyond = (
        Mutation(command=CommandMutation(command_id="c", patch=CommandPatch(message=text)))
        for text in _longest(limits.MAX_TEXT_CHARS)
    )
    assert refusals(project, most) == []
    assert refusals(project, beyond) == [(0, INVALID, "command.patch.message")]


_PROJECT: list[tuple[str, Any, Any]] = [
    ("goal", *_longest(_LIMITS.max_goal_chars)),
    ("goal", "x" * limits.MIN_GOAL_CHARS, "x" * (limits.MIN_GOAL_CHARS - 1)),
    ("profile", *_longest(limits.MAX_NAME_CHARS)),
    ("agent_options", _values(limits.MAX_MAP_KEYS), _values(limits.MAX_MAP_KEYS + 1)),
    (
        "labels",
        dict.fromkeys(map(str, range(limits.MAX_MAP_KEYS)), "v"),
        dict.fromkeys(map(str, range(limits.MAX_MAP_KEYS + 1)), "v"),
    ),
    (
        "error",
        NodeError(message="x" * limits.MAX_TEXT_CHARS),
        NodeError(message="x" * (limits.MAX_TEXT_CHARS + 1)),
    ),
]


@pytest.mark.parametrize("field, most, beyond", _PROJECT, ids=_names(_PROJECT))
def test_a_field_of_a_project_is_taken_at_its_limit_and_not_beyond(
    field: str, most: Any, beyond: Any
) -> None:
    def found(value: Any) -> tuple[str, str] | None:
        fields: dict[str, Any] = {field: value}
        return validate.first_problem(Project(**fields), validate.PROJECT_FIELDS)

    assert found(most) is None
    problem = found(beyond)
    assert problem is not None
    assert problem[0] == field


@pytest.mark.parametrize(
    "field, least, most, step",
    [
        ("max_concurrent_nodes", 1, 10_000, 1),
        ("max_execution_steps", None, 10_000, 1),
        ("max_recursion_depth", 1, 20, 1),
        ("max_retries", None, 100, 1),
        ("retry_delay_seconds", 0.0, 3_600.0, 0.001),
        ("node_execution_timeout_seconds", 0.001, 86_400.0, 0.001),
    ],
)
def test_a_setting_stays_within_its_range(
    field: str, least: float | None, most: float, step: float
) -> None:
    def problem(value: float) -> str:
        fields: dict[str, Any] = {field: value}
        return validate.check_settings(ExecutionSettings(**fields))

    assert problem(most) == ""
    assert field in problem(most + step)
    if least is not None:
        assert problem(least) == ""
        assert field in problem(least - step)
    if isinstance(most, float):
        assert field in problem(float("nan"))
        assert field in problem(float("inf"))


@pytest.mark.parametrize(
    "check, most",
    [
        (validate.check_name, limits.MAX_NAME_CHARS),
        (validate.check_request_id, limits.MAX_REQUEST_ID_CHARS),
        (validate.check_traceparent, limits.MAX_TRACEPARENT_CHARS),
    ],
)
def test_a_field_of_a_request_is_taken_at_its_limit_and_not_beyond(
    check: Callable[[str], str], most: int
) -> None:
    assert check("é" * most) == ""
    assert check("é" * (most + 1))
