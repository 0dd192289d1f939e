"""Puts decisions into the words of the contract, and reads nodes back."""

from __future__ import annotations

from dataclasses import asdict

from google.protobuf.timestamp_pb2 import Timestamp

from orchestrator_svc.graph import types
from orchestrator_svc.graph.mutation import (
    CreateNode,
    GraphMutation,
    NodeChanges,
    PatchCommand,
    PatchNode,
    PatchProject,
)
from orchestrator_svc.graph.node import Failure, Node, Result
from orchestrator_svc.graph.plan import MAX_LISTED_CHILDREN
from orchestrator_svc.graph.review import WAITING_PREFIX
from orchestrator_svc.graph.usage import Usage
from orchestrator_svc.publish.attributes import (
    ALLOWANCE_KEY,
    BUDGET_KEY,
    CRASHES_KEY,
    DETAILS_KEY,
    FORCED_KEY,
    MAX_RETRIES_KEY,
    PROGRESS_KEY,
    REVIEW_KEY,
    REVIEWS_KEY,
    forced_record,
    read_allowance,
    read_budget,
    read_forced,
)
from orchestrator_svc.publish.enums import (
    COMMAND_STATES,
    DEPENDENCY_OF,
    DEPENDENCY_POLICIES,
    ERROR_CLASS_OF,
    ERROR_CLASSES,
    EXHAUSTED_OF,
    EXHAUSTED_POLICIES,
    NODE_STATE_OF,
    NODE_STATES,
    NODE_TYPE_OF,
    NODE_TYPES,
    PROJECT_STATES,
    TASK_TYPE_OF,
    TASK_TYPES,
)
from orchestrator_svc.publish.value import read_value, set_value
from ramify.v1 import mutation_pb2, node_pb2, payload_pb2

_MICROS = 1_000_000


def to_message(mutation: GraphMutation) -> mutation_pb2.Mutation:
    """Return the mutation as the contract has it."""
    message = mutation_pb2.Mutation()
    if isinstance(mutation, PatchNode):
        message.node.node_id = mutation.node_id
        _set_patch(message.node.patch, mutation.changes)
    elif isinstance(mutation, CreateNode):
        message.node.node_id = mutation.node_id
        _set_node(message.node.create, mutation)
    elif isinstance(mutation, PatchProject):
        patch = message.project.patch
        patch.state = PROJECT_STATES[mutation.state]
        if mutation.root_node_id:
            patch.root_node_id = mutation.root_node_id
        if mutation.error is not None:
            set_error(patch.error, mutation.error)
        if mutation.pause_time is not None:
            set_time(patch.pause_time, mutation.pause_time)
        else:
            patch.clear_fields.append("pause_time")
    else:
        _set_command(message.command, mutation)
    return message


def _set_node(node: node_pb2.Node, mutation: CreateNode) -> None:
    node.goal = mutation.goal
    node.overall_objective = mutation.overall_objective
    node.task_type = TASK_TYPES[mutation.task_type]
    if mutation.node_type is not None:
        node.node_type = NODE_TYPES[mutation.node_type]
    node.layer = mutation.layer
    node.parent_node_id = mutation.parent_id
    node.depends_on.extend(mutation.depends_on)
    node.state = NODE_STATES[mutation.state]
    if mutation.budget:
        set_value(node.aux_data[BUDGET_KEY], asdict(mutation.budget))
    if mutation.on_exhausted is not None:
        node.on_exhausted = EXHAUSTED_POLICIES[mutation.on_exhausted]
    if mutation.on_dependency_failure is not None:
        node.on_dependency_failure = DEPENDENCY_POLICIES[mutation.on_dependency_failure]
    if mutation.details:
        set_value(node.aux_data[DETAILS_KEY], dict(mutation.details))
    if mutation.max_retries is not None:
        node.aux_data[MAX_RETRIES_KEY].number_value = mutation.max_retries


