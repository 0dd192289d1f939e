"""All projects of the store: those in memory, and those that are loaded when asked for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

from ramify.v1.project_pb2 import Project
from state_svc.codec.project import ProjectRecord, decode_project, encode_project
from state_svc.errors import (
    CorruptRecord,
    LimitReached,
    ProjectExists,
    ProjectNotFound,
    StoreUnavailable,
)
from state_svc.history.rebuild import rebuild
from state_svc.model.limits import DEFAULT_LIMITS, Limits
from state_svc.model.project import LiveProject, View
from state_svc.store.base import StateStore

_SAMPLE = 1_000
_SLICE = 1_000  #: projects looked at before others have their turn

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Entry:
    """A project: either its stored record, or the project in memory."""

    record: ProjectRecord
    revision: int
    compacted: int = 0
    deleted: bool = False
    live: LiveProject | None = None
    loading: asyncio.Future[LiveProject] | None = None
    damage: CorruptRecord | None = None  #: why its record cannot be read
    used: int = 0  #: sweep in which it was last asked for
    state: int = 0  #: of the stored record, so that a search need not decode it

    def state_now(self) -> int:
        """Return the state of the project."""
        return self.state if self.live is None else self.live.view.entity.state


class ProjectRegistry:
    """Finds projects by id. Owned by the event loop."""

    def __init__(
        self,
        store: StateStore,
        replayed: Callable[[LiveProject, int], None] = lambda *_: None,
        *,
        avoided: Callable[[], None] = lambda: None,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        """`replayed` is told how many changes loading a project took, beyond its snapshot.

        `avoided` is told when it took a way round a damaged one.
        """
        self._avoided = avoided
        self._store = store
        self._replayed = replayed
        self._limits = limits
        self._entries: dict[str, _Entry] = {}
        self._sweep = 0

    async def open(self) -> None:
        """Read what the store has; projects themselves are loaded later."""
        for uid in await self._store.list_unfinished():  # a fork or import that was cut off
            await self._store.drop_unfinished(uid)
        for head in await self._store.list_projects():
            entry = _Entry(head.record, head.revision, head.compacted, head.deleted)
            if not head.deleted:
                try:
                    entry.state = decode_project(head.record).state
                except CorruptRecord as error:  # of this project alone: the others are served
                    _log.error("project cannot be read", extra={"fields": error.fields})
                    entry.damage = error
                if head.damaged and entry.damage is None:
                    entry.damage = CorruptRecord(
                        project_uid=head.record.project_uid, problem="its row does not match"
                    )
                    _log.error("project cannot be read", extra={"fields": entry.damage.fields})
                if not head.revision and entry.damage is None:
                    uid = head.record.project_uid
                    entry.damage = CorruptRecord(project_uid=uid, problem="it has no revisions")
            self._entries[head.record.project_id] = entry

    def loaded(self, project_id: str) -> LiveProject | None:
        """Return a project if it is in memory."""
        entry = self._entries.get(project_id)
        if entry is None:
            return None
        entry.used = self._sweep
        return entry.live

    def __contains__(self, project_id: str) -> bool:
        return project_id in self._entries

    def check_free(self, project_id: str) -> None:
        """Raise `ProjectExists` or `LimitReached` unless a project may be made under an id."""
        if project_id in self._entries:
            raise ProjectExists(project_id=project_id)
        most = self._limits.max_projects
        if len(self._entries) >= most:
            remedy = "ids of deleted projects count, so raise max_projects or begin another store"
            raise LimitReached(limit="max_projects", most=most, remedy=remedy)

    async def get(self, project_id: str) -> LiveProject:
        """Return a committed project, loading it if needed.

        Raises `ProjectNotFound`, `CorruptRecord` or `StoreUnavailable`.
        """
        entry = self._entries.get(project_id)
        if entry is not None and entry.damage is not None:
            # A new one: raising the same again would keep the frames of every time alive.
            raise CorruptRecord(**entry.damage.fields)
        if entry is None or entry.deleted:
            raise ProjectNotFound(project_id=project_id)
        entry.used = self._sweep
        if entry.live is not None:
            if not entry.live.view.revision:
                raise ProjectNotFound(project_id=project_id)
            return entry.live
        loading = entry.loading
        if loading is None:
            loading = entry.loading = asyncio.ensure_future(self._load(entry))
        try:
            return await asyncio.shield(loading)
        finally:
            # Of several who wait, each finds it done; only the first finds it still there.
            if loading.done() and entry.loading is loading:
                entry.loading = None

    @contextmanager
    def reserved(self, project_id: str) -> Iterator[None]:
        """Keep an id from being taken while a project is stored under it."""
        record = ProjectRecord("", project_id, b"", 0)
        self._entries[project_id] = _Entry(record, 0, deleted=True)
        yield
        # Not after an error: the store may hold a part of it, which the next start clears away.
        del self._entries[project_id]

    def add(self, project: LiveProject) -> None:
        """Add a project that is being created; it is found once its creation is durable."""
        record = ProjectRecord(project.uid, project.project_id, b"", 0)
        self._entries[project.project_id] = _Entry(record, 0, live=project)

    def discard(self, project: LiveProject) -> None:
        """Forget a project whose creation has failed."""
        self._entries.pop(project.project_id, None)

    async def delete(self, project: LiveProject) -> None:
        """Delete a project that has nothing pending; from here on it is not found.

        Raises `StoreUnavailable` or `CorruptRecord`; then it is still there.
        """
        entry = self._entries[project.project_id]
        record = ProjectRecord(project.uid, project.project_id, b"", 0)
        self._entries[project.project_id] = _Entry(record, 0, deleted=True)
        project.deleted = True
        try:
            await self._store.delete_project(project.uid)
        except (StoreUnavailable, CorruptRecord):
            self._entries[project.project_id] = entry
            project.deleted = False
            raise

    def live(self) -> list[LiveProject]:
        """Return the projects that are in memory."""
        return [entry.live for entry in self._entries.values() if entry.live is not None]

    async def entities(
        self, after: str = "", states: Collection[int] = ()
    ) -> AsyncGenerator[tuple[Project, int, int], None]:
        """Yield (project, head, compacted revision) of all, in the order of creation.

        Of those created after a project, deleted or not, if one is named that exists or existed;
        of those in some states, if any are named. Others have their turn in between, so a project
        that is made meanwhile may not be among them.
        """
        skipping = bool(after)
        for number, project_id in enumerate(list(self._entries), 1):
            if not number % _SLICE:
                await asyncio.sleep(0)
            if skipping:
                skipping = project_id != after
                continue
            entry = self._entries.get(project_id)
            if entry is None or (states and entry.state_now() not in states):
                continue
            if entry.live is not None:
                view = entry.live.view
                if view.revision:
                    yield view.entity, view.revision, view.compacted
            elif not entry.deleted and entry.damage is None:
                yield decode_project(entry.record), entry.revision, entry.compacted

    def sweep(self, max_bytes: int, busy: Callable[[LiveProject], bool]) -> int:
        """Unload projects beyond `max_bytes` of encoded nodes; return how many.

        The one that was longest unused goes first. One that was asked for since the sweep
        before the last, is `busy` or has something pending stays. It is loaded again when it is
        asked for.
        """
        self._sweep += 1
        loaded = [(entry, entry.live) for entry in self._entries.values() if entry.live]
        loaded.sort(key=lambda item: item[0].used, reverse=True)
        total = unloaded = 0
        for entry, live in loaded:
            total += _estimated_bytes(live.view)
            idle = entry.used < self._sweep - 1 and not live.has_pending and not busy(live)
            if total > max_bytes and idle and live.view.revision:
                entry.record = encode_project(live.view.entity)
                entry.state = live.view.entity.state
                entry.revision, entry.compacted = live.view.revision, live.view.compacted
                entry.live = None
                unloaded += 1
        return unloaded

    async def _load(self, entry: _Entry) -> LiveProject:
        uid = entry.record.project_uid
        replay = await rebuild(self._store, uid, entry.revision, self._avoided)
        if replay.view.revision != entry.revision or replay.view.entity.project_uid != uid:
            raise CorruptRecord(
                project_uid=uid,
                revision=entry.revision,
                problem=f"the log ends at revision {replay.view.revision}",
            )
        replay.view.compacted = entry.compacted
        live = LiveProject(replay.view)
        live.producers = replay.producers
        entry.live = live
        self._replayed(live, replay.changes)
        return live


def _estimated_bytes(view: View) -> int:
    """Return about how many encoded bytes the nodes of a view have, from a sample of them."""
    sample = [len(node.data) for node in islice(view.nodes.values(), _SAMPLE)]
    reviews = sum(review.ByteSize() for review in view.reviews.values())
    return len(view.nodes) * sum(sample) // max(1, len(sample)) + reviews
