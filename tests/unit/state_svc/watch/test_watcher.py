"""A slow watcher costs latency, not memory, and is never told a revision twice or out of order."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from ramify.v1.state_service_pb2 import WatchEndReason, WatchFilter, WatchProjectResponse
from state_svc.errors import Overloaded
from state_svc.metrics import ServiceMetrics
from state_svc.model.checksum import view_checksum
from state_svc.model.project import LiveProject
from state_svc.watch.filter import ViewFilter
from state_svc.watch.hub import Channel, WatchHub
from state_svc.watch.watcher import MAILBOX_BYTES, MAILBOX_FRAMES, Watcher
from tests.support.live import live_project, write
from tests.support.mutations import READY, create, patch

_ALL = ViewFilter(WatchFilter())


@pytest.fixture
def watcher() -> Watcher:
    found = Watcher(Channel(live_project()), _ALL)
    found.synced = True
    return found


def _hub(max_watchers: int = 10) -> WatchHub:
    return WatchHub(ServiceMetrics(), frame_budget=0.0, max_watchers=max_watchers)


def _change(hub: WatchHub, project: LiveProject, number: int) -> None:
    hub.notify(project, [write(project, patch("a", retry_count=number + 1))])


def _intervals(watcher: Watcher) -> list[tuple[int, int]]:
    found = []
    while (frame := watcher.pop()) is not None:
        message = WatchProjectResponse.FromString(frame)
        assert message.resume_revision == message.delta.last_revision
        found.append((message.delta.first_revision, message.delta.last_revision))
    return found


# The mailbox


def test_messages_come_out_in_the_order_they_went_in(watcher: Watcher) -> None:
    for revision in (2, 3, 4):
        assert watcher.put(b"%d" % revision, revision)
    assert [watcher.pop() for _ in range(4)] == [b"2", b"3", b"4", None]
    assert (watcher.through, watcher.announced) == (4, 4)


@pytest.mark.parametrize(
    "frames, size", [(MAILBOX_FRAMES, 1), (MAILBOX_BYTES // 1_000_000, 1_000_000)]
)
def test_a_full_mailbox_is_dropped_and_the_watcher_stands_where_it_was_last_sent(
    watcher: Watcher, frames: int, size: int
) -> None:
    frame = bytes(size)
    for revision in range(2, 2 + frames):
        assert watcher.put(frame, revision)
    assert watcher.pop() is not None  # revision 2 is on its way
    assert watcher.put(frame, 2 + frames)
    assert not watcher.put(frame, 3 + frames)
    assert (watcher.synced, watcher.has_mail) == (False, False)
    assert (watcher.through, watcher.announced) == (2, 2)


def test_a_message_larger_than_the_mailbox_is_read_from_the_store_instead(
    watcher: Watcher,
) -> None:
    assert not watcher.put(bytes(MAILBOX_BYTES + 1), 2)
    assert (watcher.synced, watcher.through) == (False, 1)


async def test_whoever_waits_is_woken_by_a_message_a_loss_or_the_end(watcher: Watcher) -> None:
    async def woken_by(act: object) -> bool:
        waiting = asyncio.create_task(watcher.wait(60.0))
        await asyncio.sleep(0)
        assert not waiting.done()
        assert callable(act)
        act()
        return await waiting

    assert await woken_by(lambda: watcher.put(b"x", 2))
    watcher.pop()
    assert await woken_by(lambda: watcher.put(bytes(MAILBOX_BYTES + 1), 3))
    watcher.synced = True
    assert await woken_by(lambda: watcher.end(WatchEndReason.WATCH_END_REASON_SERVER_DRAINING))


async def test_a_wait_without_news_ends_in_time(watcher: Watcher) -> None:
    assert not await watcher.wait(0.001)


# The hub


async def test_intervals_are_contiguous_and_end_at_the_head() -> None:
    hub, project = _hub(), live_project(create("a"))
    watcher = hub.add(project, _ALL)
    assert hub.sync(watcher)
    for number in range(10):
        _change(hub, project, number)
    hub.flush(watcher.channel)
    intervals = _intervals(watcher)
    assert intervals[0][0] == 3
    assert intervals[-1][1] == project.view.revision == 12
    assert all(b[0] == a[1] + 1 for a, b in pairwise(intervals))


async def test_revisions_that_a_filter_hides_fold_into_the_next_message() -> None:
    hub, project = _hub(), live_project(create("a"))
    watcher = hub.add(project, ViewFilter(WatchFilter(states=[READY])))
    assert hub.sync(watcher)
    for number in range(5):
        _change(hub, project, number)
    assert not watcher.has_mail
    assert (watcher.through, watcher.announced) == (7, 2)
    hub.notify(project, [write(project, patch("a", state=READY))])
    assert _intervals(watcher) == [(3, 8)]


async def test_a_watcher_that_overflows_catches_up_before_it_is_fed_again() -> None:
    hub, project = _hub(), live_project(create("a"))
    slow, quick = hub.add(project, _ALL), hub.add(project, _ALL)
    assert hub.sync(slow)
    assert hub.sync(quick)
    for number in range(MAILBOX_FRAMES + 5):
        _change(hub, project, number)
        assert _intervals(quick) == [(3 + number, 3 + number)], "others are not held up"
    assert not slow.synced
    assert hub.unsynced_count(project) == 1
    assert not hub.sync(slow), "there is more to read from the store"
    assert (slow.through, slow.has_mail) == (2, False)
    slow.sent(project.view.revision)
    assert hub.sync(slow)
    _change(hub, project, 1_000)
    head = project.view.revision
    assert _intervals(slow) == [(head, head)]


async def test_a_watcher_that_joins_late_is_not_sent_what_came_before() -> None:
    hub, project = _hub(), live_project(create("a"))
    early = hub.add(project, _ALL)
    assert hub.sync(early)
    _change(hub, project, 1)
    late = hub.add(project, _ALL)
    assert hub.sync(late)
    assert (late.through, late.has_mail) == (3, False)
    assert hub.checksum(late) == view_checksum(project.view.nodes.values())


async def test_the_number_of_watchers_is_bounded_and_freed() -> None:
    hub, project = _hub(max_watchers=2), live_project()
    first, _ = hub.add(project, _ALL), hub.add(project, _ALL)
    with pytest.raises(Overloaded):
        hub.add(project, _ALL)
    hub.remove(first)
    hub.remove(first)
    assert (hub.watcher_count, hub.count(project)) == (1, 1)
    hub.add(project, _ALL)


async def test_the_end_comes_after_everything_committed_before_it() -> None:
    hub, project = _hub(), live_project(create("a"))
    watcher = hub.add(project, _ALL)
    assert hub.sync(watcher)
    _change(hub, project, 1)
    hub.end_all()
    assert watcher.ending == WatchEndReason.WATCH_END_REASON_SERVER_DRAINING
    assert _intervals(watcher) == [(3, 3)]
