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

    A node costs two hashes per question, however often it changed in between.
    """

    def __init__(self) -> None:
        self._sum = 0
        self._versions: dict[str, int] = {}
        self._touched: set[str] = set()
        self._fresh = True

    def touch(self, node_ids: Iterable[str]) -> None:
        """Note nodes that have changed."""
        if not self._fresh:
            self._touched.update(node_ids)

    def value(self, nodes: dict[str, LiveNode]) -> int:
        """Return the checksum over `nodes`."""
        if self._fresh:
            self._fresh = False
            touched: Iterable[str] = nodes
        else:
            touched = self._touched
        for node_id in touched:
            known = self._versions.pop(node_id, None)
            if known is not None:
                self._sum -= node_checksum(node_id, known)
            node = nodes.get(node_id)
            if node is not None:
                self._versions[node_id] = node.version
                self._sum += node_checksum(node_id, node.version)
        self._touched = set()
        return self._sum % _MODULUS
