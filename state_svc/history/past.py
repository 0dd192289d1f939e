"""Views of projects at earlier revisions: time travel, differences, forks."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from sys import getsizeof

from ramify.v1.node_pb2 import Node
from ramify.v1.project_pb2 import Project, ProjectState
from ramify.v1.state_service_pb2 import NodeDiff
from state_svc.errors import CorruptRecord, RevisionAhead, RevisionCompacted
from state_svc.history.rebuild import rebuild
from state_svc.model.entity import stopped_micros
from state_svc.model.node import NODE_BYTES, LiveNode, set_micros
from state_svc.model.project import LiveProject, View
from state_svc.model.review import OPEN, WAITING_PREFIX, reopened
from state_svc.store.base import StateStore

MAX_BYTES = 256 << 20  #: of the views that are kept; the newest stays however large it is
_MESSAGE_BYTES = 1_000  #: what a command or a review takes beside its encoded bytes, about
REBUILDS = 4  #: under way at one time; each holds a whole project
_FORK_SUFFIX_CHARS = 8
_STAMPS = frozenset({"version", "update_time", "update_revision"})


class Past:
    """Rebuilds views and keeps the latest ones. Owned by the event loop."""

    def __init__(self, store: StateStore, avoided: Callable[[], None] = lambda: None) -> None:
        self._store = store
        self._avoided = avoided
        self._views: OrderedDict[tuple[str, int], tuple[View, int]] = OrderedDict()
        self._bytes = 0
        self._permits = asyncio.Semaphore(REBUILDS)

    async def view_at(self, project: LiveProject, revision: int) -> View:
        """Return the project at a retained revision; the caller must not change it.

        For the head (or 0) this is the committed view itself, which moves on with the next
        commit. Raises `RevisionAhead` or `RevisionCompacted`.
        """
        view = project.view
        if revision in (0, view.revision):
            return view
        if revision > view.revision:
            raise RevisionAhead(revision=revision, head_revision=view.revision)
        if revision < view.compacted:
            raise RevisionCompacted(revision=revision, compacted_revision=view.compacted)
        past = self._kept(project, revision)
        if past is not None:
            return past
        async with self._permits:
            past = self._kept(project, revision)
            if past is not None:  # another caller was faster
                return past
            try:
                replay = await rebuild(self._store, project.uid, revision, self._avoided)
                past = replay.view
            except CorruptRecord:
                if revision < view.compacted:  # it was dropped meanwhile
                    raise RevisionCompacted(
                        revision=revision, compacted_revision=view.compacted
                    ) from None
                raise
            past.compacted = view.compacted
            size = await asyncio.to_thread(held_bytes, past)
            self._keep(project, revision, past, size)
        return past

    def _kept(self, project: LiveProject, revision: int) -> View | None:
        key = (project.uid, revision)
        if key not in self._views:
            return None
        self._views.move_to_end(key)
        return self._views[key][0]

    def _keep(self, project: LiveProject, revision: int, past: View, size: int) -> None:
        key = (project.uid, revision)
        if key in self._views:
            return
        self._views[key] = (past, size)
        self._bytes += size
        while self._bytes > MAX_BYTES and len(self._views) > 1:
            _, (_, dropped) = self._views.popitem(last=False)
            self._bytes -= dropped


def held_bytes(view: View) -> int:
    """Return about how many bytes of memory a view takes."""
    size = sum(len(node.data) + NODE_BYTES for node in view.nodes.values())
    size += getsizeof(view.deleted) + sum(map(getsizeof, view.deleted))
    others = [view.entity, *view.commands.values(), *view.reviews.values()]
    return size + sum(message.ByteSize() + _MESSAGE_BYTES for message in others)


def differing(
    before: Mapping[str, LiveNode], after: Mapping[str, LiveNode]
) -> Iterator[tuple[LiveNode | None, LiveNode | None]]:
    """Yield (before, after) of nodes that differ, in the order of creation; deleted ones last."""
    for node_id, node in after.items():
        known = before.get(node_id)
        if known is None or known.version != node.version:
            yield known, node
    for node_id, node in before.items():
        if node_id not in after:
            yield node, None


def node_diff(before: LiveNode | None, after: LiveNode | None) -> NodeDiff:
    """Return how one node differs."""
    first = before.to_node() if before is not None else None
    second = after.to_node() if after is not None else None
    known = second or first
    diff = NodeDiff(node_id=known.node_id if known is not None else "", before=first, after=second)
    if first is not None and second is not None:
        diff.changed_fields.extend(_changed_fields(first, second))
    return diff


def _changed_fields(first: Node, second: Node) -> list[str]:
    before = {field.name: value for field, value in first.ListFields()}
    after = {field.name: value for field, value in second.ListFields()}
    names = [field.name for field in Node.DESCRIPTOR.fields if field.name not in _STAMPS]
    return [name for name in names if before.get(name) != after.get(name)]


def fork_view(source: View, project_id: str, project_uid: str, micros: int) -> View:
    """Return a new project at revision 1 that begins where `source` stands (SEM 32).

    Its timers stand still since then: what was left of them at that revision is left of them when
    the fork is resumed, however much later that is.
    """
    entity = Project()
    entity.CopyFrom(source.entity)
    for name in ("lease", "error", "end_time", "pins"):
        entity.ClearField(name)
    entity.project_id = project_id
    entity.project_uid = project_uid
    set_micros(entity.pause_time, stopped_micros(source.entity, source.micros))
    entity.state = ProjectState.PROJECT_STATE_PAUSED
    entity.version = 1
    entity.create_time.FromMicroseconds(micros)
    entity.update_time.FromMicroseconds(micros)
    entity.forked_from.project_id = source.entity.project_id
    entity.forked_from.project_uid = source.entity.project_uid
    entity.forked_from.revision = source.revision
    view = View(entity=entity, revision=1, micros=micros, compacted=1)
    for node_id, node in source.nodes.items():
        copy = LiveNode(
            node.spec, node.data, node.state, node.version, node.attempt, node.agent_name, 1, micros
        )
        view.put_node(node_id, copy)
    view.deleted = set(source.deleted)
    _fork_reviews(view, source)
    return view


def _fork_reviews(view: View, source: View) -> None:
    """Take over the reviews; nodes that wait for one wait for its new id."""
    suffix = view.entity.project_uid[:_FORK_SUFFIX_CHARS]
    for old_id, review in reopened(source.reviews.values(), suffix, view.micros).items():
        view.reviews[review.review_id] = review
        live = view.nodes.get(review.node_id)
        if live is None or review.state != OPEN:
            continue
        node = Node.FromString(live.data)
        if node.waiting_on == WAITING_PREFIX + old_id:
            node.waiting_on = WAITING_PREFIX + review.review_id
            view.nodes[review.node_id] = LiveNode(
                live.spec,
                node.SerializeToString(),
                live.state,
                live.version,
                live.attempt,
                live.agent_name,
                live.revision,
                live.micros,
            )
