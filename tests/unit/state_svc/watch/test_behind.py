"""A watcher that is behind while the history it still has to read is dropped.

That is no damage: it must never be told that data was lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from ramify.v1.payload_pb2 import Payload
from ramify.v1.state_service_pb2 import (
    Coalescing,
    CompactProjectRequest,
    DeleteProjectRequest,
    EntityKind,
    ResyncReason,
    WatchEndReason,
    WatchFilter,
    WatchMode,
    WatchProjectRequest,
    WatchProjectResponse,
)
from state_svc.errors import CorruptRecord, ProjectNotFound, RevisionCompacted
from state_svc.rpc.history import HistoryRpcs
from state_svc.store.memory import MemoryStore
from state_svc.watch import catchup, permit
from state_svc.watch import session as session_module
from state_svc.watch.joined import MAX_JOINED_BYTES, Joined
from state_svc.watch.session import WatchSession
from tests.support.embedded import Embedded, embedded
from tests.support.mutations import PENDING, READY, create, patch
from tests.support.view import NodeView
from tests.support.wire import eventually

_EVERYTHING = WatchFilter(
    kinds=[
        EntityKind.ENTITY_KIND_NODE,
        EntityKind.ENTITY_KIND_PROJECT,
        EntityKind.ENTITY_KIND_COMMAND,
    ]
)


@pytest.fixture
async def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
async def service(store: MemoryStore) -> AsyncIterator[Embedded]:
    async with embedded(store) as running:
        await running.create("p")
        await running.commit("p", create("a"), create("b"))
        for number in range(1, 8):
            await running.commit("p", patch("a", retry_count=number))
        yield running


async def _watch(
    service: Embedded, interval_ms: int = 100, **fields: object
) -> Callable[[], AsyncIterator[WatchProjectResponse]]:
    """Open a watch and read its first message; the call that is returned reads on."""
    request = WatchProjectRequest(
        project_id="p",
        bookmark_interval_ms=interval_ms,
        **fields,  # type: ignore[arg-type]
    )
    project = await service.service.live("p")
    parts = service.service
    messages = WatchSession(parts.hub, parts.store, project, request).messages()
    assert WatchProjectResponse.FromString(await anext(messages)).HasField("created")

    async def follow() -> AsyncIterator[WatchProjectResponse]:
        async for data in messages:
            yield WatchProjectResponse.FromString(data)

    return follow


async def _compact(service: Embedded) -> None:
    response = await HistoryRpcs(service.service).compact_project(
        CompactProjectRequest(project_id="p")
    )
    assert response.compacted_revision == 9


@pytest.mark.parametrize("view_filter", [WatchFilter(), WatchFilter(states=[PENDING]), _EVERYTHING])
async def test_a_watcher_behind_a_compaction_gets_a_resync_and_a_snapshot(
    service: Embedded, view_filter: WatchFilter
) -> None:
    follow = await _watch(service, from_beginning=True, filter=view_filter)
    await _compact(service)
    view, kinds = NodeView(), []
    async for message in follow():
        kinds.append(message.WhichOneof("message"))
        if message.HasField("resync"):
            assert message.resync.reason == ResyncReason.RESYNC_REASON_COMPACTED
            assert message.resume_revision == 0
        if message.HasField("snapshot"):
            view = NodeView(message.snapshot.nodes)
            assert message.resume_revision == message.snapshot.revision == 9
            await service.commit("p", patch("b", retry_count=5))
        if message.HasField("delta"):
            assert message.delta.first_revision == 10
            view.apply(message.delta.changes, message.delta.revisions)
        if message.HasField("bookmark"):
            break
    assert kinds == ["resync", "snapshot", "delta", "bookmark"]
    assert {node.retry_count for node in view.nodes.values()} == {5, 7}


async def test_a_watcher_behind_a_compaction_fails_if_that_is_asked_for(service: Embedded) -> None:
    follow = await _watch(service, from_beginning=True, fail_if_compacted=True)
    await _compact(service)
    with pytest.raises(RevisionCompacted):
        await anext(follow())


async def test_a_watcher_exactly_at_the_compaction_reads_on(service: Embedded) -> None:
    follow = await _watch(service, after_revision=9)
    await _compact(service)
    await service.commit("p", patch("a", state=READY))
    message = await anext(follow())
    assert (message.delta.first_revision, message.resume_revision) == (10, 10)


async def test_a_watcher_behind_a_deletion_is_told_that_the_project_is_deleted(
    service: Embedded,
) -> None:
    follow = await _watch(service, from_beginning=True)
    request = DeleteProjectRequest(project_id="p", force=True)
    await HistoryRpcs(service.service).delete_project(request)
    messages = [message async for message in follow()]
    assert [m.ended.reason for m in messages] == [WatchEndReason.WATCH_END_REASON_PROJECT_DELETED]


async def test_a_hole_that_is_no_compaction_is_data_loss(
    service: Embedded, store: MemoryStore
) -> None:
    follow = await _watch(service, from_beginning=True)
    uid = (await service.service.live("p")).uid
    del store._segments[uid][3]
    with pytest.raises(CorruptRecord):
        [message async for message in follow()]


async def test_a_deleted_project_is_not_found_at_once(service: Embedded) -> None:
    request = DeleteProjectRequest(project_id="p", force=True)
    await HistoryRpcs(service.service).delete_project(request)
    with pytest.raises(ProjectNotFound):
        await service.service.live("p")


async def test_a_watcher_that_stops_reading_gives_its_permit_to_replay_the_past_to_others(
    service: Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each permit holds all nodes of a project, so there are few."""
    monkeypatch.setattr(permit, "STALL_SECONDS", 0.0)
    monkeypatch.setattr(catchup, "MAX_FRAME_BYTES", 1)  # a message for each revision
    service.service.hub.replays = asyncio.Semaphore(1)
    full = {"from_beginning": True, "mode": WatchMode.WATCH_MODE_FULL}
    stopped = (await _watch(service, **full))()
    async for message in stopped:
        if message.HasField("delta"):
            break
    assert message.resume_revision == 1

    async def read_on(messages: AsyncIterator[WatchProjectResponse]) -> list[int]:
        promised = []
        async for message in messages:
            if message.HasField("delta"):
                promised.append(message.resume_revision)
            elif message.bookmark.HasField("checksum"):  # else a sign of life
                break
        return promised

    assert await read_on((await _watch(service, **full))()) == [*range(1, 10)]
    assert await read_on(stopped) == [*range(2, 10)]
    assert not service.service.hub.replays.locked()


