"""All projects of the store: those in memory, and those that are loaded when asked for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

from ramify.v1.project_pb2 import Project
from state_svc.codec.project import decode_project
from state_svc.errors import (
    CorruptRecord,
    LimitReached,
    ProjectExists,
    ProjectNotFound,
    StoreUnavailable,
)
from state_svc.history.rebuild import rebuild
from state_svc.history.replay import Replay
from state_svc.model.limits import DEFAULT_LIMITS, Limits
from state_svc.model.project import LiveProject, View
from state_svc.store.base import ProjectHead, StateStore

_SAMPLE = 1_000
_READ_BYTES = 16 << 20  #: of records, read at one time
_SLICE = 1_000  #: projects looked at before others have their turn

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Entry:
    """A project: either what a listing shows of it, or the project in memory."""

    uid: str
    revision: int
    shown: bytes = b""  #: of one that is not in memory: the encoded entity without its plan
    compacted: int = 0
    deleted: bool = False
    live: LiveProject | None = None
    loading: asyncio.Future[LiveProject] | None = None
    damage: CorruptRecord | None = None  #: why its record cannot be read
    used: int = 0  #: sweep in which it was last asked for
    state: int = 0  #: of what is shown, so that a search need not decode it

    def show(self, entity: Project) -> None:
        """Keep of a project what a listing shows; all else is read when it is loaded."""
        if entity.HasField("plan"):
            whole, entity = entity, Project()
            entity.CopyFrom(whole)
            entity.ClearField("plan")
        self.shown = entity.SerializeToString()
        self.state = entity.state

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
        async for head in self._stored():
            uid = head.record.project_uid
            entry = _Entry(uid, head.revision, b"", head.compacted, head.deleted)
            if not head.deleted:
                try:
                    entry.show(decode_project(head.record))
                except CorruptRecord as error:  # of this project alone: the others are served
                    _log.error("project cannot be read", extra={"fields": error.fields})
                    entry.damage = error
                if head.damaged and entry.damage is None:
                    entry.damage = CorruptRecord(project_uid=uid, problem="its row does not match")
                    _log.error("project cannot be read", extra={"fields": entry.damage.fields})
                if not head.revision and entry.damage is None:
                    entry.damage = CorruptRecord(project_uid=uid, problem="it has no revisions")
            self._entries[head.record.project_id] = entry

    async def _stored(self) -> AsyncGenerator[ProjectHead, None]:
        """Yield what is stored, a part at a time: plans make records large."""
        after = ""
        while heads := await self._store.list_projects(after, _READ_BYTES):
            for head in heads:
                yield head
            after = heads[-1].record.project_uid

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

    def _find(self, project_id: str) -> _Entry:
        entry = self._entries.get(project_id)
        if entry is not None and entry.damage is not None:
            # A new one: raising the same again would keep the frames of every time alive.
            raise CorruptRecord(**entry.damage.fields)
        if entry is None or entry.deleted:
            raise ProjectNotFound(project_id=project_id)
        return entry

    def entity(self, project_id: str) -> Project:
        """Return what is accepted of a project itself; loads nothing.

        Of one that is not in memory without its plan. Raises `ProjectNotFound` or
        `CorruptRecord`.
        """
        entry = self._find(project_id)
        entry.used = self._sweep
        if entry.live is None:
            return Project.FromString(entry.shown)
        if not entry.live.view.revision:
            raise ProjectNotFound(project_id=project_id)
        return entry.live.entity

    async def peek(self, project_id: str) -> View:
        """Return what is committed of a project; one that is not in memory does not stay there.

        Raises `ProjectNotFound`, `CorruptRecord` or `StoreUnavailable`.
        """
        entry = self._find(project_id)
        if entry.live is not None or entry.loading is not None:
            return (await self.get(project_id)).view
        try:
            return (await self._read(entry)).view
        except CorruptRecord:
            if self._entries.get(project_id) is not entry:
                raise ProjectNotFound(project_id=project_id) from None
            raise

    async def get(self, project_id: str) -> LiveProject:
        """Return a committed project, loading it if needed.

        Raises `ProjectNotFound`, `CorruptRecord` or `StoreUnavailable`.
        """
        entry = self._find(project_id)
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
        self._entries[project_id] = _Entry("", 0, deleted=True)
        yield
        # Not after an error: the store may hold a part of it, which the next start clears away.
        del self._entries[project_id]

    def add(self, project: LiveProject) -> None:
        """Add a project that is being created; it is found once its creation is durable."""
        self._entries[project.project_id] = _Entry(project.uid, 0, live=project)

    def discard(self, project: LiveProject) -> None:
        """Forget a project whose creation has failed."""
        self._entries.pop(project.project_id, None)

    async def delete(self, project: LiveProject) -> None:
        """Delete a project that has nothing pending; from here on it is not found.

        Raises `StoreUnavailable` or `CorruptRecord`; then it is still there.
        """
        entry = self._entries[project.project_id]
        self._entries[project.project_id] = _Entry(project.uid, 0, deleted=True)
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

        Of those that are not in memory without their plan.
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
                yield Project.FromString(entry.shown), entry.revision, entry.compacted

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
                entry.show(live.view.entity)
                entry.revision, entry.compacted = live.view.revision, live.view.compacted
                entry.live = None
                unloaded += 1
        return unloaded

    async def _read(self, entry: _Entry) -> Replay:
        uid = entry.uid
        replay = await rebuild(self._store, uid, entry.revision, self._avoided)
        if replay.view.revision != entry.revision or replay.view.entity.project_uid != uid:
            raise CorruptRecord(
                project_uid=uid,
                revision=entry.revision,
                problem=f"the log ends at revision {replay.view.revision}",
            )
        replay.view.compacted = entry.compacted
        return replay

    async def _load(self, entry: _Entry) -> LiveProject:
        replay = await self._read(entry)
        live = LiveProject(replay.view)
        live.producers = replay.producers
        entry.live, entry.shown = live, b""
        self._replayed(live, replay.changes)
        return live


def _estimated_bytes(view: View) -> int:
    """Return about how many bytes a view has: its plan, its reviews and a sample of its nodes."""
    sample = [len(node.data) for node in islice(view.nodes.values(), _SAMPLE)]
    reviews = sum(review.ByteSize() for review in view.reviews.values())
    nodes = len(view.nodes) * sum(sample) // max(1, len(sample))
    return nodes + reviews + view.entity.plan.ByteSize()
