"""The feeds of all projects have one bound; who holds least gives nothing."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramify.v1.project_pb2 import ExecutionSettings
from ramify.v1.state_service_pb2 import WatchProjectRequest, WatchProjectResponse
from state_svc.metrics import ServiceMetrics
from state_svc.model.project import LiveProject
from state_svc.store.memory import MemoryStore
from state_svc.watch import feed
from state_svc.watch.feed import fair_share
from state_svc.watch.hub import WatchHub
from state_svc.watch.session import WatchSession
from state_svc.watch.style import BroadcastDefaults, choose_style
from state_svc.watch.watcher import Watcher
from tests.support.bound import WAIT_SECONDS
from tests.support.embedded import embedded
from tests.support.live import live_project, write
from tests.support.mutations import create, patch

_MOST = 100_000


def _watch(hub: WatchHub, project: LiveProject) -> Watcher:
    """Return a synced watcher that reads nothing."""
    style = choose_style(WatchProjectRequest(), ExecutionSettings(), BroadcastDefaults())
    watcher = hub.add(project, style)
    assert hub.sync(watcher)
    hub.ask(watcher)
    return watcher


def _change(hub: WatchHub, project: LiveProject, times: int) -> None:
    for number in range(times):
        hub.notify(project, [write(project, patch("a", output_summary=f"{number}" * 500))])


@given(st.lists(st.integers(0, 1_000), max_size=20), st.integers(0, 5_000))
def test_a_fair_share_costs_only_those_above_it(sizes: list[int], most: int) -> None:
    share = fair_share(sizes, most)
    assert sum(min(size, share) for size in sizes) <= most
    if sum(sizes) <= most:
        assert all(size <= share for size in sizes), "nobody gives anything without need"
    else:
        assert sum(min(size, share + 1) for size in sizes) > most, "nor more than is needed"


async def test_all_feeds_together_are_bounded_and_the_largest_give_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(feed, "MAX_FEEDS_BYTES", _MOST)
    hub = WatchHub(ServiceMetrics(), frame_budget=0.0, max_watchers=100)
    small = live_project(create("a"))
    watcher = _watch(hub, small)
    _change(hub, small, 3)
    kept = watcher.channel.feed.bytes
    large = [live_project(create("a")) for _ in range(10)]
    slow = [_watch(hub, project) for project in large]
    for _ in range(10):
        for project in large:
            _change(hub, project, 2)
            together = sum(w.channel.feed.bytes for w in (watcher, *slow))
            assert together == hub._held.bytes <= _MOST
    assert (watcher.synced, watcher.channel.feed.bytes) == (True, kept)
    assert not any(w.synced for w in slow), "they read on from the store"
    assert all(w.behind for w in slow)
    for w in (watcher, *slow):
        hub.remove(w)
    assert hub._held.bytes == 0


async def test_who_has_lost_its_place_to_other_projects_misses_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It reads what the feed has lost from the store."""
    monkeypatch.setattr(feed, "MAX_FEEDS_BYTES", 4_000)
    async with embedded(MemoryStore()) as running:
        service, watches = running.service, {}
        for name in "abc":
            await running.create(name)
            project = await service.live(name)
            request = WatchProjectRequest(
                project_id=name, after_revision=1, bookmark_interval_ms=100
            )
            messages = WatchSession(service.hub, service.store, project, request).messages()
            watches[name] = messages
            for _ in range(2):  # `created`, and a bookmark once it is synced
                await anext(messages)
            assert service.hub.unsynced_count(project) == 0
        for number in range(30):
            for name in "abc":
                await running.commit(name, create(f"n{number}"))
        assert service.hub.unsynced_count() == 3
        async with asyncio.timeout(WAIT_SECONDS):
            for messages in watches.values():
                seen: list[int] = []
                while len(seen) < 30:
                    response = WatchProjectResponse.FromString(await anext(messages))
                    seen += [change.revision for change in response.delta.changes]
                assert seen == list(range(2, 32))
                await messages.aclose()
