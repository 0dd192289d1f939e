"""Applies patches: checked ones from producers, and effects from the log without checks.

`node_effect` returns only what really changes (S1.5), so a delta never carries a field that
already had its value. `replay_node` puts such an effect back on a node.
"""

from __future__ import annotations

import enum
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from ramify.v1.command_pb2 import Command, CommandPatch, CommandState
from ramify.v1.error_pb2 import ErrorReason
from ramify.v1.node_pb2 import Node, NodePatch, NodeState
from ramify.v1.project_pb2 import ExecutionSettings, Project, ProjectPatch, ProjectState
from state_svc.model import limits, transitions, validate
from state_svc.model.ids import is_id
from state_svc.model.node import LiveNode, set_micros
from state_svc.model.problem import Problem

_INVALID = ErrorReason.ERROR_REASON_INVALID_MUTATION
_ILLEGAL = ErrorReason.ERROR_REASON_ILLEGAL_TRANSITION
_RUNNING = NodeState.NODE_STATE_RUNNING


class _Kind(enum.Enum):
    SCALAR = enum.auto()
    MESSAGE = enum.auto()
    LIST = enum.auto()
    STATE = enum.auto()
    ATTEMPT = enum.auto()
    UPSERTS = enum.auto()
    REMOVALS = enum.auto()
    CLEAR = enum.auto()
    OUTPUT_ONLY = enum.auto()


_SPECIAL = {
    "state": _Kind.STATE,
    "attempt": _Kind.ATTEMPT,
    "aux_upserts": _Kind.UPSERTS,
    "aux_removals": _Kind.REMOVALS,
    "clear_fields": _Kind.CLEAR,
    "start_time": _Kind.OUTPUT_ONLY,
    "end_time": _Kind.OUTPUT_ONLY,
}


def _kind(field: FieldDescriptor) -> _Kind:
    if field.name in _SPECIAL:
        return _SPECIAL[field.name]
    if field.is_repeated:
        return _Kind.LIST
    return _Kind.MESSAGE if field.message_type is not None else _Kind.SCALAR


_FIELDS = {
    field: (field.name, _kind(field), validate.NODE_FIELDS.get(field.name))
    for field in NodePatch.DESCRIPTOR.fields
}
CLEARABLE = frozenset(
    name for name, kind, _ in _FIELDS.values() if kind in (_Kind.SCALAR, _Kind.MESSAGE, _Kind.LIST)
) - {"goal"}
PROJECT_CLEARABLE = frozenset({"error", "pause_time"})
#: Settings that are asked for whenever a watch begins or has its turn.
_WATCH_SETTINGS = frozenset(
    {
        "broadcast_mode",
        "enable_diff_updates",
        "enable_ws_compression",
        "watch_priority",
        "ws_batch_size",
        "ws_batch_timeout_ms",
    }
)


def node_effect(live: LiveNode, request: NodePatch, micros: int) -> tuple[Node, NodePatch] | None:
    """Return the node after a producer's patch and the fields that changed; None if none did.

    Raises `Problem` for an illegal transition or a field that breaks a rule.
    """
    node = Node.FromString(live.data)
    changed = NodePatch()
    any_change = False
    for field, value in request.ListFields():
        name, kind, check = _FIELDS[field]
        if check is not None and (problem := check(value)):
            raise Problem(_INVALID, f"node.patch.{name}", problem)
        if kind is _Kind.STATE:
            if value == live.state:
                continue
            _check_transition(live, request, value)
            node.state = changed.state = value
            _stamp_transition(node, changed, live.state, value, micros)
        elif kind is _Kind.ATTEMPT:
            if value == live.attempt:
                continue
            if value != live.attempt + 1:
                raise Problem(
                    _INVALID,
                    "node.patch.attempt",
                    f"is {value}, must be {live.attempt} or {live.attempt + 1}",
                )
            node.attempt = changed.attempt = value
        elif kind is _Kind.SCALAR:
            if value == getattr(node, name):
                continue
            setattr(node, name, value)
            setattr(changed, name, value)
        elif not _apply_rest(node, changed, name, kind, value, request):
            continue
        any_change = True
    return (node, changed) if any_change else None


def _check_transition(live: LiveNode, request: NodePatch, after: int) -> None:
    before = live.state
    if after in transitions.NODE.to[before]:
        return
    names = transitions.NODE.names
    if after in transitions.NODE.to_with_new_attempt[before]:
        if request.attempt == live.attempt + 1:
            return
        raise Problem(
            _ILLEGAL,
            "node.patch.state",
            f"{names[before]} to {names[after]} needs attempt {live.attempt + 1}",
        )
    raise Problem(
        _ILLEGAL,
        "node.patch.state",
        f"{live.spec.node_id} cannot go from {names[before]} to {names[after]}",
    )


