"""The little of the protobuf wire format that is written by hand.

Fields of a message may come in any order, and repeating a message field merges it. So a delta
is a header followed by the bodies of its revisions, joined without decoding any of them.
Source: the protobuf encoding guide, sections "Base 128 Varints" and "Last One Wins".
"""

from __future__ import annotations


def varint(number: int) -> bytes:
    """Return a non-negative number as a base-128 varint."""
    if number < 0x80:
        return bytes((number,))
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def varint_field(field: int, number: int) -> bytes:
    """Return a varint field with its tag; empty for 0, as proto3 does."""
    return varint(field << 3) + varint(number) if number else b""


def bytes_field(field: int, data: bytes) -> bytes:
    """Return a length-delimited field with its tag."""
    return varint(field << 3 | 2) + varint(len(data)) + data
