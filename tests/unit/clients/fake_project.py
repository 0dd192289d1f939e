"""A project as the fake state_svc holds it, and short forms for the changes that tests make."""

import asyncio
from dataclasses import dataclass, field

from google.protobuf.timestamp_pb2 import Timestamp

from ramify.checksum import node_hash
from ramify.v1.mutation_pb2 import Change, Delta, NodeChange, ProjectChange, RevisionInfo
from ramify.v1.node_pb2 import Node, NodePatch, NodeState
from ramify.v1.project_pb2 import Project, ProjectPatch, ProjectState

EPOCH_SECONDS = 1_700_000_000  #: commit time of revision 0; each revision is one second later


def commit_time(revision: int) -> Timestamp:
    """Return the commit time of a revision of the fake."""
    return Timestamp(seconds=EPOCH_SECONDS + revision)


@dataclass
class FakeProject:
    """One project: its present entities and all its revisions."""

    project: Project
    nodes: dict[str, Node] = field(default_factory=dict)
    deltas: list[Delta] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def head(self) -> int:
        return len(self.deltas)

    def commit(self, *changes: NodeChange | ProjectChange) -> int:
        """Make one revision of these changes; versions are filled in."""
        revision = self.head + 1
        info = RevisionInfo(revision=revision, commit_time=commit_time(revision), actor="test")
        delta = Delta(first_revision=revision, last_revision=revision, revisions=[info])
        for index, change in enumerate(changes):
            if isinstance(change, NodeChange):
                self._apply_node(change, info)
                delta.changes.append(Change(revision=revision, index=index, node=change))
            else:
                self._apply_project(change, info)
                delta.changes.append(Change(revision=revision, index=index, project=change))
        self.deltas.append(delta)
        self.changed.set()
        self.changed = asyncio.Event()
        return revision

    def _apply_node(self, change: NodeChange, info: RevisionInfo) -> None:
        known = self.nodes.get(change.node_id)
        change.version = known.version + 1 if known is not None else 1
        if change.HasField("node"):
            change.node.node_id = change.node_id
            known = Node()
            known.CopyFrom(change.node)
            known.create_time.CopyFrom(info.commit_time)
            self.nodes[change.node_id] = known
        elif change.HasField("removal"):
            del self.nodes[change.node_id]
            return
        assert known is not None
        patch = change.patch
        if patch.HasField("state"):
            change.previous_state = known.state
            if patch.state == NodeState.NODE_STATE_RUNNING:
                patch.start_time.CopyFrom(info.commit_time)
            if patch.state in (NodeState.NODE_STATE_DONE, NodeState.NODE_STATE_FAILED):
                patch.end_time.CopyFrom(info.commit_time)
        for descriptor, value in patch.ListFields():
            if descriptor.message_type is not None and not descriptor.has_presence:
                continue
            if descriptor.name in Node.DESCRIPTOR.fields_by_name and descriptor.has_presence:
                if descriptor.message_type is not None:
                    getattr(known, descriptor.name).CopyFrom(value)
                else:
                    setattr(known, descriptor.name, value)
        known.version = change.version
        known.update_revision = info.revision
        known.update_time.CopyFrom(info.commit_time)

    def _apply_project(self, change: ProjectChange, info: RevisionInfo) -> None:
        project = self.project
        change.version = project.version + 1
        if change.HasField("patch"):
            for descriptor, value in change.patch.ListFields():
                if descriptor.message_type is not None:
                    getattr(project, descriptor.name).CopyFrom(value)
                else:
                    setattr(project, descriptor.name, value)
        project.version = change.version
        project.update_time.CopyFrom(info.commit_time)

    def checksum(self) -> int:
        shares = (node_hash(node.node_id, node.version) for node in self.nodes.values())
        return sum(shares) % 2**64


def node_created(
    node_id: str,
    parent: str = "",
    *,
    layer: int = 0,
    state: NodeState.ValueType = NodeState.NODE_STATE_PENDING,
    goal: str = "",
) -> NodeChange:
    """Return the creation of a node."""
    node = Node(
        node_id=node_id,
        goal=goal or f"goal of {node_id}",
        parent_node_id=parent,
        layer=layer,
        state=state,
    )
    return NodeChange(node_id=node_id, node=node)


def node_state(
    node_id: str, state: NodeState.ValueType, patch: NodePatch | None = None
) -> NodeChange:
    """Return a move of a node, with other fields of `patch` beside it."""
    change = NodeChange(node_id=node_id, patch=patch or NodePatch())
    change.patch.state = state
    return change


def project_state(
    state: ProjectState.ValueType, patch: ProjectPatch | None = None
) -> ProjectChange:
    """Return a move of the project."""
    change = ProjectChange(patch=patch or ProjectPatch())
    change.patch.state = state
    return change
