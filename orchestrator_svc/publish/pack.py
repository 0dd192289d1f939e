"""Packs decisions into batches: as few as the limits allow, never splitting a group. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")

_FRAMING_BYTES = 8  #: tag and length of one mutation inside a batch, rounded up


def pack(
    groups: Iterable[Sequence[bytes]], *, max_mutations: int, max_bytes: int
) -> Iterator[list[bytes]]:
    """Yield the encoded mutations of `groups`, in order, as batches; groups are read as needed.

    A group that is over a limit by itself becomes a batch of its own, for the server to refuse;
    `check_plan` and `check_result` keep that from happening.
    """
    batch: list[bytes] = []
    size = 0
    for group in groups:
        group_size = sum(map(len, group)) + len(group) * _FRAMING_BYTES
        if batch and (len(batch) + len(group) > max_mutations or size + group_size > max_bytes):
            yield batch
            batch, size = [], 0
        batch.extend(group)
        size += group_size
    if batch:
        yield batch


def portions(groups: Sequence[Sequence[T]], most: int) -> Iterator[Sequence[Sequence[T]]]:
    """Yield `groups`, in order, in portions of at most `most` items, a larger group alone."""
    start, count = 0, 0
    for place, group in enumerate(groups):
        if count and count + len(group) > most:
            yield groups[start:place]
            start, count = place, 0
        count += len(group)
    if count:
        yield groups[start:]
