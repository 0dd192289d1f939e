"""Checks what a file that is not trusted holds by the rules that hold for producers. Pure.

Replay checks nothing (SEM 10), since what a store holds was checked when it was accepted. What
comes in as a file was not: each state, edge, id and size in it is checked here, at each revision.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from ramify.v1.command_pb2 import Command
from ramify.v1.mutation_pb2 import (
    Change,
    CommandChange,
    Delta,
    NodeChange,
    ProjectChange,
    Removal,
    ReviewChange,
)
from ramify.v1.node_pb2 import Node
from ramify.v1.project_pb2 import Project
from ramify.v1.review_pb2 import Review
from state_svc.codec.delta import MAX_FRAME_BYTES
from state_svc.history.replay import Replay
from state_svc.model import validate
from state_svc.model.dependencies import Created, check_created
from state_svc.model.ids import is_id, is_project_id
from state_svc.model.limits import MAX_PINS, MAX_PLAN_BYTES, MAX_REVISION_BYTES, Limits
from state_svc.model.node import LiveNode, read_micros
from state_svc.model.patch import CLEARABLE, PROJECT_CLEARABLE
from state_svc.model.project import View
from state_svc.model.review import OPEN, stored_review_problem
from state_svc.model.stage import check_duration, stored_stage_problem
from state_svc.storage.v1.file_pb2 import FileRecord
from state_svc.storage.v1.segment_pb2 import Segment
from state_svc.storage.v1.snapshot_pb2 import SnapshotChunk

MAX_SEGMENT_BYTES = MAX_REVISION_BYTES + MAX_FRAME_BYTES  #: of its changes, encoded
_MAX_COUNT = 1 << 62  #: of versions, revisions and epochs, so that there is room for more
_LAST_MICROS = 253_402_300_800_000_000 - 1  #: of the year 9999, since 1970
_CANCELS = 1_000  #: commands that cancel a project are taken beyond their number
_STAMPED = frozenset({"end_time"})  #: fields that only state_svc empties

_NODE_FIELDS = validate.NODE_FIELDS | dict.fromkeys(
    ("create_time", "start_time", "end_time"), validate.check_time
)
_PROJECT_FIELDS = validate.PROJECT_FIELDS | dict.fromkeys(
    ("create_time", "update_time", "start_time", "end_time"), validate.check_time
)
_COMMAND_FIELDS = validate.COMMAND_FIELDS | {
    "answer": validate.check_text,
    "state": validate.check_command_state,
    "create_time": validate.check_time,
}
_SHOWN_ONLY = ("revision", "compacted_revision", "node_counts")  #: of a project


def clean(record: FileRecord) -> None:
    """Take from a record what this version does not know, and positions of producers.

    Positions are left out as the same names may be others here. Raises `DecodeError`.
    """
    record.DiscardUnknownFields()
    kind = record.WhichOneof("record")
    if kind == "snapshot":
        _clean_chunk(record.snapshot)
    elif kind == "archive":
        _clean_segment(record.archive)
    elif kind == "segments":
        for segment in record.segments.segments:
            _clean_segment(segment)


def _clean_segment(segment: Segment) -> None:
    delta = Delta.FromString(segment.delta)
    delta.DiscardUnknownFields()
    segment.delta = delta.SerializeToString()
    segment.ClearField("positions")


def _clean_chunk(chunk: SnapshotChunk) -> None:
    chunk.ClearField("producers")
    chunk.ClearField("forgot_producers")
    if chunk.project:
        entity = Project.FromString(chunk.project)
        entity.DiscardUnknownFields()
        chunk.project = entity.SerializeToString()
    for item in chunk.nodes:
        node = Node.FromString(item.data)
        node.DiscardUnknownFields()
        for name in ("version", "update_time", "update_revision"):
            node.ClearField(name)
        item.data = node.SerializeToString()
    for number, data in enumerate(chunk.commands):
        command = Command.FromString(data)
        command.DiscardUnknownFields()
        chunk.commands[number] = command.SerializeToString()
    for number, data in enumerate(chunk.reviews):
        review = Review.FromString(data)
        review.DiscardUnknownFields()
        chunk.reviews[number] = review.SerializeToString()


def check_view(view: View, limits: Limits) -> None:
    """Raise `ValueError` unless producers could have made what a snapshot holds."""
    _check_project(view.entity)
    _need(0 < view.revision < _MAX_COUNT, f"revision {view.revision}")
    _need(0 <= view.micros <= _LAST_MICROS, "a commit time beyond the year 9999")
    created = []
    for node_id, live in view.nodes.items():
        node = Node.FromString(live.data)
        _check_node(node_id, node)
        _need(0 < live.version < _MAX_COUNT, f"node {node_id}: version {live.version}")
        right = live.revision <= view.revision and 0 <= live.micros <= _LAST_MICROS
        _need(right, f"node {node_id}: its last change is later than the snapshot")
        created.append(Created(0, live, tuple(node.depends_on)))
    _check_edges(created, view)
    for node_id in view.deleted:
        _need(is_id(node_id) and node_id not in view.nodes, f"{node_id!r} was not deleted")
    for command_id, command in view.commands.items():
        _check_command(command_id, command)
    for review_id, review in view.reviews.items():
        _check_review(review_id, review)
    opened = sum(review.state == OPEN for review in view.reviews.values())
    counts = (view.entity.open_review_count, view.entity.review_count)
    _need(counts == (opened, len(view.reviews)), "the number of reviews is another one")
    check_counts(view, limits)


def check_counts(view: View, limits: Limits) -> None:
    """Raise `ValueError` if a project has more of something than it may have."""
    opened = view.entity.open_review_count
    for name, count, most in (
        ("nodes", len(view.nodes) + len(view.deleted), limits.max_project_nodes),
        ("commands", len(view.commands), limits.max_project_commands + _CANCELS),
        ("reviews", len(view.reviews), limits.max_project_reviews),
        ("open reviews", opened, limits.max_open_reviews),
    ):
        _need(count <= most, f"more than {most} {name}")


def check_stages(changes: Iterable[Change]) -> None:
    """Raise `ValueError` unless producers could have written these stage records."""
    for change in changes:
        _need(change.HasField("stage"), "something else among archived stage records")
        problem = stored_stage_problem(change.stage.stage)
        _need(not problem, f"stage {change.stage.stage.stage_id!r}: {problem}")


class CheckedReplay(Replay):
    """A replay that raises `ValueError` at the first change that no producer could have made."""

    def __init__(self) -> None:
        super().__init__()
        self._at = 0  #: revision of the latest change
        self._created: list[Created] = []  #: in that revision
        #: How many nodes name each as parent or dependency; counted at the first deletion.
        self._named: Counter[str] | None = None

    def add_delta(self, delta: Delta, last: int) -> None:
        """Apply the changes of a delta."""
        before = self.view.micros
        for info in delta.revisions:
            fields = {"actor": validate.check_name, "traceparent": validate.check_traceparent}
            found = validate.first_problem(info, fields | {"commit_time": validate.check_time})
            _need(found is None, f"revision {info.revision}: {found}")
            micros = read_micros(info.commit_time)
            _need(micros >= before, f"revision {info.revision} is older than the one before")
            before = micros
        super().add_delta(delta, last)
        self._end_revision()

    def add_change(self, change: Change, micros: int) -> None:
        """Apply one change."""
        if change.revision != self._at:
            self._end_revision()
            self._at = change.revision
        kind = change.WhichOneof("entity")
        if kind == "node":
            self._check_node_change(change.node)
        elif kind == "project":
            self._check_project_change(change.project)
        elif kind == "command":
            self._check_command_change(change.command)
        elif kind == "review":
            self._check_review_change(change.review)
        else:
            check_stages([change])
        super().add_change(change, micros)
        view = self.view
        if kind == "node":
            self._check_after(change.node)
        elif kind == "project":
            _check_project(view.entity)
        elif kind == "command":
            _check_command(change.command.command_id, view.commands[change.command.command_id])
        elif kind == "review":
            _check_review(change.review.review_id, view.reviews[change.review.review_id])

    def _end_revision(self) -> None:
        _check_edges(self._created, self.view)
        self._created = []

    def _check_node_change(self, change: NodeChange) -> None:
        node_id = change.node_id
        before = self.view.nodes.get(node_id)
        effect = change.WhichOneof("effect")
        if effect == "node":
            known = before is not None or node_id in self.view.deleted
            _need(not known, f"node {node_id!r} is created twice")
            _need(change.version == 1, f"node {node_id!r} begins with version {change.version}")
            return
        if before is None:
            raise ValueError(f"a change of node {node_id!r}, which is not there")
        _need(change.version == before.version + 1, f"node {node_id!r}: a version is missing")
        previous = (change.previous_state, change.previous_agent_name)
        _need(previous == (before.state, before.agent_name), f"node {node_id!r} was not so before")
        if effect == "patch":
            allowed = CLEARABLE | _STAMPED
            _need(allowed.issuperset(change.patch.clear_fields), f"node {node_id!r} loses a field")
        else:
            deleted = effect == "removal" and change.removal == Removal.REMOVAL_DELETED
            _need(deleted, f"node {node_id!r}: a change without effect")
            self._check_leaf(before)

    def _check_leaf(self, node: LiveNode) -> None:
        if self._named is None:
            nodes = self.view.nodes.values()
            self._named = Counter(name for other in nodes for name in _named_by(other))
        node_id = node.spec.node_id
        _need(not self._named[node_id], f"node {node_id!r} is deleted and has children")
        self._named.subtract(_named_by(node))

    def _check_after(self, change: NodeChange) -> None:
        live = self.view.nodes.get(change.node_id)
        if live is None:
            return
        node = Node.FromString(live.data)
        _check_node(change.node_id, node)
        if change.HasField("node"):
            self._created.append(Created(0, live, tuple(node.depends_on)))
            if self._named is not None:
                self._named.update(_named_by(live))

    def _check_project_change(self, change: ProjectChange) -> None:
        before = self.view.entity
        effect = change.WhichOneof("effect")
        whole = not before.project_id
        _need((effect == "project") == whole, "the project is created at another place")
        _need(effect is not None, "a change of the project without effect")
        _need(change.version == before.version + 1, "a version of the project is missing")
        _need(change.previous_state == before.state, "the project was not so before")
        if whole:
            counts = (change.project.open_review_count, change.project.review_count)
            _need(counts == (0, 0), "the number of reviews is another one")
        allowed = PROJECT_CLEARABLE | _STAMPED
        _need(allowed.issuperset(change.patch.clear_fields), "the project loses a field")

    def _check_command_change(self, change: CommandChange) -> None:
        before = self.view.commands.get(change.command_id)
        whole = change.WhichOneof("effect") == "command"
        _check_step("command", change.command_id, whole, before, change.version)

    def _check_review_change(self, change: ReviewChange) -> None:
        before = self.view.reviews.get(change.review_id)
        whole = change.WhichOneof("effect") == "review"
        _check_step("review", change.review_id, whole, before, change.version)
        if whole:
            version = change.review.version
            _need(version == 1, f"review {change.review_id!r} begins with version {version}")


def _check_step(
    kind: str, entity_id: str, whole: bool, before: Command | Review | None, version: int
) -> None:
    name = f"{kind} {entity_id!r}"
    _need(whole == (before is None), f"{name} is created twice, or not at all")
    known = 0 if before is None else before.version
    _need(version == known + 1, f"{name}: a version is missing")


def _check_edges(created: list[Created], view: View) -> None:
    for _, problem in check_created(created, view.nodes.get, view.deleted.__contains__):
        raise ValueError(problem.description)


def _check_node(node_id: str, node: Node) -> None:
    _need(is_id(node_id) and node.node_id == node_id, f"{node_id!r} is not the id of a node")
    found = validate.first_problem(node, _NODE_FIELDS)
    if found is None and not (node.goal and node.task_type and node.state):
        found = ("goal, task_type or state", "is missing")
    _need(found is None, f"node {node_id}: {found}")


def _check_project(entity: Project) -> None:
    name = "the project"
    right = is_project_id(entity.project_id) and is_id(entity.project_uid)
    _need(right, f"{name} has no valid id")
    found = validate.first_problem(entity, _PROJECT_FIELDS)
    _need(found is None, f"{name}: {found}")
    _need(entity.goal and entity.state, f"{name} has no goal or no state")
    _need(not entity.root_node_id or is_id(entity.root_node_id), f"{name}: its root")
    _need(0 < entity.version < _MAX_COUNT, f"{name}: version {entity.version}")
    _need(entity.plan.ByteSize() <= MAX_PLAN_BYTES, f"{name}: its plan is too large")
    lease = entity.lease
    problem = validate.check_name(lease.holder) or check_duration(lease.ttl)
    _need(not problem and lease.lease_epoch < _MAX_COUNT, f"{name}: its lease {problem}")
    pins = entity.pins.revisions
    _need(len(pins) <= MAX_PINS and all(map(is_id, pins)), f"{name}: its pins")
    origin = entity.forked_from
    if entity.HasField("forked_from"):
        known = is_project_id(origin.project_id) and is_id(origin.project_uid)
        _need(known, f"{name}: where it was forked from")
    shown = [field.name for field, _ in entity.ListFields() if field.name in _SHOWN_ONLY]
    _need(not shown, f"{name}: {shown} cannot be stored")


def _check_command(command_id: str, command: Command) -> None:
    right = is_id(command_id) and command.command_id == command_id
    _need(right, f"{command_id!r} is not the id of a command")
    found = validate.first_problem(command, _COMMAND_FIELDS)
    if found is None and not (command.type and command.state):
        found = ("type or state", "is missing")
    _need(found is None, f"command {command_id}: {found}")
    _need(0 < command.version < _MAX_COUNT, f"command {command_id}: version {command.version}")


def _check_review(review_id: str, review: Review) -> None:
    right = is_id(review_id) and review.review_id == review_id
    _need(right, f"{review_id!r} is not the id of a review")
    problem = stored_review_problem(review)
    _need(not problem, f"review {review_id}: {problem}")
    _need(0 < review.version < _MAX_COUNT, f"review {review_id}: version {review.version}")


def _named_by(live: LiveNode) -> list[str]:
    """Return the parent and the dependencies of a node."""
    parent = live.spec.parent
    return [*Node.FromString(live.data).depends_on, *([parent] if parent else [])]


def _need(right: object, problem: str) -> None:
    if not right:
        raise ValueError(problem)
