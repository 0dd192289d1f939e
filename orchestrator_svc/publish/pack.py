"""Packs decisions into batches: as few as the limits allow, never splitting a group. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ramify.v1 import mutation_pb2

_FRAMING_BYTES = 8  #: tag and length of one mutation inside a batch, rounded up


def pack(
    groups: Iterable[Sequence[mutation_pb2.Mutation]], *, max_mutations: int, max_bytes: int
) -> list[list[mutation_pb2.Mutation]]:
    """Return the mutations of `groups`, in order, as batches.

    A group that is over a limit by itself becomes a batch of its own, for the server to refuse;
    `check_plan` and `check_result` keep that from happening.
    """
    batches: list[list[mutation_pb2.Mutation]] = []
    size = 0
    for group in groups:
        group_size = sum(mutation.ByteSize() + _FRAMING_BYTES for mutation in group)
        if (
            batches
            and len(batches[-1]) + len(group) <= max_mutations
            and size + group_size <= max_bytes
        ):
            batches[-1].extend(group)
            size += group_size
        else:
            batches.append(list(group))
            size = group_size
    return batches
