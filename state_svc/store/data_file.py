"""Reads the file of a SQLite store without opening the store: for `check` and `restore`.

Unlike `SqliteStore` it takes rows as they are, so that one damaged row does not hide the others.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import apsw

from state_svc.codec.payload import PayloadRecord
from state_svc.codec.project import ProjectRecord
from state_svc.codec.segment import SegmentRecord
from state_svc.codec.snapshot import SnapshotRecord
from state_svc.store.high_water import last_number, read_high_water
from state_svc.store.rows import COLUMNS, Row, as_stored, decode, read_rows
from state_svc.store.sqlite_schema import read_store_id

_BUSY_MS = 10_000
_MAX_FINDINGS = 20  #: of SQLite's own check
_SEGMENT = "segment_key, first_revision, last_revision, format_version, codec, checksum, data"


@dataclass(frozen=True, slots=True)
class StoredProject:
    """A row of `projects`."""

    key: int
    record: ProjectRecord
    compacted: int
    deleted: int  #: not 0: the project does not exist (any more, or not yet)


@dataclass(frozen=True, slots=True)
class SegmentRow:
    """A row of `segments` and its key."""

    key: int
    record: SegmentRecord


@dataclass(frozen=True, slots=True)
class SnapshotRow:
    """A row of `snapshots` and its key."""

    key: int
    record: SnapshotRecord


class DataFile:
    """An open data file. Errors of SQLite (`apsw.Error`) come through as they are."""

    def __init__(self, path: Path, *, writable: bool = False) -> None:
        self.name = path.name
        self._directory = path.parent
        self.db = _open(path, writable)
        self.db.set_busy_timeout(_BUSY_MS)

    def __enter__(self) -> DataFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.db.close()

    def format_version(self) -> int:
        """Return the version of the schema; 0 for a database that is not a store."""
        return int(self.db.pragma("user_version"))

    def store_id(self) -> str:
        """Return the id of the store; empty if it has none."""
        return read_store_id(self.db)

    def missing(self) -> tuple[int, int] | None:
        """Return the first and the last number of commits that were acknowledged and are gone."""
        acknowledged = read_high_water(self._directory, self.store_id())
        found = last_number(self.db)
        return (found + 1, acknowledged) if found < acknowledged else None

    def findings(self) -> Iterator[str]:
        """Yield what SQLite's own check of pages and indexes finds."""
        for (text,) in self.db.execute(f"PRAGMA integrity_check({_MAX_FINDINGS})"):
            if text != "ok":
                yield str(text)

    def damaged_rows(self) -> Iterator[Row]:
        """Yield the rows that hold no encoded record and are not what was written."""
        for table in COLUMNS:
            yield from (row for row in read_rows(self.db, table) if not row.is_sound)

    @contextmanager
    def moment(self) -> Iterator[None]:
        """Make all reads inside see the store as it is at the first of them."""
        self.db.execute("BEGIN")
        try:
            yield
        finally:
            if self.db.in_transaction:
                self.db.execute("ROLLBACK")

    def project_keys(self) -> list[int]:
        """Return the keys of all projects in the order of their creation."""
        query = "SELECT project_key FROM projects ORDER BY project_key"
        return [int(key) for (key,) in self.db.execute(query)]

    def project(self, key: int) -> StoredProject | None:
        """Return one row of `projects` as it is now; None if it is gone."""
        query = (
            f"SELECT {as_stored('project_uid')}, {as_stored('project_id')}, data, checksum,"
            " compacted_revision, deleted FROM projects WHERE project_key = ?"
        )
        for uid, project_id, data, checksum, compacted, deleted in self.db.execute(query, (key,)):
            record = ProjectRecord(str(decode(uid)), str(decode(project_id)), data, checksum)
            return StoredProject(key, record, compacted, deleted)
        return None

    def segments(self, project: StoredProject) -> Iterator[SegmentRow]:
        """Yield the segments of a project in the order of revisions."""
        query = f"SELECT {_SEGMENT} FROM segments WHERE project_key = ? ORDER BY last_revision"
        for row in self.db.execute(query, (project.key,)):
            yield _segment_row(project, row)

    def segment_keys(self, project: StoredProject) -> list[int]:
        """Return the keys of the segments of a project in the order of revisions."""
        query = "SELECT segment_key FROM segments WHERE project_key = ? ORDER BY last_revision"
        return [int(key) for (key,) in self.db.execute(query, (project.key,))]

    def segment(self, project: StoredProject, key: int) -> SegmentRow:
        """Return one segment of a project."""
        query = f"SELECT {_SEGMENT} FROM segments WHERE segment_key = ?"
        return next(_segment_row(project, row) for row in self.db.execute(query, (key,)))

    def archive(self, project: StoredProject) -> list[tuple[int, SegmentRecord]]:
        """Return the keys and records of a project's archived stages, oldest first."""
        query = (
            "SELECT archive_key, first_revision, last_revision, format_version, codec, checksum,"
            " data FROM stage_archive WHERE project_key = ? ORDER BY last_revision"
        )
        rows = [_segment_row(project, row) for row in self.db.execute(query, (project.key,))]
        return [(row.key, row.record) for row in rows]

    def references(self, project: StoredProject) -> set[str]:
        """Return the digests that a project references."""
        rows = read_rows(self.db, "payload_references", "project_key = ?", project.key)
        return {str(row.values[1]) for row in rows if row.is_sound}

    def has_payload(self, digest: str) -> bool:
        """Whether there is a payload with a digest."""
        found = self.db.execute("SELECT 1 FROM payloads WHERE digest = ?", (digest,))
        return next(iter(found), None) is not None

    def payload_keys(self) -> list[int]:
        """Return the keys of all payloads."""
        return [int(key) for (key,) in self.db.execute("SELECT payload_key FROM payloads")]

    def payload(self, key: int) -> PayloadRecord | None:
        """Return one payload; None if it is gone."""
        query = (
            "SELECT digest, codec, original_bytes, micros, data FROM payloads WHERE payload_key = ?"
        )
        for digest, codec, original_bytes, micros, data in self.db.execute(query, (key,)):
            return PayloadRecord(
                digest=digest, codec=codec, original_bytes=original_bytes, micros=micros, data=data
            )
        return None

    def snapshot_revisions(self, project: StoredProject) -> list[int]:
        """Return the revisions of which there is a chunk, oldest first."""
        query = "SELECT DISTINCT revision FROM snapshots WHERE project_key = ? ORDER BY revision"
        return [int(revision) for (revision,) in self.db.execute(query, (project.key,))]

    def snapshot(self, project: StoredProject, revision: int) -> list[SnapshotRow]:
        """Return the chunks of one snapshot in order; the last may be missing."""
        query = (
            "SELECT snapshot_key, chunk, last, format_version, codec, checksum, data"
            " FROM snapshots WHERE project_key = ? AND revision = ? ORDER BY chunk"
        )
        found = []
        for key, chunk, last, version, codec, checksum, data in self.db.execute(
            query, (project.key, revision)
        ):
            record = SnapshotRecord(
                project_uid=project.record.project_uid,
                revision=revision,
                chunk=chunk,
                last=bool(last),
                format_version=version,
                codec=codec,
                checksum=checksum,
                data=data,
            )
            found.append(SnapshotRow(key, record))
        return found


def _segment_row(project: StoredProject, row: tuple[Any, ...]) -> SegmentRow:
    key, first, last, version, codec, checksum, data = row
    record = SegmentRecord(
        project_uid=project.record.project_uid,
        first_revision=first,
        last_revision=last,
        format_version=version,
        codec=codec,
        checksum=checksum,
        data=data,
    )
    return SegmentRow(key, record)


def _open(path: Path, writable: bool) -> apsw.Connection:
    if writable:
        return apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    wal = path.with_name(path.name + "-wal")
    sealed = not os.access(path.parent, os.W_OK) and not (wal.exists() and wal.stat().st_size)
    # A reader shares memory with writers through a file beside the database. Where it can make
    # none, there is no writer either.
    return apsw.Connection(f"file:{quote(str(path))}{'?immutable=1' * sealed}", flags=flags)


@contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Hold the lock of a data directory, if nobody else does; yield whether that is so."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield True  # nobody has ever served it
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(handle)
