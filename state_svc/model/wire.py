"""The little of the protobuf wire format that is written by hand.

Fields of a message may come in any order, and of a scalar field that comes twice the last one
counts. So a delta is a header followed by the bodies of its revisions, joined without decoding
any of them, and a patch of scalars is put on an encoded node by appending it.
Source: the protobuf encoding guide, sections "Base 128 Varints" and "Last One Wins".
"""

from __future__ import annotations

from ramify.v1.mutation_pb2 import Change, Delta, NodeChange

_SMALL = 16_384


def varint(number: int) -> bytes:
    """Return a non-negative number as a base-128 varint."""
    if number < _SMALL:
        return _TABLE[number]
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


_TABLE = [bytes((n,)) if n < 0x80 else bytes((n & 0x7F | 0x80, n >> 7)) for n in range(_SMALL)]


def varint_field(field: int, number: int) -> bytes:
    """Return a varint field with its tag; empty for 0, as proto3 does."""
    return varint(field << 3) + varint(number) if number else b""


def bytes_field(field: int, data: bytes) -> bytes:
    """Return a length-delimited field with its tag."""
    return varint(field << 3 | 2) + varint(len(data)) + data


def timestamp_field(field: int, micros: int) -> bytes:
    """Return a Timestamp field; its zeros are written, so that it replaces an earlier one."""
    seconds, rest = divmod(micros, 1_000_000)
    return bytes_field(field, b"\x08" + varint(seconds) + b"\x10" + varint(rest * 1_000))


_CHANGES = Delta.CHANGES_FIELD_NUMBER
_NODE = Change.NODE_FIELD_NUMBER
_INDEX_TAG = varint(Change.INDEX_FIELD_NUMBER << 3)
_NODE_ID = NodeChange.NODE_ID_FIELD_NUMBER
_VERSION = NodeChange.VERSION_FIELD_NUMBER
_ENTITY = NodeChange.NODE_FIELD_NUMBER
_PATCH = NodeChange.PATCH_FIELD_NUMBER
_PREVIOUS_STATE = NodeChange.PREVIOUS_STATE_FIELD_NUMBER
_PREVIOUS_AGENT = NodeChange.PREVIOUS_AGENT_NAME_FIELD_NUMBER
#: A `changes` field that holds the patch of a node, when each length takes one byte: size, what
#: is before the node, size of the node, id, version, patch, previous state, the rest.
_SHORT_CHANGE = b"%c%%c%%b%c%%c%c%%c%%b%c%%b%c%%c%%b%c%%c%%b" % (
    _CHANGES << 3 | 2,
    _NODE << 3 | 2,
    _NODE_ID << 3 | 2,
    _VERSION << 3,
    _PATCH << 3 | 2,
    _PREVIOUS_STATE << 3,
)


def revision_prefix(revision: int) -> bytes:
    """Return the part of a change that is the same for a whole revision."""
    return varint_field(Change.REVISION_FIELD_NUMBER, revision)


def patch_change(
    prefix: bytes,
    index: int,
    node_id: str,
    version: int,
    patch: bytes,
    previous_state: int,
    previous_agent_name: str,
) -> bytes:
    """Return a `changes` field of a delta that holds the patch of a node.

    Equal to what protobuf encodes for the same message; measured, it takes half the time.
    """
    key, number = node_id.encode(), varint(version)
    agent = (
        bytes_field(_PREVIOUS_AGENT, previous_agent_name.encode()) if previous_agent_name else b""
    )
    if index:
        prefix += _INDEX_TAG + varint(index)
    key_size, patch_size = len(key), len(patch)
    node_size = 7 + key_size + len(number) + patch_size + len(agent)
    size = 2 + len(prefix) + node_size
    if size < 0x80:
        return _SHORT_CHANGE % (
            size, prefix, node_size, key_size, key, number, patch_size, patch, previous_state, agent
        )  # fmt: skip
    node = bytes_field(_NODE_ID, key) + varint_field(_VERSION, version)
    node += bytes_field(_PATCH, patch) + varint_field(_PREVIOUS_STATE, previous_state) + agent
    return bytes_field(_CHANGES, prefix + bytes_field(_NODE, node))


def create_change(prefix: bytes, index: int, node_id: str, node: bytes) -> bytes:
    """Return a `changes` field of a delta that holds a new node, encoded in `node`."""
    change = bytes_field(_NODE_ID, node_id.encode()) + varint_field(_VERSION, 1)
    change += bytes_field(_ENTITY, node)
    if index:
        prefix += _INDEX_TAG + varint(index)
    return bytes_field(_CHANGES, prefix + bytes_field(_NODE, change))


def message_change(change: Change) -> bytes:
    """Return a `changes` field of a delta that holds any change."""
    return bytes_field(_CHANGES, change.SerializeToString())
