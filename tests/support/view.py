"""A client's view, computed from the words of `Delta` and `Bookmark` in the contract alone.

It shares no code with state_svc or the SDK, so that a mistake there cannot hide here.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable

from google.protobuf.timestamp_pb2 import Timestamp

from ramify.v1.mutation_pb2 import Change, NodeChange, RevisionInfo
from ramify.v1.node_pb2 import Node, NodePatch

_SPECIAL = frozenset({"aux_upserts", "aux_removals", "clear_fields"})


class NodeView:
    """Nodes by id, as a watcher has been told."""

    def __init__(self, nodes: Iterable[Node] = ()) -> None:
        self.nodes: dict[str, Node] = {}
        for node in nodes:
            assert node.node_id not in self.nodes
            self.add(node)

    def add(self, node: Node) -> None:
        """Put a whole node in."""
        self.nodes[node.node_id] = copy = Node()
        copy.CopyFrom(node)

    def apply(self, changes: Iterable[Change], infos: Iterable[RevisionInfo]) -> None:
        """Apply the node changes of a delta."""
        times = {info.revision: info.commit_time for info in infos}
        for change in changes:
            if change.WhichOneof("entity") == "node":
                self._apply(change.node, change.revision, times[change.revision])

    def _apply(self, change: NodeChange, revision: int, time: Timestamp) -> None:
        effect = change.WhichOneof("effect")
        if effect == "removal":
            assert change.removal
            del self.nodes[change.node_id]
            return
        if effect == "node":
            node = Node()
            node.CopyFrom(change.node)
            self.nodes[change.node_id] = node
        else:
            node = self.nodes[change.node_id]
            assert change.version > node.version, "a patch moves the node on"
            _apply_patch(node, change.patch)
        node.version = change.version
        node.update_revision = revision
        node.update_time.CopyFrom(time)

    def checksum(self) -> int:
        """Return the checksum as the comment of `Bookmark` defines it."""
        return checksum((n.node_id, n.version) for n in self.nodes.values())


def checksum(nodes: Iterable[tuple[str, int]]) -> int:
    """Return the sum over (node_id, version) pairs."""
    return sum(_share(node_id, version) for node_id, version in nodes) % 2**64


# A watcher of thousands of nodes compares several times a second, and most have not changed.
@functools.lru_cache(maxsize=1 << 17)
def _share(node_id: str, version: int) -> int:
    digest = hashlib.sha256(node_id.encode() + bytes(1) + str(version).encode()).digest()
    return int.from_bytes(digest[:8], "big")


def _apply_patch(node: Node, patch: NodePatch) -> None:
    for name in patch.clear_fields:
        node.ClearField(name)  # type: ignore[arg-type]
    for field, value in patch.ListFields():
        if field.name in _SPECIAL:
            continue
        node.ClearField(field.name)  # type: ignore[arg-type]
        if field.is_repeated:
            getattr(node, field.name).extend(value)
        elif field.message_type is not None:
            getattr(node, field.name).CopyFrom(value)
        else:
            setattr(node, field.name, value)
    for key in patch.aux_removals:
        node.aux_data.pop(key, None)
    for key, item in patch.aux_upserts.items():
        node.aux_data[key].CopyFrom(item)
