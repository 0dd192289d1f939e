"""A local replica of one project, built from a watch. Pure: no I/O, no clock.

This module is the reference for views in other languages: `apply_snapshot` and `apply_delta`
follow the comments of `SnapshotChunk`, `Delta` and `Bookmark` in the contract, nothing else.
"""

from collections.abc import Iterator, Mapping
from typing import TypeVar

from google.protobuf.message import Message

from ramify.checksum import ViewChecksum
from ramify.errors import ViewDivergedError, WatchGapError
from ramify.events import WatchBookmark, WatchDelta, WatchEvent, WatchResync, WatchSnapshot
from ramify.patch import (
    patch_command,
    patch_node,
    patch_project,
    patch_review,
    stamp_node,
    stamp_project,
    stamp_review,
)
from ramify.v1.command_pb2 import Command
from ramify.v1.mutation_pb2 import (
    CommandChange,
    Delta,
    NodeChange,
    ProjectChange,
    ReviewChange,
    RevisionInfo,
)
from ramify.v1.node_pb2 import Node
from ramify.v1.project_pb2 import Project
from ramify.v1.review_pb2 import Review, ReviewState
from ramify.v1.state_service_pb2 import Bookmark, SnapshotChunk

_M = TypeVar("_M", bound=Message)


class View:
    """The project, its nodes, its commands and its reviews as of `revision`.

    Owned by the one task that applies events to it; readers on the same loop see whole revisions,
    because a delta is applied without yielding. A view starts empty at revision 0, which is right
    for a watch `from_beginning`; any other watch must begin with a snapshot.

    A gap or a wrong checksum raises and leaves the view unusable: apply a new snapshot.
    """

    def __init__(self) -> None:
        self.project: Project | None = None
        self.commands: dict[str, Command] = {}
        self.reviews: dict[str, Review] = {}  #: those that were open in the snapshot or later
        self.revision = 0
        self._nodes: dict[str, Node] = {}
        self._children: dict[str, list[str]] = {}
        self._checksum = ViewChecksum()

    @property
    def nodes(self) -> Mapping[str, Node]:
        """All nodes of the view by id, in the order in which they came to be in it."""
        return self._nodes

    @property
    def checksum(self) -> int:
        """Checksum of the view as `Bookmark` defines it."""
        return self._checksum.value

    def children(self, node_id: str) -> Iterator[Node]:
        """Yield a node's children that are in the view, in the order of their creation."""
        for child_id in self._children.get(node_id, ()):
            yield self._nodes[child_id]

    def roots(self) -> Iterator[Node]:
        """Yield the nodes whose parent is not in the view: the root, or a filter's matches."""
        for node in self._nodes.values():
            if node.parent_node_id not in self._nodes:
                yield node

    def open_reviews(self) -> list[Review]:
        """Return the reviews that wait for a decision, in the order of their creation."""
        state = ReviewState.REVIEW_STATE_OPEN
        return [review for review in self.reviews.values() if review.state == state]

    def apply(self, event: WatchEvent) -> None:
        """Apply one event of a watch; events that carry no state change nothing."""
        if isinstance(event, WatchDelta):
            self.apply_delta(event.delta)
        elif isinstance(event, WatchSnapshot):
            self.apply_snapshot(event.snapshot)
        elif isinstance(event, WatchBookmark):
            self.apply_bookmark(event.bookmark.revision, checksum_in(event.bookmark))
        elif isinstance(event, WatchResync):
            self.clear()

    def clear(self) -> None:
        """Forget everything; a snapshot must follow."""
        self.project = None
        self.commands.clear()
        self.reviews.clear()
        self.revision = 0
        self._nodes.clear()
        self._children.clear()
        self._checksum.reset()

    def apply_snapshot(self, snapshot: SnapshotChunk) -> None:
        """Replace the view by a snapshot whose chunks have been joined into one.

        Raises `ViewDivergedError` if the nodes do not give the snapshot's checksum. There is none
        if the watch shows some fields of nodes only.
        """
        self.clear()
        # Copies, because changes apply in place and the event belongs to its reader.
        if snapshot.HasField("project"):
            self.project = _copy(snapshot.project)
        for command in snapshot.commands:
            self.commands[command.command_id] = _copy(command)
        for review in snapshot.reviews:
            self.reviews[review.review_id] = _copy(review)
        for node in snapshot.nodes:
            self._put(_copy(node))
        self.revision = snapshot.revision
        self._verify(checksum_in(snapshot))

    def apply_delta(self, delta: Delta) -> None:
        """Apply all changes of an interval that begins right after the view's revision.

        Raises `WatchGapError` if it begins anywhere else, before anything is changed.
        """
        if delta.first_revision != self.revision + 1 or delta.last_revision < delta.first_revision:
            raise WatchGapError(
                f"a delta covers revisions {delta.first_revision} to {delta.last_revision}, "
                f"but the view is at {self.revision}",
                metadata={"expected_revision": str(self.revision + 1)},
            )
        infos = {info.revision: info for info in delta.revisions}
        for change in delta.changes:
            info = infos.get(change.revision) or RevisionInfo(revision=change.revision)
            if change.HasField("node"):
                self._apply_node(change.node, info)
            elif change.HasField("project"):
                self._apply_project(change.project, info)
            elif change.HasField("command"):
                self._apply_command(change.command)
            elif change.HasField("review"):
                self._apply_review(change.review, info)
        self.revision = delta.last_revision

    def apply_bookmark(self, revision: int, checksum: int | None) -> None:
        """Advance to a bookmark's revision and compare checksums, if it has one.

        Raises `WatchGapError` if the bookmark lies behind the view and `ViewDivergedError` if the
        view differs from the server's.
        """
        if revision < self.revision:
            raise WatchGapError(f"bookmark {revision} lies behind the view at {self.revision}")
        self.revision = revision
        self._verify(checksum)

    def _verify(self, checksum: int | None) -> None:
        if checksum is not None and checksum != self.checksum:
            raise ViewDivergedError(
                f"the view at revision {self.revision} has checksum {self.checksum:016x}, "
                f"the server has {checksum:016x}",
                metadata={"revision": str(self.revision)},
            )

    def _apply_node(self, change: NodeChange, info: RevisionInfo) -> None:
        effect = change.WhichOneof("effect")
        if effect == "node":
            node = _copy(change.node)
            stamp_node(node, change.version, info)
            self._put(node)
        elif effect == "patch":
            known = self._nodes.get(change.node_id)
            if known is None:
                raise WatchGapError(f"revision {info.revision} patches {change.node_id}, unknown")
            patch_node(known, change.patch, change.version, info)
            self._checksum.set(change.node_id, change.version)
        elif effect == "removal":
            self._remove(change.node_id)

    def _apply_project(self, change: ProjectChange, info: RevisionInfo) -> None:
        if change.HasField("project"):
            self.project = _copy(change.project)
            stamp_project(self.project, change.version, info)
        elif self.project is not None:
            patch_project(self.project, change.patch, change.version, info)
        else:
            raise WatchGapError(f"revision {info.revision} patches a project not seen before")

    def _apply_command(self, change: CommandChange) -> None:
        if change.HasField("command"):
            command = _copy(change.command)
            command.version = change.version
            self.commands[change.command_id] = command
        elif change.command_id in self.commands:
            patch_command(self.commands[change.command_id], change.patch, change.version)
        # A snapshot holds open commands only, so a patch may name one that is not here.

    def _apply_review(self, change: ReviewChange, info: RevisionInfo) -> None:
        if change.HasField("review"):
            review = _copy(change.review)
            stamp_review(review, change.version, info)
            self.reviews[change.review_id] = review
        elif change.review_id in self.reviews:
            patch_review(self.reviews[change.review_id], change.patch, change.version, info)
        # A snapshot holds open reviews only; nothing changes a closed one.

    def _put(self, node: Node) -> None:
        if node.node_id not in self._nodes:
            self._children.setdefault(node.parent_node_id, []).append(node.node_id)
        self._nodes[node.node_id] = node
        self._checksum.set(node.node_id, node.version)

    def _remove(self, node_id: str) -> None:
        node = self._nodes.pop(node_id, None)
        if node is not None:
            self._children[node.parent_node_id].remove(node_id)
            self._checksum.remove(node_id)


def checksum_in(message: SnapshotChunk | Bookmark) -> int | None:
    """Return the checksum that a message has; None if it has none."""
    return message.checksum if message.HasField("checksum") else None


def _copy(message: _M) -> _M:
    copy = type(message)()
    copy.CopyFrom(message)
    return copy