def _set_patch(patch: node_pb2.NodePatch, changes: NodeChanges) -> None:
    if "state" in changes:
        patch.state = NODE_STATES[changes["state"]]
    if "node_type" in changes:
        patch.node_type = NODE_TYPES[changes["node_type"]]
    if "attempt" in changes:
        patch.attempt = changes["attempt"]
    if "retry_count" in changes:
        patch.retry_count = changes["retry_count"]
    if "agent_name" in changes:
        patch.agent_name = changes["agent_name"]
    if "agent_calls" in changes:
        patch.usage.agent_calls = changes["agent_calls"]
    if "usage" in changes:
        usage = changes["usage"]
        patch.usage.input_tokens = usage.input_tokens
        patch.usage.output_tokens = usage.output_tokens
        patch.usage.cost_micro_usd = usage.cost_micro_usd
    if "sub_graph_id" in changes:
        patch.sub_graph_id = changes["sub_graph_id"]
    if "children" in changes:
        if len(changes["children"]) <= MAX_LISTED_CHILDREN:
            patch.planned_sub_task_ids.extend(changes["children"])
        else:
            patch.clear_fields.append("planned_sub_task_ids")
    if "result" in changes:
        result = changes["result"]
        set_payload(patch.result, result)
        if result.summary:
            patch.output_summary = result.summary
    if "next_attempt_time" in changes:
        when = changes["next_attempt_time"]
        if when is None:
            patch.clear_fields.append("next_attempt_time")
        else:
            set_time(patch.next_attempt_time, when)
    if "error" in changes:
        error = changes["error"]
        if error is None:
            patch.clear_fields.append("error")
        else:
            set_error(patch.error, error)
    if "allowance" in changes:
        set_value(patch.aux_upserts[ALLOWANCE_KEY], asdict(changes["allowance"]))
    if "forced" in changes:
        set_value(patch.aux_upserts[FORCED_KEY], forced_record(changes["forced"]))
    if "waiting_on" in changes:
        patch.waiting_on = changes["waiting_on"]
    if "review_id" in changes:
        if changes["review_id"]:
            patch.aux_upserts[REVIEW_KEY].string_value = changes["review_id"]
        else:
            patch.aux_removals.append(REVIEW_KEY)
    if "reviews" in changes:
        patch.aux_upserts[REVIEWS_KEY].number_value = changes["reviews"]
    if "superseded" in changes:
        patch.superseded = changes["superseded"]
    if "plan_count" in changes:
        patch.plan_count = changes["plan_count"]
    if "replan_count" in changes:
        patch.replan_count = changes["replan_count"]
    if "timeout_count" in changes:
        patch.timeout_count = changes["timeout_count"]
    if "replan_reason" in changes:
        patch.replan_reason = changes["replan_reason"]
    if "crash_redispatches" in changes:
        crashes = changes["crash_redispatches"]
        if crashes:
            patch.aux_upserts[CRASHES_KEY].number_value = crashes
        else:
            patch.aux_removals.append(CRASHES_KEY)
    if "progress" in changes:
        progress = changes["progress"]
        if progress:
            patch.aux_upserts[PROGRESS_KEY].string_value = progress
        else:
            patch.aux_removals.append(PROGRESS_KEY)


def _set_command(message: mutation_pb2.CommandMutation, mutation: PatchCommand) -> None:
    message.command_id = mutation.command_id
    message.patch.state = COMMAND_STATES[mutation.state]
    if mutation.answer:
        message.patch.answer = mutation.answer


def set_error(target: node_pb2.NodeError, failure: Failure) -> None:
    """Write a failure."""
    target.error_class = ERROR_CLASSES[failure.error_class]
    target.message = failure.message
    target.node_id = failure.node_id


def set_payload(target: payload_pb2.Payload, result: Result) -> None:
    """Write a result as a payload; an empty body is an empty text."""
    target.content_type = result.content_type
    if result.digest:
        target.ref.digest = result.digest
        target.ref.is_text = result.is_text
    elif result.data:
        target.data = result.data
    else:
        target.text = result.text


