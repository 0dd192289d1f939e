"""A store in memory: the double for tests and the model that other backends are held to."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path

from state_svc.codec.project import ProjectRecord
from state_svc.codec.segment import SegmentRecord
from state_svc.codec.snapshot import SnapshotRecord
from state_svc.errors import StoreUnavailable
from state_svc.store.base import (
    EVERYTHING,
    Commit,
    ProducerRecord,
    ProjectHead,
    RequestRecord,
)
from state_svc.store.memory_payloads import MemoryPayloads
from state_svc.store.rows import Row
from state_svc.store.sqlite import FILE_NAME, SqliteStore


class MemoryStore:
    """Implements `StateStore`. It survives the service, not the process.

    `fail_next` makes the next commit fail: before it takes effect, or ("after") after it, which
    is what a lost answer of a remote database looks like.
    """

    def __init__(self) -> None:
        self.store_id = uuid.uuid4().hex
        self.fail_next: str | None = None
        self.commits = 0
        self.scratch = Path(tempfile.gettempdir())
        self._projects: dict[str, ProjectRecord] = {}
        self._segments: dict[str, list[SegmentRecord]] = {}
        self._snapshots: dict[str, dict[tuple[int, int], SnapshotRecord]] = {}
        self._compacted: dict[str, int] = {}
        self._deleted: set[str] = set()
        self._unfinished: set[str] = set()
        self._producers: dict[str, ProducerRecord] = {}
        self._requests: dict[tuple[str, str], RequestRecord] = {}
        self.payloads = MemoryPayloads()

    async def commit(self, commit: Commit) -> None:
        """See `StateStore`."""
        fail, self.fail_next = self.fail_next, None
        if fail == "before":
            raise StoreUnavailable(problem="told to fail before the commit")
        self.payloads.check(commit.references)
        for project in commit.projects:
            self._projects[project.project_uid] = project
        for segment in commit.segments:
            self._segments.setdefault(segment.project_uid, []).append(segment)
        for producer in commit.producers:
            self._producers[producer.producer_id] = producer
        self._requests |= {(r.method, r.request_id): r for r in commit.requests}
        self.payloads.add(commit.references, commit.archive)
        self.commits += 1
        if fail == "after":
            raise StoreUnavailable(problem="told to fail after the commit")

    async def recover(self) -> None:
        """See `StateStore`."""

    async def list_projects(
        self, after_uid: str = "", max_bytes: int = EVERYTHING
    ) -> list[ProjectHead]:
        """See `StateStore`."""
        uids = list(self._projects)
        start = uids.index(after_uid) + 1 if after_uid else 0
        found: list[ProjectHead] = []
        size = 0
        for uid in uids[start:]:
            record, deleted = self._projects[uid], uid in self._deleted
            if uid in self._unfinished:
                continue
            size += len(record.data)
            if found and size > max_bytes:
                break
            head = await self.read_head(uid)
            found.append(ProjectHead(record, head, self._compacted.get(uid, 0), deleted))
        return found

    async def read_head(self, project_uid: str) -> int:
        """See `StateStore`."""
        segments = self._segments.get(project_uid)
        snapshots = await self.list_snapshots(project_uid)
        return max(segments[-1].last_revision if segments else 0, *snapshots, 0)

    async def read_segments(
        self, project_uid: str, after_revision: int, max_bytes: int
    ) -> list[SegmentRecord]:
        """See `StateStore`."""
        segments = self._segments.get(project_uid, [])
        start = bisect_right(segments, after_revision, key=lambda s: s.last_revision)
        found: list[SegmentRecord] = []
        size = 0
        for segment in segments[start:]:
            size += len(segment.data)
            if found and size > max_bytes:
                break
            found.append(segment)
        return found

    async def stored_bytes(self, project_uid: str, after_revision: int) -> int:
        """See `StateStore`."""
        segments = self._segments.get(project_uid, [])
        return sum(len(s.data) for s in segments if s.last_revision > after_revision)

    async def put_snapshot_chunk(self, record: SnapshotRecord) -> None:
        """See `StateStore`."""
        chunks = self._snapshots.setdefault(record.project_uid, {})
        chunks[record.revision, record.chunk] = record

    async def read_snapshot(self, project_uid: str, revision: int) -> list[SnapshotRecord]:
        """See `StateStore`."""
        complete = [r for r in await self.list_snapshots(project_uid) if r <= revision]
        chunks = self._snapshots.get(project_uid, {})
        return [chunks[key] for key in sorted(chunks) if complete and key[0] == complete[-1]]

    async def list_snapshots(self, project_uid: str) -> list[int]:
        """See `StateStore`."""
        chunks = self._snapshots.get(project_uid, {})
        return sorted(revision for (revision, _), record in chunks.items() if record.last)

    async def drop_snapshots(self, project_uid: str, revisions: Sequence[int]) -> None:
        """See `StateStore`."""
        chunks = self._snapshots.get(project_uid, {})
        for key in [key for key in chunks if key[0] in revisions]:
            del chunks[key]

    async def compact(self, project_uid: str, revision: int) -> None:
        """See `StateStore`."""
        self._compacted[project_uid] = revision
        segments = self._segments.get(project_uid, [])
        self._segments[project_uid] = [s for s in segments if s.last_revision > revision]
        old = [r for r, _ in self._snapshots.get(project_uid, {}) if r < revision]
        await self.drop_snapshots(project_uid, old)

    async def delete_project(self, project_uid: str) -> None:
        """See `StateStore`."""
        record = self._projects[project_uid]
        self._projects[project_uid] = ProjectRecord(project_uid, record.project_id, b"", 0)
        self._deleted.add(project_uid)
        self._segments.pop(project_uid, None)
        self._snapshots.pop(project_uid, None)
        self.payloads.forget_project(project_uid)

    async def begin_project(self, record: ProjectRecord, compacted: int) -> None:
        """See `StateStore`."""
        self._unfinished.add(record.project_uid)
        self._projects[record.project_uid] = record
        self._compacted[record.project_uid] = compacted

    async def finish_project(self, project_uid: str, requests: Sequence[RequestRecord]) -> None:
        """See `StateStore`."""
        await self.commit(Commit(requests=list(requests)))
        self._unfinished.remove(project_uid)

    async def list_unfinished(self) -> list[str]:
        """See `StateStore`."""
        return list(self._unfinished)

    async def drop_unfinished(self, project_uid: str) -> bool:
        """See `StateStore`."""
        if project_uid not in self._unfinished:
            return False
        self._unfinished.remove(project_uid)
        for kept in (self._projects, self._compacted, self._segments, self._snapshots):
            kept.pop(project_uid, None)
        self.payloads.forget_project(project_uid)
        return True

    async def list_producers(self) -> list[ProducerRecord]:
        """See `StateStore`."""
        return list(self._producers.values())

    async def list_requests(self, after_micros: int) -> list[RequestRecord]:
        """See `StateStore`."""
        return [r for r in self._requests.values() if r.micros > after_micros]

    async def list_damage(self) -> list[Row]:
        """See `StateStore`."""
        return []

    async def drop_requests(self, until_micros: int) -> None:
        """See `StateStore`."""
        self._requests = {k: r for k, r in self._requests.items() if r.micros > until_micros}

    async def backup(self, path: Path) -> None:
        """See `StateStore`."""
        with tempfile.TemporaryDirectory() as folder:
            copy = SqliteStore(Path(folder))
            there = self._projects.keys() - self._unfinished
            for payload in self.payloads.records.values():
                await copy.payloads.put(payload)
            await copy.commit(
                Commit(
                    projects=[p for uid, p in self._projects.items() if uid in there],
                    segments=[
                        s for u, found in self._segments.items() if u in there for s in found
                    ],
                    producers=list(self._producers.values()),
                    requests=list(self._requests.values()),
                    references=[
                        r for r in self.payloads.references.values() if r.project_uid in there
                    ],
                    archive=[
                        record
                        for uid, records in self.payloads.archive.items()
                        if uid in there
                        for record in records.values()
                    ],
                )
            )
            for uid, chunks in self._snapshots.items():
                if uid in there:
                    for _, record in sorted(chunks.items()):
                        await copy.put_snapshot_chunk(record)
            for uid, revision in self._compacted.items():
                if uid in there:
                    await copy.compact(uid, revision)
            for uid in self._deleted:
                await copy.delete_project(uid)
            await copy.aclose()
            shutil.move(Path(folder) / FILE_NAME, path)

    async def aclose(self) -> None:
        """See `StateStore`."""
