"""A slow watcher costs latency, not memory, and is never told a revision twice or out of order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from ramify.v1.project_pb2 import BroadcastMode, ExecutionSettings, WatchPriority
from ramify.v1.state_service_pb2 import (
    Coalescing,
    WatchEndReason,
    WatchFilter,
    WatchProjectRequest,
    WatchProjectResponse,
)
from state_svc.errors import Overloaded
from state_svc.metrics import ServiceMetrics
from state_svc.model.checksum import view_checksum
from state_svc.model.project import LiveProject
from state_svc.watch import feed
from state_svc.watch import hub as hub_module
from state_svc.watch.hub import WatchHub
from state_svc.watch.style import BroadcastDefaults, WatchStyle, choose_style
from state_svc.watch.watcher import Watcher
from tests.support.live import live_project, write
from tests.support.mutations import PENDING, READY, create, delete, patch

_DRAINING = WatchEndReason.WATCH_END_REASON_SERVER_DRAINING
_PENDING = WatchFilter(states=[PENDING, READY])

_MERGED = Coalescing.COALESCING_ALWAYS


def _style(**fields: object) -> WatchStyle:
    request = WatchProjectRequest(**fields)  # type: ignore[arg-type]
    return choose_style(request, ExecutionSettings(), BroadcastDefaults())


def _hub(max_watchers: int = 1_000, frame_budget: float = 0.0) -> WatchHub:
    return WatchHub(ServiceMetrics(), frame_budget=frame_budget, max_watchers=max_watchers)


def _join(hub: WatchHub, project: LiveProject, **fields: object) -> Watcher:
    """Return a synced watcher that waits for news."""
    priority = fields.pop("priority", WatchPriority.WATCH_PRIORITY_UNSPECIFIED)
    watcher = hub.add(project, _style(**fields), priority)  # type: ignore[arg-type]
    assert hub.sync(watcher)
    hub.ask(watcher)
    return watcher


def _change(hub: WatchHub, project: LiveProject, number: int) -> None:
    hub.notify(project, [write(project, patch("a", retry_count=number + 1))])


def _read(hub: WatchHub, watcher: Watcher) -> WatchProjectResponse | None:
    """Take the message that a watcher has been given, and ask for the next."""
    message = watcher.pop()
    if message is None:
        return None
    hub.ask(watcher)
    return WatchProjectResponse.FromString(message)


def _interval(message: WatchProjectResponse | None) -> tuple[int, int]:
    assert message is not None
    assert message.resume_revision == message.delta.last_revision
    return message.delta.first_revision, message.delta.last_revision


# The watcher


async def test_whoever_waits_is_woken_by_a_message_a_loss_or_the_end() -> None:
    hub, project = _hub(), live_project(create("a"))

    async def woken_by(act: Callable[[Watcher], object]) -> bool:
        watcher = _join(hub, project)
        waiting = asyncio.create_task(watcher.wait(60.0))
        await asyncio.sleep(0)
        assert not waiting.done()
        act(watcher)
        return await waiting

    assert await woken_by(lambda watcher: watcher.put(b"x", 2))
    assert await woken_by(lambda watcher: watcher.drop(behind=True))
    assert await woken_by(lambda watcher: watcher.end(_DRAINING))


async def test_a_wait_without_news_ends_in_time() -> None:
    assert not await _join(_hub(), live_project()).wait(0.001)


# The hub


async def test_intervals_are_contiguous_and_end_at_the_head() -> None:
    hub, project = _hub(), live_project(create("a"))
    watcher = _join(hub, project)
    intervals = []
    for number in range(10):
        _change(hub, project, number)
        intervals.append(_interval(_read(hub, watcher)))
    assert intervals == [(3 + n, 3 + n) for n in range(10)]


async def test_who_reads_slowly_gets_fewer_and_fuller_messages_but_every_change() -> None:
    hub, project = _hub(), live_project(create("a"))
    watcher = _join(hub, project)
    for number in range(10):
        _change(hub, project, number)
    assert _interval(_read(hub, watcher)) == (3, 3)
    message = _read(hub, watcher)
    assert _interval(message) == (4, 12)
    assert message is not None
    assert [c.revision for c in message.delta.changes] == list(range(4, 13))
    assert not message.delta.coalesced


async def test_revisions_that_a_filter_hides_fold_into_the_next_message() -> None:
    hub, project = _hub(), live_project(create("a"))
    watcher = _join(hub, project, filter=WatchFilter(states=[READY]))
    for number in range(5):
        _change(hub, project, number)
    assert not watcher.has_mail
    assert (watcher.through, watcher.announced) == (7, 2)
    hub.notify(project, [write(project, patch("a", state=READY))])
    assert _interval(_read(hub, watcher)) == (3, 8)


async def test_who_stops_reading_loses_its_place_and_nobody_else_notices(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The feed is bounded, whoever reads or not; what it no longer holds is in the store."""
    monkeypatch.setattr(feed, "MAX_FEED_BYTES", 20_000)
    hub, project = _hub(), live_project(create("a"))
    stopped = [_join(hub, project) for _ in range(3)]
    quick = _join(hub, project)
    for number in range(100):
        _change(hub, project, number)
        assert _interval(_read(hub, quick)) == (3 + number, 3 + number), "others are not held up"
        assert quick.channel.feed.bytes <= 20_000
    assert hub.unsynced_count(project) == 3
    slow = stopped[0]
    assert (slow.behind, slow.has_mail) == (True, True), "what it was given is still sent"
    assert _interval(_read(hub, slow)) == (3, 3)
    assert not hub.sync(slow), "there is more to read from the store"
    slow.sent(project.view.revision)
    assert hub.sync(slow)
    hub.ask(slow)
    _change(hub, project, 1_000)
    head = project.view.revision
    assert _interval(_read(hub, slow)) == (head, head)


