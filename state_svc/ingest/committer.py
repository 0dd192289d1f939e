"""The commit loop: takes what is accepted, makes it durable, acknowledges it, publishes it.

One task. While a commit is being written the next one fills. The order is always commit, then
ack, then publish; nothing is acknowledged or shown before its transaction is durable.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from state_svc.codec.compression import PLAIN
from state_svc.codec.delta import split
from state_svc.codec.project import encode_project
from state_svc.codec.segment import encode_segment
from state_svc.errors import (
    CorruptRecord,
    Overloaded,
    ProjectNotFound,
    RamifyError,
    StoreUnavailable,
)
from state_svc.failpoints import failpoint
from state_svc.ingest.batching import BatchBuffer, BatchLimits
from state_svc.metrics import ServiceMetrics, StoredPart
from state_svc.model.project import Applied, LiveProject
from state_svc.model.storing import Storing, StoringRules
from state_svc.store.base import (
    Commit,
    ProducerRecord,
    RequestRecord,
    StateStore,
)
from state_svc.store.payloads import ReferenceRecord

_log = logging.getLogger(__name__)

Publish = Callable[[LiveProject, Sequence[Applied]], None]
Grew = Callable[[LiveProject, int, int, int], None]
_THREAD_BYTES = 1 << 20  #: of a group that is encoded in a thread
_RECOVER_SECONDS = 1.0  #: between attempts to learn the outcome of a failed commit


class Owner(Protocol):
    """Whoever handed in a batch: it learns the outcome exactly once, on the loop."""

    def on_durable(self, batches: Sequence[PendingBatch]) -> None:
        """These batches of the owner are durable; in the order they were handed in."""

    def on_failed(self, batches: Sequence[PendingBatch], error: RamifyError) -> None:
        """These batches changed nothing."""


@dataclass(slots=True, kw_only=True, eq=False)
class PendingBatch:
    """An accepted batch on its way to the store."""

    project: LiveProject
    applied: Applied
    owner: Owner
    size: int  #: encoded bytes of the request
    immediate: bool = False
    request: RequestRecord | None = None


@dataclass(slots=True, eq=False)
class _Waiter:
    project: LiveProject | None  #: None: waits for the next commit of any kind
    future: asyncio.Future[bool]  #: whether all up to the revision is durable
    revision: int = 0


@dataclass(slots=True)
class _Group:
    """What one commit holds."""

    batches: list[PendingBatch]
    producers: list[tuple[ProducerRecord, asyncio.Future[None]]]
    runs: dict[LiveProject, list[PendingBatch]] = field(default_factory=dict)


class Committer:
    """Owns the open batch and the order of commits."""

    def __init__(
        self,
        store: StateStore,
        *,
        rules: StoringRules,
        publish: Publish,
        grew: Grew,
        metrics: ServiceMetrics,
        max_pending_bytes: int = 64 << 20,
    ) -> None:
        self._store = store
        self._rules = rules
        self._buffer: BatchBuffer[PendingBatch] = BatchBuffer(_watermark(rules.base))
        self._publish = publish
        self._grew = grew
        self._metrics = metrics
        self._max_pending_bytes = max_pending_bytes
        self._producers: list[tuple[ProducerRecord, asyncio.Future[None]]] = []
        self._waiters: dict[_Waiter, None] = {}  #: those that have gone are not among them
        self._writing_bytes = 0  #: of the commit that runs
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._running = False
        self._unavailable: StoreUnavailable | None = None

    @property
    def unavailable(self) -> StoreUnavailable | None:
        """Why nothing can be committed at the moment; None when all is well."""
        return self._unavailable

    def submit(self, batch: PendingBatch) -> None:
        """Put an accepted batch on its way. Its owner learns the outcome.

        Raises `StoreUnavailable` while the outcome of a failed commit is unknown, and
        `ProjectNotFound` for a project that is being deleted.
        """
        self._check_available()
        if batch.project.closed:
            raise ProjectNotFound(project_id=batch.project.project_id)
        batch.project.accept(batch.applied)
        self._put(batch)
        self._set_room()
        self._wake.set()

    def _put(self, batch: PendingBatch) -> None:
        """Let a batch wait: with those of all projects, or by its project's own watermark."""
        entity = batch.project.view.entity
        pool, limits = "", None
        if entity.HasField("state_settings"):
            limits = _watermark(self._rules.of(entity.state_settings))
            pool = batch.project.uid
        self._buffer.add(
            batch,
            mutations=batch.applied.mutation_count,
            size=batch.size + batch.applied.held_bytes,
            now=time.monotonic(),
            immediate=batch.immediate,
            pool=pool,
            limits=limits,
        )

    def _check_available(self) -> None:
        if self._unavailable is not None:
            # A new one: raising the same again would keep the frames of every time alive.
            raise StoreUnavailable(**self._unavailable.fields)

    async def room(self) -> None:
        """Wait until more may be handed in; a reader of a stream stops reading meanwhile.

        Of several that wait, the first may fill the room again before the next has its turn.
        """
        while not self.has_room:
            await self._room.wait()

    @property
    def has_room(self) -> bool:
        """Whether more may be handed in."""
        return self._room.is_set()

    def check_room(self) -> None:
        """Raise `Overloaded` unless more may be handed in; for calls, which must not pile up."""
        if not self.has_room:
            raise Overloaded(limit="max_pending_bytes", most=self._max_pending_bytes)

    def hurry(self) -> None:
        """Make what waits due now: somebody can hand in nothing before it is durable."""
        self._buffer.hurry()
        self._wake.set()

    def _set_room(self) -> None:
        """Note whether there is room; where there is none, only a commit can make it."""
        if self._buffer.size + self._writing_bytes < self._max_pending_bytes:
            self._room.set()
        else:
            self._room.clear()
            self._buffer.hurry()

    async def put_producer(self, producer_id: str, epoch: int) -> None:
        """Make a producer's epoch durable; raises `StoreUnavailable`."""
        self._check_available()
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._producers.append((ProducerRecord(producer_id, epoch), future))
        self._wake.set()
        await future

    async def settled(self, project: LiveProject) -> bool:
        """Return once the outcome of everything accepted for a project is known.

        True if all of it is durable.
        """
        if not project.has_pending:
            return True
        future = self.outcome(project)
        self.hurry()
        return await future

    def outcome(self, project: LiveProject) -> asyncio.Future[bool]:
        """Return what is done once the outcome of all that is accepted for a project is known.

        Its result is whether all of that is durable.

        Cancel it to wait no more.
        """
        return self._wait_for(project, project.revision)

    def _wait_for(self, project: LiveProject | None, revision: int = 0) -> asyncio.Future[bool]:
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        waiter = _Waiter(project, future, revision)
        self._waiters[waiter] = None
        future.add_done_callback(lambda _: self._waiters.pop(waiter, None))
        return future

    async def drain(self) -> None:
        """Return once everything accepted is durable or has failed."""
        while self._running or self._producers or self._buffer.due_in(time.monotonic()) is not None:
            future = self._wait_for(None)
            self.hurry()
            await future

    async def run(self) -> None:
        """Commit for ever; ends only by cancellation or a defect."""
        while True:
            delay = 0.0 if self._producers else self._buffer.due_in(time.monotonic())
            if delay is None or delay > 0:
                self._wake.clear()
                try:
                    async with asyncio.timeout(delay):
                        await self._wake.wait()
                except TimeoutError:
                    pass
                else:
                    continue
            await self._commit_group()

    async def _commit_group(self) -> None:
        waiting = self._buffer.size
        # An epoch fences what older ones have accepted only if that is durable before it.
        batches = self._buffer.take_all() if self._producers else self._buffer.take()
        group = _Group(batches, self._producers)
        self._producers = []
        self._writing_bytes = waiting - self._buffer.size
        if not group.batches and not group.producers:
            return
        for batch in group.batches:
            group.runs.setdefault(batch.project, []).append(batch)
        thresholds = {project: self._threshold(project) for project in group.runs}
        self._running = True
        try:
            if self._writing_bytes > _THREAD_BYTES:
                # Others go on; what the group holds does not change any more.
                commit, parts = await asyncio.to_thread(_encode, group, thresholds)
            else:
                commit, parts = _encode(group, thresholds)
        except BaseException:
            self._running = False
            raise
        started = time.perf_counter()
        try:
            await self._store.commit(commit)
        except (StoreUnavailable, CorruptRecord) as error:
            _log.exception("commit failed")
            durable = await self._learn_outcome(group, error)
        else:
            durable = True
        finally:
            self._running = False
        if durable:
            self._count(group, parts, time.perf_counter() - started)
            self._finish(group)
            for (project, run), part in zip(group.runs.items(), parts, strict=True):
                mutations = sum(batch.applied.mutation_count for batch in run)
                self._grew(project, len(run), part.stored_bytes, mutations)
        self._writing_bytes = 0
        self._set_room()
        self._wake_waiters()

    def _count(self, group: _Group, parts: Sequence[StoredPart], seconds: float) -> None:
        mutations = 0
        for (project, run), part in zip(group.runs.items(), parts, strict=True):
            mutations += self._metrics.part(project.project_id, run, part, seconds)
        self._metrics.committed(seconds, mutations)

    def _threshold(self, project: LiveProject) -> int:
        entity = project.view.entity
        if entity.HasField("state_settings"):
            return self._rules.of(entity.state_settings).compression_threshold
        return self._rules.base.compression_threshold

    def _finish(self, group: _Group) -> None:
        for project, run in group.runs.items():
            for batch in run:
                project.promote(batch.applied)
        failpoint("before_ack")
        for _, future in group.producers:
            if not future.done():
                future.set_result(None)
        for owner, batches in _by_owner(group.batches).items():
            owner.on_durable(batches)
        failpoint("after_ack")
        failpoint("before_publish")
        for project, run in group.runs.items():
            self._publish(project, [batch.applied for batch in run])
        failpoint("after_publish")

    async def _learn_outcome(self, group: _Group, error: RamifyError) -> bool:
        """Return whether a failed commit took effect after all; never guesses (SEM 7)."""
        failure = StoreUnavailable(problem=error.fields.get("problem", error.message))
        self._unavailable = failure
        while True:
            try:
                await self._store.recover()
                durable = await self._took_effect(group)
            except (StoreUnavailable, CorruptRecord):
                _log.exception("store is not usable")
                await asyncio.sleep(_RECOVER_SECONDS)
                continue
            break
        self._unavailable = None
        if not durable:
            self._fail(group, failure)
        return durable

    async def _took_effect(self, group: _Group) -> bool:
        if group.runs:
            project, run = next(iter(group.runs.items()))
            return await self._store.read_head(project.uid) >= run[-1].applied.revision
        stored = {r.producer_id: r.epoch for r in await self._store.list_producers()}
        return all(stored.get(r.producer_id) == r.epoch for r, _ in group.producers)

    def _fail(self, group: _Group, error: StoreUnavailable) -> None:
        """Reject the group and everything that was accepted on top of it."""
        waiting = self._buffer.take_all()
        lost = [batch for batch in waiting if batch.project in group.runs]
        for batch in waiting:
            if batch.project not in group.runs:
                self._put(batch)
        if self._waiters:
            self._buffer.hurry()
        for project in group.runs:
            project.drop_pending()
        for owner, batches in _by_owner([*group.batches, *lost]).items():
            owner.on_failed(batches, error)
        for _, future in group.producers:
            if not future.done():
                future.set_exception(error)
        self._metrics.failed()

    def _wake_waiters(self) -> None:
        for waiter in list(self._waiters):
            project = waiter.project
            durable = project is None or project.view.revision >= waiter.revision
            if durable or (project is not None and project.revision < waiter.revision):
                del self._waiters[waiter]
                if not waiter.future.done():
                    waiter.future.set_result(durable)


