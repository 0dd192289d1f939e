"""The cursor proves that a watch has no gap, and knows what to ask for after a break."""

import pytest

from ramify.checksum import node_hash
from ramify.cursor import WatchCursor, WatchStart
from ramify.errors import (
    ProjectNotFoundError,
    ServerDrainingError,
    ViewDivergedError,
    WatchGapError,
)
from ramify.events import WatchBookmark, WatchConnected, WatchDelta, WatchResync, WatchSnapshot
from ramify.v1.mutation_pb2 import Change, Delta, NodeChange, RevisionInfo
from ramify.v1.node_pb2 import Node
from ramify.v1.state_service_pb2 import (
    ENTITY_KIND_PROJECT,
    RESYNC_REASON_COMPACTED,
    WATCH_END_REASON_PROJECT_DELETED,
    Bookmark,
    Resync,
    SnapshotChunk,
    WatchCreated,
    WatchEnded,
    WatchFilter,
    WatchProjectResponse,
)


def created(uid: str = "u", head: int = 0) -> WatchProjectResponse:
    return WatchProjectResponse(created=WatchCreated(project_uid=uid, head_revision=head))


def delta(
    first: int, last: int, resume: int | None = None, *, nodes: str = ""
) -> WatchProjectResponse:
    changes = [
        Change(revision=last, node=NodeChange(node_id=name, version=last, node=Node(node_id=name)))
        for name in nodes
    ]
    return WatchProjectResponse(
        resume_revision=last if resume is None else resume,
        delta=Delta(
            first_revision=first,
            last_revision=last,
            revisions=[RevisionInfo(revision=last)],
            changes=changes,
        ),
    )


def bookmark(revision: int, checksum: int = 0) -> WatchProjectResponse:
    return WatchProjectResponse(
        resume_revision=revision, bookmark=Bookmark(revision=revision, checksum=checksum)
    )


def chunk(
    number: int, nodes: str, *, last: bool = False, revision: int = 7
) -> WatchProjectResponse:
    part = SnapshotChunk(revision=revision, chunk=number, last=last)
    part.nodes.extend(Node(node_id=name, version=1) for name in nodes)
    if last:
        part.checksum = sum(node_hash(name, 1) for name in "abc") % 2**64
    return WatchProjectResponse(resume_revision=revision if last else 0, snapshot=part)


def cursor(start: WatchStart) -> WatchCursor:
    return WatchCursor("p", start)


def test_the_first_request_is_the_start_that_was_asked_for() -> None:
    assert cursor(WatchStart.snapshot()).request().WhichOneof("start") == "snapshot"
    assert cursor(WatchStart.head()).request().WhichOneof("start") == "head"
    assert cursor(WatchStart.from_beginning()).request().WhichOneof("start") == "from_beginning"
    request = cursor(WatchStart.after(4, "u")).request()
    assert (request.after_revision, request.project_uid) == (4, "u")


def test_after_a_break_the_last_resume_revision_is_echoed_with_the_identity() -> None:
    watch = cursor(WatchStart.from_beginning())
    watch.receive(created("u"))
    watch.receive(delta(1, 3))
    watch.receive(bookmark(5))
    request = watch.request()
    assert (request.after_revision, request.project_uid) == (5, "u")


def test_a_snapshot_is_delivered_whole_and_only_then_resumable() -> None:
    watch = cursor(WatchStart.snapshot())
    assert isinstance(watch.receive(created()), WatchConnected)
    assert watch.receive(chunk(0, "a")) is None
    assert watch.position is None
    assert watch.receive(chunk(1, "b")) is None
    event = watch.receive(chunk(2, "c", last=True))
    assert isinstance(event, WatchSnapshot)
    assert [node.node_id for node in event.snapshot.nodes] == ["a", "b", "c"]
    assert watch.position == 7


def test_a_break_inside_a_snapshot_asks_for_all_of_it_again() -> None:
    watch = cursor(WatchStart.snapshot())
    watch.receive(created())
    watch.receive(chunk(0, "a"))
    assert watch.request().WhichOneof("start") == "snapshot"
    watch.receive(created())
    assert watch.receive(chunk(0, "a")) is None


@pytest.mark.parametrize("wrong", [chunk(1, "a"), chunk(2, "a")])
def test_a_lost_snapshot_chunk_is_a_gap(wrong: WatchProjectResponse) -> None:
    watch = cursor(WatchStart.snapshot())
    with pytest.raises(WatchGapError):
        watch.receive(wrong)


def test_a_snapshot_that_lacks_a_node_is_detected() -> None:
    watch = cursor(WatchStart.snapshot())
    watch.receive(chunk(0, "a"))
    with pytest.raises(ViewDivergedError):
        watch.receive(chunk(1, "c", last=True))


@pytest.mark.parametrize("first_last", [(5, 5), (3, 4), (4, 3)])
def test_intervals_that_do_not_join_are_a_gap(first_last: tuple[int, int]) -> None:
    watch = cursor(WatchStart.after(3))
    watch.receive(created())
    with pytest.raises(WatchGapError):
        watch.receive(delta(*first_last))


def test_changes_before_the_snapshot_are_a_gap() -> None:
    watch = cursor(WatchStart.snapshot())
    watch.receive(created())
    with pytest.raises(WatchGapError):
        watch.receive(delta(1, 1))


def test_a_bookmark_from_the_past_is_a_gap() -> None:
    watch = cursor(WatchStart.after(3))
    with pytest.raises(WatchGapError):
        watch.receive(bookmark(2))


