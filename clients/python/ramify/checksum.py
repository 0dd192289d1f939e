"""The checksum of a view, as `Bookmark` in state_service.proto defines it. Pure."""

import hashlib
from collections.abc import Iterable

from ramify.v1.node_pb2 import Node

_MASK = (1 << 64) - 1


def node_hash(node_id: str, version: int) -> int:
    """Return one node's share: the first 8 bytes of sha256(node_id, 0, version in decimal)."""
    text = node_id.encode() + b"\0" + str(version).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big")


def checksum_of(nodes: Iterable[Node]) -> int:
    """Return the checksum of a view that holds these nodes."""
    return sum(node_hash(node.node_id, node.version) for node in nodes) & _MASK


class ViewChecksum:
    """Keeps the checksum of a changing set of (node, version) pairs, one hash per change.

    Owned by whoever follows the watch. A sum lets nodes come, change and go in any order.
    """

    def __init__(self) -> None:
        self._hashes: dict[str, int] = {}
        self._sum = 0

    @property
    def value(self) -> int:
        """The checksum of the nodes that are in the view now."""
        return self._sum

    def set(self, node_id: str, version: int) -> None:
        """Put a node in, or move it to another version."""
        share = node_hash(node_id, version)
        self._sum = (self._sum - self._hashes.get(node_id, 0) + share) & _MASK
        self._hashes[node_id] = share

    def remove(self, node_id: str) -> None:
        """Take a node out; no effect if it is not in."""
        self._sum = (self._sum - self._hashes.pop(node_id, 0)) & _MASK

    def reset(self, nodes: Iterable[tuple[str, int]] = ()) -> None:
        """Forget everything, then put in these (node_id, version) pairs."""
        self._hashes.clear()
        self._sum = 0
        for node_id, version in nodes:
            self.set(node_id, version)
