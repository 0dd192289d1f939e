"""Puts decisions into the words of the contract, and reads projects and nodes back.

A node's `aux_data` carries the runner's own: `details`, `budget` and `max_retries`, from
the plan; `allowance`, what became of a budget since; `crash_redispatches`, the dispatches in a row
that were cut off by a crash; `progress`, what its agent said last about how far it had come;
`review`, the latest review whose answer still matters; and `reviews`, how many there were.
"""

from __future__ import annotations

import math
from dataclasses import asdict, fields

from google.protobuf.timestamp_pb2 import Timestamp

from orchestrator_svc.graph import types
from orchestrator_svc.graph.budget import NO_ALLOWANCE, Allowance, Budget
from orchestrator_svc.graph.forced import Action, Forced, Pattern
from orchestrator_svc.graph.mutation import (
    CreateNode,
    GraphMutation,
    NodeChanges,
    PatchCommand,
    PatchNode,
    PatchProject,
)
from orchestrator_svc.graph.node import Failure, Json, Node, Result
from orchestrator_svc.graph.plan import MAX_LISTED_CHILDREN
from orchestrator_svc.graph.review import WAITING_PREFIX
from orchestrator_svc.graph.usage import Usage
from orchestrator_svc.publish.value import read_value, set_value
from ramify.v1 import command_pb2, mutation_pb2, node_pb2, payload_pb2, project_pb2

DETAILS_KEY = "details"
MAX_RETRIES_KEY = "max_retries"
CRASHES_KEY = "crash_redispatches"
FORCED_KEY = "forced_by"
REVIEW_KEY = "review"
REVIEWS_KEY = "reviews"
BUDGET_KEY = "budget"
ALLOWANCE_KEY = "allowance"
PROGRESS_KEY = "progress"

_MICROS = 1_000_000

NODE_STATES = {s: node_pb2.NodeState.Value(f"NODE_STATE_{s}") for s in types.NodeState}
NODE_TYPES = {t: node_pb2.NodeType.Value(f"NODE_TYPE_{t}") for t in types.NodeType}
TASK_TYPES = {t: node_pb2.TaskType.Value(f"TASK_TYPE_{t}") for t in types.TaskType}
ERROR_CLASSES = {c: node_pb2.ErrorClass.Value(f"ERROR_CLASS_{c}") for c in types.ErrorClass}
PROJECT_STATES = {
    s: project_pb2.ProjectState.Value(f"PROJECT_STATE_{s}") for s in types.ProjectState
}
COMMAND_STATES = {
    s: command_pb2.CommandState.Value(f"COMMAND_STATE_{s}") for s in types.CommandState
}

EXHAUSTED_POLICIES = {
    p: node_pb2.ExhaustedPolicy.Value(f"EXHAUSTED_POLICY_{p.upper()}") for p in types.OnExhausted
}
DEPENDENCY_POLICIES = {
    p: node_pb2.DependencyPolicy.Value(f"DEPENDENCY_POLICY_{p.upper()}")
    for p in types.OnDependencyFailure
}
EXHAUSTED_OF = {number: policy for policy, number in EXHAUSTED_POLICIES.items()}
DEPENDENCY_OF = {number: policy for policy, number in DEPENDENCY_POLICIES.items()}

_NODE_STATE_OF = {number: state for state, number in NODE_STATES.items()}
_NODE_TYPE_OF = {number: kind for kind, number in NODE_TYPES.items()}
_TASK_TYPE_OF = {number: kind for kind, number in TASK_TYPES.items()}
_ERROR_CLASS_OF = {number: kind for kind, number in ERROR_CLASSES.items()}
_PROJECT_STATE_OF = {number: state for state, number in PROJECT_STATES.items()}
_COMMAND_TYPE_OF = {
    command_pb2.CommandType.Value(f"COMMAND_TYPE_{kind}"): kind
    for kind in types.CommandType
    if kind is not types.CommandType.UNKNOWN
}


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
        set_value(patch.aux_upserts[FORCED_KEY], _forced_record(changes["forced"]))
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


def _forced_record(forced: Forced) -> dict[str, Json]:
    return {
        "by": "doctor",
        "pattern": str(forced.pattern),
        "action": str(forced.action),
        "before": forced.before,
        "after": forced.after,
        "reason": forced.reason,
    }


def _read_forced(record: Json) -> Forced | None:
    """Return the record of a forced move; None for what is no such record."""
    if not isinstance(record, dict):
        return None
    try:
        pattern, action = Pattern(str(record["pattern"])), Action(str(record["action"]))
        rest = [str(record[key]) for key in ("before", "after", "reason")]
    except (KeyError, ValueError):
        return None
    return Forced(pattern, action, *rest)


def _read_budget(record: Json) -> Budget | None:
    """Return the limits that a plan gave; None for what are no limits."""
    names = [field.name for field in fields(Budget)]
    try:
        values = {name: record[name] for name in names} if isinstance(record, dict) else {}
        return Budget(**values) or None  # type: ignore[arg-type]
    except (KeyError, TypeError, ValueError):
        return None


