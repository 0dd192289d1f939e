"""Rows that hold no encoded record: each has a checksum of its own, `row_checksum`.

It is the crc32 of the other columns as a JSON array. In `projects` it covers what is not part of
the project's record, whose checksum is another. Inside SQL it is the function `checksum_of`, which
a connection knows after `teach`.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import apsw

from state_svc.errors import CorruptRecord

Value = str | int | float | bytes | None  #: a damaged row may hold a type that its table has not

#: What the checksum of a row covers, by table; the key comes first.
COLUMNS = {
    "meta": ("key", "value"),
    "producers": ("producer_id", "epoch"),
    "requests": ("method", "request_id", "project_id", "revision", "micros"),
    "payload_references": ("project_key", "digest", "archived", "revision"),
    "projects": ("project_uid", "project_id", "compacted_revision", "deleted"),
}
_TEXT = frozenset(
    {"key", "value", "producer_id", "method", "request_id", "project_id", "project_uid", "digest"}
)


@dataclass(frozen=True, slots=True)
class Row:
    """One row and the checksum that is stored with it."""

    table: str
    values: tuple[Value, ...]  #: as `COLUMNS` names them
    checksum: Value

    @property
    def is_sound(self) -> bool:
        """Whether no bit differs from what was written."""
        return self.checksum == row_checksum(*self.values)

    def may_be(self, *key: Value) -> bool:
        """Whether this damaged row may be the one that was written under a key.

        It is if the key is whole and the damage behind it, or if the checksum is right with that
        key in place of the damaged one.
        """
        there, rest = self.values[: len(key)], self.values[len(key) :]
        return there == key or self.checksum == row_checksum(*key, *rest)

    def damage(self, db: apsw.Connection) -> CorruptRecord:
        """Return what to raise about this row."""
        return CorruptRecord(
            file=Path(db.filename).name, table=self.table, row=self.name, problem=PROBLEM
        )

    @property
    def name(self) -> str:
        """What a human finds the row by."""
        return " ".join(map(str, self.values))


PROBLEM = "checksum does not match"


def row_checksum(*values: apsw.SQLiteValue) -> int:
    """Return the checksum of a row with these values."""
    return zlib.crc32(json.dumps(values, default=repr).encode())


def teach(db: apsw.Connection) -> None:
    """Let the SQL of a connection use `checksum_of`, which takes text as bytes too."""
    db.create_scalar_function("checksum_of", _checksum_of, deterministic=True)


def read_rows(
    db: apsw.Connection, table: str, where: str = "true", *values: Value
) -> Iterator[Row]:
    """Yield rows as they are, whether sound or not."""
    columns = ", ".join(map(as_stored, COLUMNS[table]))
    query = f"SELECT {columns}, row_checksum FROM {table} WHERE {where}"
    for row in db.execute(query, values):
        yield Row(table, tuple(map(decode, row[:-1])), row[-1])


def sound_rows(
    db: apsw.Connection, table: str, where: str = "true", *values: Value
) -> Iterator[tuple[Value, ...]]:
    """Yield the values of rows; raises `CorruptRecord` at one that is damaged."""
    for row in read_rows(db, table, where, *values):
        if not row.is_sound:
            raise row.damage(db)
        yield row.values


def put_row(table: str) -> str:
    """Return the statement that stores a row of `table`, in place of one with the same key."""
    columns = ", ".join(COLUMNS[table])
    marks = ", ".join(f"?{number}" for number in range(1, len(COLUMNS[table]) + 1))
    return (
        f"INSERT OR REPLACE INTO {table} ({columns}, row_checksum)"
        f" VALUES ({marks}, checksum_of({marks}))"
    )


def is_sound(table: str) -> str:
    """Return the condition that a row of `table` is sound; text may be damaged to any bytes."""
    columns = COLUMNS[table]
    values = ", ".join(as_stored(column, table) for column in columns)
    texts = "".join(f" AND typeof({table}.{c}) = 'text'" for c in columns if c in _TEXT)
    return f"({table}.row_checksum = checksum_of({values}){texts})"


def as_stored(column: str, table: str = "") -> str:
    """Return what to select for a column: the bytes of text, for a damaged one may be none."""
    name = f"{table}.{column}" if table else column
    return f"CAST({name} AS BLOB)" if column in _TEXT else name


def read_meta(db: apsw.Connection, key: str) -> str | None:
    """Return a value of `meta`, in a store of any format; None if there is none.

    Raises `CorruptRecord`.
    """
    for _, value, *checksum in db.execute("SELECT * FROM meta WHERE key = ?", (key,)):
        if checksum:
            for _ in sound_rows(db, "meta", "key = ?", key):
                pass
        return str(value)
    return None


def _checksum_of(*values: Value) -> int:
    return row_checksum(*map(decode, values))


def decode(value: Value) -> Value:
    """Return bytes as text that can be shown and is never the wrong one; all else as it is."""
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else value
