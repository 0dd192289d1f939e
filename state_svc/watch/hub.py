"""The hub: takes what was committed and puts it into the mailboxes of watchers.

All methods are synchronous and run on the loop, so nothing here is locked. A commit only notes
what is new. Rounds deliver it: a project's next round does not begin before its watchers have
had time to send the last one (`frame_budget` each), so sends never starve commits, and a round
joins all that was committed meanwhile into one message for each distinct filter.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from ramify.v1.state_service_pb2 import WatchEndReason
from state_svc.codec.delta import MAX_BODY_BYTES, encode_watch_delta, split
from state_svc.errors import Overloaded
from state_svc.metrics import ServiceMetrics
from state_svc.model.checksum import RunningChecksum, view_checksum
from state_svc.model.node import NodeSpec
from state_svc.model.project import Applied, LiveProject
from state_svc.watch.filter import ViewFilter
from state_svc.watch.watcher import Watcher


class Channel:
    """The watchers of one project, and what was committed since the last round."""

    def __init__(self, project: LiveProject) -> None:
        self.project = project
        self.published = project.view.revision  #: rounds have delivered everything through this
        self.watchers: set[Watcher] = set()
        self.fresh: list[Applied] = []
        self.gone: dict[str, NodeSpec] = {}  #: nodes that `fresh` deletes
        self.checksum = RunningChecksum()
        self.next_round = 0.0  #: monotonic time
        self.timer: asyncio.TimerHandle | None = None

    def find(self, node_id: str) -> NodeSpec | None:
        """Return what never changes about a node, also of one deleted since the last round.

        Without the latter a subtree's watchers would miss removals below a deleted parent.
        """
        node = self.project.view.nodes.get(node_id)
        return self.gone.get(node_id) if node is None else node.spec


class WatchHub:
    """Owns the watchers of all projects."""

    def __init__(self, metrics: ServiceMetrics, *, frame_budget: float, max_watchers: int) -> None:
        self._metrics = metrics
        self._frame_budget = frame_budget  #: seconds of a round per watcher
        self._max_watchers = max_watchers
        self._channels: dict[LiveProject, Channel] = {}
        self._count = 0

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

    def add(self, project: LiveProject, view_filter: ViewFilter) -> Watcher:
        """Return a new watcher, unsynced, standing at the head of the project.

        Everything committed so far is behind it. Raises `Overloaded`.
        """
        if self._count >= self._max_watchers:
            raise Overloaded(limit="max_watchers", value=self._max_watchers)
        channel = self._channels.get(project)
        if channel is None:
            channel = self._channels[project] = Channel(project)
        self.flush(channel)
        watcher = Watcher(channel, view_filter)
        channel.watchers.add(watcher)
        self._count += 1
        self._metrics.watchers.labels("open").set(self._count)
        return watcher

    def remove(self, watcher: Watcher) -> None:
        """Forget a watcher. Idempotent."""
        channel = watcher.channel
        if watcher not in channel.watchers:
            return
        channel.watchers.remove(watcher)
        self._count -= 1
        self._metrics.watchers.labels("open").set(self._count)
        if not channel.watchers:
            if channel.timer is not None:
                channel.timer.cancel()
            del self._channels[channel.project]

    def notify(self, project: LiveProject, run: Sequence[Applied]) -> None:
        """Note durable revisions of a project; called by the commit loop after the acks."""
        channel = self._channels.get(project)
        if channel is None:
            return
        channel.fresh.extend(run)
        for applied in run:
            channel.checksum.touch(applied.nodes)
            if None in applied.nodes.values():
                channel.gone.update(
                    (before.spec.node_id, before.spec)
                    for before, after in applied.images
                    if before is not None and after is None
                )
        if channel.timer is not None:
            return
        now = time.monotonic()
        if channel.next_round <= now:
            self._round(channel)
        else:
            loop = asyncio.get_running_loop()
            channel.timer = loop.call_later(channel.next_round - now, self._round, channel)

    def sync(self, watcher: Watcher) -> bool:
        """Join a watcher that has caught up; False if there is more to catch up with."""
        self.flush(watcher.channel)
        if watcher.through != watcher.channel.published:
            return False
        watcher.synced = True
        return True

    def flush(self, channel: Channel) -> None:
        """Deliver what is fresh without waiting for the next round."""
        if channel.fresh:
            self._round(channel)

    def checksum(self, watcher: Watcher) -> int:
        """Return the checksum of a synced watcher's view; call after `flush`."""
        channel, view_filter = watcher.channel, watcher.filter
        nodes = channel.project.view.nodes
        if view_filter.shows_all_nodes:
            return channel.checksum.value(nodes)
        return view_checksum(view_filter.select(nodes.values(), channel.find))

    def end_all(self) -> None:
        """Tell every watcher that the server stops."""
        for project in list(self._channels):
            self.end(project, WatchEndReason.WATCH_END_REASON_SERVER_DRAINING)

    def end(self, project: LiveProject, reason: WatchEndReason.ValueType) -> None:
        """Tell the watchers of a project that there will be nothing more."""
        channel = self._channels.get(project)
        if channel is not None:
            self.flush(channel)
            for watcher in channel.watchers:
                watcher.end(reason)

    def _round(self, channel: Channel) -> None:
        if channel.timer is not None:
            channel.timer.cancel()
            channel.timer = None
        fresh, channel.fresh = channel.fresh, []
        for run in split(fresh):
            self._deliver(channel, run)
        channel.gone.clear()
        channel.published = channel.project.view.revision
        channel.next_round = time.monotonic() + self._frame_budget * len(channel.watchers)

    def _deliver(self, channel: Channel, run: Sequence[Applied]) -> None:
        last = run[-1].revision
        groups: dict[bytes, list[Watcher]] = {}
        for watcher in channel.watchers:
            if watcher.synced:
                groups.setdefault(watcher.filter.key, []).append(watcher)
        for watchers in groups.values():
            body = encode_body(watchers[0].filter, run, channel)
            frames: dict[int, bytes] = {}
            for watcher in watchers:
                if not body:
                    watcher.through = last
                    continue
                if len(body) > MAX_BODY_BYTES:
                    watcher.drop()  # it reads fragments from the store
                    continue
                first = watcher.announced + 1
                frame = frames.get(first)
                if frame is None:
                    frame = frames[first] = encode_watch_delta(first, last, body)
                if not watcher.put(frame, last):
                    self._metrics.resyncs.inc()


def encode_body(view_filter: ViewFilter, run: Sequence[Applied], channel: Channel) -> bytes:
    """Return what a filter shows of revisions, as the body of a delta; empty if nothing.

    The bytes that went to the store serve every watcher with the default filter.
    """
    if view_filter.is_default and not any(a.commands or a.stages for a in run):
        return b"".join(applied.body for applied in run)
    return b"".join(
        view_filter.project_changes([applied.info], applied.changes(), applied.images, channel.find)
        for applied in run
    )
