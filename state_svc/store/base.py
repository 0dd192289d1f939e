"""The contract of a store. Read this first.

A store keeps projects, their segments, producers and repeated requests, and (`payloads.py`)
large bodies. It knows nothing of nodes. Every method is a coroutine; a backend runs its I/O in
threads of its own.

A backend must hold:

- `commit` is atomic: all records of a `Commit` are stored, or none is. When it returns, they
  are durable: they survive the death of the process and of the machine.
- Commits that overlap in time are made one after the other.
- When `commit` raises `StoreUnavailable` the outcome may be unknown. `recover` is called next,
  and must return only when reads show whether the commit happened.
- Any other method that writes and raises `StoreUnavailable` has stored nothing of the step that
  failed, and no start after a crash finds it. It does not return before that is certain.
- A read shows whole commits only, and every commit that returned before the read began.
- `read_segments` returns segments in the order of revisions, without holes.
- Records come back byte for byte; whether they make sense is the codec's business.
- A snapshot is found once its last chunk is stored; chunks are stored one by one, in order.
- Nothing is deleted or overwritten except by the upserts named in `Commit`, and by
  `drop_snapshots`, `compact`, `delete_project`, `drop_unfinished`, `drop_requests` and those of
  `payloads`. To forget may take several transactions; whoever reads in between sees more than is
  promised, never less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from state_svc.codec.project import ProjectRecord
from state_svc.codec.segment import SegmentRecord
from state_svc.codec.snapshot import SnapshotRecord
from state_svc.store.payloads import ArchiveRecord, PayloadStore, ReferenceRecord
from state_svc.store.rows import Row

EVERYTHING = 1 << 62  #: bytes that no store has


@dataclass(frozen=True, slots=True)
class ProjectHead:
    """A stored project and its last revision."""

    record: ProjectRecord
    revision: int  #: of its last segment or snapshot; 0: its creation did not finish
    compacted: int = 0  #: segments up to this revision may be gone
    deleted: bool = False  #: only the id is left, so that it is never reused
    damaged: bool = False  #: what the store notes about it is not what was written


@dataclass(frozen=True, slots=True)
class ProducerRecord:
    """The epoch in force for a producer, in every project."""

    producer_id: str
    epoch: int


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """What a repeatable unary call answered (SEM 15)."""

    method: str
    request_id: str
    project_id: str
    revision: int
    micros: int  #: when, microseconds since 1970


@dataclass(slots=True)
class Commit:
    """Records of one transaction. Projects and producers replace what is stored."""

    segments: list[SegmentRecord] = field(default_factory=list)
    projects: list[ProjectRecord] = field(default_factory=list)
    producers: list[ProducerRecord] = field(default_factory=list)
    requests: list[RequestRecord] = field(default_factory=list)
    references: list[ReferenceRecord] = field(default_factory=list)
    archive: list[ArchiveRecord] = field(default_factory=list)


class StateStore(Protocol):
    """A place for commits."""

    @property
    def store_id(self) -> str:
        """Identity of the store, made when it was created (SEM 13)."""

    @property
    def scratch(self) -> Path:
        """Directory for files that are worth nothing after a restart; it may not exist yet."""

    @property
    def payloads(self) -> PayloadStore:
        """The bodies, what references them, and the archive of stage records."""

    async def commit(self, commit: Commit) -> None:
        """Make all records durable in one transaction.

        Raises `StoreUnavailable` if that failed or its outcome is unknown.
        """

    async def recover(self) -> None:
        """Make the store usable after a failed commit; raises `StoreUnavailable`."""

    async def list_projects(
        self, after_uid: str = "", max_bytes: int = EVERYTHING
    ) -> list[ProjectHead]:
        """Return projects in the order of their creation, those after one that is named.

        At least one is returned if there is any, more as long as their records stay within
        `max_bytes`.
        """

    async def read_head(self, project_uid: str) -> int:
        """Return the last stored revision of a project; 0 if it has none."""

    async def read_segments(
        self, project_uid: str, after_revision: int, max_bytes: int
    ) -> list[SegmentRecord]:
        """Return segments that hold revisions after `after_revision`, oldest first.

        The first may begin before it. At least one is returned if there is any, more as long
        as their stored size stays within `max_bytes`.
        """

    async def stored_bytes(self, project_uid: str, after_revision: int) -> int:
        """Return the stored bytes of the segments that end after a revision."""

    async def put_snapshot_chunk(self, record: SnapshotRecord) -> None:
        """Store one chunk of a snapshot, durably; a repeat replaces it."""

    async def read_snapshot(self, project_uid: str, revision: int) -> list[SnapshotRecord]:
        """Return the newest complete snapshot at or before a revision, in order; or nothing."""

    async def list_snapshots(self, project_uid: str) -> list[int]:
        """Return the revisions of the complete snapshots of a project, oldest first."""

    async def drop_snapshots(self, project_uid: str, revisions: Sequence[int]) -> None:
        """Forget snapshots, and chunks of incomplete ones, at these revisions."""

    async def compact(self, project_uid: str, revision: int) -> None:
        """Note that history up to a revision is dropped, durably; then drop it.

        Segments that end at or before it and snapshots before it are forgotten.
        """

    async def delete_project(self, project_uid: str) -> None:
        """Note that a project is deleted, durably; then drop all it has but its id."""

    async def begin_project(self, record: ProjectRecord, compacted: int) -> None:
        """Store a project that does not exist yet, durably, with its compacted revision.

        Its segments and snapshots may be stored, but it is not listed before `finish_project`.
        """

    async def finish_project(self, project_uid: str, requests: Sequence[RequestRecord]) -> None:
        """Make a project exist that was begun, and note the requests it answers, in one step."""

    async def list_unfinished(self) -> list[str]:
        """Return the uids of projects that were begun and not finished."""

    async def drop_unfinished(self, project_uid: str) -> bool:
        """Forget a project that was begun, and its id; False if there is none or it is finished."""

    async def list_producers(self) -> list[ProducerRecord]:
        """Return the epoch of every producer."""

    async def list_requests(self, after_micros: int) -> list[RequestRecord]:
        """Return requests answered after a time."""

    async def list_damage(self) -> list[Row]:
        """Return damaged records of producers and requests: they are in no other list."""

    async def drop_requests(self, until_micros: int) -> None:
        """Forget requests answered at or before a time."""

    async def backup(self, path: Path) -> None:
        """Write the whole store, as it is at one moment, into a new file.

        Whatever the backend, the file is a database of `store/sqlite.py`. Commits go on
        meanwhile. Raises `Overloaded` without room for it, or `StoreUnavailable`.
        """

    async def aclose(self) -> None:
        """Release files and threads. Idempotent."""
