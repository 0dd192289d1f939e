"""Decisions in the contract's words, and nodes read back from them."""

from __future__ import annotations

import pytest

from orchestrator_svc.graph import types
from orchestrator_svc.graph.mutation import (
    CreateNode,
    NodeChanges,
    PatchCommand,
    PatchNode,
    PatchProject,
)
from orchestrator_svc.graph.node import Failure, Result
from orchestrator_svc.publish import attributes, convert, enums
from orchestrator_svc.publish.pack import pack, portions
from ramify.v1 import command_pb2, node_pb2, project_pb2

WHOLE = NodeChanges(
    state=types.NodeState.DONE,
    node_type=types.NodeType.PLAN,
    attempt=2,
    retry_count=1,
    next_attempt_time=1_700_000_000.25,
    agent_name="agent",
    result=Result("text/markdown", "# hi", b"", "a summary"),
    error=Failure(types.ErrorClass.TIMEOUT, "late", "root"),
    sub_graph_id="root.1",
    children=("root.1.0", "root.1.1"),
    agent_calls=3,
    crash_redispatches=2,
)


def stored(changes: NodeChanges) -> node_pb2.Node:
    """Return a node with the fields of a patch, as state_svc would keep them."""
    patch = convert.to_message(PatchNode("n", changes)).node.patch
    node = node_pb2.Node(node_id="n", task_type=node_pb2.TASK_TYPE_SEARCH)
    node.state = node_pb2.NODE_STATE_RUNNING
    for field, value in patch.ListFields():
        if field.name == "aux_upserts":
            for key in value:
                node.aux_data[key].CopyFrom(value[key])
        elif field.name == "planned_sub_task_ids":
            node.planned_sub_task_ids.extend(value)
        elif field.message_type is not None:
            getattr(node, field.name).CopyFrom(value)
        else:
            setattr(node, field.name, value)
    return node


def test_every_changed_field_is_written_and_read_back() -> None:
    node = convert.read_node(stored(WHOLE))
    assert {name: getattr(node, name) for name in WHOLE} == WHOLE


def test_none_empties_a_field_and_no_crashes_remove_their_count() -> None:
    changes = NodeChanges(next_attempt_time=None, error=None, crash_redispatches=0)
    patch = convert.to_message(PatchNode("n", changes)).node.patch
    assert list(patch.clear_fields) == ["next_attempt_time", "error"]
    assert list(patch.aux_removals) == [attributes.CRASHES_KEY]


def test_progress_is_an_attribute_that_comes_back() -> None:
    patch = convert.to_message(PatchNode("n", NodeChanges(progress="line 3"))).node.patch
    node = node_pb2.Node(
        node_id="n", state=node_pb2.NODE_STATE_RUNNING, aux_data=dict(patch.aux_upserts)
    )
    assert convert.read_node(node).progress == "line 3"


def test_what_is_not_changed_is_not_sent() -> None:
    message = convert.to_message(PatchNode("n", NodeChanges(state=types.NodeState.READY)))
    assert [f.name for f, _ in message.node.patch.ListFields()] == ["state"]


def test_a_created_node_carries_what_its_planner_attached() -> None:
    details: dict[str, object] = {"role": "clause", "n": 1, "deep": [None, True, {"x": "é"}]}
    mutation = CreateNode(
        "root.1.0",
        "a goal",
        "the whole goal",
        types.TaskType.THINK,
        types.NodeType.EXECUTE,
        1,
        "root",
        ("root.1.1",),
        types.NodeState.PENDING,
        details,  # type: ignore[arg-type]
    )
    message = convert.to_message(mutation).node
    message.create.node_id = message.node_id
    node = convert.read_node(message.create)
    assert node.details == details
    assert (node.layer, node.parent_id, node.depends_on) == (1, "root", ("root.1.1",))
    assert message.create.overall_objective == "the whole goal"


@pytest.mark.parametrize("data", [b"\x00\xff", b""])
def test_a_body_is_bytes_only_when_it_has_bytes(data: bytes) -> None:
    result = Result("application/octet-stream", "", data)
    payload = convert.to_message(PatchNode("n", NodeChanges(result=result))).node.patch.result
    assert payload.WhichOneof("body") == ("data" if data else "text")


def test_project_and_command_changes_are_written() -> None:
    failure = Failure(types.ErrorClass.NO_EVIDENCE, "nothing", "root")
    message = convert.to_message(PatchProject(types.ProjectState.FAILED, error=failure))
    assert message.project.patch.state == project_pb2.PROJECT_STATE_FAILED
    assert convert.read_error(message.project.patch.error) == failure
    message = convert.to_message(PatchCommand("c", types.CommandState.REFUSED, "why"))
    assert message.command.patch.state == command_pb2.COMMAND_STATE_REFUSED


def test_every_word_has_its_value_in_the_contract() -> None:
    for ours, theirs in (
        (enums.NODE_STATES, node_pb2.NodeState),
        (enums.NODE_TYPES, node_pb2.NodeType),
        (enums.TASK_TYPES, node_pb2.TaskType),
        (enums.ERROR_CLASSES, node_pb2.ErrorClass),
        (enums.PROJECT_STATES, project_pb2.ProjectState),
        (enums.COMMAND_STATES, command_pb2.CommandState),
    ):
        assert set(ours.values()) == set(theirs.values()) - {0}


def test_an_order_of_a_newer_contract_is_unknown() -> None:
    number = command_pb2.CommandType.ValueType(99)
    assert enums.read_command_type(number) is types.CommandType.UNKNOWN


def groups(*sizes: int) -> list[list[bytes]]:
    """Return groups of so many encoded mutations each."""
    return [[b"x" * 100] * size for size in sizes]


def test_batches_are_as_few_as_the_limits_allow_and_never_split_a_group() -> None:
    packed = pack(groups(2, 3, 4, 1), max_mutations=5, max_bytes=10_000)
    assert [len(batch) for batch in packed] == [5, 5]
    packed = pack(groups(2, 3, 4), max_mutations=100, max_bytes=450)
    assert [len(batch) for batch in packed] == [2, 3, 4]
    assert list(pack([], max_mutations=1, max_bytes=1)) == []


def test_portions_keep_every_group_whole_and_in_order() -> None:
    groups = [[1], [2, 3], [4, 5, 6, 7], [8], [9]]
    assert list(portions(groups, 3)) == [[[1], [2, 3]], [[4, 5, 6, 7]], [[8], [9]]]
    assert list(portions(groups, 100)) == [groups]
    assert not list(portions([], 3))