async def test_the_feed_holds_nothing_that_everybody_has_seen() -> None:
    hub, project = _hub(), live_project(create("a"))
    watcher = _join(hub, project)
    for number in range(10):
        _change(hub, project, number)
        _read(hub, watcher)
    assert (len(watcher.channel.feed), watcher.channel.feed.bytes) == (0, 0)


async def test_the_feed_of_immediate_watches_is_trimmed_too() -> None:
    hub, project = _hub(), live_project(create("a"))
    watcher = _join(hub, project, force_immediate=True)
    for number in range(10):
        _change(hub, project, number)
        _read(hub, watcher)
    _change(hub, project, 10)
    assert len(watcher.channel.feed) <= 1


async def test_a_watcher_that_joins_late_is_not_sent_what_came_before() -> None:
    hub, project = _hub(), live_project(create("a"))
    _join(hub, project)
    _change(hub, project, 1)
    late = _join(hub, project)
    assert (late.through, late.has_mail) == (3, False)
    assert await hub.checksum(late) == view_checksum(project.view.nodes.values())


async def test_a_checksum_is_that_of_the_moment_it_was_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A large view is added up in pieces; what is committed meanwhile does not get in."""
    monkeypatch.setattr(hub_module, "_CHECKED_AT_ONCE", 2)
    names = [f"n{n}" for n in range(9)]
    hub, project = _hub(), live_project(create("a"), *[create(name) for name in names])
    watchers = [_join(hub, project), _join(hub, project), _join(hub, project, filter=_PENDING)]
    expected = view_checksum(project.view.nodes.values())
    asked = [asyncio.create_task(hub.checksum(watcher)) for watcher in watchers]
    await asyncio.sleep(0)
    _change(hub, project, 1)
    hub.notify(project, [write(project, delete("n8"), patch("n0", state=READY))])
    assert [await task for task in asked] == [expected] * 3
    present = view_checksum(project.view.nodes.values())
    assert await hub.checksum(watchers[0]) == present != expected


@pytest.mark.parametrize("asked_before", [False, True])
async def test_what_was_not_published_is_in_no_checksum(asked_before: bool) -> None:
    """A commit loop that died between the two leaves it so, and bookmarks may still be sent."""
    hub, project = _hub(), live_project(create("a"))
    watcher = _join(hub, project)
    if asked_before:
        assert await hub.checksum(watcher)
    write(project, patch("a", output_summary="durable, and told to nobody"), create("b"))
    assert watcher.through < project.view.revision
    assert await hub.checksum(watcher) is None


async def test_equal_watches_share_one_encoding() -> None:
    hub, project = _hub(), live_project(create("a"))
    watchers = [_join(hub, project, accept_encodings=["zstd"]) for _ in range(5)]
    hub.notify(project, [write(project, patch("a", output_summary="long " * 400))])
    messages = [watcher.pop() for watcher in watchers]
    assert messages[0] is not None
    assert WatchProjectResponse.FromString(messages[0]).HasField("compressed")
    assert all(message is messages[0] for message in messages)


# Pace, priorities, ceilings


class _Time:
    """A clock that tests set, and the timers that the hub has asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self._timers: list[tuple[float, asyncio.Handle]] = []
        loop = asyncio.get_running_loop()
        monkeypatch.setattr("state_svc.watch.hub.monotonic", lambda: self.now)
        monkeypatch.setattr(loop, "call_later", self._call_later)

    def _call_later(
        self, delay: float, callback: Callable[..., object], *args: object
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, asyncio.get_running_loop())
        self._timers.append((self.now + delay, handle))
        return handle

    def advance(self, seconds: float) -> None:
        """Let time pass; due timers run at their times."""
        until = self.now + seconds
        while due := sorted((t for t in self._timers if t[0] <= until), key=lambda t: t[0]):
            self._timers.remove(due[0])
            self.now = max(self.now, due[0][0])
            if not due[0][1].cancelled():
                due[0][1]._run()
        self.now = until


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> _Time:
    return _Time(monkeypatch)