def _stamp_transition(node: Node, changed: NodePatch, before: int, after: int, micros: int) -> None:
    if before in transitions.NODE.terminal and after not in transitions.NODE.terminal:
        node.ClearField("end_time")
        changed.clear_fields.append("end_time")
    if after == _RUNNING:
        set_micros(node.start_time, micros)
        set_micros(changed.start_time, micros)
    elif after in transitions.NODE.terminal:
        set_micros(node.end_time, micros)
        set_micros(changed.end_time, micros)


def _apply_rest(
    node: Node, changed: NodePatch, name: str, kind: _Kind, value: Any, request: NodePatch
) -> bool:
    """Apply a field that is no scalar; return whether the node changed."""
    if kind is _Kind.MESSAGE:
        if node.HasField(name) and getattr(node, name) == value:  # type: ignore[arg-type]
            return False
        getattr(node, name).CopyFrom(value)
        getattr(changed, name).CopyFrom(value)
        return True
    if kind is _Kind.LIST:
        if getattr(node, name) == value:
            return False
        getattr(node, name)[:] = value
        getattr(changed, name)[:] = value
        return True
    if kind is _Kind.UPSERTS:
        return _upsert_aux(node, changed, request)
    if kind is _Kind.REMOVALS:
        keys = dict.fromkeys(value)
        gone = [key for key in keys if key in node.aux_data and key not in request.aux_upserts]
        for key in gone:
            del node.aux_data[key]
        changed.aux_removals.extend(gone)
        return bool(gone)
    if kind is _Kind.CLEAR:
        return _clear(node, changed, request)
    raise Problem(_INVALID, f"node.patch.{name}", "is set by state_svc only")


def _upsert_aux(node: Node, changed: NodePatch, request: NodePatch) -> bool:
    any_change = False
    for key, value in request.aux_upserts.items():
        if key in node.aux_data and node.aux_data[key] == value:
            continue
        node.aux_data[key].CopyFrom(value)
        changed.aux_upserts[key].CopyFrom(value)
        any_change = True
    kept = {k: v for k, v in node.aux_data.items() if k not in request.aux_removals}
    kept.update(request.aux_upserts)
    if any_change:  # the values that were there are as they were taken
        new = changed.aux_upserts.values()
        if problem := validate.check_map(kept) or validate.check_shown(new):
            raise Problem(_INVALID, "node.patch.aux_upserts", problem)
    return any_change


def _clear(node: Node, changed: NodePatch, request: NodePatch) -> bool:
    any_change = False
    for name in request.clear_fields:
        if name not in CLEARABLE:
            raise Problem(_INVALID, "node.patch.clear_fields", f"{name!r} cannot be cleared")
        value = getattr(request, name)
        is_list = NodePatch.DESCRIPTOR.fields_by_name[name].is_repeated
        if len(value) if is_list else request.HasField(name):  # type: ignore[arg-type]
            raise Problem(_INVALID, "node.patch.clear_fields", f"{name} is both set and cleared")
        before = node.ByteSize()
        node.ClearField(name)  # type: ignore[arg-type]
        if node.ByteSize() != before:
            changed.clear_fields.append(name)
            any_change = True
    return any_change


def replay_node(node: Node, effect: NodePatch) -> None:
    """Put an effect from the log or a delta on a node. Nothing is checked (SEM 10)."""
    for name in effect.clear_fields:
        node.ClearField(name)  # type: ignore[arg-type]
    for key in effect.aux_removals:
        node.aux_data.pop(key, None)
    for field, value in effect.ListFields():
        name, kind, _ = _FIELDS[field]
        if kind in (_Kind.SCALAR, _Kind.STATE, _Kind.ATTEMPT):
            setattr(node, name, value)
        elif kind is _Kind.LIST:
            getattr(node, name)[:] = value
        elif kind is _Kind.UPSERTS:
            for key, item in value.items():
                node.aux_data[key].CopyFrom(item)
        elif kind in (_Kind.MESSAGE, _Kind.OUTPUT_ONLY):
            getattr(node, name).CopyFrom(value)


def patch_project(project: Project, request: ProjectPatch, micros: int) -> ProjectPatch | None:
    """Apply a producer's patch to `project` in place; return what changed, None if nothing.

    Raises `Problem` for an illegal transition or a field that breaks a rule.
    """
    found = validate.first_problem(request, validate.PROJECT_FIELDS)
    if found is not None:
        raise Problem(_INVALID, f"project.patch.{found[0]}", found[1])
    for name in ("lease", "start_time", "end_time", "pins"):
        if request.HasField(name):
            raise Problem(_INVALID, f"project.patch.{name}", "is set by state_svc only")
    changed = ProjectPatch()
    if request.HasField("settings"):
        _patch_settings(project, changed, request.settings)
    if request.HasField("state") and request.state != project.state:
        _move_project(project, changed, request.state, micros)
    if request.HasField("root_node_id") and request.root_node_id != project.root_node_id:
        if not is_id(request.root_node_id):
            raise Problem(_INVALID, "project.patch.root_node_id", "is not a valid id")
        project.root_node_id = changed.root_node_id = request.root_node_id
    if request.HasField("error") and not (
        project.HasField("error") and project.error == request.error
    ):
        project.error.CopyFrom(request.error)
        changed.error.CopyFrom(request.error)
    if request.HasField("pause_time") and not (
        project.HasField("pause_time") and project.pause_time == request.pause_time
    ):
        project.pause_time.CopyFrom(request.pause_time)
        changed.pause_time.CopyFrom(request.pause_time)
    for name in request.clear_fields:
        if name not in PROJECT_CLEARABLE or request.HasField(name):  # type: ignore[arg-type]
            raise Problem(_INVALID, "project.patch.clear_fields", f"{name!r} cannot be cleared")
        if project.HasField(name):  # type: ignore[arg-type]
            project.ClearField(name)  # type: ignore[arg-type]
            changed.clear_fields.append(name)
    _patch_labels(project, changed, request)
    return changed if changed.ByteSize() else None


