"""Gives a project another identity: in its record, its segments and its snapshots (SEM 13)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ramify.v1.mutation_pb2 import Delta
from ramify.v1.project_pb2 import Project
from state_svc.storage.v1.segment_pb2 import Segment
from state_svc.storage.v1.snapshot_pb2 import SnapshotChunk


@dataclass(frozen=True, slots=True)
class Identity:
    """The identity that a project gets. The methods change what they are given."""

    project_uid: str
    project_id: str
    moved: Mapping[str, str] = field(default_factory=dict)  #: new uids of others by their old ones

    def entity(self, entity: Project) -> None:
        """Change the project itself."""
        entity.project_uid = self.project_uid
        entity.project_id = self.project_id
        origin = entity.forked_from.project_uid
        if origin in self.moved:
            entity.forked_from.project_uid = self.moved[origin]

    def segment(self, segment: Segment) -> None:
        """Change a segment; the project itself is in the one that begins with revision 1."""
        segment.project_uid = self.project_uid
        if segment.first_revision > 1:
            return
        delta = Delta.FromString(segment.delta)
        for change in delta.changes:
            if change.project.HasField("project"):
                self.entity(change.project.project)
        segment.delta = delta.SerializeToString()

    def chunk(self, chunk: SnapshotChunk) -> None:
        """Change a chunk of a snapshot; the project itself is in the first."""
        chunk.project_uid = self.project_uid
        if not chunk.chunk:
            entity = Project.FromString(chunk.project)
            self.entity(entity)
            chunk.project = entity.SerializeToString()
