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


_AGENT = _tag("agent_name", _BYTES)
_STATE_RULE, _ATTEMPT_RULE, _COUNT_RULE = -2, -1, 0
#: What to do with a field, by its tag; above 0: a string of at most so many bytes, which is
#: never longer in characters than in bytes.
_RULES = {
    _tag("state", _VARINT): _STATE_RULE,
    _tag("attempt", _VARINT): _ATTEMPT_RULE,
    _tag("retry_count", _VARINT): _COUNT_RULE,
    _AGENT: limits.MAX_NAME_CHARS,
    _tag("waiting_on", _BYTES): limits.MAX_NAME_CHARS,
    _tag("output_summary", _BYTES): limits.MAX_TEXT_CHARS,
}
_LEGAL = transitions.NODE.to
_TERMINAL = transitions.NODE.terminal


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
        rule = _RULES.get(tag)
        if rule is None:
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
        if rule > 0:
            at += value
            if value > rule or patch[start:at] in data:
                return None
            if tag == _AGENT:
                agent_name = patch[at - value : at].decode()
        elif rule == _STATE_RULE:
            if value not in _LEGAL[live.state] or live.state in _TERMINAL:
                return None
            state = value
        elif rule == _ATTEMPT_RULE:
            if value != live.attempt + 1:
                return None
            attempt = value
        elif patch[start:at] in data:
            return None
    return (state, attempt, agent_name) if end else None