def _read_allowance(record: Json) -> Allowance:
    """Return what became of a budget; nothing for what is no such record."""
    if not isinstance(record, dict):
        return NO_ALLOWANCE
    since, review_id = record.get("since"), record.get("review_id")
    return Allowance(
        since=_amount(since) if since is not None else None,
        tokens=int(_amount(record.get("tokens"))),
        cost_usd=_amount(record.get("cost_usd")),
        wall_seconds=_amount(record.get("wall_seconds")),
        nodes=int(_amount(record.get("nodes"))),
        short=record.get("short") is True,
        final=record.get("final") is True,
        review_id=review_id if isinstance(review_id, str) else "",
    )


def _amount(value: Json) -> float:
    """Return a number that is not negative; 0 for anything else."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf:
        return float(value)
    return 0.0


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
    """Return a stored node as the runner holds it."""
    details: Json = None
    if DETAILS_KEY in message.aux_data:
        details = read_value(message.aux_data[DETAILS_KEY])
    crashes = 0
    if CRASHES_KEY in message.aux_data:
        crashes = int(message.aux_data[CRASHES_KEY].number_value)
    max_retries = None
    if MAX_RETRIES_KEY in message.aux_data:
        max_retries = int(message.aux_data[MAX_RETRIES_KEY].number_value)
    progress = ""
    if PROGRESS_KEY in message.aux_data:
        progress = message.aux_data[PROGRESS_KEY].string_value
    reviews = 0
    if REVIEWS_KEY in message.aux_data:
        reviews = int(message.aux_data[REVIEWS_KEY].number_value)
    return Node(
        node_id=message.node_id,
        goal=message.goal,
        task_type=_TASK_TYPE_OF.get(message.task_type, types.TaskType.CUSTOM),
        layer=message.layer,
        parent_id=message.parent_node_id,
        depends_on=tuple(message.depends_on),
        details=details if isinstance(details, dict) else {},
        state=_NODE_STATE_OF[message.state],
        node_type=_NODE_TYPE_OF.get(message.node_type),
        attempt=message.attempt,
        retry_count=message.retry_count,
        max_retries=max_retries,
        next_attempt_time=(
            read_time(message.next_attempt_time) if message.HasField("next_attempt_time") else None
        ),
        agent_name=message.agent_name,
        result=read_payload(message.result, message.output_summary)
        if message.HasField("result")
        else None,
        error=read_error(message.error) if message.HasField("error") else None,
        sub_graph_id=message.sub_graph_id,
        children=tuple(message.planned_sub_task_ids),
        agent_calls=message.usage.agent_calls,
        usage=Usage(
            message.usage.input_tokens, message.usage.output_tokens, message.usage.cost_micro_usd
        ),
        crash_redispatches=crashes,
        progress=progress,
        superseded=message.superseded,
        budget=(
            _read_budget(read_value(message.aux_data[BUDGET_KEY]))
            if BUDGET_KEY in message.aux_data
            else None
        ),
        allowance=(
            _read_allowance(read_value(message.aux_data[ALLOWANCE_KEY]))
            if ALLOWANCE_KEY in message.aux_data
            else NO_ALLOWANCE
        ),
        forced=(
            _read_forced(read_value(message.aux_data[FORCED_KEY]))
            if FORCED_KEY in message.aux_data
            else None
        ),
        waiting_on=message.waiting_on,
        review_id=_review_id(message),
        reviews=reviews,
        plan_count=message.plan_count,
        replan_count=message.replan_count,
        timeout_count=message.timeout_count,
        replan_reason=message.replan_reason,
        on_exhausted=EXHAUSTED_OF.get(message.on_exhausted),
        on_dependency_failure=DEPENDENCY_OF.get(message.on_dependency_failure),
    )


def _review_id(message: node_pb2.Node) -> str:
    """Return the review whose answer a node still needs; a fork has renamed an open one."""
    if message.waiting_on.startswith(WAITING_PREFIX):
        return message.waiting_on.removeprefix(WAITING_PREFIX)
    return message.aux_data[REVIEW_KEY].string_value if REVIEW_KEY in message.aux_data else ""


def read_payload(payload: payload_pb2.Payload, summary: str) -> Result:
    """Return a stored result; a large one without its body, which `digest` names."""
    if payload.HasField("ref"):
        ref = payload.ref
        return Result(payload.content_type, summary=summary, digest=ref.digest, is_text=ref.is_text)
    return Result(payload.content_type, payload.text, payload.data, summary)


def read_error(message: node_pb2.NodeError) -> Failure:
    """Return a stored failure."""
    error_class = _ERROR_CLASS_OF.get(message.error_class, types.ErrorClass.EXECUTION)
    return Failure(error_class, message.message, message.node_id)


def read_project_state(number: project_pb2.ProjectState.ValueType) -> types.ProjectState:
    """Return a project state of the contract."""
    return _PROJECT_STATE_OF[number]


def read_command_type(number: command_pb2.CommandType.ValueType) -> types.CommandType:
    """Return the kind of an order; UNKNOWN for one of a newer version."""
    return _COMMAND_TYPE_OF.get(number, types.CommandType.UNKNOWN)
