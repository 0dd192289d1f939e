"""A project in memory: what is committed, and on top of it what is accepted but not durable.

Owned by the event loop. `apply.py` computes what a batch does, `accept` puts it on top,
`promote` moves it into the committed view once it is durable, `drop_pending` forgets it when the
commit has failed (SEM 7).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain

from ramify.v1.command_pb2 import Command
from ramify.v1.mutation_pb2 import Change, Delta, RevisionInfo
from ramify.v1.project_pb2 import Project
from ramify.v1.review_pb2 import Review
from state_svc.model import transitions
from state_svc.model.node import LiveNode
from state_svc.model.producer import ProducerPosition


@dataclass(frozen=True, slots=True)
class Origin:
    """Which batch of which producer a revision came from; all empty for unary calls."""

    producer_id: str = ""
    epoch: int = 0
    sequence: int = 0


NO_ORIGIN = Origin()


@dataclass(slots=True, kw_only=True)
class Applied:
    """The effects of one batch: one revision."""

    revision: int
    micros: int  #: commit time, microseconds since 1970
    mutation_count: int
    info: RevisionInfo
    body: bytes  #: encoded `Delta` without its interval: `info` and the changes
    images: list[tuple[LiveNode | None, LiveNode | None]]  #: before and after, per change
    nodes: dict[str, LiveNode | None]  #: touched nodes as they are afterwards; None: deleted
    entity: Project | None  #: the project itself, if it changed
    commands: dict[str, Command]  #: touched commands as they are afterwards
    #: By the index of their mutation: what changes that are not about nodes made of their entity.
    wholes: dict[int, Project | Command | Review] = field(default_factory=dict)
    held_bytes: int = 0  #: of those and of larger nodes, which the body does not count
    origin: Origin = NO_ORIGIN
    stages: int = 0  #: stage records among the changes
    references: frozenset[str] = frozenset()  #: digests that the changes name
    reviews: dict[str, Review] = field(default_factory=dict)  #: touched reviews, likewise

    def changes(self) -> list[Change]:
        """Decode the changes, for those who need more than their bytes."""
        return list(Delta.FromString(self.body).changes)


@dataclass(slots=True)
class View:
    """The committed state of a project at `revision`."""

    entity: Project
    revision: int = 0
    micros: int = 0
    compacted: int = 0  #: history up to this revision was dropped
    nodes: dict[str, LiveNode] = field(default_factory=dict)  #: in the order of their creation
    commands: dict[str, Command] = field(default_factory=dict)
    reviews: dict[str, Review] = field(default_factory=dict)  #: in the order of their creation
    deleted: set[str] = field(default_factory=set)  #: ids that existed; never reused (SEM 9)
    counts: dict[int, int] = field(default_factory=dict)  #: nodes by state
    forgot_producers: bool = False  #: an ephemeral producer without a position may have written

    def put_node(self, node_id: str, node: LiveNode | None) -> None:
        """Replace, add or (None) delete one node and keep the counts."""
        counts = self.counts
        before = self.nodes.get(node_id)
        if node is None:
            if before is not None:
                counts[before.state] -= 1
                del self.nodes[node_id]
            self.deleted.add(node_id)
            return
        if before is None:
            counts[node.state] = counts.get(node.state, 0) + 1
        elif before.state != node.state:
            counts[before.state] -= 1
            counts[node.state] = counts.get(node.state, 0) + 1
        self.nodes[node_id] = node

    def apply(self, applied: Applied) -> None:
        """Move the view to the revision of `applied`, which must be the next one."""
        nodes = self.nodes
        for node_id, node in applied.nodes.items():
            before = nodes.get(node_id)
            if before is None or node is None or before.state != node.state:
                self.put_node(node_id, node)
            else:
                nodes[node_id] = node
        if applied.entity is not None:
            self.entity = applied.entity
        self.commands.update(applied.commands)
        self.reviews.update(applied.reviews)
        self.revision = applied.revision
        self.micros = applied.micros

    def to_project(self) -> Project:
        """Return the project as GetProject shows it: with head revision and counts."""
        project = Project()
        project.CopyFrom(self.entity)
        project.revision = self.revision
        project.compacted_revision = self.compacted
        for state, count in self.counts.items():
            if count:
                project.node_counts[transitions.NODE.names[state]] = count
        return project


class LiveProject:
    """The committed view and the pending overlay of one project."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.producers: dict[str, ProducerPosition] = {}
        self.closed = False  #: accepts nothing: it is being deleted
        self.deleted = False  #: what it has in the store is going or gone
        self.revision = view.revision  #: head counting what is pending
        self.micros = view.micros
        self._entity: Project | None = None
        self._nodes: dict[str, LiveNode | None] = {}
        self._commands: dict[str, Command] = {}
        self._reviews: dict[str, Review] = {}

    @property
    def project_id(self) -> str:
        """Id of the project."""
        return self.view.entity.project_id

    @property
    def uid(self) -> str:
        """Identity of the project (SEM 13)."""
        return self.view.entity.project_uid

    @property
    def entity(self) -> Project:
        """The project itself, counting what is pending."""
        return self.view.entity if self._entity is None else self._entity

    @property
    def has_pending(self) -> bool:
        """Whether something is accepted but not yet durable."""
        return self.revision != self.view.revision

    def node(self, node_id: str) -> LiveNode | None:
        """Return a node, counting what is pending."""
        pending = self._nodes
        if node_id in pending:
            return pending[node_id]
        return self.view.nodes.get(node_id)

    def command(self, command_id: str) -> Command | None:
        """Return a command, counting what is pending."""
        return self._commands.get(command_id) or self.view.commands.get(command_id)

    def command_count(self) -> int:
        """Number of commands, ended ones too, counting what is pending."""
        known = self.view.commands
        return len(known) + sum(key not in known for key in self._commands)

    def review(self, review_id: str) -> Review | None:
        """Return a review, counting what is pending."""
        return self._reviews.get(review_id) or self.view.reviews.get(review_id)

    def ever_existed(self, node_id: str) -> bool:
        """Whether a node has or had this id, counting what is pending."""
        view = self.view
        return node_id in self._nodes or node_id in view.nodes or node_id in view.deleted

    def id_count(self) -> int:
        """Number of ids that nodes have or had, counting what is pending."""
        nodes, deleted = self.view.nodes, self.view.deleted
        added = sum(key not in nodes and key not in deleted for key in self._nodes)
        return len(nodes) + len(deleted) + added

    def all_nodes(self) -> Iterator[LiveNode]:
        """Yield all nodes in the order of their creation, counting what is pending."""
        pending, nodes = self._nodes, self.view.nodes
        present = (pending.get(key, node) for key, node in nodes.items())
        new = (node for key, node in pending.items() if key not in nodes)
        return (node for node in chain(present, new) if node is not None)

    def accept(self, applied: Applied) -> None:
        """Put the effects of a batch on top of what is pending."""
        self._nodes.update(applied.nodes)
        self._commands.update(applied.commands)
        self._reviews.update(applied.reviews)
        if applied.entity is not None:
            self._entity = applied.entity
        self.revision = applied.revision
        self.micros = applied.micros
        origin = applied.origin
        if origin.producer_id:
            position = self.producers.get(origin.producer_id)
            if position is None or position.epoch != origin.epoch:
                position = ProducerPosition(origin.epoch)
                self.producers[origin.producer_id] = position
            position.accept(origin.sequence)

    def promote(self, applied: Applied) -> None:
        """Move a durable batch from the overlay into the view; in the order of revisions."""
        self.view.apply(applied)
        if applied.revision == self.revision:
            self._nodes.clear()
            self._commands.clear()
            self._reviews.clear()
            self._entity = None
        else:
            self._uncover(applied)
        origin = applied.origin
        if origin.producer_id:
            position = self.producers[origin.producer_id]
            if position.epoch == origin.epoch:
                position.commit(origin.sequence, applied.revision)

    def _uncover(self, applied: Applied) -> None:
        """Take from the overlay what no later pending batch has touched."""
        pending = self._nodes
        for node_id, node in applied.nodes.items():
            if pending.get(node_id, applied) is node:
                del pending[node_id]
        for command_id, command in applied.commands.items():
            if self._commands.get(command_id) is command:
                del self._commands[command_id]
        for review_id, review in applied.reviews.items():
            if self._reviews.get(review_id) is review:
                del self._reviews[review_id]
        if applied.entity is self._entity:
            self._entity = None

    def drop_pending(self) -> None:
        """Forget everything that is not durable; no sequence is consumed."""
        self._nodes.clear()
        self._commands.clear()
        self._reviews.clear()
        self._entity = None
        self.revision = self.view.revision
        self.micros = self.view.micros
        for position in self.producers.values():
            position.drop_pending()