async def test_sends_are_paced_so_that_commits_come_in_between(clock: _Time) -> None:
    hub, project = _hub(frame_budget=0.001), live_project(create("a"))
    watchers = [_join(hub, project) for _ in range(100)]
    _change(hub, project, 1)
    served = [sum(w.has_mail for w in watchers)]
    _change(hub, project, 2)  # joined by those whose turn is still to come
    for _ in range(3):
        clock.advance(0.032)
        served.append(sum(w.has_mail for w in watchers))
    assert served == [32, 64, 96, 100]
    intervals = [_interval(_read(hub, watcher)) for watcher in watchers]
    assert intervals == [(3, 3)] * 32 + [(3, 4)] * 68


async def test_a_watch_of_high_priority_goes_first_and_none_is_starved(clock: _Time) -> None:
    hub, project = _hub(frame_budget=0.001), live_project(create("a"))
    low = [_join(hub, project, priority=WatchPriority.WATCH_PRIORITY_LOW) for _ in range(10)]
    usual = [_join(hub, project) for _ in range(40)]
    high = [_join(hub, project, priority=WatchPriority.WATCH_PRIORITY_HIGH) for _ in range(20)]
    _change(hub, project, 1)
    assert [sum(w.has_mail for w in some) for some in (low, usual, high)] == [0, 12, 20]
    for number in range(20):
        for watcher in usual + high:
            _read(hub, watcher)
        _change(hub, project, number)
        clock.advance(0.032)
    assert all(watcher.has_mail for watcher in low), "it lets others go first for a while only"


async def test_a_project_with_few_watchers_does_not_wait_for_one_with_many(clock: _Time) -> None:
    hub = _hub(frame_budget=0.001)
    big, small = live_project(create("a")), live_project(create("a"), project_id="q")
    many, one = [_join(hub, big) for _ in range(500)], _join(hub, small)
    _change(hub, big, 1)
    _change(hub, small, 1)
    clock.advance(0.07)
    assert one.has_mail
    assert sum(w.has_mail for w in many) < 100


async def test_an_immediate_watch_is_not_paced_and_their_number_is_bounded(clock: _Time) -> None:
    hub, project = _hub(frame_budget=0.001), live_project(create("a"))
    for _ in range(100):
        _join(hub, project)
    _change(hub, project, 1)
    watchers = [_join(hub, project, force_immediate=True) for _ in range(hub_module.MAX_IMMEDIATE)]
    _change(hub, project, 2)
    assert all(watcher.has_mail for watcher in watchers)
    with pytest.raises(Overloaded):
        hub.add(project, _style(force_immediate=True))
    hub.remove(watchers[0])
    hub.add(project, _style(force_immediate=True))


