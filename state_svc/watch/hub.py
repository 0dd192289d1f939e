"""The hub: takes what was committed and gives it to watchers, in turns.

All methods but `checksum` are synchronous and run on the loop, so nothing here is locked. A commit
only notes what is new and who is due. Turns deliver it: a few watchers at a time, and the next
few not before the service has had time to send to those (`frame_budget` each), so sends never
starve commits. Each watcher gets everything that was committed up to its own turn in one message.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Sequence
from time import monotonic, thread_time

from ramify.v1.project_pb2 import WatchPriority
from ramify.v1.state_service_pb2 import WatchEndReason
from state_svc.errors import Overloaded
from state_svc.metrics import ServiceMetrics
from state_svc.model.checksum import RunningChecksum, view_checksum
from state_svc.model.node import NodeSpec
from state_svc.model.project import Applied, LiveProject
from state_svc.watch import feed as feeds
from state_svc.watch.feed import Feed, Held, fair_share
from state_svc.watch.filter import find_in
from state_svc.watch.group import Group, TooLarge
from state_svc.watch.pause import Pauses
from state_svc.watch.permit import MAX_REPLAYS
from state_svc.watch.style import WatchStyle, patience_of
from state_svc.watch.watcher import Watcher
from state_svc.watch.whole_view import SnapshotPermits

_DRAINING = WatchEndReason.WATCH_END_REASON_SERVER_DRAINING
_OTHERS_SHARE = 2.0  #: time left to others for each second of the loop that turns take
MAX_IMMEDIATE = 16  #: open watches that no pace holds back
_TURN_WATCHERS = 32  #: served at one time; commits and calls get the loop in between
_TRIM_ENTRIES = 64
_KEPT_BYTES = 1 << 20  #: of the feed, while a watcher catches up with it
_SHARED = 0.875  #: of the bound for all feeds is left when it is reached, so that that is rare
_CHECKED_AT_ONCE = 500  #: nodes hashed before others get the loop


class Channel:
    """The watchers of one project and what was committed lately."""

    def __init__(self, project: LiveProject, held: Held) -> None:
        self.project = project
        self.feed = Feed(project.view.revision, held)
        self.watchers: set[Watcher] = set()
        self.groups: dict[tuple[object, ...], Group] = {}
        self.due: list[tuple[float, int, Watcher]] = []  #: heap by the time to be served
        self.has_turn = False
        self.checksum = RunningChecksum()
        self.gone: dict[str, tuple[int, NodeSpec]] = {}  #: nodes that the feed deletes

    def find(self, node_id: str) -> NodeSpec | None:
        """Return what never changes about a node, also of one that the feed deletes.

        Without the latter a subtree's watchers would miss removals below a deleted parent.
        """
        node = self.project.view.nodes.get(node_id)
        if node is not None:
            return node.spec
        found = self.gone.get(node_id)
        return None if found is None else found[1]

    def take(self, run: Sequence[Applied]) -> bool:
        """Note durable revisions; return whether the feed has lost its oldest ones."""
        for applied in run:
            self.checksum.touch(applied.nodes)
            if None in applied.nodes.values():
                self.gone.update(
                    (before.spec.node_id, (applied.revision, before.spec))
                    for before, after in applied.images
                    if before is not None and after is None
                )
        return self.feed.extend(run)

    def trim(self) -> None:
        """Forget revisions that no synced watcher needs, nor one that is about to be synced."""
        if self.due and len(self.feed) < _TRIM_ENTRIES:
            return
        needed = [watcher.through for watcher in self.watchers if watcher.synced]
        if len(needed) < len(self.watchers) and self.feed.bytes < _KEPT_BYTES:
            return
        self.feed.trim(min(needed, default=self.feed.head))
        if self.gone:
            start = self.feed.start
            self.gone = {k: item for k, item in self.gone.items() if item[0] > start}


class WatchHub:
    """Owns the watchers of all projects."""

    def __init__(self, metrics: ServiceMetrics, *, frame_budget: float, max_watchers: int) -> None:
        self._metrics = metrics
        #: Permits of watchers that replay the past.
        self.replays = asyncio.Semaphore(MAX_REPLAYS)
        self.snapshots = SnapshotPermits()
        self._frame_budget = frame_budget  #: seconds of fan-out per message
        self._max_watchers = max_watchers
        self._channels: dict[LiveProject, Channel] = {}
        self._held = Held()
        self._count = self._immediate = 0
        self._turns: list[tuple[float, int, Channel]] = []  #: heap by the time to be served
        self._order = itertools.count()
        self._free_at = 0.0  #: monotonic time of the next turn
        self._timer: asyncio.TimerHandle | None = None
        self._ended = False

    @property
    def watcher_count(self) -> int:
        """Open watches."""
        return self._count

    def unsynced_count(self, project: LiveProject | None = None) -> int:
        """Watches that catch up from the store; of all projects or of one."""
        return sum(
            not watcher.synced
            for channel in self._channels.values()
            for watcher in channel.watchers
            if project is None or channel.project is project
        )

    def count(self, project: LiveProject) -> int:
        """Open watches of one project."""
        channel = self._channels.get(project)
        return len(channel.watchers) if channel else 0

    def add(
        self,
        project: LiveProject,
        style: WatchStyle,
        priority: WatchPriority.ValueType = WatchPriority.WATCH_PRIORITY_UNSPECIFIED,
    ) -> Watcher:
        """Return a new watcher, unsynced, standing at the head of the project.

        Everything committed so far is behind it. Raises `Overloaded`.
        """
        if self._count >= self._max_watchers:
            raise Overloaded(limit="max_watchers", value=self._max_watchers)
        if style.immediate and self._immediate >= MAX_IMMEDIATE:
            raise Overloaded(limit="max_immediate_watchers", value=MAX_IMMEDIATE)
        channel = self._channels.get(project)
        if channel is None:
            channel = self._channels[project] = Channel(project, self._held)
        group = channel.groups.get(style.key)
        if group is None:
            group = channel.groups[style.key] = Group(style)
        watcher = Watcher(channel, group, patience_of(priority))
        channel.watchers.add(watcher)
        group.watchers.add(watcher)
        self._count += 1
        self._immediate += style.immediate
        self._metrics.watchers.labels("open").set(self._count)
        if self._ended:
            watcher.end(_DRAINING)
        return watcher

    def remove(self, watcher: Watcher) -> None:
        """Forget a watcher. Idempotent."""
        channel, group = watcher.channel, watcher.group
        if watcher not in channel.watchers:
            return
        channel.watchers.remove(watcher)
        group.watchers.remove(watcher)
        group.idle.pop(watcher, None)
        watcher.synced = watcher.due = False
        self._count -= 1
        self._immediate -= group.style.immediate
        self._metrics.watchers.labels("open").set(self._count)
        if not group.watchers:
            if group.timer is not None:
                group.timer.cancel()
            del channel.groups[group.style.key]
        if not channel.watchers:
            channel.feed.trim(channel.feed.head)
            del self._channels[channel.project]

    def notify(self, project: LiveProject, run: Sequence[Applied]) -> None:
        """Note durable revisions of a project; called by the commit loop after the acks."""
        channel = self._channels.get(project)
        if channel is None:
            return
        lost = channel.take(run)
        changes = sum(len(applied.images) for applied in run)
        now = monotonic()
        for group in channel.groups.values():
            group.waiting_changes += changes
            if group.idle:
                self._open(channel, group, now)
        if lost:
            self._drop_behind(channel)
        if self._held.bytes > feeds.MAX_FEEDS_BYTES:
            self._share()
        self._pump()

    def ask(self, watcher: Watcher) -> None:
        """Note that a synced watcher has room for its next message."""
        if watcher.due or not watcher.synced or watcher.has_mail:
            return
        channel, group = watcher.channel, watcher.group
        if watcher.through == channel.feed.head or group.is_closed(monotonic()):
            group.idle[watcher] = None
            if watcher.through < channel.feed.head:
                self._open(channel, group, monotonic())
        elif group.style.immediate:
            self.give(watcher)
        else:
            self._push(channel, watcher, monotonic())
            self._pump()

    def sync(self, watcher: Watcher) -> bool:
        """Join a watcher to the feed if that holds all it has not seen; False if it does not."""
        if watcher.through < max(watcher.channel.feed.start, watcher.reads_through):
            return False
        watcher.synced = True
        watcher.behind = False
        return True

    def give(self, watcher: Watcher) -> None:
        """Give a synced watcher what it has not seen, without waiting for its turn.

        Afterwards it has a message, or stands at the head, or is unsynced; the next message comes
        when it asks for it.
        """
        channel, group = watcher.channel, watcher.group
        feed = channel.feed
        group.idle.pop(watcher, None)
        watcher.due = False
        while watcher.synced and not watcher.has_mail and watcher.through < feed.head:
            if watcher.through < feed.start:
                self._drop(watcher)
                return
            first = watcher.announced + 1
            try:
                message, last = group.message(feed, first, watcher.through, channel.find)
            except TooLarge:
                watcher.reads_through = feed.head
                watcher.drop(behind=False)
                return
            if message:
                watcher.put(message, last)
            else:
                watcher.through = last

    def known_checksum(self, watcher: Watcher) -> int | None:
        """Return the checksum of a watcher's view at its place if that costs little, else None.

        Its place must be the head; then the next change cannot come between the two.
        """
        channel, group = watcher.channel, watcher.group
        view, running = channel.project.view, channel.checksum
        if group.style.filter.mask is not None or view.revision != watcher.through:
            return None
        if group.style.filter.shows_all_nodes and running.is_complete:
            few = running.waiting <= _CHECKED_AT_ONCE
            return running.value(view.nodes) if few else None
        if group.checksum is not None and group.checksum[0] == watcher.through:
            return group.checksum[1]
        return None

    async def checksum(self, watcher: Watcher) -> int | None:
        """Return the checksum of a watcher's view at the head as it is now.

        None with a mask, and when the view is ahead of what was published: then the commit loop
        has died between the two, and the process ends. None too if more changes come before many
        earlier ones are added up.
        Large views are added up in pieces, so that commits go on meanwhile.
        """
        channel, view_filter = watcher.channel, watcher.group.style.filter
        revision = channel.feed.head
        if view_filter.mask is not None or channel.project.view.revision != revision:
            return None
        nodes = channel.project.view.nodes
        running, group, pauses = channel.checksum, watcher.group, Pauses()
        if view_filter.shows_all_nodes and running.is_complete:
            while running.waiting > _CHECKED_AT_ONCE:
                running.settle(nodes, _CHECKED_AT_ONCE)
                await pauses.rest()
            return running.value(nodes) if channel.project.view.revision == revision else None
        known = self.known_checksum(watcher)
        if known is not None:
            return known
        frozen = dict(nodes)
        everything, find = list(frozen.values()), find_in(frozen)
        mine = view_filter.shows_all_nodes and running.begin()
        total = 0
        try:
            for at in range(0, len(everything), _CHECKED_AT_ONCE):
                if at:
                    await pauses.rest()
                some = view_filter.select(everything[at : at + _CHECKED_AT_ONCE], find)
                total += running.add(some) if mine else view_checksum(some)
            running.is_complete |= mine
        finally:
            if mine and not running.is_complete:
                channel.checksum = RunningChecksum()  # who began has gone
        group.checksum = (revision, total % (1 << 64))
        return group.checksum[1]

    def end_all(self) -> None:
        """Tell every watcher that the server stops, also one that is about to begin."""
        self._ended = True
        for project in list(self._channels):
            self.end(project, _DRAINING)

    def end(self, project: LiveProject, reason: WatchEndReason.ValueType) -> None:
        """Tell the watchers of a project that there will be nothing more."""
        channel = self._channels.get(project)
        if channel is not None:
            for watcher in channel.watchers:
                watcher.end(reason)

    # Turns

    def _open(self, channel: Channel, group: Group, now: float) -> None:
        """Make the idle watchers of a group due, or see to it that they will be in time."""
        style = group.style
        if style.immediate:
            for watcher in list(group.idle):
                self._try(watcher)
            channel.trim()
            return
        if group.is_closed(now):
            if group.timer is None:
                loop = asyncio.get_running_loop()
                group.timer = loop.call_later(
                    group.closed_until - now, self._reopen, channel, group
                )
            return
        if group.timer is not None:
            group.timer.cancel()
            group.timer = None
        group.closed_until = now + style.hold_seconds
        group.waiting_changes = 0
        for watcher in group.idle:
            self._push(channel, watcher, now)
        group.idle.clear()

    def _push(self, channel: Channel, watcher: Watcher, now: float) -> None:
        watcher.due = True
        heapq.heappush(channel.due, (now + watcher.patience, next(self._order), watcher))
        self._queue(channel, now)

    def _reopen(self, channel: Channel, group: Group) -> None:
        group.timer = None
        group.closed_until = 0.0
        if group.idle and channel.watchers:
            self._open(channel, group, monotonic())
            self._pump()

    def _queue(self, channel: Channel, now: float) -> None:
        if channel.due and not channel.has_turn:
            channel.has_turn = True
            priority = channel.project.view.entity.settings.watch_priority
            at = now + patience_of(priority)
            heapq.heappush(self._turns, (at, next(self._order), channel))

    def _pump(self) -> None:
        """Take turns until the pace is used up."""
        if self._timer is not None:
            return
        while self._turns:
            now = monotonic()
            if self._free_at > now:
                loop = asyncio.get_running_loop()
                self._timer = loop.call_later(self._free_at - now, self._resume)
                return
            channel = heapq.heappop(self._turns)[2]
            channel.has_turn = False
            worked = thread_time()
            served = self._serve(channel)
            self._free_at = now + self._frame_budget * served
            self._queue(channel, now)
            if served and self._frame_budget:
                # Runs behind the sends that this turn has set off.
                asyncio.get_running_loop().call_soon(self._settle, worked)

    def _settle(self, worked: float) -> None:
        """Leave the loop to others for as long as it has worked for a turn, or longer.

        Measured, because what a message costs differs by machine and by size. CPU time, so that
        other processes on a busy machine do not count.
        """
        spent = thread_time() - worked
        self._free_at = max(self._free_at, monotonic() + _OTHERS_SHARE * spent)

    def _resume(self) -> None:
        self._timer = None
        self._pump()

    def _serve(self, channel: Channel) -> int:
        """Give those of a project who have waited longest their messages; return how many."""
        served = 0
        due = channel.due
        while due and served < _TURN_WATCHERS:
            watcher = heapq.heappop(due)[2]
            if not watcher.due:
                continue  # it was given its message out of turn, or is gone
            served += self._try(watcher)
        channel.trim()
        return served

    def _try(self, watcher: Watcher) -> bool:
        """Give a watcher its message; if there is none for it, let it wait for news."""
        self.give(watcher)
        if watcher.synced and not watcher.has_mail:
            watcher.group.idle[watcher] = None
        return watcher.has_mail

    def _share(self) -> None:
        """Make room in the feeds of all projects: those that hold most lose their oldest."""
        most = int(feeds.MAX_FEEDS_BYTES * _SHARED)
        share = fair_share([c.feed.bytes for c in self._channels.values()], most)
        for channel in self._channels.values():
            if channel.feed.shrink(share):
                self._drop_behind(channel)

    def _drop_behind(self, channel: Channel) -> None:
        """Let those who need what the feed has lost read on from the store."""
        for watcher in channel.watchers:
            if watcher.synced and watcher.through < channel.feed.start:
                self._drop(watcher)

    def _drop(self, watcher: Watcher) -> None:
        watcher.group.idle.pop(watcher, None)
        watcher.due = False
        watcher.drop(behind=True)
        self._metrics.resyncs.inc()
