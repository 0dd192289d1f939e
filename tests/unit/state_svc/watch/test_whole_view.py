"""A watcher that is sent the whole view: by permit, so that those who do not read hold nothing."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator

import pytest

from ramify.v1.state_service_pb2 import (
    CompactProjectRequest,
    DeleteProjectRequest,
    EntityKind,
    ResyncReason,
    WatchEndReason,
    WatchFilter,
    WatchProjectRequest,
    WatchProjectResponse,
)
from state_svc.errors import RevisionCompacted
from state_svc.rpc.history import HistoryRpcs
from state_svc.store.memory import MemoryStore
from state_svc.watch import permit, snapshot, whole_view
from state_svc.watch import session as session_module
from state_svc.watch.permit import ViewPermit, patience_left
from state_svc.watch.session import WatchSession
from state_svc.watch.snapshot import Snapshot
from tests.support.embedded import Embedded, embedded
from tests.support.mutations import create, open_review, order_cancel, patch
from tests.support.watch import WatchLog
from tests.support.wire import eventually

_NAMES = [f"n{number}" for number in range(6)]
_EVERYTHING = WatchFilter(
    kinds=[
        EntityKind.ENTITY_KIND_NODE,
        EntityKind.ENTITY_KIND_PROJECT,
        EntityKind.ENTITY_KIND_COMMAND,
        EntityKind.ENTITY_KIND_REVIEW,
    ]
)


@pytest.fixture
async def service(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Embedded]:
    monkeypatch.setattr(permit, "STALL_SECONDS", 0.0)
    monkeypatch.setattr(permit, "EARNED_SECONDS", 0.0)
    monkeypatch.setattr(snapshot, "MAX_FRAME_BYTES", 1)  # a chunk for each node
    monkeypatch.setattr(whole_view, "LARGE_VIEW_NODES", 2)
    async with embedded(MemoryStore()) as running:
        running.service.hub.snapshots.large = asyncio.Semaphore(1)
        await running.create("p")
        await running.commit("p", *map(create, _NAMES))
        yield running


class _Watch:
    """A watch that is read message by message, and the log that checks each of them."""

    def __init__(self, service: Embedded, messages: AsyncIterator[bytes], log: WatchLog) -> None:
        self.log = log
        self._messages = messages

    async def read(self) -> WatchProjectResponse:
        """Read one message."""
        message = WatchProjectResponse.FromString(await anext(self._messages))
        self.log.take(message)
        return message

    async def through(self, revision: int) -> None:
        """Read until everything through a revision was delivered and a bookmark confirms it."""
        while self.log.announced < revision or not self.log.bookmarks:
            await self.read()

    async def aclose(self) -> None:
        """End the watch."""
        await self._messages.aclose()  # type: ignore[attr-defined]


async def _watch(service: Embedded, **fields: object) -> _Watch:
    request = WatchProjectRequest(
        project_id="p",
        bookmark_interval_ms=100,
        snapshot=True,
        **fields,  # type: ignore[arg-type]
    )
    parts = service.service
    session = WatchSession(parts.hub, parts.store, await parts.live("p"), request)
    log = WatchLog()
    log.begin(request)
    watch = _Watch(service, session.messages(), log)
    assert (await watch.read()).HasField("created")
    return watch


async def _stopped(service: Embedded, **fields: object) -> _Watch:
    """Return a watch that has read the first chunks of its snapshot and reads no more."""
    watch = await _watch(service, **fields)
    for number in range(3):
        assert (await watch.read()).snapshot.chunk == number
    return watch


def _held() -> int:
    """Return how many snapshots hold a view."""
    gc.collect()
    return sum(isinstance(one, Snapshot) and one.holds_view for one in gc.get_objects())


async def _change_all(service: Embedded) -> int:
    return await service.commit("p", *(patch(name, retry_count=3) for name in _NAMES))


@pytest.mark.parametrize("view_filter", [WatchFilter(), _EVERYTHING])
async def test_a_watch_that_stops_in_its_snapshot_holds_no_view_and_is_sent_the_rest_of_it_later(
    service: Embedded, view_filter: WatchFilter
) -> None:
    await service.commit("p", order_cancel("c-1"), order_cancel("c-2"), open_review("r-1", "n0"))
    stopped = [await _stopped(service, filter=view_filter)]
    await eventually(lambda: not _held(), "nothing is held for a watch that does not read")
    for _ in range(3):
        await _change_all(service)
        stopped.append(await _stopped(service, filter=view_filter))
    await service.commit("p", create("later"))
    last = await _change_all(service)
    await eventually(lambda: not _held(), "nor for several")
    for watch in stopped:
        await watch.through(last)
        assert watch.log.resyncs == []
        assert watch.log.view is not None
        assert watch.log.view.checksum() == await service.checksum("p")
    assert not service.service.hub.snapshots.large.locked()


async def test_a_view_is_kept_for_a_slow_client_as_long_as_another_permit_is_free() -> None:
    slots = asyncio.Semaphore(2)
    lost: list[str] = []
    first = ViewPermit(slots, lambda: lost.append("first"))
    second = ViewPermit(slots, lambda: lost.append("second"))
    await first.take()
    first.sending()
    first._stalled()
    assert first.held
    await second.take()
    first._stalled()
    assert lost == ["first"]
    first.sent()
    second.give_back()


def test_a_client_that_reads_slowly_uses_up_its_patience_and_one_that_reads_on_gets_it_back() -> (
    None
):
    assert patience_left(5.0, 4.5) == 1.5
    assert patience_left(1.5, 4.5) == 1.0, "it is never less than what one message earns"
    assert patience_left(1.0, 0.1) == pytest.approx(1.9)
    assert patience_left(5.0, 0.0) == 5.0, "nor more than at the start"


async def test_a_watch_shows_signs_of_life_while_it_waits_for_its_permit(
    service: Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a revision: a client has none before its snapshot is complete."""
    monkeypatch.setattr(session_module, "MAX_BOOKMARK_SECONDS", 0.01)
    service.service.hub.snapshots.large = permits = asyncio.Semaphore(0)
    watch = await _watch(service)
    for _ in range(3):
        assert (await watch.read()) == WatchProjectResponse()
    permits.release()
    await watch.through(2)
    assert not permits.locked()