async def test_an_interval_joins_what_comes_in_but_never_delays_after_a_quiet_time(
    clock: _Time,
) -> None:
    hub, project = _hub(), live_project(create("a"))
    watcher = _join(hub, project, max_interval_ms=500)
    _change(hub, project, 1)
    assert _interval(_read(hub, watcher)) == (3, 3), "at once"
    _change(hub, project, 2)
    clock.advance(0.4)
    _change(hub, project, 3)
    assert not watcher.has_mail
    clock.advance(0.1)
    assert _interval(_read(hub, watcher)) == (4, 5)
    clock.advance(5.0)
    _change(hub, project, 4)
    assert _interval(_read(hub, watcher)) == (6, 6), "at once again"


async def test_broadcast_mode_batch_sends_when_enough_wait_or_the_time_is_up(clock: _Time) -> None:
    hub, project = _hub(), live_project(create("a"))
    settings = ExecutionSettings(
        broadcast_mode=BroadcastMode.BROADCAST_MODE_BATCH, ws_batch_size=3, ws_batch_timeout_ms=100
    )
    watcher = hub.add(project, choose_style(WatchProjectRequest(), settings, BroadcastDefaults()))
    hub.sync(watcher)
    hub.ask(watcher)
    _change(hub, project, 1)
    assert _interval(_read(hub, watcher)) == (3, 3)
    for number in range(3):
        assert not watcher.has_mail
        _change(hub, project, number + 2)
    assert _interval(_read(hub, watcher)) == (4, 6), "ws_batch_size is a ceiling"
    _change(hub, project, 9)
    clock.advance(0.09)
    assert not watcher.has_mail
    clock.advance(0.01)
    assert _interval(_read(hub, watcher)) == (7, 7), "and so is ws_batch_timeout_ms"


# Coalescing


async def test_a_coalesced_message_has_the_latest_value_and_a_contiguous_interval() -> None:
    hub, project = _hub(), live_project(create("a"), create("b"))
    watcher = _join(hub, project, coalescing=_MERGED)
    _change(hub, project, 0)
    watcher.pop()  # and it is slow to send it
    for number in range(1, 6):
        _change(hub, project, number)
    hub.notify(project, [write(project, create("c"), patch("b", waiting_on="x"), delete("c"))])
    hub.ask(watcher)
    message = _read(hub, watcher)
    assert _interval(message) == (4, 9)
    assert message is not None
    assert message.delta.coalesced
    assert [(c.revision, c.index, c.node.node_id) for c in message.delta.changes] == [
        (8, 0, "a"),
        (9, 1, "b"),
    ]
    assert message.delta.changes[0].node.patch.retry_count == 6
    assert [info.revision for info in message.delta.revisions] == [8, 9]


# Ends


async def test_the_number_of_watchers_is_bounded_and_freed() -> None:
    hub, project = _hub(max_watchers=2), live_project()
    first, _ = hub.add(project, _style()), hub.add(project, _style())
    with pytest.raises(Overloaded):
        hub.add(project, _style())
    hub.remove(first)
    hub.remove(first)
    assert (hub.watcher_count, hub.count(project)) == (1, 1)
    hub.add(project, _style())


async def test_the_end_comes_after_everything_committed_before_it() -> None:
    hub, project = _hub(), live_project(create("a"))
    watcher = _join(hub, project)
    _change(hub, project, 1)
    _change(hub, project, 2)
    hub.end_all()
    assert watcher.ending == _DRAINING
    assert _interval(_read(hub, watcher)) == (3, 3)
    hub.give(watcher)
    assert _interval(_read(hub, watcher)) == (4, 4)


async def test_a_watch_that_begins_while_the_server_stops_ends_at_once() -> None:
    """It was let in just before, and loaded its project from disk meanwhile."""
    hub, project = _hub(), live_project(create("a"))
    hub.end_all()
    assert hub.add(project, _style()).ending == _DRAINING
