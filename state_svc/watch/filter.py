"""Which nodes a watch shows, and what a change looks like through it (SEM 31). Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from ramify.v1.mutation_pb2 import Change, Delta, Removal, RevisionInfo
from ramify.v1.state_service_pb2 import EntityKind, WatchFilter
from state_svc.model.node import LiveNode, NodeSpec

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

FindSpec = Callable[[str], NodeSpec | None]
Image = tuple[LiveNode | None, LiveNode | None]


class ViewFilter:
    """A `WatchFilter` made ready: asks are set lookups."""

    def __init__(self, request: WatchFilter) -> None:
        self.request = request
        self.key = request.SerializeToString(deterministic=True)
        self.kinds = frozenset(request.kinds) or _DEFAULT_KINDS
        self._root = request.subtree_root_node_id
        self._max_depth = request.max_depth if request.HasField("max_depth") else None
        self._states = frozenset(request.states)
        self._task_types = frozenset(request.task_types)
        self._agents = frozenset(request.agent_names)
        self.selects_nodes = bool(
            self._root
            or self._max_depth is not None
            or self._states
            or self._task_types
            or self._agents
        )
        self.shows_project = _PROJECT in self.kinds
        self.shows_commands = _COMMAND in self.kinds
        self.shows_reviews = _REVIEW in self.kinds
        self.shows_all_nodes = _NODE in self.kinds and not self.selects_nodes
        self.is_default = self.kinds == _DEFAULT_KINDS and not self.selects_nodes

    def matches(self, node: LiveNode | None, find: FindSpec) -> bool:
        """Whether the view shows a node; `find` returns what never changes about a node."""
        if node is None or _NODE not in self.kinds:
            return False
        if not self.selects_nodes:
            return True
        spec = node.spec
        return (
            (not self._states or node.state in self._states)
            and (not self._task_types or spec.task_type in self._task_types)
            and (not self._agents or node.agent_name in self._agents)
            and self._in_subtree(spec, find)
        )

    def _in_subtree(self, spec: NodeSpec, find: FindSpec) -> bool:
        if not self._root:
            return self._max_depth is None or spec.layer <= self._max_depth
        depth = 0
        at: NodeSpec | None = spec
        while at is not None:
            if at.node_id == self._root:
                return self._max_depth is None or depth <= self._max_depth
            depth += 1
            at = find(at.parent) if at.parent else None
        return False

    def select(self, nodes: Iterable[LiveNode], find: FindSpec) -> list[LiveNode]:
        """Return the nodes that the view shows."""
        return [node for node in nodes if self.matches(node, find)]

    def project_changes(
        self,
        infos: Sequence[RevisionInfo],
        changes: Sequence[Change],
        images: Sequence[Image],
        find: FindSpec,
    ) -> bytes:
        """Return the encoded body of a delta with what the view shows of some changes.

        `images` holds each node change's node before and after. Revisions without a matching
        change are left out; the interval of the delta covers them.
        """
        delta = Delta()
        seen: set[int] = set()
        for change, image in zip(changes, images, strict=True):
            shown = self._project_change(change, image, find)
            if shown is not None:
                delta.changes.append(shown)
                seen.add(change.revision)
        delta.revisions.extend(info for info in infos if info.revision in seen)
        return delta.SerializeToString()

    def _project_change(self, change: Change, image: Image, find: FindSpec) -> Change | None:
        kind = change.WhichOneof("entity")
        if kind is None or _KIND_OF[kind] not in self.kinds:
            return None
        if kind != "node" or not self.selects_nodes:
            return change
        before, after = image
        was, now = self.matches(before, find), self.matches(after, find)
        if not was and not now:
            return None
        if was and now:
            return change
        shown = Change(revision=change.revision, index=change.index)
        body = shown.node
        body.node_id = change.node.node_id
        body.version = change.node.version
        body.previous_state = change.node.previous_state
        body.previous_agent_name = change.node.previous_agent_name
        if now and after is not None:
            body.node.CopyFrom(after.to_node())
        else:
            body.removal = change.node.removal or Removal.REMOVAL_LEFT
        return shown
