"""The checksum of a view (SEM 31): the same in every language, never over encoded bytes."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256

from state_svc.model.node import LiveNode

_MODULUS = 1 << 64


def node_checksum(node_id: str, version: int) -> int:
    """Return the part of one node: the first 8 bytes of sha256(id, 0, version in decimal)."""
    return int.from_bytes(sha256(b"%b\0%d" % (node_id.encode(), version)).digest()[:8], "big")


def view_checksum(nodes: Iterable[LiveNode]) -> int:
    """Return the sum modulo 2^64 over the nodes of a view."""
    return sum(node_checksum(node.spec.node_id, node.version) for node in nodes) % _MODULUS


class RunningChecksum:
    """The checksum of a whole project, brought up to date when it is asked for.

    It begins with a pass over all nodes, in pieces of the caller's choice: `begin`, then `add`
    for the nodes as they were at that moment, then `is_complete`. From then on a node costs two
    hashes per question, however often it changed in between.
    """

    def __init__(self) -> None:
        self.is_complete = False  #: every node of the beginning was added
        self._begun = False
        self._sum = 0
        self._versions: dict[str, int] = {}
        self._touched: set[str] = set()

    def begin(self) -> bool:
        """Begin, from the nodes as they are now; False if somebody else has begun already."""
        begun, self._begun = self._begun, True
        return not begun

    def add(self, nodes: Iterable[LiveNode]) -> int:
        """Add nodes of the beginning; return their part of the checksum then."""
        part = 0
        for node in nodes:
            self._versions[node.spec.node_id] = node.version
            part += node_checksum(node.spec.node_id, node.version)
        self._sum += part
        return part

    def touch(self, node_ids: Iterable[str]) -> None:
        """Note nodes that have changed."""
        if self._begun:
            self._touched.update(node_ids)

    @property
    def waiting(self) -> int:
        """Number of nodes that have changed and are not settled."""
        return len(self._touched)

    def value(self, nodes: dict[str, LiveNode]) -> int:
        """Return the checksum over `nodes`; only once it is complete."""
        assert self.is_complete
        self.settle(nodes, self.waiting)
        return self._sum % _MODULUS

    def settle(self, nodes: dict[str, LiveNode], most: int) -> None:
        """Bring up to `most` of the changed nodes up to date with `nodes`."""
        for _ in range(min(most, self.waiting)):
            node_id = self._touched.pop()
            known = self._versions.pop(node_id, None)
            if known is not None:
                self._sum -= node_checksum(node_id, known)
            node = nodes.get(node_id)
            if node is not None:
                self._versions[node_id] = node.version
                self._sum += node_checksum(node_id, node.version)
