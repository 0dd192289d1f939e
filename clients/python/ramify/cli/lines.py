"""Events as lines of text: one line for each change of state. Pure."""

from collections.abc import Iterator
from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from ramify.cli.format import one_line, plural, seconds_of
from ramify.events import WatchDelta, WatchEvent, WatchSnapshot
from ramify.states import node_state_name, project_state_name
from ramify.v1.mutation_pb2 import (
    NodeChange,
    ProjectChange,
    Removal,
    ReviewChange,
    RevisionInfo,
)
from ramify.v1.node_pb2 import Node, NodePatch, TaskType
from ramify.v1.review_pb2 import ReviewDecision, ReviewState

_GOAL_WIDTH = 80


class LineWriter:
    """Turns events into lines. Remembers goals, because changes do not repeat them."""

    def __init__(self) -> None:
        self._labels: dict[str, str] = {}

    def lines(self, event: WatchEvent) -> Iterator[str]:
        """Yield the lines of one event; most events have none or one."""
        if isinstance(event, WatchSnapshot):
            project = event.snapshot.project
            for node in event.snapshot.nodes:
                self._labels[node.node_id] = _label(node)
            yield _line(
                project.update_time,
                event.resume_revision,
                project_state_name(project.state),
                project.project_id,
                plural(len(event.snapshot.nodes), "node"),
            )
        elif isinstance(event, WatchDelta):
            infos = {info.revision: info for info in event.delta.revisions}
            for change in event.delta.changes:
                info = infos.get(change.revision) or RevisionInfo(revision=change.revision)
                if change.HasField("node"):
                    yield from self._node(change.node, info)
                elif change.HasField("project"):
                    yield from _project(change.project, info)
                elif change.HasField("review"):
                    yield from _review(change.review, info)

    def _node(self, change: NodeChange, info: RevisionInfo) -> Iterator[str]:
        effect = change.WhichOneof("effect")
        node_id = change.node_id
        told: Node | NodePatch = change.node if effect == "node" else change.patch
        moved = change.patch.HasField("state")
        if effect == "node":  # a new one, or a known one as it is now (mode full)
            moved = node_id not in self._labels or change.node.state != change.previous_state
            self._labels[node_id] = _label(change.node)
        if effect == "removal":
            word = Removal.Name(change.removal).removeprefix("REMOVAL_")
        elif moved:
            word = node_state_name(told.state)
            if told.attempt > 1:
                word += f" #{told.attempt}"
        else:
            return
        text = self._labels.get(node_id, "")
        if told.HasField("error"):
            text = told.error.message or text
        yield _line(info.commit_time, info.revision, word, node_id, text)


def _project(change: ProjectChange, info: RevisionInfo) -> Iterator[str]:
    if change.HasField("project"):
        state, text = change.project.state, change.project.goal
        if change.previous_state:  # mode full
            if change.previous_state == state:
                return
            text = change.project.error.message
    elif change.patch.HasField("state"):
        state, text = change.patch.state, change.patch.error.message
    else:
        return
    yield _line(info.commit_time, info.revision, project_state_name(state), "project", text)


def _review(change: ReviewChange, info: RevisionInfo) -> Iterator[str]:
    if change.HasField("review"):
        word, text = "REVIEW", change.review.message
    elif change.patch.HasField("state"):
        state = ReviewState.Name(change.patch.state).removeprefix("REVIEW_STATE_")
        decision = ReviewDecision.Name(change.patch.decision).removeprefix("REVIEW_DECISION_")
        who = f" by {change.patch.actor}" if change.patch.actor else ""
        word, text = state, f"{decision}{who}" if change.patch.decision else ""
    elif change.patch.overdue:
        word, text = "OVERDUE", "nobody has answered in time"
    else:
        return
    yield _line(info.commit_time, info.revision, word, change.review_id, text)


def _label(node: Node) -> str:
    if not node.task_type:
        return node.goal
    return f"{TaskType.Name(node.task_type).removeprefix('TASK_TYPE_')}: {node.goal}"


def _line(stamp: Timestamp, revision: int, word: str, subject: str, text: str) -> str:
    moment = datetime.fromtimestamp(seconds_of(stamp)).strftime("%H:%M:%S")
    line = f"{moment}  r{revision:<5} {word:<13} {subject:<16} {one_line(text, _GOAL_WIDTH)}"
    return line.rstrip()
