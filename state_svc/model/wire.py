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


_CHANGES_TAG = varint(Delta.CHANGES_FIELD_NUMBER << 3 | 2)
_NODE_TAG = varint(Change.NODE_FIELD_NUMBER << 3 | 2)
_INDEX_TAG = varint(Change.INDEX_FIELD_NUMBER << 3)
#: A `NodeChange` with its id, version, patch and previous state.
_PATCH_CHANGE = b"%c%%b%%b%c%%b%c%%b%%b%c%%c" % (
    NodeChange.NODE_ID_FIELD_NUMBER << 3 | 2,
    NodeChange.VERSION_FIELD_NUMBER << 3,
    NodeChange.PATCH_FIELD_NUMBER << 3 | 2,
    NodeChange.PREVIOUS_STATE_FIELD_NUMBER << 3,
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
    key = node_id.encode()
    node = _PATCH_CHANGE % (
        _TABLE[len(key)],
        key,
        _TABLE[version] if version < _SMALL else varint(version),
        _TABLE[len(patch)] if len(patch) < _SMALL else varint(len(patch)),
        patch,
        previous_state,
    )
    if previous_agent_name:
        node += bytes_field(
            NodeChange.PREVIOUS_AGENT_NAME_FIELD_NUMBER, previous_agent_name.encode()
        )
    size = len(node)
    head = prefix + (_INDEX_TAG + varint(index) if index else b"") + _NODE_TAG
    head += _TABLE[size] if size < _SMALL else varint(size)
    return _CHANGES_TAG + varint(len(head) + size) + head + node


def message_change(change: Change) -> bytes:
    """Return a `changes` field of a delta that holds any change."""
    data = change.SerializeToString()
    return _CHANGES_TAG + varint(len(data)) + data