def _move_project(
    project: Project, changed: ProjectPatch, after: ProjectState.ValueType, micros: int
) -> None:
    table = transitions.PROJECT
    before = project.state
    if after not in table.to[before]:
        raise Problem(
            _ILLEGAL,
            "project.patch.state",
            f"the project cannot go from {table.names[before]} to {table.names[after]}",
        )
    project.state = changed.state = after
    if after == ProjectState.PROJECT_STATE_RUNNING and not project.HasField("start_time"):
        set_micros(project.start_time, micros)
        set_micros(changed.start_time, micros)
    elif after in table.terminal:
        set_micros(project.end_time, micros)
        set_micros(changed.end_time, micros)
    if before in table.terminal and after not in table.terminal:
        project.ClearField("end_time")
        changed.clear_fields.append("end_time")


def _patch_settings(project: Project, changed: ProjectPatch, request: ExecutionSettings) -> None:
    after = ExecutionSettings()
    after.CopyFrom(project.settings)
    for field, value in request.ListFields():
        if field.name not in _WATCH_SETTINGS:
            raise Problem(
                _INVALID, f"project.patch.settings.{field.name}", "cannot change after creation"
            )
        setattr(after, field.name, value)
    if after != project.settings:
        project.settings.CopyFrom(after)
        changed.settings.CopyFrom(after)


def _patch_labels(project: Project, changed: ProjectPatch, request: ProjectPatch) -> None:
    for key in request.label_removals:
        if key in project.labels and key not in request.label_upserts:
            del project.labels[key]
            changed.label_removals.append(key)
    for key, value in request.label_upserts.items():
        if key not in project.labels or project.labels[key] != value:
            project.labels[key] = value
            changed.label_upserts[key] = value
    if problem := validate.check_labels(project.labels):
        raise Problem(_INVALID, "project.patch.label_upserts", problem)


def replay_project(project: Project, effect: ProjectPatch) -> None:
    """Put an effect from the log or a delta on a project. Nothing is checked (SEM 10)."""
    for name in effect.clear_fields:
        project.ClearField(name)  # type: ignore[arg-type]
    for key in effect.label_removals:
        project.labels.pop(key, None)
    for field, value in effect.ListFields():
        if field.name in ("state", "root_node_id"):
            setattr(project, field.name, value)
        elif field.name == "label_upserts":
            project.labels.update(value)
        elif field.message_type is not None and not field.is_repeated:
            getattr(project, field.name).CopyFrom(value)


def patch_command(command: Command, request: CommandPatch) -> CommandPatch | None:
    """Apply a producer's patch to `command` in place; return what changed, None if nothing.

    Raises `Problem`.
    """
    changed = CommandPatch()
    if request.HasField("state") and request.state != command.state:
        if command.state != CommandState.COMMAND_STATE_OPEN:
            raise Problem(_ILLEGAL, "command.patch.state", "the command has its outcome already")
        if problem := validate.check_outcome(request.state):
            raise Problem(_INVALID, "command.patch.state", problem)
        command.state = changed.state = request.state
    if request.HasField("message") and request.message != command.message:
        if len(request.message) > limits.MAX_TEXT_CHARS:
            raise Problem(
                _INVALID, "command.patch.message", f"at most {limits.MAX_TEXT_CHARS} characters"
            )
        command.message = changed.message = request.message
    if request.HasField("answer") and request.answer != command.answer:
        if len(request.answer) > limits.MAX_TEXT_CHARS:
            raise Problem(
                _INVALID, "command.patch.answer", f"at most {limits.MAX_TEXT_CHARS} characters"
            )
        command.answer = changed.answer = request.answer
    return changed if changed.ByteSize() else None


def replay_command(command: Command, effect: CommandPatch) -> None:
    """Put an effect from the log or a delta on a command. Nothing is checked (SEM 10)."""
    if effect.HasField("state"):
        command.state = effect.state
    if effect.HasField("message"):
        command.message = effect.message
    if effect.HasField("answer"):
        command.answer = effect.answer
