"""A store in one SQLite file, through apsw.

The library of the operating system may be inside the range of SQLite's WAL-reset bug (two
connections that write and checkpoint at the same instant lose committed pages; fixed in 3.51.3).
apsw carries its own, newer library, and here only the writer checkpoints.

One thread has the only writing connection (`sqlite_writer.py`); reads run in other threads on
connections that cannot write.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import apsw

from state_svc import __version__
from state_svc.codec.project import ProjectRecord
from state_svc.codec.segment import SegmentRecord
from state_svc.codec.snapshot import SnapshotRecord
from state_svc.errors import (
    CorruptRecord,
    DataDirectoryLocked,
    DataDirectoryUnreadable,
    InvalidConfig,
    Overloaded,
    StoreUnavailable,
)
from state_svc.failpoints import failpoint
from state_svc.store.base import (
    EVERYTHING,
    Commit,
    ProducerRecord,
    ProjectHead,
    RequestRecord,
)
from state_svc.store.rows import PROBLEM, Row, Value, is_sound, put_row, read_rows, teach
from state_svc.store.sqlite_copy import DatabaseCopy
from state_svc.store.sqlite_payloads import SqlitePayloads, put_archive, put_references, recount
from state_svc.store.sqlite_projects import (
    SOUND,
    UNFINISHED,
    list_projects,
    project_key,
    read_head,
)
from state_svc.store.sqlite_schema import TABLES
from state_svc.store.sqlite_writer import SqliteWriter, Work, in_thread

_log = logging.getLogger(__name__)

FILE_NAME = "state.sqlite3"
LOCK_NAME = "LOCK"
SCRATCH_NAME = "scratch"  #: files that are worth nothing after a restart
_READERS = 2
_BUSY_MS = 10_000
_DELETE_ROWS = 500
_SPARE_BYTES = 256 << 20  #: left for the store itself when a copy is made beside it
_COPY_PAUSE = 0.002  #: seconds between slices of a copy, for commits that wait for the disk


_Result = TypeVar("_Result")


_SELECT_SEGMENTS = """
SELECT first_revision, last_revision, format_version, codec, checksum, data
FROM segments WHERE project_key = ? AND last_revision > ? ORDER BY last_revision
"""


class SqliteStore:
    """Implements `StateStore` in a data directory of its own."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE_NAME
        self._lock = _lock_directory(directory)
        self.scratch = directory / SCRATCH_NAME
        self._reader_threads = ThreadPoolExecutor(_READERS, thread_name_prefix="sqlite-reader")
        self._readers = threading.local()
        self._reader_connections: list[apsw.Connection] = []
        self._closed = False
        self.payloads = SqlitePayloads(self)
        try:
            shutil.rmtree(self.scratch, ignore_errors=True)
            self._writer = SqliteWriter(self._path)
            self._clear_deleted()
            self._recount_payloads()
        except apsw.Error as error:
            os.close(self._lock)
            raise DataDirectoryUnreadable(path=self._path, problem=str(error)) from error
        except BaseException:
            os.close(self._lock)
            raise

    @property
    def store_id(self) -> str:
        """See `StateStore`."""
        return self._writer.store_id

    @property
    def sqlite_version(self) -> str:
        """Version of the SQLite library in use."""
        return apsw.sqlite_lib_version()

    async def commit(self, commit: Commit) -> None:
        """See `StateStore`."""
        await self._writer.commit(lambda db, number: self._put_commit(db, number, commit))

    async def recover(self) -> None:
        """See `StateStore`."""
        await self._writer.recover()

    async def list_projects(
        self, after_uid: str = "", max_bytes: int = EVERYTHING
    ) -> list[ProjectHead]:
        """See `StateStore`."""
        return await self.read(lambda db: list_projects(db, after_uid, max_bytes))

    async def read_head(self, project_uid: str) -> int:
        """See `StateStore`."""
        return await self.read(lambda db: read_head(db, project_uid))

    async def read_segments(
        self, project_uid: str, after_revision: int, max_bytes: int
    ) -> list[SegmentRecord]:
        """See `StateStore`."""
        return await self.read(
            lambda db: _read_segments(db, project_uid, after_revision, max_bytes)
        )

    async def stored_bytes(self, project_uid: str, after_revision: int) -> int:
        """See `StateStore`."""
        return await self.read(lambda db: _stored_bytes(db, project_uid, after_revision))

    async def put_snapshot_chunk(self, record: SnapshotRecord) -> None:
        """See `StateStore`."""
        await self.write(lambda db: self._put_snapshot_chunk(db, record))

    async def read_snapshot(self, project_uid: str, revision: int) -> list[SnapshotRecord]:
        """See `StateStore`."""
        return await self.read(lambda db: _read_snapshot(db, project_uid, revision))

    async def list_snapshots(self, project_uid: str) -> list[int]:
        """See `StateStore`."""
        return await self.read(lambda db: _list_snapshots(db, project_uid))

    async def drop_snapshots(self, project_uid: str, revisions: Sequence[int]) -> None:
        """See `StateStore`."""
        statement = "DELETE FROM snapshots WHERE project_key = ? AND revision = ?"
        await self.write(
            lambda db: db.executemany(
                statement, [(self._writer.key(project_uid), revision) for revision in revisions]
            )
        )

    async def compact(self, project_uid: str, revision: int) -> None:
        """See `StateStore`."""
        key = await self.write(lambda _: self._writer.key(project_uid))
        await self._mark(
            "compacted_revision = ?1,"
            " row_checksum = checksum_of(project_uid, project_id, ?1, deleted)",
            "project_key = ?2",
            (revision, key),
        )
        failpoint("after_compact_mark")
        await self._delete("segments", "project_key = ? AND last_revision <= ?", (key, revision))
        await self._delete("snapshots", "project_key = ? AND revision < ?", (key, revision))

    async def delete_project(self, project_uid: str) -> None:
        """See `StateStore`."""
        key = await self.write(lambda _: self._writer.key(project_uid))
        await self._mark(
            "deleted = 1, data = x'', checksum = 0,"
            " row_checksum = checksum_of(project_uid, project_id, compacted_revision, 1)",
            "project_key = ?",
            (key,),
        )
        try:
            for table in TABLES:
                await self._delete(table, "project_key = ?", (key,))
        except (StoreUnavailable, CorruptRecord) as error:
            # It is deleted all the same; the next start drops what is left of it.
            _log.warning(
                "a deleted project is not cleared away yet", extra={"fields": error.fields}
            )

    async def begin_project(self, record: ProjectRecord, compacted: int) -> None:
        """See `StateStore`."""
        await self._write(
            "INSERT INTO projects"
            " (project_uid, project_id, data, checksum, compacted_revision, deleted, row_checksum)"
            " VALUES (?1, ?2, ?3, ?4, ?5, ?6, checksum_of(?1, ?2, ?5, ?6))",
            (
                record.project_uid,
                record.project_id,
                record.data,
                record.checksum,
                compacted,
                UNFINISHED,
            ),
        )

    async def finish_project(self, project_uid: str, requests: Sequence[RequestRecord]) -> None:
        """See `StateStore`."""
        statement = (
            "UPDATE projects SET deleted = 0,"
            " row_checksum = checksum_of(project_uid, project_id, compacted_revision, 0)"
            f" WHERE project_uid = ? AND deleted = {UNFINISHED} AND {SOUND}"
        )

        def work(db: apsw.Connection) -> None:
            db.execute(statement, (project_uid,))
            _put_requests(db, requests)

        await self.write(work)

    async def list_unfinished(self) -> list[str]:
        """See `StateStore`."""
        query = f"SELECT project_uid FROM projects WHERE deleted = {UNFINISHED} AND {SOUND}"
        return await self.read(lambda db: [str(uid) for (uid,) in db.execute(query)])

    async def drop_unfinished(self, project_uid: str) -> bool:
        """See `StateStore`."""
        if project_uid not in await self.list_unfinished():
            return False
        key = await self.write(lambda _: self._writer.key(project_uid))
        for table in TABLES:
            await self._delete(table, "project_key = ?", (key,))
        await self._write("DELETE FROM projects WHERE project_key = ?", (key,))
        return True

    async def _write(self, statement: str, values: tuple[int | str | bytes, ...]) -> int:
        """Run one statement as a transaction; return how many rows it changed."""

        def work(db: apsw.Connection) -> int:
            db.execute(statement, values)
            return db.changes()

        return await self.write(work)

    async def _mark(self, change: str, where: str, values: tuple[int, ...]) -> None:
        """Change the row of a project; raises `CorruptRecord` if it is damaged."""
        statement = f"UPDATE projects SET {change} WHERE {where} AND {SOUND}"
        if not await self._write(statement, values):
            raise CorruptRecord(
                file=FILE_NAME, table="projects", project_key=values[-1], problem=PROBLEM
            )

    async def _delete(self, table: str, condition: str, values: tuple[int, ...]) -> None:
        """Delete rows a few at a time, so that commits get their turn in between."""
        statement = (
            f"DELETE FROM {table} WHERE rowid IN"
            f" (SELECT rowid FROM {table} WHERE {condition} LIMIT {_DELETE_ROWS})"
        )
        while await self._write(statement, values):
            pass

    async def list_producers(self) -> list[ProducerRecord]:
        """See `StateStore`."""
        return await self.read(
            lambda db: [ProducerRecord(*values) for values in _sound(db, "producers")]
        )

    async def list_requests(self, after_micros: int) -> list[RequestRecord]:
        """See `StateStore`."""
        return await self.read(
            lambda db: [
                RequestRecord(*values)
                for values in _sound(db, "requests", "micros > ?", after_micros)
            ]
        )

    async def list_damage(self) -> list[Row]:
        """See `StateStore`."""
        return await self.read(
            lambda db: [
                row
                for table in ("producers", "requests")
                for row in read_rows(db, table)
                if not row.is_sound
            ]
        )

    async def drop_requests(self, until_micros: int) -> None:
        """See `StateStore`."""
        # By its key, as the table has no rowid.
        statement = (
            "DELETE FROM requests WHERE (method, request_id) IN"
            " (SELECT method, request_id FROM requests"
            f" WHERE micros <= ? AND {is_sound('requests')} LIMIT {_DELETE_ROWS})"
        )
        while await self._write(statement, (until_micros,)):
            pass

    async def backup(self, path: Path) -> None:
        """See `StateStore`."""
        size = sum(f.stat().st_size for f in self._path.parent.glob(f"{FILE_NAME}*"))
        if shutil.disk_usage(path.parent).free < size + _SPARE_BYTES:
            raise Overloaded(path=path.parent, problem=f"no room for a copy of {size} bytes")
        thread = ThreadPoolExecutor(1, thread_name_prefix="sqlite-backup")
        copy = await in_thread(thread, self._path.name, lambda: DatabaseCopy(self._path, path))
        try:
            left = True
            while left:
                left = await in_thread(thread, self._path.name, copy.step)
                await asyncio.sleep(_COPY_PAUSE)
        finally:
            # Also if the caller has gone: after the slice that is being copied.
            closing = thread.submit(copy.close)
            thread.shutdown(wait=False)
        await asyncio.wrap_future(closing)

    async def aclose(self) -> None:
        """See `StateStore`."""
        if self._closed:
            return
        self._closed = True
        await asyncio.get_running_loop().run_in_executor(None, self._close)

    # In the writer thread

    def _put_commit(self, db: apsw.Connection, number: int, commit: Commit) -> bool:
        key = self._writer.key
        for project in commit.projects:
            _put_project(db, project)
        db.executemany(
            "INSERT INTO segments (commit_id, project_key, first_revision, last_revision,"
            " format_version, codec, writer_version, checksum, data)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                (
                    number,
                    key(segment.project_uid),
                    segment.first_revision,
                    segment.last_revision,
                    segment.format_version,
                    segment.codec,
                    __version__,
                    segment.checksum,
                    segment.data,
                )
                for segment in commit.segments
            ),
        )
        if commit.producers:
            db.executemany(
                put_row("producers"),
                [(record.producer_id, record.epoch) for record in commit.producers],
            )
        _put_requests(db, commit.requests)
        put_references(db, ((key(r.project_uid), r) for r in commit.references))
        put_archive(db, ((key(a.segment.project_uid), a) for a in commit.archive))
        return bool(commit.segments)

    def _put_snapshot_chunk(self, db: apsw.Connection, record: SnapshotRecord) -> None:
        db.execute(
            "INSERT OR REPLACE INTO snapshots (project_key, revision, chunk, last,"
            " format_version, codec, checksum, data) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                self._writer.key(record.project_uid),
                record.revision,
                record.chunk,
                record.last,
                record.format_version,
                record.codec,
                record.checksum,
                record.data,
            ),
        )

    def _clear_deleted(self) -> None:
        """Drop what deletions that were cut off have left."""

        def work(db: apsw.Connection) -> None:
            for table in TABLES:
                db.execute(
                    f"DELETE FROM {table} WHERE project_key IN"
                    f" (SELECT project_key FROM projects WHERE deleted = 1 AND {SOUND})"
                )

        try:
            self._writer.write_now(work)
        except apsw.CorruptError:  # nothing that is served depends on it
            _log.exception("deleted projects cannot be cleared away")

    def _recount_payloads(self) -> None:
        try:
            self._writer.write_now(recount)
        except apsw.Error:  # a statistic: nothing that is served depends on it
            _log.exception("payloads cannot be counted")

    def _close(self) -> None:
        self._reader_threads.shutdown()
        for connection in self._reader_connections:
            connection.close()
        self._writer.close()
        os.close(self._lock)

    # In a reader thread

    def _reader(self) -> apsw.Connection:
        connection: apsw.Connection | None = getattr(self._readers, "connection", None)
        if connection is None:
            connection = apsw.Connection(str(self._path), flags=apsw.SQLITE_OPEN_READWRITE)
            connection.set_busy_timeout(_BUSY_MS)
            teach(connection)
            connection.execute("PRAGMA query_only = 1")
            connection.execute("PRAGMA wal_autocheckpoint = 0")
            self._readers.connection = connection
            self._reader_connections.append(connection)
        return connection

    async def read(self, work: Work[_Result]) -> _Result:
        """Run work that writes nothing in a reader thread."""
        return await in_thread(self._reader_threads, self._path.name, lambda: work(self._reader()))

    async def write(self, work: Work[_Result]) -> _Result:
        """Run work as a transaction in the writer thread: see `SqliteWriter.write`."""
        return await self._writer.write(work)


