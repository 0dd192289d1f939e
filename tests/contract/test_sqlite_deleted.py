"""A deletion that fails or is cut off half-way: the project stays deleted, the rest goes later."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from state_svc.codec.project import ProjectRecord
from state_svc.codec.segment import SegmentRecord
from state_svc.codec.snapshot import SnapshotRecord
from state_svc.errors import StoreUnavailable
from state_svc.store.base import Commit
from state_svc.store.sqlite import FILE_NAME, SqliteStore

_MANY = 1 << 20


def _of(uid: str) -> Commit:
    return Commit(
        projects=[ProjectRecord(uid, f"id-of-{uid}", b"entity", 7)],
        segments=[
            SegmentRecord(
                project_uid=uid,
                first_revision=1,
                last_revision=4,
                format_version=1,
                codec=0,
                checksum=1,
                data=b"segment",
            )
        ],
    )


def _chunk(uid: str) -> SnapshotRecord:
    return SnapshotRecord(
        project_uid=uid,
        revision=4,
        chunk=0,
        last=True,
        format_version=1,
        codec=0,
        checksum=1,
        data=b"c",
    )


async def _filled(directory: Path) -> SqliteStore:
    store = SqliteStore(directory)
    for uid in ("gone", "kept"):
        await store.commit(_of(uid))
        await store.put_snapshot_chunk(_chunk(uid))
    return store


def _forbid(directory: Path, what: str, table: str) -> None:
    """Make a kind of statement fail, as a full disk would."""
    with apsw.Connection(str(directory / FILE_NAME)) as db:
        db.execute(
            f"CREATE TRIGGER forbidden BEFORE {what} ON {table}"
            " BEGIN SELECT RAISE(ABORT, 'told to fail'); END"
        )


def _allow(directory: Path) -> None:
    with apsw.Connection(str(directory / FILE_NAME)) as db:
        db.execute("DROP TRIGGER forbidden")


async def _left(store: SqliteStore, uid: str) -> tuple[int, int]:
    return (
        len(await store.read_segments(uid, 0, _MANY)),
        len(await store.list_snapshots(uid)),
    )


@pytest.mark.parametrize("table", ["segments", "snapshots"])
async def test_a_project_is_deleted_even_if_its_rows_cannot_be_dropped_yet(
    tmp_path: Path, table: str
) -> None:
    store = await _filled(tmp_path)
    _forbid(tmp_path, "DELETE", table)
    await store.delete_project("gone")
    assert [head.deleted for head in await store.list_projects()] == [True, False]
    await store.aclose()
    _allow(tmp_path)

    again = SqliteStore(tmp_path)
    assert await _left(again, "gone") == (0, 0)
    assert await _left(again, "kept") == (1, 1)
    await again.aclose()


async def test_a_project_that_cannot_be_marked_as_deleted_is_still_there(tmp_path: Path) -> None:
    store = await _filled(tmp_path)
    _forbid(tmp_path, "UPDATE", "projects")
    with pytest.raises(StoreUnavailable):
        await store.delete_project("gone")
    assert [head.deleted for head in await store.list_projects()] == [False, False]
    assert await _left(store, "gone") == (1, 1)
    await store.aclose()
