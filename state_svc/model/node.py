"""A node in memory: its encoded fields, and beside them the few that are read often.

A protobuf message costs about 3 KB each, encoded bytes a third of that. Both classes are
immutable once made, so that a snapshot is a copy of a dictionary of references.
"""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp

from ramify.v1.node_pb2 import Node
from state_svc.model.wire import timestamp_field, varint_field

NODE_BYTES = 400  #: of memory that a node takes beside its encoded bytes, about
_MICROS = 1_000_000
_VERSION = Node.VERSION_FIELD_NUMBER
_UPDATE_TIME = Node.UPDATE_TIME_FIELD_NUMBER
_UPDATE_REVISION = Node.UPDATE_REVISION_FIELD_NUMBER


class NodeSpec:
    """What never changes about a node."""

    __slots__ = ("layer", "node_id", "parent", "task_type")

    def __init__(self, node_id: str, parent: str, layer: int, task_type: int) -> None:
        self.node_id = node_id
        self.parent = parent
        self.layer = layer
        self.task_type = task_type


class LiveNode:
    """A node at one version."""

    __slots__ = ("agent_name", "attempt", "data", "micros", "revision", "spec", "state", "version")

    def __init__(
        self,
        spec: NodeSpec,
        data: bytes,
        state: int,
        version: int,
        attempt: int,
        agent_name: str,
        revision: int,
        micros: int,
    ) -> None:
        self.spec = spec
        self.data = data  #: encoded `Node` without version, update_time and update_revision
        self.state = state
        self.version = version
        self.attempt = attempt
        self.agent_name = agent_name
        self.revision = revision  #: of the last change
        self.micros = micros  #: commit time of the last change, microseconds since 1970

    def encoded(self) -> bytes:
        """Return the encoded whole node, without decoding it."""
        return b"".join(
            (
                self.data,
                varint_field(_VERSION, self.version),
                timestamp_field(_UPDATE_TIME, self.micros),
                varint_field(_UPDATE_REVISION, self.revision),
            )
        )

    def to_node(self) -> Node:
        """Return the whole node as the contract shows it."""
        node = Node.FromString(self.data)
        node.version = self.version
        node.update_revision = self.revision
        set_micros(node.update_time, self.micros)
        return node


def set_micros(timestamp: Timestamp, micros: int) -> None:
    """Set a protobuf Timestamp to `micros` microseconds since 1970."""
    timestamp.seconds = micros // _MICROS
    timestamp.nanos = micros % _MICROS * 1_000


def read_micros(timestamp: Timestamp) -> int:
    """Return a protobuf Timestamp as microseconds since 1970."""
    return int(timestamp.seconds * _MICROS + timestamp.nanos // 1_000)


def live_from_message(node: Node, *, version: int, revision: int, micros: int) -> LiveNode:
    """Return the in-memory form of a whole node; empties its output-only stamps."""
    node.ClearField("version")
    node.ClearField("update_time")
    node.ClearField("update_revision")
    spec = NodeSpec(node.node_id, node.parent_node_id, node.layer, node.task_type)
    return LiveNode(
        spec,
        node.SerializeToString(),
        node.state,
        version,
        node.attempt,
        node.agent_name,
        revision,
        micros,
    )