def _put_project(db: apsw.Connection, record: ProjectRecord) -> None:
    db.execute(
        "INSERT INTO projects (project_uid, project_id, data, checksum, row_checksum)"
        " VALUES (?1, ?2, ?3, ?4, checksum_of(?1, ?2, 0, 0))"
        " ON CONFLICT (project_uid) DO UPDATE SET data = excluded.data,"
        " checksum = excluded.checksum",
        (record.project_uid, record.project_id, record.data, record.checksum),
    )


def _put_requests(db: apsw.Connection, requests: Sequence[RequestRecord]) -> None:
    if requests:
        db.executemany(
            put_row("requests"),
            [(r.method, r.request_id, r.project_id, r.revision, r.micros) for r in requests],
        )


def _sound(
    db: apsw.Connection, table: str, where: str = "true", *values: Value
) -> Iterator[tuple[Any, ...]]:
    return (row.values for row in read_rows(db, table, where, *values) if row.is_sound)


def _read_segments(
    db: apsw.Connection, project_uid: str, after_revision: int, max_bytes: int
) -> list[SegmentRecord]:
    key = project_key(db, project_uid)
    found: list[SegmentRecord] = []
    size = 0
    for first, last, version, codec, checksum, data in db.execute(
        _SELECT_SEGMENTS, (key, after_revision)
    ):
        whole = all(isinstance(value, int) for value in (first, last, version, codec, checksum))
        if not whole or not isinstance(data, bytes):  # STRICT tables hold nothing else
            raise CorruptRecord(
                project_uid=project_uid,
                revision=after_revision + 1,
                problem="a row does not have the types of its table",
            )
        size += len(data)
        if found and size > max_bytes:
            break
        found.append(
            SegmentRecord(
                project_uid=project_uid,
                first_revision=first,
                last_revision=last,
                format_version=version,
                codec=codec,
                checksum=checksum,
                data=data,
            )
        )
    return found


