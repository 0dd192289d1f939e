"""state_svc over a store that writes a row per mutation, to compare: `-m tests.bench.row_service`.

The same service: streams, validation, commit loop, acks, one fsynced transaction for each commit.
But each mutation becomes a row of a log and an upsert of its node's row, as stores without segments
do it. It is flattered: the upsert holds the change only, where such a store writes the whole node,
and nothing is indexed but the keys. It cannot read what it wrote.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import apsw

from ramify.v1.mutation_pb2 import Delta
from state_svc import __main__, app
from state_svc.codec.segment import decode_segment
from state_svc.store.base import Commit
from state_svc.store.sqlite import SqliteStore

_SCHEMA = """
CREATE TABLE IF NOT EXISTS log (
    project_key INTEGER NOT NULL, revision INTEGER NOT NULL, place INTEGER NOT NULL,
    data BLOB NOT NULL, PRIMARY KEY (project_key, revision, place)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS nodes (
    project_key INTEGER NOT NULL, node_id TEXT NOT NULL, version INTEGER NOT NULL,
    data BLOB NOT NULL, PRIMARY KEY (project_key, node_id)
) STRICT, WITHOUT ROWID;
"""


class RowStore(SqliteStore):
    """Writes rows where `SqliteStore` writes segments."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._writer.connection.execute(_SCHEMA)

    def _put_commit(self, db: apsw.Connection, number: int, commit: Commit) -> bool:
        super()._put_commit(db, number, replace(commit, segments=[]))
        for record in commit.segments:
            key = self._writer.key(record.project_uid)
            changes = Delta.FromString(decode_segment(record).delta).changes
            rows = [(key, c.revision, c.index, c.SerializeToString()) for c in changes]
            db.executemany("INSERT INTO log VALUES (?, ?, ?, ?)", rows)
            db.executemany(
                "INSERT INTO nodes VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE"
                " SET version = excluded.version, data = excluded.data",
                [
                    (key, change.node.node_id, change.node.version, row[3])
                    for change, row in zip(changes, rows, strict=True)
                    if change.HasField("node")
                ],
            )
        return True  # the number is not noted: one page less


if __name__ == "__main__":
    vars(app)["SqliteStore"] = RowStore
    sys.exit(__main__.main())
