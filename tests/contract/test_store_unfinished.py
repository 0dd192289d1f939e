"""Projects that are begun and finished, and copies of the whole, on every store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from state_svc.codec.project import ProjectRecord
from state_svc.codec.segment import SegmentRecord
from state_svc.codec.snapshot import SnapshotRecord
from state_svc.store.base import Commit, ProducerRecord, RequestRecord, StateStore
from state_svc.store.memory import MemoryStore
from state_svc.store.sqlite import FILE_NAME, SqliteStore

_NEW = ProjectRecord("uid", "id", b"entity", 7)
_SEGMENT = SegmentRecord(
    project_uid="uid",
    first_revision=3,
    last_revision=5,
    format_version=1,
    codec=0,
    checksum=1,
    data=b"s",
)
_CHUNK = SnapshotRecord(
    project_uid="uid",
    revision=2,
    chunk=0,
    last=True,
    format_version=1,
    codec=0,
    checksum=1,
    data=b"c",
)
_REQUEST = RequestRecord("ImportProject", "r", "id", 5, 1)


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[StateStore]:
    opened: StateStore = (
        MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "data")
    )
    yield opened
    await opened.aclose()


async def begin(store: StateStore) -> None:
    await store.begin_project(_NEW, 2)
    await store.put_snapshot_chunk(_CHUNK)
    await store.commit(Commit(segments=[_SEGMENT]))


async def test_a_project_that_is_begun_is_not_there(store: StateStore) -> None:
    await begin(store)
    assert await store.list_projects() == []
    assert await store.list_unfinished() == ["uid"]


async def test_a_finished_project_is_there_with_all_it_has(store: StateStore) -> None:
    await begin(store)
    await store.finish_project("uid", [_REQUEST])
    [head] = await store.list_projects()
    assert (head.record, head.revision, head.compacted, head.deleted) == (_NEW, 5, 2, False)
    assert await store.read_segments("uid", 2, 1_000) == [_SEGMENT]
    assert await store.read_snapshot("uid", 2) == [_CHUNK]
    assert await store.list_requests(0) == [_REQUEST]
    assert await store.list_unfinished() == []


async def test_a_dropped_project_leaves_nothing_and_its_id_is_free(store: StateStore) -> None:
    await begin(store)
    assert await store.drop_unfinished("uid")
    assert await store.list_unfinished() == []
    assert await store.read_segments("uid", 0, 1_000) == []
    again = ProjectRecord("other-uid", "id", b"entity", 7)
    await store.commit(Commit(projects=[again]))
    assert [head.record for head in await store.list_projects()] == [again]


async def test_what_exists_is_not_dropped(store: StateStore) -> None:
    await begin(store)
    await store.finish_project("uid", [])
    assert not await store.drop_unfinished("uid")
    assert not await store.drop_unfinished("unknown")
    assert len(await store.list_projects()) == 1


async def test_a_backup_holds_every_record_and_later_ones_are_not_in_it(
    store: StateStore, tmp_path: Path
) -> None:
    await begin(store)
    await store.finish_project("uid", [_REQUEST])
    await store.commit(
        Commit(
            projects=[ProjectRecord("gone", "gone-id", b"entity", 7)],
            producers=[ProducerRecord("prod", 3)],
        )
    )
    await store.delete_project("gone")
    target = tmp_path / "copy" / FILE_NAME
    target.parent.mkdir()
    await store.backup(target)
    heads = await store.list_projects()
    await store.commit(Commit(producers=[ProducerRecord("prod", 4)]))
    copy = SqliteStore(target.parent)
    assert await copy.list_projects() == heads
    assert await copy.read_segments("uid", 0, 1_000) == [_SEGMENT]
    assert await copy.read_snapshot("uid", 9) == [_CHUNK]
    assert await copy.list_producers() == [ProducerRecord("prod", 3)]
    assert await copy.list_requests(0) == [_REQUEST]
    await copy.aclose()


async def test_scratch_is_emptied_at_the_start(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    await store.aclose()
    store.scratch.mkdir()
    (store.scratch / "left behind").write_text("of a process that was killed")
    store = SqliteStore(tmp_path)
    assert not store.scratch.exists()
    await store.aclose()
