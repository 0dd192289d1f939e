"""The short way for the usual patch: a few scalars that all change.

Works on encoded bytes: the patch is scanned once, and its bytes are both the effect and what is
appended to the encoded node. Whatever is not usual (other fields, zeros, a value that may be the
present one, an illegal move, a length that may be too long) is left to `patch.node_effect`, which
gives the same result or the error.
"""

from __future__ import annotations

from ramify.v1.node_pb2 import NodePatch
from state_svc.model import limits, transitions
from state_svc.model.node import LiveNode

_VARINT, _BYTES = 0, 2


def _tag(name: str, wire_type: int) -> int:
    return NodePatch.DESCRIPTOR.fields_by_name[name].number << 3 | wire_type


_STATE = _tag("state", _VARINT)
_ATTEMPT = _tag("attempt", _VARINT)
_AGENT = _tag("agent_name", _BYTES)
_RETRIES = _tag("retry_count", _VARINT)

#: Most bytes of a string field; a string is never longer in characters than in bytes.
_STRINGS = {
    _AGENT: limits.MAX_NAME_CHARS,
    _tag("waiting_on", _BYTES): limits.MAX_NAME_CHARS,
    _tag("output_summary", _BYTES): limits.MAX_TEXT_CHARS,
}

_USUAL = frozenset({_STATE, _ATTEMPT, _RETRIES, *_STRINGS})


def scan(live: LiveNode, patch: bytes) -> tuple[int, int, str] | None:
    """Return (state, attempt, agent_name) after an encoded patch; None if it is not usual.

    A field whose encoding does not occur in the encoded node has another value there: protobuf
    has one encoding for a scalar that is not zero.
    """
    data = live.data
    state, attempt, agent_name = live.state, live.attempt, live.agent_name
    at, end = 0, len(patch)
    while at < end:
        start = at
        tag = patch[at]
        at += 1
        if tag & 0x80:
            tag = tag & 0x7F | patch[at] << 7
            at += 1
        if tag not in _USUAL:
            return None
        value = patch[at]
        at += 1
        if value & 0x80:
            shift = 7
            value &= 0x7F
            while True:
                byte = patch[at]
                at += 1
                value |= (byte & 0x7F) << shift
                if byte < 0x80:
                    break
                shift += 7
        if not value:
            return None
        if tag == _STATE:
            if value not in transitions.NODE.to[live.state]:
                return None
            state = value
        elif tag == _ATTEMPT:
            if value != live.attempt + 1:
                return None
            attempt = value
        elif tag in _STRINGS:
            at += value
            if value > _STRINGS[tag] or patch[start:at] in data:
                return None
            if tag == _AGENT:
                agent_name = patch[at - value : at].decode()
        elif patch[start:at] in data:
            return None
    return (state, attempt, agent_name) if end else None