def set_time(target: Timestamp, seconds: float) -> None:
    """Set a Timestamp to Unix seconds, to the microsecond."""
    micros = round(seconds * _MICROS)
    target.seconds, rest = divmod(micros, _MICROS)
    target.nanos = rest * 1_000


def read_time(timestamp: Timestamp) -> float:
    """Return a Timestamp as Unix seconds."""
    return timestamp.seconds + timestamp.nanos / 1e9


def read_node(message: node_pb2.Node) -> Node:
    """Return a stored node as the runner holds it. Hot: a run of 100 000 nodes is read at once."""
    node = Node(
        node_id=message.node_id,
        goal=message.goal,
        task_type=TASK_TYPE_OF.get(message.task_type, types.TaskType.CUSTOM),
        layer=message.layer,
        parent_id=message.parent_node_id,
        depends_on=tuple(message.depends_on),
        state=NODE_STATE_OF[message.state],
        node_type=NODE_TYPE_OF.get(message.node_type),
        attempt=message.attempt,
        retry_count=message.retry_count,
        agent_name=message.agent_name,
        sub_graph_id=message.sub_graph_id,
        children=tuple(message.planned_sub_task_ids),
        superseded=message.superseded,
        plan_count=message.plan_count,
        replan_count=message.replan_count,
        timeout_count=message.timeout_count,
        replan_reason=message.replan_reason,
        on_exhausted=EXHAUSTED_OF.get(message.on_exhausted),
        on_dependency_failure=DEPENDENCY_OF.get(message.on_dependency_failure),
    )
    if message.HasField("next_attempt_time"):
        node.next_attempt_time = read_time(message.next_attempt_time)
    if message.HasField("result"):
        node.result = read_payload(message.result, message.output_summary)
    if message.HasField("error"):
        node.error = read_error(message.error)
    if message.HasField("usage"):
        usage = message.usage
        node.agent_calls = usage.agent_calls
        if usage.input_tokens or usage.output_tokens or usage.cost_micro_usd:
            node.usage = Usage(usage.input_tokens, usage.output_tokens, usage.cost_micro_usd)
    if message.aux_data:
        _read_attributes(node, message)
    if message.waiting_on:
        node.waiting_on = message.waiting_on
        if node.waiting_on.startswith(WAITING_PREFIX):  # a fork has renamed an open review
            node.review_id = node.waiting_on.removeprefix(WAITING_PREFIX)
    return node


def _read_attributes(node: Node, message: node_pb2.Node) -> None:
    for key, value in message.aux_data.items():
        if key == DETAILS_KEY:
            details = read_value(value)
            node.details = details if isinstance(details, dict) else {}
        elif key == CRASHES_KEY:
            node.crash_redispatches = int(value.number_value)
        elif key == MAX_RETRIES_KEY:
            node.max_retries = int(value.number_value)
        elif key == PROGRESS_KEY:
            node.progress = value.string_value
        elif key == REVIEW_KEY:
            node.review_id = value.string_value
        elif key == REVIEWS_KEY:
            node.reviews = int(value.number_value)
        elif key == BUDGET_KEY:
            node.budget = read_budget(read_value(value))
        elif key == ALLOWANCE_KEY:
            node.allowance = read_allowance(read_value(value))
        elif key == FORCED_KEY:
            node.forced = read_forced(read_value(value))


def read_payload(payload: payload_pb2.Payload, summary: str) -> Result:
    """Return a stored result; a large one without its body, which `digest` names."""
    if payload.HasField("ref"):
        ref = payload.ref
        return Result(payload.content_type, summary=summary, digest=ref.digest, is_text=ref.is_text)
    return Result(payload.content_type, payload.text, payload.data, summary)


def read_error(message: node_pb2.NodeError) -> Failure:
    """Return a stored failure."""
    error_class = ERROR_CLASS_OF.get(message.error_class, types.ErrorClass.EXECUTION)
    return Failure(error_class, message.message, message.node_id)