async def test_a_watch_that_ends_while_it_waits_for_its_permit_takes_none(
    service: Embedded,
) -> None:
    service.service.hub.snapshots.large = permits = asyncio.Semaphore(0)
    watch = await _watch(service)
    assert (await watch.read()) == WatchProjectResponse()
    permits.release()
    await watch.aclose()
    await eventually(
        lambda: all(task.get_name() != "watch-snapshot" for task in asyncio.all_tasks()),
        "nothing is prepared any more",
    )
    assert not permits.locked()


async def test_small_views_do_not_wait_for_large_ones(service: Embedded) -> None:
    service.service.hub.snapshots.large = asyncio.Semaphore(0)
    await service.create("small")
    await service.commit("small", create("a"))
    request = WatchProjectRequest(project_id="small", snapshot=True)
    parts = service.service
    messages = WatchSession(parts.hub, parts.store, await parts.live("small"), request).messages()
    kinds = []
    async for data in messages:
        message = WatchProjectResponse.FromString(data)
        kinds.append(message.WhichOneof("message"))
        if message.resume_revision:
            break
    assert kinds == ["created", "snapshot", "snapshot"]
    kinds_only = await _watch(service, filter=WatchFilter(kinds=[EntityKind.ENTITY_KIND_PROJECT]))
    await kinds_only.through(2)


async def _drop_stopped_and_compact(service: Embedded) -> None:
    await eventually(lambda: not _held(), "the view is let go of")
    await _change_all(service)
    await HistoryRpcs(service.service).compact_project(CompactProjectRequest(project_id="p"))


async def test_a_snapshot_whose_rest_was_compacted_begins_anew_after_a_resync(
    service: Embedded,
) -> None:
    watch = await _stopped(service)
    await _drop_stopped_and_compact(service)
    while not watch.log.resyncs:
        await watch.read()
    watch.log._chunk = None
    await watch.through(3)
    assert watch.log.resyncs == [ResyncReason.RESYNC_REASON_COMPACTED]
    assert watch.log.view is not None
    assert watch.log.view.checksum() == await service.checksum("p")


async def test_or_fails_if_that_was_asked_for(service: Embedded) -> None:
    watch = await _stopped(service, fail_if_compacted=True)
    await _drop_stopped_and_compact(service)
    with pytest.raises(RevisionCompacted):
        await watch.through(3)


async def test_a_watch_whose_project_is_deleted_in_the_middle_of_a_snapshot_is_told_so(
    service: Embedded,
) -> None:
    watch = await _stopped(service)
    await eventually(lambda: not _held(), "the view is let go of")
    await _change_all(service)
    request = DeleteProjectRequest(project_id="p", force=True)
    await HistoryRpcs(service.service).delete_project(request)
    while not (message := await watch.read()).HasField("ended"):
        assert message.resume_revision == 0
    assert message.ended.reason == WatchEndReason.WATCH_END_REASON_PROJECT_DELETED
    assert message.resume_revision == 0, "nothing was delivered as a whole"
