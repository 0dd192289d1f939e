"""Where a watch begins (SEM 13, 30)."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from ramify.v1.state_service_pb2 import (
    ResyncReason,
    WatchFilter,
    WatchProjectRequest,
    WatchProjectResponse,
)
from state_svc.codec.project import encode_project
from state_svc.codec.segment import encode_segment
from state_svc.errors import RevisionAhead, RevisionCompacted
from state_svc.metrics import ServiceMetrics
from state_svc.model.checksum import view_checksum
from state_svc.model.project import LiveProject
from state_svc.store.base import Commit
from state_svc.store.memory import MemoryStore
from state_svc.watch.hub import WatchHub
from state_svc.watch.session import Start, WatchSession, choose_start
from tests.support.live import live_project, write
from tests.support.mutations import READY, create, patch

_COMPACTED = ResyncReason.RESYNC_REASON_COMPACTED
_REPLACED = ResyncReason.RESYNC_REASON_PROJECT_REPLACED


def _project() -> LiveProject:
    """Return a project at revision 6 whose history up to 3 is gone."""
    project = live_project(create("a"))
    for number in range(1, 5):
        write(project, patch("a", retry_count=number))
    project.view.compacted = 3
    return project


@pytest.mark.parametrize(
    "request_, expected",
    [
        (WatchProjectRequest(), Start(None)),
        (WatchProjectRequest(snapshot=True), Start(None)),
        (WatchProjectRequest(head=True), Start(6)),
        (WatchProjectRequest(after_revision=6), Start(6)),
        (WatchProjectRequest(after_revision=5), Start(5)),
        (WatchProjectRequest(after_revision=3), Start(3)),
        (WatchProjectRequest(after_revision=2), Start(None, _COMPACTED)),
        (WatchProjectRequest(after_revision=0), Start(None, _COMPACTED)),
        (WatchProjectRequest(from_beginning=True), Start(None, _COMPACTED)),
        (WatchProjectRequest(project_uid="uid-p", after_revision=5), Start(5)),
        (WatchProjectRequest(project_uid="other", after_revision=5), Start(None, _REPLACED)),
        (WatchProjectRequest(project_uid="other", after_revision=99), Start(None, _REPLACED)),
        (WatchProjectRequest(project_uid="other", head=True), Start(None, _REPLACED)),
        (WatchProjectRequest(head=True, fail_if_compacted=True), Start(6)),
        (WatchProjectRequest(after_revision=3, fail_if_compacted=True), Start(3)),
    ],
)
def test_a_watch_begins_where_the_request_says(
    request_: WatchProjectRequest, expected: Start
) -> None:
    assert choose_start(request_, _project()) == expected


@pytest.mark.parametrize("after", [7, 1_000])
def test_a_resume_point_ahead_of_the_store_is_an_error_not_a_guess(after: int) -> None:
    with pytest.raises(RevisionAhead) as caught:
        choose_start(WatchProjectRequest(after_revision=after), _project())
    assert caught.value.fields == {"revision": str(after), "head_revision": "6"}


@pytest.mark.parametrize(
    "request_",
    [
        WatchProjectRequest(after_revision=2, fail_if_compacted=True),
        WatchProjectRequest(from_beginning=True, fail_if_compacted=True),
    ],
)
def test_a_compacted_resume_point_fails_if_that_is_asked_for(
    request_: WatchProjectRequest,
) -> None:
    with pytest.raises(RevisionCompacted) as caught:
        choose_start(request_, _project())
    assert caught.value.fields["compacted_revision"] == "3"


def test_a_whole_history_may_be_watched_from_its_beginning() -> None:
    project = _project()
    project.view.compacted = 0
    assert choose_start(WatchProjectRequest(from_beginning=True), project) == Start(0)
    assert choose_start(WatchProjectRequest(after_revision=0), project) == Start(0)


# Sessions


async def _take(messages: AsyncIterator[bytes], count: int) -> list[WatchProjectResponse]:
    return [WatchProjectResponse.FromString(await anext(messages)) for _ in range(count)]


async def test_a_start_in_the_past_is_read_from_the_store_and_ends_at_the_head() -> None:
    store, project = MemoryStore(), live_project()
    await store.commit(Commit(projects=[encode_project(project.entity)]))
    for mutation in (create("a"), patch("a", state=READY), patch("a", waiting_on="x")):
        record = encode_segment("uid-p", [write(project, mutation)], 64).record
        await store.commit(Commit(segments=[record]))
    hub = WatchHub(ServiceMetrics(), frame_budget=0.0, max_watchers=1)
    request = WatchProjectRequest(after_revision=2, bookmark_interval_ms=100)
    messages = WatchSession(hub, store, project, request).messages()
    created, delta, bookmark = await _take(messages, 3)
    assert (created.resume_revision, created.created.head_revision) == (0, 4)
    assert created.created.project_uid == "uid-p"
    assert (delta.delta.first_revision, delta.resume_revision) == (3, 4)
    assert [c.revision for c in delta.delta.changes] == [3, 4]
    assert (bookmark.bookmark.revision, bookmark.resume_revision) == (4, 4)
    assert bookmark.bookmark.checksum == view_checksum(project.view.nodes.values())
    await messages.aclose()
    assert hub.watcher_count == 0


async def test_a_replaced_project_begins_with_a_resync_and_its_snapshot() -> None:
    store, project = MemoryStore(), _project()
    hub = WatchHub(ServiceMetrics(), frame_budget=0.0, max_watchers=1)
    request = WatchProjectRequest(
        project_uid="other", after_revision=5, filter=WatchFilter(states=[READY])
    )
    messages = WatchSession(hub, store, project, request).messages()
    created, resync, snapshot = await _take(messages, 3)
    assert created.created.filter == request.filter
    assert (resync.resync.reason, resync.resume_revision) == (_REPLACED, 0)
    assert (snapshot.snapshot.last, snapshot.resume_revision) == (True, 6)
    assert (list(snapshot.snapshot.nodes), snapshot.snapshot.checksum) == ([], 0)
    await messages.aclose()
