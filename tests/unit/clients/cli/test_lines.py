"""A line for each change of state, whatever the mode of the watch."""

from __future__ import annotations

from ramify.cli.lines import LineWriter
from ramify.events import WatchDelta
from ramify.v1.mutation_pb2 import Change, Delta, NodeChange, ProjectChange, Removal, RevisionInfo
from ramify.v1.node_pb2 import Node, NodePatch, NodeState
from ramify.v1.project_pb2 import Project, ProjectState

_READY, _RUNNING = NodeState.NODE_STATE_READY, NodeState.NODE_STATE_RUNNING


def _lines(*changes: NodeChange | ProjectChange) -> list[str]:
    """Return the lines of one revision for each change, without their moments."""
    writer, found = LineWriter(), []
    for revision, body in enumerate(changes, start=1):
        change = Change(revision=revision)
        if isinstance(body, NodeChange):
            change.node.CopyFrom(body)
        else:
            change.project.CopyFrom(body)
        delta = Delta(
            first_revision=revision,
            last_revision=revision,
            changes=[change],
            revisions=[RevisionInfo(revision=revision)],
        )
        found += [line.split(maxsplit=1)[1] for line in writer.lines(WatchDelta(delta, revision))]
    return [" ".join(line.split()) for line in found]


def _node(**fields: object) -> Node:
    return Node(node_id="n", goal="find it", **fields)  # type: ignore[arg-type]


def test_diffs_and_whole_nodes_give_the_same_lines() -> None:
    created = NodeChange(node_id="n", node=_node(state=_READY))
    diffs = (
        created,
        NodeChange(node_id="n", previous_state=_READY, patch=NodePatch(waiting_on="x")),
        NodeChange(node_id="n", previous_state=_READY, patch=NodePatch(state=_RUNNING, attempt=2)),
    )
    whole = (
        created,
        NodeChange(node_id="n", previous_state=_READY, node=_node(state=_READY, waiting_on="x")),
        NodeChange(node_id="n", previous_state=_READY, node=_node(state=_RUNNING, attempt=2)),
    )
    expected = ["r1 READY n find it", "r3 RUNNING #2 n find it"]
    assert _lines(*diffs) == _lines(*whole) == expected


def test_what_enters_a_filter_is_shown_and_what_leaves_it_too() -> None:
    entered = NodeChange(node_id="n", previous_state=_READY, node=_node(state=_READY))
    left = NodeChange(node_id="n", previous_state=_READY, removal=Removal.REMOVAL_LEFT)
    assert _lines(entered, left) == ["r1 READY n find it", "r2 LEFT n find it"]


def test_a_whole_project_is_shown_when_its_state_moves() -> None:
    running, failed = ProjectState.PROJECT_STATE_RUNNING, ProjectState.PROJECT_STATE_FAILED
    told = Project(state=running, goal="g")
    ended = Project(state=failed, goal="g")
    ended.error.message = "no evidence"
    lines = _lines(
        ProjectChange(project=told),
        ProjectChange(project=told, previous_state=running),
        ProjectChange(project=ended, previous_state=running),
    )
    assert lines == ["r1 RUNNING project g", "r3 FAILED project no evidence"]
