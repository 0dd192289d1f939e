"""Copies a SQLite database that is in use, as it is at one moment, a slice at a time."""

from __future__ import annotations

from pathlib import Path

import apsw

_SLICE_PAGES = 1_024  #: 4 MiB at a time, so that others get at the disk in between
_BUSY_MS = 10_000


class DatabaseCopy:
    """One copy. Belongs to one thread.

    The source is read inside one transaction: whatever is committed meanwhile is not in the
    copy and does not make it begin again. Writers are not held up; only their log grows until
    the copy is done.
    """

    def __init__(self, source: Path, target: Path) -> None:
        self._source = apsw.Connection(str(source), flags=apsw.SQLITE_OPEN_READWRITE)
        self._target = apsw.Connection(str(target))
        self._source.set_busy_timeout(_BUSY_MS)
        self._source.execute("PRAGMA query_only = 1")
        self._source.execute("PRAGMA wal_autocheckpoint = 0")
        self._source.execute("BEGIN")
        self._source.execute("SELECT count(*) FROM meta")
        # The copy is read at once or thrown away: its own safety on disk is not needed.
        self._target.execute("PRAGMA synchronous = OFF")
        self._backup = self._target.backup("main", self._source, "main")

    def step(self) -> bool:
        """Copy the next slice; return whether more is left."""
        self._backup.step(_SLICE_PAGES)
        return not self._backup.done

    def close(self) -> None:
        """Give up what is held; without all slices the copy is worth nothing."""
        self._backup.finish()
        self._target.close()
        if self._source.in_transaction:
            self._source.execute("ROLLBACK")
        self._source.close()
