"""The payloads of a SQLite store: see `payloads.py` for what they promise."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

import apsw

from state_svc.codec.payload import PayloadInfo, PayloadRecord, is_damaged
from state_svc.codec.segment import SegmentRecord
from state_svc.errors import CorruptRecord, StoreUnavailable
from state_svc.failpoints import failpoint
from state_svc.store.payloads import ArchiveRecord, PayloadTotals, ReferenceRecord
from state_svc.store.rows import Value, is_sound, put_row, read_meta, read_rows, sound_rows

_DELETE_ROWS = 500
_DELETE_BYTES = 32 << 20  #: of bodies, in one transaction
_ASK = 500  #: digests in one question

_Result = TypeVar("_Result")
Work = Callable[[apsw.Connection], _Result]


class Threads(Protocol):
    """Where the statements run."""

    def read(self, work: Work[_Result]) -> Awaitable[_Result]:
        """Run in a reader thread, on a connection that cannot write."""

    def write(self, work: Work[_Result]) -> Awaitable[_Result]:
        """Run as a transaction in the writer thread, on the writing connection."""


class SqlitePayloads:
    """Implements `PayloadStore`."""

    def __init__(self, threads: Threads) -> None:
        self._threads = threads

    async def put(self, record: PayloadRecord) -> PayloadInfo:
        """See `PayloadStore`."""

        stored = await self.read(record.digest)
        damaged = stored is not None and await asyncio.to_thread(is_damaged, stored, record)

        def work(db: apsw.Connection) -> PayloadInfo:
            there = _find(db, [record.digest])
            if there and damaged:
                totals = read_totals(db).plus(0, 0, len(record.data) - there[0].stored_bytes)
                db.execute(
                    "UPDATE payloads SET codec = ?, original_bytes = ?, micros = ?, data = ?"
                    " WHERE digest = ?",
                    (
                        record.codec,
                        record.original_bytes,
                        record.micros,
                        record.data,
                        record.digest,
                    ),
                )
                _note_totals(db, totals)
                return _find(db, [record.digest])[0]
            if there:
                db.execute(
                    "UPDATE payloads SET micros = max(micros, ?) WHERE digest = ?",
                    (record.micros, record.digest),
                )
                failpoint("in_payload_put")
                return there[0]
            totals = read_totals(db).plus(1, record.original_bytes, len(record.data))
            db.execute(
                "INSERT INTO payloads (digest, codec, original_bytes, micros, data)"
                " VALUES (?, ?, ?, ?, ?)",
                (record.digest, record.codec, record.original_bytes, record.micros, record.data),
            )
            _note_totals(db, totals)
            failpoint("in_payload_put")
            return _find(db, [record.digest])[0]

        return await self._threads.write(work)

    async def totals(self) -> PayloadTotals:
        """See `PayloadStore`."""
        return await self._threads.read(read_totals)

    async def find(self, digests: Collection[str]) -> list[PayloadInfo]:
        """See `PayloadStore`."""
        return await self._threads.read(lambda db: _find(db, sorted(digests)))

    async def read(self, digest: str) -> PayloadRecord | None:
        """See `PayloadStore`."""
        query = "SELECT codec, original_bytes, micros, data FROM payloads WHERE digest = ?"

        def work(db: apsw.Connection) -> PayloadRecord | None:
            for codec, original_bytes, micros, data in db.execute(query, (digest,)):
                return PayloadRecord(
                    digest=digest,
                    codec=codec,
                    original_bytes=original_bytes,
                    micros=micros,
                    data=data,
                )
            return None

        return await self._threads.read(work)

    async def list_references(self, project_uid: str) -> list[ReferenceRecord]:
        """See `PayloadStore`."""
        where = f"project_key = {_KEY} ORDER BY digest, archived"
        return await self._threads.read(
            lambda db: [
                ReferenceRecord(project_uid, str(digest), int(revision), bool(archived))
                for _, digest, archived, revision in _references(db, where, project_uid)
            ]
        )

    async def is_referenced(self, project_uid: str, digest: str) -> bool:
        """See `PayloadStore`."""
        where = f"project_key = {_KEY} AND digest = ?"
        return await self._threads.read(
            lambda db: any(True for _ in _references(db, where, project_uid, digest))
        )

    async def drop_references(
        self, project_uid: str, revision: int, kept: Collection[str], *, archived: bool = False
    ) -> None:
        """See `PayloadStore`."""
        gone: list[_Values] = [
            (project_uid, reference.digest, archived, revision)
            for reference in await self.list_references(project_uid)
            if reference.archived == archived
            and reference.revision <= revision
            and reference.digest not in kept
        ]
        # The revision is asked again: a commit may have named the payload since.
        statement = (
            f"DELETE FROM payload_references WHERE project_key = {_KEY}"
            " AND digest = ? AND archived = ? AND revision <= ?"
        )
        for some in _parts(gone):
            await self._threads.write(partial(_run_all, statement=statement, values=some))

    async def list_unreferenced(self, before_micros: int) -> list[str]:
        """See `PayloadStore`."""
        return await self._threads.read(lambda db: _list_unreferenced(db, before_micros))

    async def drop_payloads(self, digests: Collection[str], before_micros: int) -> int:
        """See `PayloadStore`."""
        waiting = list(digests)
        dropped = 0
        while waiting:
            seen, gone = await self._threads.write(partial(_drop, waiting, before_micros))
            failpoint("after_payload_drop")
            del waiting[:seen]
            dropped += gone
        return dropped

    async def read_archive(
        self, project_uid: str, after_revision: int, max_bytes: int
    ) -> list[ArchiveRecord]:
        """See `PayloadStore`."""
        return await self._threads.read(
            lambda db: _read_archive(db, project_uid, after_revision, max_bytes)
        )

    async def drop_archive_after(self, project_uid: str, revision: int) -> None:
        """See `PayloadStore`."""
        statement = f"DELETE FROM stage_archive WHERE project_key = {_KEY} AND last_revision > ?"
        await self._threads.write(lambda db: _run_all(db, statement, [(project_uid, revision)]))

    async def drop_archive_before(self, project_uid: str, micros: int) -> int:
        """See `PayloadStore`."""
        query = (
            "SELECT max(last_revision) FROM stage_archive WHERE project_key = "
            f"{_KEY} AND last_revision < coalesce((SELECT min(last_revision) FROM stage_archive"
            f" WHERE project_key = {_KEY} AND micros >= ?), {1 << 62})"
        )
        statement = f"DELETE FROM stage_archive WHERE project_key = {_KEY} AND last_revision <= ?"

        def work(db: apsw.Connection) -> int:
            ((last,),) = db.execute(query, (project_uid, project_uid, micros))
            if last:
                db.execute(statement, (project_uid, last))
            return int(last or 0)

        return await self._threads.write(work)


_SOUND = is_sound("payload_references")
_KEY = "(SELECT project_key FROM projects WHERE project_uid = ?)"
_UNREFERENCED = (
    "NOT EXISTS (SELECT 1 FROM payload_references"
    " WHERE payload_references.digest = payloads.digest)"
)


def _references(db: apsw.Connection, where: str, *values: Value) -> Iterator[tuple[Any, ...]]:
    return sound_rows(db, "payload_references", where, *values)


def _list_unreferenced(db: apsw.Connection, before_micros: int) -> list[str]:
    """Raise `CorruptRecord` if a reference is damaged: it may be one to any of them.

    Neither is an index trusted with what may be dropped: it may be damaged on its own.
    """
    damaged = f"SELECT reference_key FROM payload_references NOT INDEXED WHERE NOT {_SOUND}"
    for (key,) in db.execute(damaged):
        for _ in _references(db, "reference_key = ?", key):
            pass
    query = (
        "SELECT digest FROM payloads WHERE micros < ?"
        " AND digest NOT IN (SELECT digest FROM payload_references NOT INDEXED)"
    )
    return [str(digest) for (digest,) in db.execute(query, (before_micros,))]


def read_totals(db: apsw.Connection) -> PayloadTotals:
    """Return how much is there: as it is noted, or by looking if it never was."""
    return _noted(db) or _count(db)


def recount(db: apsw.Connection) -> None:
    """Note how much is there, by looking: versions before may have written without noting it."""
    totals = _count(db)
    damaged = any(not row.is_sound for row in read_rows(db, "meta", "key = 'payload_totals'"))
    if damaged or totals != (_noted(db) or PayloadTotals()):
        _note_totals(db, totals)


def _noted(db: apsw.Connection) -> PayloadTotals | None:
    try:
        numbers = (read_meta(db, "payload_totals") or "").split()
    except CorruptRecord:  # they can be counted again
        return None
    if len(numbers) == 3 and all(map(str.isdecimal, numbers)):
        return PayloadTotals(*map(int, numbers))
    return None


def _count(db: apsw.Connection) -> PayloadTotals:
    query = (
        "SELECT count(*), coalesce(sum(original_bytes), 0), coalesce(sum(length(data)), 0)"
        " FROM payloads"
    )
    return PayloadTotals(*next(iter(db.execute(query))))


def _note_totals(db: apsw.Connection, totals: PayloadTotals) -> None:
    text = f"{totals.count} {totals.original_bytes} {totals.stored_bytes}"
    db.execute(put_row("meta"), ("payload_totals", text))


def _drop(digests: Sequence[str], before_micros: int, db: apsw.Connection) -> tuple[int, int]:
    """Drop the first of some payloads, those that may go; return (looked at, dropped).

    Only so many, and so many bytes, that commits get their turn.
    """
    statement = (
        f"DELETE FROM payloads WHERE digest = ? AND micros < ? AND {_UNREFERENCED}"
        " RETURNING original_bytes, length(data)"
    )
    totals = read_totals(db)
    seen = dropped = original = stored = 0
    for digest in digests[:_DELETE_ROWS]:
        for original_bytes, stored_bytes in db.execute(statement, (digest, before_micros)):
            dropped += 1
            original += original_bytes
            stored += stored_bytes
        seen += 1
        if stored >= _DELETE_BYTES:
            break
    if dropped:
        _note_totals(db, totals.plus(-dropped, -original, -stored))
    failpoint("in_payload_drop")
    return seen, dropped


def put_references(db: apsw.Connection, references: Iterable[tuple[int, ReferenceRecord]]) -> None:
    """Store references by (project key, record) inside a transaction.

    Raises `StoreUnavailable` if a payload is not there; then the transaction must not commit.
    """
    statement = (
        "INSERT INTO payload_references (project_key, digest, archived, revision, row_checksum)"
        " VALUES (?1, ?2, ?3, ?4, checksum_of(?1, ?2, ?3, ?4))"
        " ON CONFLICT (project_key, digest, archived)"
        " DO UPDATE SET revision = excluded.revision, row_checksum = excluded.row_checksum"
        # What is there may be damaged: the later revision is right whatever it was.
        f" WHERE excluded.revision > payload_references.revision OR NOT {_SOUND}"
    )
    for key, reference in references:
        if not _find(db, [reference.digest]):
            raise StoreUnavailable(problem=f"payload {reference.digest} is not stored any more")
        values = (key, reference.digest, int(reference.archived), reference.revision)
        db.execute(statement, values)
        failpoint("in_references")


def put_archive(db: apsw.Connection, archive: Iterable[tuple[int, ArchiveRecord]]) -> None:
    """Store archive records by (project key, record) inside a transaction."""
    db.executemany(
        "INSERT OR REPLACE INTO stage_archive (project_key, first_revision, last_revision, micros,"
        " format_version, codec, checksum, data) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            (
                key,
                record.segment.first_revision,
                record.segment.last_revision,
                record.micros,
                record.segment.format_version,
                record.segment.codec,
                record.segment.checksum,
                record.segment.data,
            )
            for key, record in archive
        ),
    )


def _find(db: apsw.Connection, digests: Sequence[str]) -> list[PayloadInfo]:
    found = []
    for start in range(0, len(digests), _ASK):
        some = tuple(digests[start : start + _ASK])
        query = (
            "SELECT digest, codec, original_bytes, length(data) FROM payloads"
            f" WHERE digest IN ({', '.join('?' * len(some))})"
        )
        for digest, codec, original_bytes, stored_bytes in db.execute(query, some):
            info = PayloadInfo(
                digest=digest,
                codec=codec,
                original_bytes=original_bytes,
                stored_bytes=stored_bytes,
            )
            found.append(info)
    return found


def _read_archive(
    db: apsw.Connection, project_uid: str, after_revision: int, max_bytes: int
) -> list[ArchiveRecord]:
    query = (
        "SELECT first_revision, last_revision, format_version, codec, checksum, data, micros"
        f" FROM stage_archive WHERE project_key = {_KEY} AND last_revision > ?"
        " ORDER BY last_revision"
    )
    found: list[ArchiveRecord] = []
    size = 0
    for first, last, version, codec, checksum, data, micros in db.execute(
        query, (project_uid, after_revision)
    ):
        size += len(data)
        if found and size > max_bytes:
            break
        segment = SegmentRecord(
            project_uid=project_uid,
            first_revision=first,
            last_revision=last,
            format_version=version,
            codec=codec,
            checksum=checksum,
            data=data,
        )
        found.append(ArchiveRecord(segment, micros))
    return found


_Values = tuple[str | int, ...]


def _parts(values: list[_Values]) -> Iterable[list[_Values]]:
    """Yield a few at a time, so that commits get their turn in between."""
    return (values[start : start + _DELETE_ROWS] for start in range(0, len(values), _DELETE_ROWS))


def _run_all(db: apsw.Connection, statement: str, values: list[_Values]) -> int:
    """Run one statement with each of some values; return the rows changed."""
    before = db.total_changes()
    db.executemany(statement, values)
    return db.total_changes() - before
