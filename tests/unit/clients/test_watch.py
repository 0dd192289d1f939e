"""The watch against a server that loses connections, skips revisions and goes back in time."""

from collections.abc import AsyncGenerator

import pytest

from ramify.backoff import Backoff
from ramify.client import AsyncClient
from ramify.cursor import WatchStart
from ramify.errors import (
    ProjectNotFoundError,
    RevisionAheadError,
    UnavailableError,
    ViewDivergedError,
    WatchGapError,
)
from ramify.events import (
    WatchBookmark,
    WatchDelta,
    WatchDisconnected,
    WatchEvent,
    WatchResync,
    WatchSnapshot,
)
from ramify.v1.node_pb2 import NodeState
from ramify.view import View
from ramify.watch import WatchPolicy
from tests.unit.clients.fake_project import FakeProject, node_created, node_state
from tests.unit.clients.fake_state import FakeServices, fake_services

RUNNING = NodeState.NODE_STATE_RUNNING
DONE = NodeState.NODE_STATE_DONE


def grow(fake: FakeProject, nodes: int) -> None:
    """Make two revisions for each new node."""
    for number in range(len(fake.nodes), len(fake.nodes) + nodes):
        fake.commit(node_created(f"n{number}"))
        fake.commit(node_state(f"n{number}", RUNNING))


async def until(events: AsyncGenerator[WatchEvent, None], revision: int) -> list[WatchEvent]:
    """Collect events up to the first bookmark at `revision`, then close the watch."""
    seen: list[WatchEvent] = []
    async for event in events:
        seen.append(event)
        if isinstance(event, WatchBookmark) and event.resume_revision >= revision:
            break
    await events.aclose()
    return seen


def covered(events: list[WatchEvent]) -> list[int]:
    """Return the revisions that the deltas cover, in the order of arrival."""
    return [
        revision
        for event in events
        if isinstance(event, WatchDelta)
        for revision in range(event.delta.first_revision, event.delta.last_revision + 1)
    ]


async def test_every_revision_arrives_once_although_each_connection_is_cut_after_few_messages(
    services: FakeServices, client: AsyncClient, at_once: WatchPolicy
) -> None:
    fake = services.state.create("p")
    grow(fake, 10)
    services.state.cut_after = [1, 3, 2, 1, 5, 2]
    events = await until(client.watch("p", WatchStart.from_beginning(), policy=at_once), fake.head)
    assert covered(events) == list(range(1, fake.head + 1))
    assert sum(isinstance(event, WatchDisconnected) for event in events) == 6
    starts = [(r.WhichOneof("start"), r.after_revision) for r in services.state.requests]
    assert starts[0] == ("from_beginning", 0)
    assert starts[2] == ("after_revision", 2)
    assert all(r.project_uid == "uid-of-p" for r in services.state.requests[1:])


async def test_a_view_from_a_snapshot_follows_to_the_same_checksum(
    services: FakeServices, client: AsyncClient, at_once: WatchPolicy
) -> None:
    fake = services.state.create("p")
    grow(fake, 5)
    services.state.cut_after = [2, 5]  # inside the snapshot, then behind it
    view = View()
    grown = False
    events = client.watch("p", policy=at_once)
    async for event in events:
        view.apply(event)
        if isinstance(event, WatchSnapshot) and not grown:
            grown = True
            grow(fake, 5)
        if isinstance(event, WatchBookmark) and grown and event.resume_revision == fake.head:
            break
    await events.aclose()
    assert view.checksum == fake.checksum()
    assert len(view.nodes) == 10


async def test_a_skipped_revision_leads_to_a_resync_and_a_snapshot(
    services: FakeServices, client: AsyncClient, at_once: WatchPolicy
) -> None:
    fake = services.state.create("p")
    grow(fake, 3)
    services.state.skip_revisions = {4}
    events = await until(client.watch("p", WatchStart.from_beginning(), policy=at_once), fake.head)
    resyncs = [event for event in events if isinstance(event, WatchResync)]
    assert [type(event.cause) for event in resyncs] == [WatchGapError]
    assert covered(events) == [1, 2, 3]
    assert isinstance(events[-2], WatchSnapshot)


async def test_a_skipped_revision_raises_when_asked_to(
    services: FakeServices, client: AsyncClient
) -> None:
    fake = services.state.create("p")
    grow(fake, 3)
    services.state.skip_revisions = {4}
    policy = WatchPolicy(on_gap="raise")
    with pytest.raises(WatchGapError):
        await until(client.watch("p", WatchStart.from_beginning(), policy=policy), fake.head)