def test_fragments_of_a_revision_become_one_event() -> None:
    watch = cursor(WatchStart.after(3))
    assert watch.receive(delta(4, 5, 0, nodes="a")) is None
    assert watch.receive(delta(5, 5, 0, nodes="b")) is None
    event = watch.receive(delta(5, 5, nodes="c"))
    assert isinstance(event, WatchDelta)
    assert (event.delta.first_revision, event.delta.last_revision) == (4, 5)
    assert [change.node.node_id for change in event.delta.changes] == ["a", "b", "c"]
    assert [info.revision for info in event.delta.revisions] == [5]


def test_a_break_inside_fragments_asks_from_before_them() -> None:
    watch = cursor(WatchStart.after(3))
    watch.receive(delta(4, 4, 0))
    assert watch.request().after_revision == 3
    assert isinstance(watch.receive(delta(4, 4)), WatchDelta)


def test_a_bookmark_proves_a_view_that_was_followed_from_the_beginning() -> None:
    watch = cursor(WatchStart.from_beginning())
    watch.receive(created())
    watch.receive(delta(1, 1, nodes="a"))
    assert isinstance(watch.receive(bookmark(1, node_hash("a", 1))), WatchBookmark)
    with pytest.raises(ViewDivergedError):
        watch.receive(bookmark(2, node_hash("a", 2)))


def test_a_watch_from_the_middle_cannot_compare_checksums() -> None:
    watch = cursor(WatchStart.after(3))
    assert isinstance(watch.receive(bookmark(3, 99)), WatchBookmark)


def test_a_watch_without_nodes_does_not_compare_checksums() -> None:
    watch = WatchCursor("p", WatchStart.snapshot(), WatchFilter(kinds=[ENTITY_KIND_PROJECT]))
    assert isinstance(watch.receive(chunk(0, "", last=True)), WatchSnapshot)


def test_a_watch_from_the_head_resumes_behind_the_head_it_was_told() -> None:
    watch = cursor(WatchStart.head())
    watch.receive(created("u", head=12))
    assert watch.request().after_revision == 12
    assert isinstance(watch.receive(delta(13, 13)), WatchDelta)


def test_a_resync_forgets_the_position_until_the_snapshot() -> None:
    watch = cursor(WatchStart.after(3, "u"))
    watch.receive(created())
    response = WatchProjectResponse(resync=Resync(reason=RESYNC_REASON_COMPACTED))
    assert isinstance(watch.receive(response), WatchResync)
    assert watch.position is None
    assert isinstance(watch.receive(chunk(0, "abc", last=True)), WatchSnapshot)
    assert watch.request().after_revision == 7


@pytest.mark.parametrize("start", [WatchStart.head(), WatchStart.from_beginning()])
def test_a_break_after_a_resync_asks_for_a_snapshot_wherever_the_watch_began(
    start: WatchStart,
) -> None:
    """Asked for the head again, the server would leave out what came before the break."""
    cursor = WatchCursor("p", start)
    cursor.receive(created(head=3))
    cursor.receive(WatchProjectResponse(resync=Resync(reason=RESYNC_REASON_COMPACTED)))
    cursor.receive(chunk(0, "ab"))
    assert cursor.request().WhichOneof("start") == "snapshot"


def test_a_resync_in_the_middle_of_a_snapshot_forgets_its_chunks() -> None:
    watch = cursor(WatchStart.snapshot())
    watch.receive(created())
    assert watch.receive(chunk(0, "ab", revision=5)) is None
    response = WatchProjectResponse(resync=Resync(reason=RESYNC_REASON_COMPACTED))
    assert isinstance(watch.receive(response), WatchResync)
    event = watch.receive(chunk(0, "abc", last=True))
    assert isinstance(event, WatchSnapshot)
    assert [node.node_id for node in event.snapshot.nodes] == ["a", "b", "c"]


def test_signs_of_life_between_the_chunks_of_a_snapshot_change_nothing() -> None:
    watch = cursor(WatchStart.snapshot())
    for message in (created(), WatchProjectResponse(), chunk(0, "ab"), WatchProjectResponse()):
        watch.receive(message)
    assert isinstance(watch.receive(chunk(1, "c", last=True)), WatchSnapshot)


def test_changes_of_a_replaced_project_without_a_resync_are_a_gap() -> None:
    watch = cursor(WatchStart.after(3, "u"))
    watch.receive(created("another"))
    with pytest.raises(WatchGapError):
        watch.receive(delta(4, 4))


def test_restart_asks_for_a_snapshot() -> None:
    watch = cursor(WatchStart.after(3, "u"))
    watch.receive(created())
    cause = WatchGapError("a gap")
    assert watch.restart(cause).cause is cause
    request = watch.request()
    assert (request.WhichOneof("start"), request.project_uid) == ("snapshot", "")


def test_the_end_of_a_watch_means_reconnect() -> None:
    watch = cursor(WatchStart.after(3))
    with pytest.raises(ServerDrainingError):
        watch.receive(WatchProjectResponse(resume_revision=3, ended=WatchEnded()))


def test_the_deletion_of_the_project_ends_the_watch_for_good() -> None:
    ended = WatchEnded(reason=WATCH_END_REASON_PROJECT_DELETED)
    with pytest.raises(ProjectNotFoundError):
        cursor(WatchStart.after(3)).receive(WatchProjectResponse(resume_revision=3, ended=ended))


def test_messages_of_a_newer_server_are_ignored() -> None:
    assert cursor(WatchStart.after(3)).receive(WatchProjectResponse()) is None
