"""Takes snapshots in the background, so that recovery and time travel stay short.

One task for all projects. A snapshot is due after so many revisions or stored bytes of a
project, but not before the segments since the last one have half its size: so a large project
that changes little does not write itself again and again. After so many mutations an eighth of
its size is enough, so that a start does not take long to replay them. Its chunks are written one
by one between commits, so a large one delays no commit for long. If the process dies half-way, the
incomplete snapshot is not found and nothing is lost.

The same task compacts, so that no snapshot is dropped while a history is cut down to it, and reads
the final state of ended projects back, so that nothing is dropped meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from state_svc.codec.snapshot import SnapshotRecord, decode_chunk, encode_snapshot, freeze
from state_svc.errors import CorruptRecord, Overloaded, ProjectNotFound, StoreUnavailable
from state_svc.failpoints import failpoint
from state_svc.history.archive import archive_stages, release_references
from state_svc.history.final_state import verify_final_state
from state_svc.model import transitions
from state_svc.model.entity import lowest_pin
from state_svc.model.project import LiveProject
from state_svc.model.storing import StoringRules
from state_svc.store.base import StateStore

_log = logging.getLogger(__name__)


MAX_COMPACTIONS = 1_000  #: that wait for their turn; more are refused
KEPT = 4  #: newest snapshots of a project; older ones are dropped, save where history begins


@dataclass(frozen=True, slots=True)
class _Compaction:
    """An order to drop the history of a project up to a revision."""

    project: LiveProject
    wanted: int
    done: asyncio.Future[int]


@dataclass(frozen=True, slots=True)
class _End:
    """An order to read the final state of a project back."""

    project: LiveProject


@dataclass(slots=True)
class _Growth:
    """What a project has gained since its last snapshot, and how large that one was."""

    revisions: int = 0
    size: int = 0
    mutations: int = 0
    snapshot_size: int = 0
    ended: bool = False


class Snapshotter:
    """Notes how projects grow and takes their snapshots. Owned by the event loop."""

    def __init__(
        self,
        store: StateStore,
        *,
        revisions: int,
        size: int,
        mutations: int = 100_000,
        rules: StoringRules,
        released: Callable[[], None] = lambda: None,
        verified: Callable[[bool], None] = lambda _: None,
    ) -> None:
        """Take snapshots after so many revisions, bytes or mutations, or as retention needs them.

        `released` is told when a payload may have lost its last reference, and `verified` whether
        the final state of a project was read back as it should be.
        """
        self._store = store
        self._released = released
        self._verified = verified
        self._revisions = revisions
        self._size = size
        self._mutations = mutations
        self._rules = rules
        self._growth: dict[str, _Growth] = {}
        self._due: asyncio.Queue[LiveProject | _Compaction | _End] = asyncio.Queue()
        self._waiting: set[str] = set()  #: uids of projects whose snapshot is due, once each
        self._ends: set[str] = set()  #: uids of projects whose end is to be verified, once each
        self._compacting: Counter[str] = Counter()  #: compactions by uid, waiting or under way

    def grew(self, project: LiveProject, revisions: int, size: int, mutations: int) -> None:
        """Note a durable commit; `size` is that of its segments as stored."""
        growth = self._growth.get(project.uid)
        if growth is None:
            growth = self._growth[project.uid] = _Growth()
        growth.revisions += revisions
        growth.size += size
        growth.mutations += mutations
        ordinary = self._is_enough(project, growth) and growth.size >= growth.snapshot_size / 2
        # Replaying costs time by the mutation, however small they are stored.
        slow = growth.mutations >= self._mutations and growth.size >= growth.snapshot_size / 8
        if ordinary or slow:
            growth.revisions = growth.size = growth.mutations = 0
            if project.uid not in self._waiting:
                self._waiting.add(project.uid)
                self._due.put_nowait(project)
        ended = _has_ended(project)
        if ended and not growth.ended and project.uid not in self._ends:
            self._ends.add(project.uid)
            self._due.put_nowait(_End(project))
        growth.ended = ended

    def replayed(self, project: LiveProject, changes: int) -> None:
        """Note what was replayed to load a project.

        It counts as grown, so that a service that dies again and again still starts quickly.
        """
        if project.uid not in self._growth:
            self._growth[project.uid] = _Growth(ended=_has_ended(project))
            self.grew(project, 0, 0, changes)

    def _is_enough(self, project: LiveProject, growth: _Growth) -> bool:
        storing = self._rules.base
        entity = project.view.entity
        if entity.HasField("state_settings"):
            storing = self._rules.of(entity.state_settings)
        # History is dropped up to a snapshot, so it takes one for each span that is kept.
        revisions = min(self._revisions, storing.retention_revisions or self._revisions)
        size = min(self._size, storing.retention_bytes or self._size)
        return growth.revisions >= revisions or growth.size >= size

    async def compact(self, project: LiveProject, wanted: int) -> int:
        """Drop history up to the newest snapshot that is not after `wanted`; return where.

        If `wanted` is the head, a snapshot is taken there first. What is pinned stays, and
        everything if the snapshot cannot be read or what would be dropped has a hole. If the caller
        gives up before its turn comes, nothing happens. Raises `Overloaded`, `StoreUnavailable`,
        `CorruptRecord`, or `ProjectNotFound` if the project is deleted meanwhile.
        """
        if self._compacting.total() >= MAX_COMPACTIONS:
            raise Overloaded(problem=f"{MAX_COMPACTIONS} compactions wait for their turn")
        self._compacting[project.uid] += 1
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._due.put_nowait(_Compaction(project, wanted, done))
        return await done

    def is_compacting(self, project: LiveProject) -> bool:
        """Whether a compaction of a project waits or is under way: it must stay in memory."""
        return project.uid in self._compacting

    def forget(self, project: LiveProject) -> None:
        """Forget how a project that is deleted has grown."""
        self._growth.pop(project.uid, None)

    async def run(self) -> None:
        """Take snapshots as they become due, compact when asked and verify ends, for ever."""
        while True:
            due = await self._due.get()
            if isinstance(due, _End):
                await self._verify_end(due.project)
                continue
            if isinstance(due, LiveProject):
                self._waiting.discard(due.uid)
                await self._take_due(due)
                continue
            try:
                if not due.done.done():
                    await self._carry_out(due)
            finally:
                uid = due.project.uid
                self._compacting[uid] -= 1
                if not self._compacting[uid]:
                    del self._compacting[uid]

    async def _take_due(self, project: LiveProject) -> None:
        try:
            await self.take(project)
        except (StoreUnavailable, CorruptRecord) as error:
            # Nothing depends on it: the segments are there, and the next is due soon.
            fields = {"project_id": project.project_id, "error": error.message}
            _log.warning("snapshot failed", extra={"fields": fields})

    async def _verify_end(self, project: LiveProject) -> None:
        self._ends.discard(project.uid)
        try:
            await verify_final_state(self._store, project)
        except StoreUnavailable as error:
            fields = {"project_id": project.project_id, "error": error.message}
            _log.warning("the final state was not read back", extra={"fields": fields})
        except CorruptRecord as error:
            if project.deleted:
                return
            fields = {"project_id": project.project_id, **error.fields}
            _log.error("the final state cannot be read back", extra={"fields": fields})
            self._verified(False)
        else:
            self._verified(True)

    async def _carry_out(self, order: _Compaction) -> None:
        try:
            compacted = await self._compact(order.project, order.wanted)
        except (StoreUnavailable, CorruptRecord) as error:
            if not order.done.done():
                gone = ProjectNotFound(project_id=order.project.project_id)
                order.done.set_exception(gone if order.project.deleted else error)
        else:
            if not order.done.done():
                order.done.set_result(compacted)

    async def _compact(self, project: LiveProject, wanted: int) -> int:
        snapshots = [r for r in await self._store.list_snapshots(project.uid) if r <= wanted]
        if wanted == project.view.revision and wanted not in snapshots:
            snapshots.append(await self.take(project))
        compacted = _allowed(project, snapshots)
        if compacted:
            await self._verify(project, compacted)
            await archive_stages(self._store, project.uid, project.view.compacted, compacted)
            # Asked again, as nothing comes between here and the next line: a pin is in force from
            # when it is accepted. What was archived for nothing is replaced next time.
            compacted = _allowed(project, snapshots)
            # First, so that nobody takes what is dropped for lost. Also if it was dropped
            # before: a compaction that failed half-way is carried through.
            project.view.compacted = compacted
            await self._store.compact(project.uid, compacted)
            failpoint("before_release")
            if await release_references(self._store, project.uid, compacted):
                self._released()
        return compacted

    async def _verify(self, project: LiveProject, revision: int) -> None:
        """Read the snapshot that history is to begin from; raises `CorruptRecord`.

        As long as its segments are there, a project can do without it.
        """
        records = await self._store.read_snapshot(project.uid, revision)
        for record in records:
            await asyncio.to_thread(decode_chunk, record)
        chunks = [record.chunk for record in records if record.revision == revision]
        if not chunks or chunks != list(range(len(chunks))):
            raise CorruptRecord(
                project_uid=project.uid, revision=revision, problem="a snapshot is incomplete"
            )

    async def take(self, project: LiveProject) -> int:
        """Write a snapshot of the project as it is now; return its revision."""
        frozen = freeze(project)
        records = encode_snapshot(frozen)
        size = 0
        while (record := await asyncio.to_thread(_next, records)) is not None:
            if project.deleted:
                return frozen.revision
            await self._store.put_snapshot_chunk(record)
            size += len(record.data)
        if not project.deleted:
            self._growth.setdefault(project.uid, _Growth()).snapshot_size = size
        stored = await self._store.list_snapshots(project.uid)
        # What is retained of a compacted history, or of a fork's, is replayed from its begin.
        old = [revision for revision in stored[:-KEPT] if revision != project.view.compacted]
        if old:
            await self._store.drop_snapshots(project.uid, old)
        return frozen.revision


def _has_ended(project: LiveProject) -> bool:
    return project.view.entity.state in transitions.PROJECT.terminal


def _allowed(project: LiveProject, snapshots: Sequence[int]) -> int:
    """Return up to where history may be dropped now: a snapshot, and nothing pinned behind it."""
    pinned = lowest_pin(project.entity)
    allowed = [r for r in snapshots if pinned is None or r <= pinned]
    return max([project.view.compacted, *allowed])


def _next(records: Iterator[SnapshotRecord]) -> SnapshotRecord | None:
    return next(records, None)