def _encode(
    group: _Group, thresholds: Mapping[LiveProject, int]
) -> tuple[Commit, list[StoredPart]]:
    """Return what is stored of a group; a run is compressed from its project's threshold on."""
    commit = Commit(producers=[record for record, _ in group.producers])
    stored = []
    for project, run in group.runs.items():
        revisions = [batch.applied for batch in run]
        threshold = thresholds[project]
        parts = [encode_segment(project.uid, p, threshold) for p in split(revisions)]
        commit.segments.extend(part.record for part in parts)
        stored.append(
            StoredPart(
                sum(part.original_bytes for part in parts),
                sum(len(part.record.data) for part in parts),
                sum(part.record.codec != PLAIN for part in parts),
            )
        )
        entity = next((a.entity for a in reversed(revisions) if a.entity is not None), None)
        if entity is not None:
            commit.projects.append(encode_project(entity))
        commit.references.extend(
            ReferenceRecord(project.uid, digest, a.revision)
            for a in revisions
            if a.references
            for digest in a.references
        )
        commit.requests.extend(batch.request for batch in run if batch.request is not None)
    return commit, stored


def _watermark(storing: Storing) -> BatchLimits:
    return BatchLimits(
        max_mutations=storing.state_batch_size,
        max_delay=storing.state_batch_timeout_ms / 1_000,
        eager=storing.eager_commit,
    )


def _by_owner(batches: Sequence[PendingBatch]) -> dict[Owner, list[PendingBatch]]:
    owners: dict[Owner, list[PendingBatch]] = {}
    for batch in batches:
        owners.setdefault(batch.owner, []).append(batch)
    return owners