async def test_a_permit_that_comes_while_the_client_does_not_read_goes_to_others_as_well(
    service: Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "MAX_BOOKMARK_SECONDS", 0.01)
    monkeypatch.setattr(permit, "STALL_SECONDS", 0.0)
    service.service.hub.replays = permits = asyncio.Semaphore(0)
    messages = (await _watch(service, 0, after_revision=2, mode=WatchMode.WATCH_MODE_FULL))()
    assert (await anext(messages)).HasField("bookmark")
    permits.release()
    assert permits.locked(), "it is on its way to the watcher"
    await eventually(lambda: not permits.locked(), "the permit is free again")
    async for message in messages:
        if message.HasField("delta"):
            break
    assert (message.delta.first_revision, message.resume_revision) == (3, 9)


async def test_a_watch_that_ends_while_it_waits_for_its_permit_takes_none(
    service: Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "MAX_BOOKMARK_SECONDS", 0.01)
    service.service.hub.replays = permits = asyncio.Semaphore(0)
    request = WatchProjectRequest(project_id="p", after_revision=2, mode=WatchMode.WATCH_MODE_FULL)
    parts = service.service
    project = await parts.live("p")
    messages = WatchSession(parts.hub, parts.store, project, request).messages()
    for kind in ("created", "bookmark"):
        assert WatchProjectResponse.FromString(await anext(messages)).HasField(kind)
    permits.release()  # another watcher gives its own back in the moment in which this one ends
    await messages.aclose()
    await eventually(
        lambda: all(task.get_name() != "watch-replay" for task in asyncio.all_tasks()),
        "nothing is prepared any more",
    )
    assert not permits.locked()


async def test_a_filtered_watch_tells_how_far_it_is_where_the_history_shows_it_nothing(
    service: Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a client that is cut off, or takes silence for death, begins again and never arrives."""
    monkeypatch.setattr(session_module, "MAX_BOOKMARK_SECONDS", 0.0)
    monkeypatch.setattr(catchup, "_CHUNK_BYTES", 1)  # a segment at a time
    view_filter = WatchFilter(states=[READY], kinds=[EntityKind.ENTITY_KIND_NODE])
    follow = await _watch(service, 0, from_beginning=True, filter=view_filter)
    places = []
    async for message in follow():
        assert message.bookmark.revision == message.resume_revision
        places.append(message.bookmark.revision)
        if message.bookmark.HasField("checksum"):
            break  # it has arrived
    assert places == sorted(places)
    assert places[0] == 0
    assert set(range(1, 9)) < set(places)
    await service.commit("p", patch("a", state=READY))
    again, resumed = await _watch(service, 0, after_revision=4, filter=view_filter), 4
    async for message in again():
        if message.HasField("delta"):
            break
        resumed = message.resume_revision
    assert (message.delta.first_revision, message.resume_revision) == (resumed + 1, 10)


async def test_a_watch_that_waits_for_its_permit_to_replay_the_past_shows_signs_of_life(
    service: Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "MAX_BOOKMARK_SECONDS", 0.01)
    service.service.hub.replays = permits = asyncio.Semaphore(0)
    messages = (await _watch(service, 0, after_revision=2, mode=WatchMode.WATCH_MODE_FULL))()
    for _ in range(3):
        assert (await anext(messages)).bookmark.revision == 2
    permits.release()
    async for message in messages:
        if message.HasField("delta"):
            break
    assert (message.delta.first_revision, message.resume_revision) == (3, 9)
    await anext(messages)
    assert not permits.locked()


@pytest.mark.parametrize("mode", [WatchMode.WATCH_MODE_DIFF, WatchMode.WATCH_MODE_FULL])
async def test_a_coalesced_watch_from_far_behind_holds_little_of_what_its_past_inflates_to(
    service: Embedded, monkeypatch: pytest.MonkeyPatch, mode: WatchMode.ValueType
) -> None:
    """Stored, 40 MB of changes to one node are a few kilobytes and read at one time."""
    held: list[int] = []
    add = Joined.add

    def counted(self: Joined, *args: Any) -> None:
        add(self, *args)
        held.append(sum(item.change.ByteSize() for item in self._shown))

    monkeypatch.setattr(Joined, "add", counted)
    for number in range(40):
        await service.commit("p", patch("b", result=Payload(text=f"{number}" + "x" * 1_000_000)))
    follow = await _watch(
        service, from_beginning=True, coalescing=Coalescing.COALESCING_ALWAYS, mode=mode
    )
    view, deltas = NodeView(), 0
    async for message in follow():
        if message.HasField("delta"):
            view.apply(message.delta.changes, message.delta.revisions)
            deltas += 1
        if message.bookmark.HasField("checksum"):
            break
    assert max(held) <= MAX_JOINED_BYTES
    assert deltas == 1
    assert view.nodes["b"].result.text.startswith("39x")
