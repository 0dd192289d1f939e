"""Watch messages as bytes: a header, and the bodies of revisions joined behind it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ramify.v1.mutation_pb2 import Delta
from ramify.v1.state_service_pb2 import WatchProjectResponse
from state_svc.model.project import Applied
from state_svc.model.wire import bytes_field, varint_field

MAX_FRAME_BYTES = 1 << 20  #: of several revisions in one message or segment
MAX_BODY_BYTES = 3_600_000  #: of one message; gRPC's clients take 4 MiB unless told otherwise

_FIELD_BYTES = 5  #: of a change or a revision in a message, beside its own bytes: at most

_FIRST = Delta.FIRST_REVISION_FIELD_NUMBER
_LAST = Delta.LAST_REVISION_FIELD_NUMBER
_RESUME = WatchProjectResponse.RESUME_REVISION_FIELD_NUMBER
_DELTA = WatchProjectResponse.DELTA_FIELD_NUMBER


def encode_delta(first: int, last: int, bodies: Sequence[bytes]) -> bytes:
    """Return an encoded `Delta` over the interval; bodies are encoded `Delta`s without one."""
    return varint_field(_FIRST, first) + varint_field(_LAST, last) + b"".join(bodies)


def encode_watch_delta(first: int, last: int, body: bytes) -> bytes:
    """Return an encoded `WatchProjectResponse` that holds a delta and promises `last`."""
    delta = encode_delta(first, last, (body,))
    return varint_field(_RESUME, last) + bytes_field(_DELTA, delta)


def encode_watch_deltas(first: int, last: int, body: bytes) -> Iterator[tuple[bytes, int | None]]:
    """Yield (message, revision that it promises) for a body of any size.

    A body that is too large for one message holds a single revision, or several coalesced to one
    step. It is cut into fragments at its changes: only the last of them promises the revision
    (SEM 30).
    """
    if len(body) <= MAX_BODY_BYTES:
        yield encode_watch_delta(first, last, body), last
        return
    parts = _fragments(Delta.FromString(body))
    for number, part in enumerate(parts):
        begin = last if number else first
        if number < len(parts) - 1:
            yield bytes_field(_DELTA, encode_delta(begin, last, (part,))), None
        else:
            yield encode_watch_delta(begin, last, part), last


def _fragments(delta: Delta) -> list[bytes]:
    """Cut a delta at its changes; each part has the revisions of its own changes."""
    infos = {info.revision: info for info in delta.revisions}
    parts: list[bytes] = []
    part, size, revision = Delta(coalesced=delta.coalesced), 0, 0
    for change in delta.changes:
        length = change.ByteSize() + _FIELD_BYTES
        info = infos.get(change.revision)
        info_length = 0 if info is None else info.ByteSize() + _FIELD_BYTES
        if size and size + length + info_length > MAX_BODY_BYTES:
            parts.append(part.SerializeToString())
            part, size, revision = Delta(coalesced=delta.coalesced), 0, 0
        if info is not None and change.revision != revision:
            part.revisions.append(info)
            size += info_length
        part.changes.append(change)
        size += length
        revision = change.revision
    return [*parts, part.SerializeToString()]


def split(run: Sequence[Applied]) -> list[Sequence[Applied]]:
    """Cut consecutive revisions so that no part has more than `MAX_FRAME_BYTES`.

    A single larger revision is a part of its own: a revision is never cut.
    """
    parts: list[Sequence[Applied]] = []
    start = size = 0
    for index, applied in enumerate(run):
        if index > start and size + len(applied.body) > MAX_FRAME_BYTES:
            parts.append(run[start:index])
            start, size = index, 0
        size += len(applied.body)
    if start < len(run):
        parts.append(run[start:])
    return parts
