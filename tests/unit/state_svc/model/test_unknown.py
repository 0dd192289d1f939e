"""Nothing is stored that no limit holds for: fields that this version does not know."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp

from ramify.v1.command_pb2 import Command, CommandType
from ramify.v1.mutation_pb2 import CommandMutation, Delta, Mutation
from ramify.v1.node_pb2 import Node, NodeError, TaskType
from ramify.v1.payload_pb2 import Payload
from ramify.v1.project_pb2 import ExecutionSettings, Project
from ramify.v1.review_pb2 import ProposedPlan, ProposedTask, ReviewDecision
from ramify.v1.stage_pb2 import ToolCall
from ramify.v1.state_service_pb2 import WatchFilter
from state_svc.model.entity import create_project
from state_svc.model.wire import bytes_field
from state_svc.watch.filter import ViewFilter
from tests.support.live import NOW, live_project, write
from tests.support.mutations import (
    READY,
    change_project,
    create,
    delete,
    open_review,
    order_outcome,
    patch,
    patch_review,
    resolve,
    stage,
)

UNKNOWN = bytes_field(5_000, b"of a newer contract")
TIME = Timestamp(seconds=NOW // 1_000_000)
ERROR = NodeError(message="it broke")
VALUES = {"k": Value(string_value="v")}
PLAN = ProposedPlan(
    tasks=[ProposedTask(goal="a task", task_type=TaskType.TASK_TYPE_WRITE, details=VALUES)]
)
ORDER = Command(type=CommandType.COMMAND_TYPE_CANCEL_PROJECT, message="enough")
APPROVE = ReviewDecision.REVIEW_DECISION_APPROVE

#: By what it does, on a project with a node, an open review and an open command.
MUTATIONS: dict[str, Mutation] = {
    "create": create("new", result=Payload(text="r"), error=ERROR, aux_data=VALUES),
    "usual patch": patch("n", state=READY, agent_name="me"),
    "patch": patch(
        "n",
        result=Payload(text="r"),
        error=ERROR,
        usage={"input_tokens": 1},
        next_attempt_time=TIME,
        aux_upserts=VALUES,
    ),
    "delete": delete("n"),
    "project": change_project(
        error=ERROR,
        pause_time=TIME,
        label_upserts={"k": "v"},
        settings=ExecutionSettings(enable_diff_updates=False),
    ),
    "command": Mutation(command=CommandMutation(command_id="new", create=ORDER)),
    "outcome": order_outcome("c"),
    "review": open_review("new", "n", plan=PLAN, result=Payload(text="r"), expire_time=TIME),
    "change of a review": patch_review("r", expire_time=TIME),
    "decision": resolve("r", APPROVE, modified_plan=PLAN),
    "stage": stage(
        "n",
        duration={"seconds": 1},
        start_time=TIME,
        error=ERROR,
        input=Payload(text="i"),
        tool_calls=[ToolCall(tool_name="t", arguments=Payload(text="a"))],
    ),
}


def _add_unknown(message: Message) -> None:
    """Add a field that is not known to a message and to all in it."""
    message.MergeFromString(UNKNOWN)
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        inner: Any = [value]
        if field.message_type.GetOptions().map_entry:
            inner = [v for v in value.values() if isinstance(v, Message)]
        elif field.is_repeated:
            inner = value
        for item in inner:
            _add_unknown(item)


def _stored(mutation: Mutation) -> list[Message]:
    """Return all that a mutation leaves behind."""
    given = Mutation(command=CommandMutation(command_id="c", create=ORDER))
    project = live_project(create("n"), given, open_review("r", "n", plan=PLAN))
    if mutation.node.HasField("delete"):
        project = live_project(create("n"))
    applied = write(project, mutation)
    nodes = [Node.FromString(node.data) for node in applied.nodes.values() if node is not None]
    others = [*applied.commands.values(), *applied.reviews.values(), *applied.wholes.values()]
    return [Delta.FromString(applied.body), *nodes, *others]


@pytest.mark.parametrize("kind", MUTATIONS)
def test_a_mutation_does_the_same_with_fields_of_a_newer_contract_in_it(kind: str) -> None:
    mutation = Mutation()
    mutation.CopyFrom(MUTATIONS[kind])
    _add_unknown(mutation)
    assert UNKNOWN in mutation.SerializeToString()
    stored = _stored(mutation)
    assert not any(UNKNOWN in message.SerializeToString() for message in stored)
    assert stored == _stored(MUTATIONS[kind])


def test_what_only_a_newer_contract_would_change_is_no_change() -> None:
    project = live_project(create("n", state=READY, error=ERROR))
    mutation = patch("n", error=ERROR)
    _add_unknown(mutation)
    assert write(project, mutation).nodes == {}


def test_a_project_is_stored_without_fields_of_a_newer_contract() -> None:
    entity = Project(
        project_id="p", goal="a goal", settings=ExecutionSettings(enable_diff_updates=True)
    )
    entity.plan.tasks.add(goal="a task")
    entity.agent_options["k"].string_value = "v"
    _add_unknown(entity)
    applied = create_project(entity, micros=NOW, actor="me")
    assert UNKNOWN not in applied.body
    assert UNKNOWN not in entity.SerializeToString()


def test_a_watch_repeats_its_filter_without_fields_of_a_newer_contract() -> None:
    request = WatchFilter(agent_names=["a"])
    _add_unknown(request)
    shown = ViewFilter(request).request.SerializeToString()
    assert shown == WatchFilter(agent_names=["a"]).SerializeToString()
