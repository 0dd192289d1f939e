"""The writing end of a SQLite store: the only connection that writes, in a thread of its own.

Every transaction has a number, one higher than that of the one before. Durable means
`synchronous=FULL`: the WAL is fsynced before a transaction returns.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import apsw

from state_svc.errors import CommitsMissing, CorruptRecord, StoreUnavailable
from state_svc.failpoints import failpoint
from state_svc.store.high_water import NAME, HighWater, last_number, read_high_water
from state_svc.store.rows import put_row, teach
from state_svc.store.sqlite_schema import format_version, prepare, read_store_id

_log = logging.getLogger(__name__)

_BUSY_MS = 10_000
_CHECKPOINT_PAGES = 4_000  #: the WAL is folded back about every 16 MB
_RECOVER_SECONDS = 1.0  #: between attempts to end a doubt
_MAX_KEYS = 100_000
_PUT_META = put_row("meta")

#: Errors after which the WAL may hold the whole transaction.
_NOT_SYNCED = frozenset({apsw.SQLITE_IOERR_FSYNC, apsw.SQLITE_IOERR_DIR_FSYNC})

_Result = TypeVar("_Result")
Work = Callable[[apsw.Connection], _Result]


class SqliteWriter:
    """Runs transactions one after the other."""

    def __init__(self, path: Path) -> None:
        """Open a database, made or upgraded if needed.

        Raises `CommitsMissing`, `CorruptRecord`, `DataDirectoryTooNew`, `DataDirectoryUnreadable`
        or `apsw.Error`.
        """
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sqlite-writer")
        self._keys: dict[str, int] = {}  #: project_key by uid
        self._doubtful = False  #: a transaction failed when it was synced
        self.connection = self._connect()
        self._check_high_water()
        self.store_id = prepare(self.connection, path)
        self._number = last_number(self.connection)
        self._high_water = HighWater(path.parent)

    def key(self, project_uid: str) -> int:
        """Return the key of a stored project; inside a transaction only."""
        key = self._keys.get(project_uid)
        if key is None:
            query = "SELECT project_key FROM projects WHERE project_uid = ?"
            row = next(iter(self.connection.execute(query, (project_uid,))), None)
            if row is None:
                raise StoreUnavailable(problem=f"project {project_uid} is not stored")
            if len(self._keys) > _MAX_KEYS:
                self._keys.clear()
            key = self._keys[project_uid] = int(row[0])
        return key

    async def commit(self, work: Callable[[apsw.Connection, int], bool]) -> None:
        """Run work, which gets the number and returns whether its rows hold that, and commit.

        Raises `StoreUnavailable`: then the outcome may be unknown until `recover` has returned.
        """

        def run() -> None:
            failpoint("before_begin")
            self._transact(work, lambda: failpoint("before_commit"))
            failpoint("after_commit")

        await self._in_thread(run)

    async def write(self, work: Work[_Result]) -> _Result:
        """Run work as a transaction; it is durable when this returns.

        Raises `StoreUnavailable`: then nothing of it is stored, nor found after a crash.
        """
        try:
            return await self._in_thread(lambda: self.write_now(work))
        except StoreUnavailable:
            await self._end_doubt()
            raise

    def write_now(self, work: Work[_Result]) -> _Result:
        """Do as `write`, in the present thread: before the store is used by others."""
        results: list[_Result] = []

        def run(db: apsw.Connection, _: int) -> bool:
            results.append(work(db))
            return False

        self._transact(run)
        return results[0]

    async def recover(self) -> None:
        """Open the connection anew and end the doubt about what was not synced.

        Raises `StoreUnavailable` or `CorruptRecord`.
        """
        await self._in_thread(self._reopen)

    def close(self) -> None:
        """Release connection, mark and thread."""
        self._thread.submit(self.connection.close).result()
        self._thread.shutdown()
        self._high_water.close()

    async def _end_doubt(self) -> None:
        while self._doubtful:
            try:
                await self.recover()
            except (StoreUnavailable, CorruptRecord):
                _log.exception("store is not usable")
                await asyncio.sleep(_RECOVER_SECONDS)

    def _transact(
        self,
        work: Callable[[apsw.Connection, int], bool],
        before_commit: Callable[[], None] = lambda: None,
    ) -> None:
        db = self.connection
        number = self._number + 1
        before = db.total_changes()
        db.execute("BEGIN IMMEDIATE")
        try:
            in_rows = work(db, number)
            if db.total_changes() == before:
                db.execute("ROLLBACK")
                return
            if not in_rows:
                db.execute(_PUT_META, ("commit_id", str(number)))
            before_commit()
            db.execute("COMMIT")
        except BaseException as error:
            self._doubtful |= getattr(error, "extendedresult", 0) in _NOT_SYNCED
            self._keys.clear()
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        self._number = number
        self._high_water.write(self.store_id, number)

    def _reopen(self) -> None:
        self._keys.clear()
        self.connection.close(True)
        self.connection = self._connect()
        self._number = last_number(self.connection)
        if self._doubtful:
            # What was not synced may lie in the WAL all the same, and a start after a crash would
            # take it for a commit although it was refused. Another commit in its place ends that.
            value = uuid.uuid4().hex
            self.write_now(lambda db: db.execute(_PUT_META, ("recovered", value)))
            self._doubtful = False

    def _connect(self) -> apsw.Connection:
        db = apsw.Connection(str(self._path))
        db.set_busy_timeout(_BUSY_MS)
        teach(db)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        return db

    def _check_high_water(self) -> None:
        """Raise `CommitsMissing` if the database holds less than was acknowledged."""
        if not format_version(self.connection):
            return
        acknowledged = read_high_water(self._path.parent, read_store_id(self.connection))
        found = last_number(self.connection)
        if found < acknowledged:
            # What is left of the WAL stays as it is, for whoever looks into it.
            self.connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            self.connection.close()
            raise CommitsMissing(
                path=self._path,
                first_commit=found + 1,
                last_commit=acknowledged,
                mark=self._path.with_name(NAME),
            )

    async def _in_thread(self, work: Callable[[], _Result]) -> _Result:
        return await in_thread(self._thread, self._path.name, work)


async def in_thread(
    threads: ThreadPoolExecutor, file_name: str, work: Callable[[], _Result]
) -> _Result:
    """Run work upon a database in a thread; raises `CorruptRecord` or `StoreUnavailable`."""

    def run() -> _Result:
        try:
            return work()
        # An SQLError too: our statements are constant, so it is the schema that is damaged.
        except (apsw.CorruptError, apsw.NotADBError, apsw.SQLError) as error:
            raise CorruptRecord(file=file_name, problem=str(error)) from error
        except (TypeError, ValueError) as error:  # NULL or text where the schema has neither
            raise CorruptRecord(file=file_name, problem=str(error)) from error
        except (apsw.Error, OSError) as error:
            raise StoreUnavailable(file=file_name, problem=str(error)) from error

    return await asyncio.get_running_loop().run_in_executor(threads, run)
