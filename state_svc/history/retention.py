"""Drops history by itself: what is too old, too many revisions ago or beyond too many bytes.

History goes up to a snapshot, so what stays is at least what the keys ask for. A key of 0 keeps
everything, which is the default; nothing is looked at then. Pins hold.
"""

from __future__ import annotations

import logging

from ramify.v1.project_pb2 import Project
from state_svc.codec.segment import decode_delta, decode_segment
from state_svc.errors import CorruptRecord, Overloaded, ProjectNotFound, StoreUnavailable
from state_svc.history.registry import ProjectRegistry
from state_svc.history.snapshots import Snapshotter
from state_svc.model.entity import lowest_pin
from state_svc.model.node import read_micros
from state_svc.model.storing import Storing, StoringRules
from state_svc.store.base import StateStore

_log = logging.getLogger(__name__)


class Retention:
    """Looks through all projects when asked. Owned by the event loop."""

    def __init__(
        self,
        store: StateStore,
        projects: ProjectRegistry,
        snapshots: Snapshotter,
        rules: StoringRules,
    ) -> None:
        self._store = store
        self._projects = projects
        self._snapshots = snapshots
        self._rules = rules

    async def sweep(self, micros: int) -> int:
        """Drop what may go at a time, microseconds since 1970; return of how many projects.

        A project that cannot be read or written now is left for the next time.
        """
        shortened = 0
        async for entity, head, compacted in self._projects.entities():
            storing = self._storing(entity)
            if storing.keeps_everything or head <= compacted:
                continue
            try:
                target = await self._target(entity, storing, head, compacted, micros)
                if target <= compacted:
                    continue
                project = await self._projects.get(entity.project_id)
                shortened += await self._snapshots.compact(project, target) > compacted
            except ProjectNotFound:
                continue  # deleted meanwhile
            except (StoreUnavailable, CorruptRecord, Overloaded) as error:
                fields = {"project_id": entity.project_id, "error": error.message}
                _log.warning("history stays for now", extra={"fields": fields})
        return shortened

    def _storing(self, entity: Project) -> Storing:
        if entity.HasField("state_settings"):
            return self._rules.of(entity.state_settings)
        return self._rules.base

    async def _target(
        self, entity: Project, storing: Storing, head: int, compacted: int, micros: int
    ) -> int:
        """Return the highest revision up to which history may go."""
        pinned = lowest_pin(entity)
        snapshots = await self._store.list_snapshots(entity.project_uid)
        for revision in sorted({*snapshots, head}, reverse=True):
            if revision <= compacted:
                break
            if pinned is not None and revision > pinned:
                continue
            if await self._may_go(entity.project_uid, storing, head, revision, micros):
                return revision
        return compacted

    async def _may_go(
        self, uid: str, storing: Storing, head: int, revision: int, micros: int
    ) -> bool:
        """Whether history up to a revision is beyond one of the bounds."""
        if storing.retention_revisions and head - revision >= storing.retention_revisions:
            return True
        if storing.retention_bytes:
            kept = await self._store.stored_bytes(uid, revision)
            if kept >= storing.retention_bytes:
                return True
        if not storing.retention_seconds:
            return False
        committed = await self._commit_micros(uid, revision)
        return committed <= micros - storing.retention_seconds * 1_000_000

    async def _commit_micros(self, uid: str, revision: int) -> int:
        for record in await self._store.read_segments(uid, revision - 1, 1):
            for info in decode_delta(decode_segment(record)).revisions:
                if info.revision == revision:
                    return read_micros(info.commit_time)
        raise CorruptRecord(project_uid=uid, revision=revision, problem="the revision is missing")