async def test_a_wrong_checksum_leads_to_a_snapshot_but_not_for_ever(
    services: FakeServices, client: AsyncClient, at_once: WatchPolicy
) -> None:
    fake = services.state.create("p")
    grow(fake, 1)
    services.state.wrong_checksums = 1
    events = await until(client.watch("p", policy=at_once), fake.head)
    assert [type(e.cause) for e in events if isinstance(e, WatchResync)] == [ViewDivergedError]
    services.state.wrong_checksums = 100
    with pytest.raises(ViewDivergedError):
        await until(client.watch("p", policy=at_once), fake.head)


async def test_a_project_replaced_by_another_is_taken_from_a_snapshot(
    services: FakeServices, client: AsyncClient, at_once: WatchPolicy
) -> None:
    fake = services.state.create("p")
    grow(fake, 2)
    start = WatchStart.after(3, "uid-of-its-predecessor")
    events = await until(client.watch("p", start, policy=at_once), fake.head)
    assert [type(event) for event in events[1:3]] == [WatchResync, WatchSnapshot]


async def test_a_store_that_went_back_in_time_is_reported_and_taken_from_a_snapshot(
    services: FakeServices, client: AsyncClient, at_once: WatchPolicy
) -> None:
    fake = services.state.create("p")
    grow(fake, 3)
    services.state.cut_after = [fake.head + 1]
    events = client.watch("p", WatchStart.from_beginning(), policy=at_once)
    seen: list[WatchEvent] = []
    async for event in events:
        seen.append(event)
        if isinstance(event, WatchDisconnected):
            fake = services.state.create("p")  # the same identity with less history
        if isinstance(event, WatchBookmark):
            break
    await events.aclose()
    causes = [type(event.cause) for event in seen if isinstance(event, WatchResync)]
    assert causes == [RevisionAheadError]
    assert seen[-1].resume_revision == 1


async def test_a_start_ahead_of_the_store_is_the_callers_error(
    services: FakeServices, client: AsyncClient
) -> None:
    services.state.create("p")
    with pytest.raises(RevisionAheadError):
        await until(client.watch("p", WatchStart.after(99)), 99)


async def test_an_unknown_project_ends_the_watch(client: AsyncClient) -> None:
    with pytest.raises(ProjectNotFoundError) as caught:
        await until(client.watch("nothing"), 1)
    assert caught.value.metadata == {"project_id": "nothing"}
    assert caught.value.code == "NOT_FOUND"


async def test_a_watch_survives_the_restart_of_its_server(at_once: WatchPolicy) -> None:
    async with fake_services() as first:
        state, address = first.state, first.address
        fake = state.create("p")
        grow(fake, 2)
        client = AsyncClient(address, address)
        events = client.watch("p", WatchStart.from_beginning(), policy=at_once)
        seen = [await anext(events) for _ in range(1 + fake.head)]
    seen.append(await anext(events))
    assert isinstance(seen[-1], WatchBookmark | WatchDisconnected)
    async with fake_services(address) as second:
        second.state.projects["p"] = fake
        grow(fake, 2)
        seen += await until(events, fake.head)
    await client.aclose()
    assert covered(seen) == list(range(1, fake.head + 1))


async def test_a_watch_gives_up_after_the_time_it_was_given(at_once: WatchPolicy) -> None:
    async with fake_services() as gone:
        address = gone.address
    policy = WatchPolicy(backoff=Backoff(base=0.0, cap=0.0), give_up_after=0.0)
    async with AsyncClient(address, address) as client:
        with pytest.raises(UnavailableError, match="cannot reach"):
            await until(client.watch("p", policy=policy), 1)


async def test_silence_counts_as_a_lost_connection(
    services: FakeServices, client: AsyncClient
) -> None:
    services.state.create("p")
    policy = WatchPolicy(backoff=Backoff(base=0.0, cap=0.0), max_silence=0.05)
    events = client.watch("p", WatchStart.head(), policy=policy)
    async for event in events:
        if isinstance(event, WatchDisconnected):
            assert "silent" in event.error.message
            break
    await events.aclose()


async def test_an_abandoned_watch_ends_its_call(
    services: FakeServices, client: AsyncClient
) -> None:
    fake = services.state.create("p")
    events = client.watch("p")
    await anext(events)
    await events.aclose()
    fake.commit(node_created("n"))
    assert (await client.get_project("p")).revision == 2
