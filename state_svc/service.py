"""What the RPCs share: the projects, the commit loop, the hub, the leases and the requests."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from state_svc.errors import CorruptRecord, ProjectNotFound, RamifyError, ServerDraining
from state_svc.history.archive import forget_stages
from state_svc.history.past import Past
from state_svc.history.registry import ProjectRegistry
from state_svc.history.retention import Retention
from state_svc.history.snapshots import Snapshotter
from state_svc.ingest.committer import Committer, PendingBatch
from state_svc.lease.table import LeaseTable
from state_svc.metrics import ServiceMetrics
from state_svc.model.limits import Limits
from state_svc.model.project import Applied, LiveProject
from state_svc.payload.payloads import Payloads
from state_svc.store.base import RequestRecord, StateStore
from state_svc.store.rows import PROBLEM, Row
from state_svc.watch.hub import WatchHub
from state_svc.watch.style import BroadcastDefaults

_Result = TypeVar("_Result")
_DAY_MICROS = 24 * 3_600 * 1_000_000


def now_micros() -> int:
    """Return the present time, microseconds since 1970."""
    return time.time_ns() // 1_000


@dataclass(slots=True, kw_only=True)
class Service:
    """The parts of a running service. `app.py` builds it; servicers use it."""

    store: StateStore
    projects: ProjectRegistry
    committer: Committer
    hub: WatchHub
    snapshots: Snapshotter
    retention: Retention
    past: Past
    leases: LeaseTable
    metrics: ServiceMetrics
    limits: Limits
    broadcast: BroadcastDefaults
    producers: dict[str, int]  #: epoch in force by producer id
    requests: Requests
    damage: Damage
    payloads: Payloads
    start_micros: int = field(default_factory=now_micros)
    draining: bool = False

    def check_open(self) -> None:
        """Raise `ServerDraining` once the service stops."""
        if self.draining:
            raise ServerDraining()

    async def commit(
        self,
        project: LiveProject,
        applied: Applied,
        *,
        size: int,
        request: RequestRecord | None = None,
    ) -> None:
        """Commit one revision at once; return when it is durable.

        Raises `StoreUnavailable`, or `Overloaded` while what is pending fills its bound.
        """
        self.committer.check_room()
        owner = _Caller()
        self.committer.submit(
            PendingBatch(
                project=project,
                applied=applied,
                owner=owner,
                size=size,
                immediate=True,
                request=request,
            )
        )
        # The commit goes on even if the caller goes away: nothing may half-happen.
        await self.requests.left.wait(owner.future)

    def is_in_use(self, project: LiveProject) -> bool:
        """Whether a project must stay in memory although nobody asks for it."""
        return self.hub.count(project) > 0 or self.snapshots.is_compacting(project)

    async def forget_requests(self) -> None:
        """Drop answers of repeatable calls that are no longer kept. Raises `StoreUnavailable`."""
        await self.store.drop_requests(self.requests.forget_old())

    async def forget_stages(self, days: float) -> None:
        """Drop archived stage records of all projects older than `days`; 0 keeps them.

        Raises `StoreUnavailable`.
        """
        if not days:
            return
        before = now_micros() - int(days * _DAY_MICROS)
        async for entity, _, compacted in self.projects.entities():
            if compacted:
                await forget_stages(self.store, entity.project_uid, before)
        self.payloads.collect_soon()

    async def live(self, project_id: str) -> LiveProject:
        """Return a project; raises `ProjectNotFound`, also for an empty id."""
        if not project_id:
            raise ProjectNotFound(project_id="")
        project = self.projects.loaded(project_id)
        if project is not None and project.view.revision:
            return project
        return await self.projects.get(project_id)


class _Caller:
    """Owner of a single batch: one waiting call."""

    def __init__(self) -> None:
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def on_durable(self, batches: Sequence[PendingBatch]) -> None:
        """See `Owner`."""
        if not self.future.done():
            self.future.set_result(None)

    def on_failed(self, batches: Sequence[PendingBatch], error: RamifyError) -> None:
        """See `Owner`."""
        if not self.future.done():
            self.future.set_exception(error)


class Left:
    """Counts what goes on although the call that began it is over."""

    def __init__(self) -> None:
        self.count = 0

    async def wait(self, work: asyncio.Future[_Result]) -> _Result:
        """Return what `work` ends with; if the caller gives up first, it counts until its end."""
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            if not work.done():
                self.count += 1
                work.add_done_callback(self._end)
            raise

    def _end(self, _: object) -> None:
        self.count -= 1


class Damage:
    """The rows of producers and requests that could not be read at the start."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows

    def check(self, table: str, *key: str) -> None:
        """Raise `CorruptRecord` if the row with this key may be one of them."""
        for row in self._rows:
            if row.table == table and row.may_be(*key):
                raise CorruptRecord(table=table, row=" ".join(key), problem=PROBLEM)


class Requests:
    """Answers of repeatable calls (SEM 15): those of the last 24 hours, and those under way."""

    KEEP_MICROS = 24 * 3_600 * 1_000_000
    MOST = 100_000  #: answers that are kept; the oldest go

    def __init__(self, records: Sequence[RequestRecord], damage: Damage) -> None:
        self.left = Left()
        self._damage = damage
        ordered = sorted(records, key=lambda record: record.micros)[-self.MOST :]
        self._records = {(r.method, r.request_id): r for r in ordered}  #: the oldest is first
        self._running: dict[tuple[str, str], asyncio.Task[RequestRecord]] = {}

    async def once(
        self, method: str, request_id: str, work: Callable[[], Awaitable[RequestRecord]]
    ) -> RequestRecord:
        """Return the first answer to a request; carry out `work` if there is none yet.

        A repeat that comes while the first is under way waits for it. The work goes on when its
        caller gives up, so that nothing half-happens and a repeat finds the answer. If it fails,
        nothing is kept and the request may be tried again. An empty `request_id` is never a
        repeat. Raises `CorruptRecord` if the answer was given and is damaged.
        """
        key = (method, request_id or uuid.uuid4().hex)
        while (running := self._running.get(key)) is not None:
            await asyncio.wait((running,))
        record = self._records.get(key)
        if record is not None and record.micros > now_micros() - self.KEEP_MICROS:
            return record
        self._damage.check("requests", *key)
        task = asyncio.create_task(self._carry_out(key, work), name=f"{method} {request_id}")
        self._running[key] = task
        # Its caller may be gone: then nobody else looks at how it ended.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await self.left.wait(task)

    async def _carry_out(
        self, key: tuple[str, str], work: Callable[[], Awaitable[RequestRecord]]
    ) -> RequestRecord:
        try:
            record = await work()
            if record.request_id:
                self._records.pop(key, None)
                self._records[key] = record
                if len(self._records) > self.MOST:
                    del self._records[next(iter(self._records))]
            return record
        finally:
            del self._running[key]

    def forget_old(self) -> int:
        """Drop answers older than 24 hours; return the time up to which none is kept."""
        limit = now_micros() - self.KEEP_MICROS
        while self._records:
            oldest = next(iter(self._records.values()))
            if oldest.micros > limit:
                full = len(self._records) == self.MOST
                return min(r.micros for r in self._records.values()) - 1 if full else limit
            del self._records[oldest.method, oldest.request_id]
        return limit


def new_id(prefix: str) -> str:
    """Return an id that nobody has used."""
    return f"{prefix}-{uuid.uuid4().hex[:12]}"
