"""Which nodes a watch shows, and what a change looks like through it (SEM 24, 31). Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from ramify.v1.command_pb2 import Command
from ramify.v1.mutation_pb2 import (
    Change,
    CommandChange,
    Delta,
    Removal,
    ReviewChange,
    RevisionInfo,
)
from ramify.v1.project_pb2 import Project
from ramify.v1.review_pb2 import Review
from ramify.v1.state_service_pb2 import EntityKind, WatchFilter, WatchMode
from state_svc.model import transitions
from state_svc.model.merge import Shown, merge
from state_svc.model.node import LiveNode, NodeSpec
from state_svc.watch.mask import FieldMask

_NODE = EntityKind.ENTITY_KIND_NODE
_PROJECT = EntityKind.ENTITY_KIND_PROJECT
_COMMAND = EntityKind.ENTITY_KIND_COMMAND
_STAGE = EntityKind.ENTITY_KIND_STAGE
_REVIEW = EntityKind.ENTITY_KIND_REVIEW
_KIND_OF = {
    "node": _NODE,
    "project": _PROJECT,
    "command": _COMMAND,
    "review": _REVIEW,
    "stage": _STAGE,
}
_DEFAULT_KINDS = frozenset({_NODE, _PROJECT, _REVIEW})
_ENDING_KINDS = frozenset({_NODE, _PROJECT})

_DIFF, _FULL, _TERMINAL = (
    WatchMode.WATCH_MODE_DIFF,
    WatchMode.WATCH_MODE_FULL,
    WatchMode.WATCH_MODE_TERMINAL,
)

FindSpec = Callable[[str], NodeSpec | None]
#: Of nodes that were looked at: how far below the root of a subtree they are, None: outside.
Depths = dict[str, int | None]
Image = tuple[LiveNode | None, LiveNode | None]
#: Of changes that are not about nodes, by their index in the revision: the entity afterwards.
Whole = Project | Command | Review
Wholes = Mapping[int, Whole]


def find_in(nodes: Mapping[str, LiveNode]) -> FindSpec:
    """Return a look-up in nodes that do not change."""

    def find(node_id: str) -> NodeSpec | None:
        node = nodes.get(node_id)
        return None if node is None else node.spec

    return find


class ViewFilter:
    """A `WatchFilter` and a mode made ready: asks are set lookups.

    In mode TERMINAL the view holds what has ended; that is a condition on states like any other.
    """

    def __init__(self, request: WatchFilter, mode: WatchMode.ValueType = _DIFF) -> None:
        self.request = WatchFilter()  #: as it is understood, without fields of a newer contract
        self.request.CopyFrom(request)
        self.request.DiscardUnknownFields()
        self.mode = mode
        self.key = (self.request.SerializeToString(deterministic=True), mode)
        self.kinds = frozenset(request.kinds) or (
            _ENDING_KINDS if mode == _TERMINAL else _DEFAULT_KINDS
        )
        self.mask = FieldMask(request.node_fields) if request.node_fields else None
        self._root = request.subtree_root_node_id
        self._max_depth = request.max_depth if request.HasField("max_depth") else None
        self._states: frozenset[int] | None = frozenset(request.states) or None
        if mode == _TERMINAL:
            ended = transitions.NODE.terminal
            self._states = ended if self._states is None else self._states & ended
        self._task_types = frozenset(request.task_types)
        self._agents = frozenset(request.agent_names)
        self.selects_nodes = bool(
            self._root
            or self._max_depth is not None
            or self._states is not None
            or self._task_types
            or self._agents
        )
        self.shows_project = _PROJECT in self.kinds
        self.shows_commands = _COMMAND in self.kinds
        self.shows_reviews = _REVIEW in self.kinds
        self.shows_nodes = _NODE in self.kinds
        self.shows_all_nodes = self.shows_nodes and not self.selects_nodes
        self.needs_ancestors = bool(self._root)
        #: The stored bytes of a revision are what the watch shows of it.
        self.is_default = (
            self.kinds == _DEFAULT_KINDS
            and not self.selects_nodes
            and self.mask is None
            and mode == _DIFF
        )
        #: Changes have to be shown with what they made of their entities.
        self.needs_images = self.selects_nodes or mode != _DIFF

    def matches(self, node: LiveNode | None, find: FindSpec, depths: Depths) -> bool:
        """Whether the view shows a node; `find` returns what never changes about a node.

        `depths` is kept from one node to the next, so that a path is walked once.
        """
        if node is None or not self.shows_nodes:
            return False
        if not self.selects_nodes:
            return True
        spec = node.spec
        return (
            (self._states is None or node.state in self._states)
            and (not self._task_types or spec.task_type in self._task_types)
            and (not self._agents or node.agent_name in self._agents)
            and self._in_subtree(spec, find, depths)
        )

    def _in_subtree(self, spec: NodeSpec, find: FindSpec, depths: Depths) -> bool:
        if not self._root:
            return self._max_depth is None or spec.layer <= self._max_depth
        path: list[str] = []
        depth: int | None = None
        at: NodeSpec | None = spec
        while at is not None:
            if at.node_id == self._root:
                depth = 0
                break
            if at.node_id in depths:
                depth = depths[at.node_id]
                break
            path.append(at.node_id)
            at = find(at.parent) if at.parent else None
        for node_id in reversed(path):
            depth = depths[node_id] = None if depth is None else depth + 1
        return depth is not None and (self._max_depth is None or depth <= self._max_depth)

    def select(self, nodes: Iterable[LiveNode], find: FindSpec) -> list[LiveNode]:
        """Return the nodes that the view shows."""
        depths: Depths = {}
        return [node for node in nodes if self.matches(node, find, depths)]

    def show(
        self,
        changes: Sequence[Change],
        images: Sequence[Image],
        find: FindSpec,
        wholes: Wholes,
    ) -> list[Shown]:
        """Return what the view shows of changes of one revision.

        `images` holds each node change's node before and after; (None, None) for other kinds and
        for filters that need no images.
        """
        shown = []
        depths: Depths = {}
        for change, image in zip(changes, images, strict=True):
            item = self._show(change, image, find, wholes, depths)
            if item is not None:
                shown.append(item)
        return shown

    def _show(
        self, change: Change, image: Image, find: FindSpec, wholes: Wholes, depths: Depths
    ) -> Shown | None:
        kind = change.WhichOneof("entity")
        if kind is None or _KIND_OF[kind] not in self.kinds:
            return None
        if kind == "node":
            return self._show_node(change, image, find, depths)
        if kind == "project":
            return self._show_project(change, wholes.get(change.index))
        if kind == "stage":
            return Shown(change, True)
        body: CommandChange | ReviewChange = change.command if kind == "command" else change.review
        whole = wholes.get(change.index)
        created = body.WhichOneof("effect") != "patch"
        if self.mode != _FULL or created or whole is None:
            return Shown(change, created)
        full = Change()
        full.CopyFrom(change)
        getattr(getattr(full, kind), kind).CopyFrom(whole)
        return Shown(full, False)

    def _show_project(self, change: Change, whole: Whole | None) -> Shown | None:
        body = change.project
        created = body.HasField("project")
        if self.mode == _DIFF or created or not isinstance(whole, Project):
            return Shown(change, created)
        if self.mode == _TERMINAL:
            ended = transitions.PROJECT.terminal
            if whole.state not in ended and body.previous_state not in ended:
                return None
        full = Change(revision=change.revision, index=change.index)
        full.project.version = body.version
        full.project.previous_state = body.previous_state
        full.project.project.CopyFrom(whole)
        return Shown(full, False)

    def _show_node(
        self, change: Change, image: Image, find: FindSpec, depths: Depths
    ) -> Shown | None:
        body = change.node
        whole = body.HasField("node")
        if self.selects_nodes:
            before, after = image
            was, now = self.matches(before, find, depths), self.matches(after, find, depths)
            if not was and not now:
                return None
        else:
            was, now = not whole, not body.removal
            after = image[1]
        if was and now and not (self.mode == _FULL and after is not None):
            return self._masked_patch(change)
        if now and whole and self.mask is None:
            return Shown(change, not was)
        if self.mask is not None and was and now and self.mask.hides(body.patch):
            return None
        shown = Change(revision=change.revision, index=change.index)
        shown.node.node_id = body.node_id
        shown.node.version = body.version
        shown.node.previous_state = body.previous_state
        shown.node.previous_agent_name = body.previous_agent_name
        if not now:
            shown.node.removal = body.removal or Removal.REMOVAL_LEFT
        else:
            shown.node.node.CopyFrom(body.node if after is None else after.to_node())
            if self.mask is not None:
                self.mask.keep(shown.node.node)
        return Shown(shown, not was)

    def _masked_patch(self, change: Change) -> Shown | None:
        """Return a change of a node that was in the view and stays there."""
        if self.mask is None:
            return Shown(change, False)
        if self.mask.hides(change.node.patch):
            return None
        shown = Change()
        shown.CopyFrom(change)
        self.mask.keep_in_patch(shown.node.patch)
        return Shown(shown, False)


def encode_shown(
    infos: Iterable[RevisionInfo], shown: Sequence[Shown], *, coalesced: bool = False
) -> bytes:
    """Return the encoded body of a delta; empty if nothing is shown.

    Revisions without a change are left out; the interval of the delta covers them.
    """
    changes = merge(shown) if coalesced else [item.change for item in shown]
    if not changes:
        return b""
    seen = {change.revision for change in changes}
    delta = Delta(changes=changes, coalesced=coalesced)
    delta.revisions.extend(info for info in infos if info.revision in seen)
    return delta.SerializeToString()
