"""What a watch asks for, and compressed messages: read as promised, or refused."""

from __future__ import annotations

import pytest
import zstandard

from ramify.compressed import read_compressed
from ramify.cursor import WatchCursor, WatchOptions, WatchStart
from ramify.errors import WatchGapError
from ramify.events import WatchBookmark, WatchSnapshot
from ramify.v1.node_pb2 import Node
from ramify.v1.project_pb2 import WatchPriority
from ramify.v1.state_service_pb2 import (
    Bookmark,
    Coalescing,
    CompressedMessage,
    SnapshotChunk,
    WatchFilter,
    WatchMode,
    WatchProjectResponse,
)
from ramify.view import View


def _packed(message: WatchProjectResponse, **changed: object) -> WatchProjectResponse:
    data = message.SerializeToString()
    fields: dict[str, object] = {
        "encoding": "zstd",
        "original_bytes": len(data),
        "data": zstandard.ZstdCompressor().compress(data),
    }
    resume = changed.pop("resume_revision", message.resume_revision)
    packed = CompressedMessage(**(fields | changed))  # type: ignore[arg-type]
    return WatchProjectResponse(resume_revision=resume, compressed=packed)  # type: ignore[arg-type]


_BOOKMARK = WatchProjectResponse(resume_revision=3, bookmark=Bookmark(revision=3, checksum=0))


def test_what_is_not_chosen_is_left_to_the_project() -> None:
    request = WatchCursor("p", WatchStart.snapshot()).request()
    assert (request.mode, request.coalescing, request.priority) == (0, 0, 0)
    assert (request.max_interval_ms, request.force_immediate) == (0, False)
    assert list(request.accept_encodings) == [], "readable as it is, unless somebody asks"


def test_every_choice_is_asked_for_again_after_each_break() -> None:
    options = WatchOptions(
        mode="full",
        coalescing="never",
        max_interval=0.25,
        priority="high",
        immediate=True,
        compressed=True,
    )
    cursor = WatchCursor("p", WatchStart.after(7), options=options)
    for request in (cursor.request(), cursor.request()):
        assert request.after_revision == 7
        assert request.mode == WatchMode.WATCH_MODE_FULL
        assert request.coalescing == Coalescing.COALESCING_NEVER
        assert request.priority == WatchPriority.WATCH_PRIORITY_HIGH
        assert (request.max_interval_ms, request.force_immediate) == (250, True)
        assert list(request.accept_encodings) == ["zstd"]


def test_a_compressed_message_is_the_message_inside() -> None:
    cursor = WatchCursor("p", WatchStart.after(1))
    event = cursor.receive(_packed(_BOOKMARK))
    assert isinstance(event, WatchBookmark)
    assert cursor.position == 3


@pytest.mark.parametrize(
    "changed",
    [
        {"encoding": "br"},
        {"original_bytes": 5 << 20},
        {"original_bytes": 1},
        {"data": b"not zstd"},
        {"data": zstandard.ZstdCompressor().compress(b"\xff" * 9), "original_bytes": 9},
        {"resume_revision": 4},
    ],
)
def test_a_compressed_message_that_is_not_as_promised_is_refused(
    changed: dict[str, object],
) -> None:
    with pytest.raises(WatchGapError):
        read_compressed(_packed(_BOOKMARK, **changed))


def test_a_message_is_compressed_once() -> None:
    with pytest.raises(WatchGapError):
        read_compressed(_packed(_packed(_BOOKMARK)))


def test_a_view_of_some_fields_has_no_checksum_to_agree_with() -> None:
    """SEM 31: versions lag behind, so the server sends none; an empty view still has one: 0."""
    cursor, view = (
        WatchCursor("p", WatchStart.snapshot(), WatchFilter(node_fields=["state"])),
        View(),
    )
    chunk = SnapshotChunk(revision=2, last=True, nodes=[Node(node_id="a", version=1)])
    event = cursor.receive(WatchProjectResponse(resume_revision=2, snapshot=chunk))
    assert isinstance(event, WatchSnapshot)
    view.apply(event)
    bookmark = cursor.receive(
        WatchProjectResponse(resume_revision=5, bookmark=Bookmark(revision=5))
    )
    assert bookmark is not None
    view.apply(bookmark)
    assert (view.revision, list(view.nodes)) == (5, ["a"])
