"""The enums of the contract and those of the graph, one as the other."""

from __future__ import annotations

from orchestrator_svc.graph import types
from ramify.v1 import command_pb2, node_pb2, project_pb2

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

NODE_STATE_OF = {number: state for state, number in NODE_STATES.items()}
NODE_TYPE_OF = {number: kind for kind, number in NODE_TYPES.items()}
TASK_TYPE_OF = {number: kind for kind, number in TASK_TYPES.items()}
ERROR_CLASS_OF = {number: kind for kind, number in ERROR_CLASSES.items()}
_PROJECT_STATE_OF = {number: state for state, number in PROJECT_STATES.items()}
_COMMAND_TYPE_OF = {
    command_pb2.CommandType.Value(f"COMMAND_TYPE_{kind}"): kind
    for kind in types.CommandType
    if kind is not types.CommandType.UNKNOWN
}


def read_project_state(number: project_pb2.ProjectState.ValueType) -> types.ProjectState:
    """Return a project state of the contract."""
    return _PROJECT_STATE_OF[number]


def read_command_type(number: command_pb2.CommandType.ValueType) -> types.CommandType:
    """Return the kind of an order; UNKNOWN for one of a newer version."""
    return _COMMAND_TYPE_OF.get(number, types.CommandType.UNKNOWN)
