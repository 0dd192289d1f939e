"""Lifecycle states: their short names, and which are terminal. Read from the contract."""

from google.protobuf.descriptor import EnumDescriptor

from ramify.v1 import transition_pb2
from ramify.v1.node_pb2 import NodeState
from ramify.v1.project_pb2 import ProjectState


def _terminal(enum: EnumDescriptor) -> frozenset[int]:
    return frozenset(
        value.number
        for value in enum.values
        if value.GetOptions().Extensions[transition_pb2.state_rule].terminal
    )


TERMINAL_NODE_STATES = _terminal(NodeState.DESCRIPTOR)
TERMINAL_PROJECT_STATES = _terminal(ProjectState.DESCRIPTOR)


def node_state_name(state: NodeState.ValueType) -> str:
    """Return the name of a node state without its prefix."""
    return NodeState.Name(state).removeprefix("NODE_STATE_")


def project_state_name(state: ProjectState.ValueType) -> str:
    """Return the name of a project state without its prefix."""
    return ProjectState.Name(state).removeprefix("PROJECT_STATE_")
