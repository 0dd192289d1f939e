"""The schema of a SQLite store: made once, upgraded step by step, never downgraded."""

from __future__ import annotations

import uuid
from importlib.resources import files
from pathlib import Path

import apsw

from state_svc.errors import CorruptRecord, DataDirectoryTooNew
from state_svc.store.rows import put_row, read_meta, teach

FORMAT_VERSION = 3  #: of the database; older ones are upgraded, newer ones refused

#: What belongs to one project, besides its row of `projects`.
TABLES = ("segments", "snapshots", "payload_references", "stage_archive")


def prepare(db: apsw.Connection, path: Path) -> str:
    """Make the schema or bring it up to date, in one transaction; return the store's id.

    Raises `DataDirectoryTooNew` or `CorruptRecord`.
    """
    version = format_version(db)
    if version > FORMAT_VERSION:
        raise DataDirectoryTooNew(path=path, format_version=version, supported=FORMAT_VERSION)
    if version < FORMAT_VERSION:
        with db:
            upgrade(db)
            if not version:
                db.execute(put_row("meta"), ("store_id", uuid.uuid4().hex))
    store_id = read_store_id(db)
    if not store_id:
        raise CorruptRecord(file=path.name, problem="the store has no id")
    return store_id


def upgrade(db: apsw.Connection) -> None:
    """Take every step from the schema that is there to the present one."""
    teach(db)
    for step in range(format_version(db) + 1, FORMAT_VERSION + 1):
        db.execute(files("state_svc.store").joinpath(f"sql/sqlite_{step}.sql").read_text("utf-8"))
    db.execute(f"PRAGMA user_version = {FORMAT_VERSION}")


def format_version(db: apsw.Connection) -> int:
    """Return the version of the schema; 0 for a database that is not a store."""
    return int(db.pragma("user_version"))


def read_store_id(db: apsw.Connection) -> str:
    """Return the id of the store; empty if it has none. Raises `CorruptRecord`."""
    return read_meta(db, "store_id") or ""
