"""Rebuilds a project from its segments (SEM 10). Pure; nothing is validated again."""

from __future__ import annotations

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
from state_svc.codec.segment import decode_delta
from state_svc.errors import CorruptRecord
from state_svc.model.node import LiveNode, live_from_message, read_micros, set_micros
from state_svc.model.patch import replay_command, replay_node, replay_project
from state_svc.model.producer import ProducerPosition
from state_svc.model.project import View
from state_svc.model.review import count_reviews, replay_review
from state_svc.storage.v1.segment_pb2 import Segment


class Replay:
    """A view that is moved forward segment by segment, and the producers' positions."""

    def __init__(self) -> None:
        self.view = View(entity=Project())
        self.producers: dict[str, ProducerPosition] = {}
        self.changes = 0  #: that were applied since the snapshot that it began from

    def add_segment(self, segment: Segment, through: int | None = None) -> None:
        """Apply the next segment; of its revisions, those up to `through` if given.

        Raises `CorruptRecord` if revisions are missing before it.
        """
        if segment.first_revision != self.view.revision + 1:
            raise CorruptRecord(
                project_uid=segment.project_uid,
                first_revision=segment.first_revision,
                problem=f"revision {self.view.revision + 1} is missing",
            )
        delta = decode_delta(segment)
        last = segment.last_revision if through is None else min(through, segment.last_revision)
        self.add_delta(delta, last)
        for offset, position in enumerate(segment.positions):
            if position.producer_id and segment.first_revision + offset <= last:
                known = self.producers.get(position.producer_id)
                if known is None or known.epoch != position.epoch:
                    known = ProducerPosition(position.epoch, position.sequence - 1)
                    self.producers[position.producer_id] = known
                known.commit(position.sequence, segment.first_revision + offset)

    def add_delta(self, delta: Delta, last: int) -> None:
        """Apply the changes of a delta up to revision `last`."""
        micros = {info.revision: read_micros(info.commit_time) for info in delta.revisions}
        for change in delta.changes:
            if change.revision > last:
                break
            self.add_change(change, micros[change.revision])
            self.changes += 1
        self.view.revision = last
        self.view.micros = max(
            (m for revision, m in micros.items() if revision <= last), default=self.view.micros
        )

    def add_change(self, change: Change, micros: int) -> None:
        """Apply one change, committed at `micros`. Stage records are no part of the view."""
        kind = change.WhichOneof("entity")
        if kind == "node":
            self._add_node(change.node, change.revision, micros)
        elif kind == "project":
            self._add_project(change.project, micros)
        elif kind == "command":
            self._add_command(change.command)
        elif kind == "review":
            self._add_review(change.review, micros)

    def _add_node(self, change: NodeChange, revision: int, micros: int) -> None:
        view = self.view
        effect = change.WhichOneof("effect")
        if effect == "node":
            live = live_from_message(
                change.node, version=change.version, revision=revision, micros=micros
            )
            view.put_node(change.node_id, live)
        elif effect == "patch":
            before = view.nodes[change.node_id]
            node = Node.FromString(before.data)
            replay_node(node, change.patch)
            after = LiveNode(
                before.spec,
                node.SerializeToString(),
                node.state,
                change.version,
                node.attempt,
                node.agent_name,
                revision,
                micros,
            )
            view.put_node(change.node_id, after)
        elif change.removal == Removal.REMOVAL_DELETED:
            view.put_node(change.node_id, None)

    def _add_project(self, change: ProjectChange, micros: int) -> None:
        entity = Project()
        if change.WhichOneof("effect") == "project":
            entity.CopyFrom(change.project)
        else:
            entity.CopyFrom(self.view.entity)
            replay_project(entity, change.patch)
        entity.version = change.version
        set_micros(entity.update_time, micros)
        self.view.entity = entity

    def _add_command(self, change: CommandChange) -> None:
        command = Command()
        if change.WhichOneof("effect") == "command":
            command.CopyFrom(change.command)
        else:
            command.CopyFrom(self.view.commands[change.command_id])
            replay_command(command, change.patch)
        command.version = change.version
        self.view.commands[change.command_id] = command

    def _add_review(self, change: ReviewChange, micros: int) -> None:
        view = self.view
        before = view.reviews.get(change.review_id)
        review = Review()
        if change.WhichOneof("effect") == "review":
            review.CopyFrom(change.review)
        else:
            review.CopyFrom(view.reviews[change.review_id])
            replay_review(review, change.patch, version=change.version, micros=micros)
        entity = Project()
        entity.CopyFrom(view.entity)
        count_reviews(entity, before, review)
        view.entity = entity
        view.reviews[change.review_id] = review