def _stored_bytes(db: apsw.Connection, project_uid: str, after_revision: int) -> int:
    query = "SELECT sum(length(data)) FROM segments WHERE project_key = ? AND last_revision > ?"
    for (size,) in db.execute(query, (project_key(db, project_uid), after_revision)):
        return int(size or 0)
    return 0


def _list_snapshots(db: apsw.Connection, project_uid: str) -> list[int]:
    query = "SELECT revision FROM snapshots WHERE project_key = ? AND last ORDER BY revision"
    return [int(revision) for (revision,) in db.execute(query, (project_key(db, project_uid),))]


def _read_snapshot(db: apsw.Connection, project_uid: str, revision: int) -> list[SnapshotRecord]:
    # One statement, so that it sees all chunks or none while they are dropped.
    query = (
        "SELECT revision, chunk, last, format_version, codec, checksum, data FROM snapshots"
        " WHERE project_key = ?1 AND revision = (SELECT max(revision) FROM snapshots"
        " WHERE project_key = ?1 AND last AND revision <= ?2) ORDER BY chunk"
    )
    return [
        SnapshotRecord(
            project_uid=project_uid,
            revision=found,
            chunk=chunk,
            last=bool(last),
            format_version=version,
            codec=codec,
            checksum=checksum,
            data=data,
        )
        for found, chunk, last, version, codec, checksum, data in db.execute(
            query, (project_key(db, project_uid), revision)
        )
    ]


def _lock_directory(directory: Path) -> int:
    """Create and lock the data directory; the lock ends with the process, however it ends."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        handle = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        problem = f"{error.strerror}; choose another directory"
        raise InvalidConfig(data=directory, problem=problem) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise DataDirectoryLocked(data=directory) from error
    return handle


@contextmanager
def hold_directory(directory: Path) -> Iterator[None]:
    """Hold the lock of a data directory, made if needed. Raises `DataDirectoryLocked`."""
    handle = _lock_directory(directory)
    try:
        yield
    finally:
        os.close(handle)
