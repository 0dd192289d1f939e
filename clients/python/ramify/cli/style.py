"""How states look: one glyph and one colour each. Pure."""

from collections.abc import Mapping

from ramify.v1.node_pb2 import NodeState
from ramify.v1.project_pb2 import ProjectState

_NODE: Mapping[int, tuple[str, str, str]] = {  # glyph, glyph without Unicode, colour
    NodeState.NODE_STATE_PENDING: ("·", ".", "bright_black"),
    NodeState.NODE_STATE_READY: ("○", "o", "cyan"),
    NodeState.NODE_STATE_RUNNING: ("●", "*", "bold cyan"),
    NodeState.NODE_STATE_PLAN_DONE: ("◇", "+", "blue"),
    NodeState.NODE_STATE_AGGREGATING: ("◆", "&", "bold magenta"),
    NodeState.NODE_STATE_DONE: ("✓", "v", "green"),
    NodeState.NODE_STATE_FAILED: ("✗", "x", "red"),
    NodeState.NODE_STATE_NEEDS_REPLAN: ("↻", "~", "yellow"),
    NodeState.NODE_STATE_CANCELLED: ("⊘", "-", "bright_black"),
}
_PROJECT: Mapping[int, str] = {
    ProjectState.PROJECT_STATE_PENDING: "bright_black",
    ProjectState.PROJECT_STATE_COMPLETED: "green",
    ProjectState.PROJECT_STATE_PARTIAL: "yellow",
    ProjectState.PROJECT_STATE_FAILED: "red",
    ProjectState.PROJECT_STATE_CANCELLED: "bright_black",
}


def node_glyph(state: NodeState.ValueType, unicode: bool = True) -> str:
    """Return the sign of a node state, one character wide."""
    return _NODE.get(state, ("?", "?", ""))[0 if unicode else 1]


def node_style(state: NodeState.ValueType) -> str:
    """Return the colour of a node state."""
    return _NODE.get(state, ("?", "?", ""))[2]


def project_style(state: ProjectState.ValueType) -> str:
    """Return the colour of a project state."""
    return _PROJECT.get(state, "cyan")
