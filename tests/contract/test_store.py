"""Every store keeps every promise of `state_svc/store/base.py`; SQLite some of its own."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import apsw
import pytest

from state_svc.codec.project import ProjectRecord
from state_svc.codec.segment import SegmentRecord
from state_svc.codec.snapshot import SnapshotRecord
from state_svc.errors import (
    CorruptRecord,
    DataDirectoryLocked,
    DataDirectoryTooNew,
    DataDirectoryUnreadable,
    InvalidConfig,
    StoreUnavailable,
)
from state_svc.store.base import Commit, ProducerRecord, RequestRecord, StateStore
from state_svc.store.memory import MemoryStore
from state_svc.store.sqlite import FILE_NAME, SqliteStore
from state_svc.store.sqlite_schema import FORMAT_VERSION

_ALL_BYTES = bytes(range(256))
_MANY = 1 << 20


def _project(uid: str, data: bytes = b"entity") -> ProjectRecord:
    return ProjectRecord(uid, f"id-of-{uid}", data, 7)


def _segment(uid: str, first: int, last: int, data: bytes = b"segment") -> SegmentRecord:
    return SegmentRecord(
        project_uid=uid,
        first_revision=first,
        last_revision=last,
        format_version=1,
        codec=1,
        checksum=0xFFFF_FFFF,
        data=data,
    )


def _chunk(
    uid: str, revision: int, chunk: int, *, last: bool, data: bytes = b"c"
) -> SnapshotRecord:
    return SnapshotRecord(
        project_uid=uid,
        revision=revision,
        chunk=chunk,
        last=last,
        format_version=1,
        codec=0,
        checksum=3,
        data=data,
    )


def _request(request_id: str, micros: int, revision: int = 1) -> RequestRecord:
    return RequestRecord("CommitBatch", request_id, "id-of-u", revision, micros)


Stores = Callable[[Path], StateStore]


def _memory(_: Path) -> StateStore:
    return MemoryStore()


def _sqlite(directory: Path) -> StateStore:
    return SqliteStore(directory)


@pytest.fixture(params=[_memory, _sqlite], ids=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[StateStore]:
    build: Stores = request.param
    made = build(tmp_path)
    await made.commit(Commit(projects=[_project("u")]))
    yield made
    await made.aclose()


@pytest.fixture
async def sqlite(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    made = SqliteStore(tmp_path)
    await made.commit(Commit(projects=[_project("u")]))
    yield made
    await made.aclose()


# Commits


async def test_a_store_has_an_id_that_no_other_store_has(store: StateStore) -> None:
    assert store.store_id
    assert store.store_id != MemoryStore().store_id


async def test_all_records_of_a_commit_are_visible_when_it_returns(store: StateStore) -> None:
    segment, chunk = _segment("v", 1, 3), _chunk("v", 3, 0, last=True)
    producer, request = ProducerRecord("p", 4), _request("r", 10)
    await store.commit(
        Commit(
            segments=[segment],
            projects=[_project("v")],
            producers=[producer],
            requests=[request],
        )
    )
    await store.put_snapshot_chunk(chunk)
    assert [head.record.project_uid for head in await store.list_projects()] == ["u", "v"]
    assert await store.read_head("v") == 3
    assert await store.read_segments("v", 0, _MANY) == [segment]
    assert await store.read_snapshot("v", 3) == [chunk]
    assert await store.list_producers() == [producer]
    assert await store.list_requests(0) == [request]


@pytest.mark.parametrize("data", [b"", b"\0", _ALL_BYTES, "text é".encode(), b"x" * 300_000])
async def test_records_come_back_byte_for_byte(store: StateStore, data: bytes) -> None:
    segment, chunk = _segment("u", 1, 1, data), _chunk("u", 1, 0, last=True, data=data)
    await store.commit(Commit(segments=[segment], projects=[_project("u", data)]))
    await store.put_snapshot_chunk(chunk)
    assert await store.read_segments("u", 0, _MANY) == [segment]
    assert await store.read_snapshot("u", 1) == [chunk]
    assert [head.record for head in await store.list_projects()] == [_project("u", data)]


async def test_commits_that_overlap_are_all_made(store: StateStore) -> None:
    commits = (Commit(projects=[_project(f"p{i}")]) for i in range(20))
    await asyncio.gather(*(store.commit(commit) for commit in commits))
    stored = {head.record.project_uid for head in await store.list_projects()}
    assert stored == {"u", *(f"p{i}" for i in range(20))}


async def test_reads_between_commits_see_whole_commits_only(store: StateStore) -> None:
    await store.commit(Commit(projects=[_project("v")]))

    async def write() -> None:
        for revision in range(1, 31):
            segments = [_segment(uid, revision, revision) for uid in ("u", "v")]
            await store.commit(Commit(segments=segments))

    writing = asyncio.create_task(write())
    while not writing.done():
        first = await store.read_head("u")
        second = await store.read_head("v")
        assert second >= first, "v is written in the same commit as u and read later"
        await asyncio.sleep(0)
    await writing


# Segments


async def test_segments_come_in_the_order_of_revisions_without_holes(store: StateStore) -> None:
    written = [_segment("u", at, at + 1) for at in range(1, 21, 2)]
    for segment in written:
        await store.commit(Commit(segments=[segment]))
    assert await store.read_segments("u", 0, _MANY) == written


async def test_several_segments_of_one_commit_keep_their_order(store: StateStore) -> None:
    written = [_segment("u", at, at) for at in range(1, 6)]
    await store.commit(Commit(segments=written))
    assert await store.read_segments("u", 0, _MANY) == written


@pytest.mark.parametrize(
    "after, expected",
    [(0, [3, 6, 9]), (2, [3, 6, 9]), (3, [6, 9]), (4, [6, 9]), (8, [9]), (9, []), (99, [])],
)
async def test_the_first_segment_read_is_the_one_that_holds_the_next_revision(
    store: StateStore, after: int, expected: list[int]
) -> None:
    await store.commit(Commit(segments=[_segment("u", at, at + 2) for at in (1, 4, 7)]))
    found = await store.read_segments("u", after, _MANY)
    assert [segment.last_revision for segment in found] == expected


@pytest.mark.parametrize("limit, expected", [(0, 1), (10, 1), (19, 1), (20, 2), (29, 2), (30, 3)])
async def test_a_read_stays_within_its_bytes_but_returns_one_segment_at_least(
    store: StateStore, limit: int, expected: int
) -> None:
    await store.commit(Commit(segments=[_segment("u", at, at, b"x" * 10) for at in (1, 2, 3)]))
    assert len(await store.read_segments("u", 0, limit)) == expected


async def test_segments_of_another_project_are_not_read(store: StateStore) -> None:
    mine, other = _segment("u", 1, 1), _segment("v", 1, 1)
    await store.commit(Commit(projects=[_project("v")], segments=[mine, other]))
    assert await store.read_segments("u", 0, _MANY) == [mine]
    assert await store.read_segments("v", 0, _MANY) == [other]


async def test_a_project_that_is_not_stored_has_nothing(store: StateStore) -> None:
    assert await store.read_head("x") == 0
    assert await store.read_segments("x", 0, _MANY) == []
    assert await store.read_snapshot("x", 9) == []
    assert await store.list_snapshots("x") == []


# Projects


async def test_projects_are_listed_in_the_order_of_their_creation(store: StateStore) -> None:
    for uid in ("z", "a", "m"):
        await store.commit(Commit(projects=[_project(uid)]))
    await store.commit(Commit(projects=[_project("z", b"changed")]))
    heads = await store.list_projects()
    assert [head.record.project_uid for head in heads] == ["u", "z", "a", "m"]
    assert heads[1].record == _project("z", b"changed"), "a project replaces what is stored"


async def test_a_new_project_has_no_revision_and_lost_nothing(store: StateStore) -> None:
    (head,) = await store.list_projects()
    assert (head.revision, head.compacted, head.deleted) == (0, 0, False)


@pytest.mark.parametrize("snapshot_at, segment_to, expected", [(0, 4, 4), (9, 0, 9), (9, 12, 12)])
async def test_the_head_is_the_last_revision_of_segments_and_snapshots(
    store: StateStore, snapshot_at: int, segment_to: int, expected: int
) -> None:
    if snapshot_at:
        await store.put_snapshot_chunk(_chunk("u", snapshot_at, 0, last=True))
    if segment_to:
        await store.commit(Commit(segments=[_segment("u", 1, segment_to)]))
    assert await store.read_head("u") == expected
    assert [head.revision for head in await store.list_projects()] == [expected]


async def test_a_snapshot_without_its_last_chunk_is_no_head(store: StateStore) -> None:
    await store.put_snapshot_chunk(_chunk("u", 5, 0, last=False))
    assert await store.read_head("u") == 0


# Producers and requests


async def test_a_producer_replaces_its_earlier_epoch(store: StateStore) -> None:
    await store.commit(Commit(producers=[ProducerRecord("p", 1), ProducerRecord("q", 1)]))
    await store.commit(Commit(producers=[ProducerRecord("p", 2)]))
    found = {record.producer_id: record.epoch for record in await store.list_producers()}
    assert found == {"p": 2, "q": 1}


async def test_a_request_is_kept_once_with_its_last_answer(store: StateStore) -> None:
    await store.commit(Commit(requests=[_request("r", 10, revision=1)]))
    await store.commit(Commit(requests=[_request("r", 20, revision=2)]))
    assert await store.list_requests(0) == [_request("r", 20, revision=2)]


async def test_old_requests_are_forgotten_for_ever(store: StateStore) -> None:
    await store.commit(Commit(requests=[_request("old", 10), _request("new", 11)]))
    assert await store.list_requests(10) == [_request("new", 11)]
    await store.drop_requests(10)
    assert await store.list_requests(0) == [_request("new", 11)]


# Snapshots


async def test_a_snapshot_is_found_once_its_last_chunk_is_stored(store: StateStore) -> None:
    chunks = [_chunk("u", 5, number, last=number == 2) for number in range(3)]
    for chunk in chunks[:-1]:
        await store.put_snapshot_chunk(chunk)
        assert await store.list_snapshots("u") == []
        assert await store.read_snapshot("u", 5) == []
    await store.put_snapshot_chunk(chunks[-1])
    assert await store.list_snapshots("u") == [5]
    assert await store.read_snapshot("u", 5) == chunks


async def test_a_chunk_that_is_stored_again_replaces_the_first(store: StateStore) -> None:
    await store.put_snapshot_chunk(_chunk("u", 5, 0, last=True, data=b"first"))
    await store.put_snapshot_chunk(_chunk("u", 5, 0, last=True, data=b"again"))
    assert [chunk.data for chunk in await store.read_snapshot("u", 5)] == [b"again"]


@pytest.mark.parametrize("asked, expected", [(4, []), (5, [5]), (6, [5]), (9, [9]), (50, [9])])
async def test_the_newest_complete_snapshot_at_or_before_a_revision_is_read(
    store: StateStore, asked: int, expected: list[int]
) -> None:
    for revision in (9, 5):
        await store.put_snapshot_chunk(_chunk("u", revision, 0, last=True))
    await store.put_snapshot_chunk(_chunk("u", 40, 0, last=False))
    assert await store.list_snapshots("u") == [5, 9]
    assert [chunk.revision for chunk in await store.read_snapshot("u", asked)] == expected


async def test_dropped_snapshots_and_incomplete_ones_are_gone(store: StateStore) -> None:
    for revision in (5, 6, 7):
        await store.put_snapshot_chunk(_chunk("u", revision, 0, last=True))
    await store.put_snapshot_chunk(_chunk("u", 8, 0, last=False))
    await store.drop_snapshots("u", [5, 7, 8])
    assert await store.list_snapshots("u") == [6]
    await store.put_snapshot_chunk(_chunk("u", 8, 1, last=True))
    found = await store.read_snapshot("u", 8)
    assert [chunk.chunk for chunk in found] == [1], "chunk 0 was dropped"


# Compaction and deletion


async def test_stored_bytes_are_those_of_the_segments_that_end_after_a_revision(
    store: StateStore,
) -> None:
    assert await store.stored_bytes("u", 0) == 0
    segments = [_segment("u", 1, 3, b"x" * 10), _segment("u", 4, 6, b"x" * 100)]
    await store.commit(Commit(segments=segments, projects=[_project("u")]))
    assert [await store.stored_bytes("u", after) for after in (0, 2, 3, 5, 6)] == [
        110,
        110,
        100,
        100,
        0,
    ]
    await store.compact("u", 3)
    assert await store.stored_bytes("u", 0) == 100


async def test_compaction_forgets_what_ends_at_or_before_its_revision(store: StateStore) -> None:
    await store.commit(Commit(segments=[_segment("u", at, at + 1) for at in (1, 3, 5, 7)]))
    for revision in (3, 6, 8):
        await store.put_snapshot_chunk(_chunk("u", revision, 0, last=True))
    await store.compact("u", 6)
    found = await store.read_segments("u", 0, _MANY)
    assert [segment.first_revision for segment in found] == [7]
    assert await store.list_snapshots("u") == [6, 8]
    (head,) = await store.list_projects()
    assert (head.revision, head.compacted) == (8, 6)


async def test_compaction_keeps_a_segment_that_reaches_beyond_it(store: StateStore) -> None:
    await store.commit(Commit(segments=[_segment("u", 1, 4), _segment("u", 5, 8)]))
    await store.compact("u", 6)
    assert [s.first_revision for s in await store.read_segments("u", 0, _MANY)] == [5]


async def test_compaction_and_deletion_leave_other_projects_alone(store: StateStore) -> None:
    kept = _segment("v", 1, 2)
    await store.commit(
        Commit(
            projects=[_project("v")],
            segments=[_segment("u", 1, 2), kept],
        )
    )
    await store.put_snapshot_chunk(_chunk("v", 1, 0, last=True))
    await store.compact("u", 2)
    await store.delete_project("u")
    assert await store.read_segments("v", 0, _MANY) == [kept]
    assert await store.list_snapshots("v") == [1]


async def test_of_a_deleted_project_only_the_id_is_left(store: StateStore) -> None:
    await store.commit(Commit(segments=[_segment("u", 1, 2)]))
    await store.put_snapshot_chunk(_chunk("u", 2, 0, last=True))
    await store.delete_project("u")
    (head,) = await store.list_projects()
    assert head.deleted
    assert (head.record.project_uid, head.record.project_id) == ("u", "id-of-u")
    assert head.record.data == b""
    assert head.revision == 0
    assert await store.read_segments("u", 0, _MANY) == []
    assert await store.list_snapshots("u") == []


async def test_more_than_one_delete_step_of_segments_is_forgotten(store: StateStore) -> None:
    await store.commit(Commit(segments=[_segment("u", at, at, b"") for at in range(1, 1_202)]))
    await store.compact("u", 1_200)
    assert [s.first_revision for s in await store.read_segments("u", 0, _MANY)] == [1_201]


# The end


async def test_a_store_can_be_recovered_at_any_time(store: StateStore) -> None:
    await store.commit(Commit(segments=[_segment("u", 1, 1)]))
    await store.recover()
    await store.commit(Commit(segments=[_segment("u", 2, 2)]))
    assert await store.read_head("u") == 2


async def test_a_store_may_be_closed_twice(store: StateStore) -> None:
    await store.aclose()
    await store.aclose()


# The double


@pytest.mark.parametrize("when, stored", [("before", 0), ("after", 1)])
async def test_the_memory_store_fails_once_before_or_after_its_commit(
    when: str, stored: int
) -> None:
    store = MemoryStore()
    store.fail_next = when
    commit = Commit(projects=[_project("u")], segments=[_segment("u", 1, 1)])
    with pytest.raises(StoreUnavailable):
        await store.commit(commit)
    await store.recover()
    assert await store.read_head("u") == stored
    await store.commit(Commit(producers=[ProducerRecord("p", 1)]))


# SQLite only


async def test_a_commit_that_fails_half_way_stores_nothing(sqlite: SqliteStore) -> None:
    bad = Commit(
        projects=[_project("v")],
        segments=[_segment("v", 1, 1), _segment("unknown", 1, 1)],
        producers=[ProducerRecord("p", 1)],
        requests=[_request("r", 10)],
    )
    with pytest.raises(StoreUnavailable):
        await sqlite.commit(bad)
    await sqlite.recover()
    assert [head.record.project_uid for head in await sqlite.list_projects()] == ["u"]
    assert await sqlite.list_producers() == []
    assert await sqlite.list_requests(0) == []


async def test_a_revision_is_never_stored_twice(sqlite: SqliteStore) -> None:
    await sqlite.commit(Commit(segments=[_segment("u", 1, 1, b"first")]))
    with pytest.raises(StoreUnavailable):
        await sqlite.commit(Commit(segments=[_segment("u", 1, 1, b"second")]))
    await sqlite.recover()
    assert [s.data for s in await sqlite.read_segments("u", 0, _MANY)] == [b"first"]


async def test_a_project_of_a_failed_commit_can_be_stored_later(sqlite: SqliteStore) -> None:
    first = Commit(projects=[_project("v")], segments=[_segment("v", 1, 1)])
    broken = Commit([*first.segments, _segment("unknown", 1, 1)], first.projects)
    with pytest.raises(StoreUnavailable):
        await sqlite.commit(broken)
    await sqlite.recover()
    await sqlite.commit(Commit(projects=[_project("w")], segments=[]))
    await sqlite.commit(first)
    assert await sqlite.read_segments("v", 0, _MANY) == first.segments
    assert await sqlite.read_segments("w", 0, _MANY) == []


async def test_everything_is_there_after_a_reopen(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    segments = [_segment("u", 1, 2), _segment("u", 3, 4)]
    commit = Commit(
        segments,
        [_project("u"), _project("gone")],
        [ProducerRecord("p", 4)],
        [_request("r", 10)],
    )
    chunk = _chunk("u", 3, 0, last=True)
    await store.commit(commit)
    await store.put_snapshot_chunk(chunk)
    await store.compact("u", 2)
    await store.delete_project("gone")
    before = await store.list_projects()
    await store.aclose()
    again = SqliteStore(tmp_path)
    assert again.store_id == store.store_id
    assert await again.list_projects() == before
    assert [head.deleted for head in before] == [False, True]
    assert await again.read_segments("u", 0, _MANY) == segments[1:]
    assert await again.read_snapshot("u", 4) == [chunk]
    assert await again.list_producers() == commit.producers
    assert await again.list_requests(0) == commit.requests
    await again.commit(Commit(segments=[_segment("u", 5, 5)]))
    assert await again.read_head("u") == 5
    await again.aclose()


async def test_rows_of_one_commit_share_a_number_that_grows_through_a_reopen(
    tmp_path: Path,
) -> None:
    for revision in (1, 2):
        store = SqliteStore(tmp_path)
        projects = [_project("u"), _project("v")]
        segments = [_segment(uid, revision, revision) for uid in ("u", "v")]
        await store.commit(Commit(segments, projects))
        await store.aclose()
    db = apsw.Connection(str(tmp_path / FILE_NAME))
    query = "SELECT commit_id FROM segments ORDER BY segment_key"
    assert [number for (number,) in db.execute(query)] == [1, 1, 2, 2]
    db.close()


async def test_a_second_store_of_the_same_directory_is_locked_out(
    sqlite: SqliteStore, tmp_path: Path
) -> None:
    with pytest.raises(DataDirectoryLocked):
        SqliteStore(tmp_path)
    await sqlite.commit(Commit(segments=[_segment("u", 1, 1)]))
    await sqlite.aclose()
    again = SqliteStore(tmp_path)
    assert await again.read_head("u") == 1
    await again.aclose()


_OPEN = """
import sys
from pathlib import Path
from state_svc.errors import DataDirectoryLocked
from state_svc.store.sqlite import SqliteStore
try:
    SqliteStore(Path(sys.argv[1]))
except DataDirectoryLocked:
    sys.exit(42)
"""


async def test_a_second_process_is_locked_out(sqlite: SqliteStore, tmp_path: Path) -> None:
    def other() -> int:
        return subprocess.run([sys.executable, "-c", _OPEN, str(tmp_path)], check=False).returncode

    assert await asyncio.to_thread(other) == 42
    await sqlite.commit(Commit(segments=[_segment("u", 1, 1)]))


async def test_a_store_of_a_newer_format_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    await store.aclose()
    db = apsw.Connection(str(tmp_path / FILE_NAME))
    db.execute(f"PRAGMA user_version = {FORMAT_VERSION + 1}")
    db.close()
    with pytest.raises(DataDirectoryTooNew) as caught:
        SqliteStore(tmp_path)
    assert caught.value.fields["format_version"] == str(FORMAT_VERSION + 1)
    with pytest.raises(DataDirectoryTooNew):  # and not DataDirectoryLocked
        SqliteStore(tmp_path)


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"this is not a database at all" * 200)
    with pytest.raises(DataDirectoryUnreadable):
        SqliteStore(tmp_path)


async def test_a_directory_that_cannot_be_made_is_a_bad_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InvalidConfig):
        SqliteStore(tmp_path / "file" / "data")


async def test_a_damaged_page_is_a_corrupt_record_and_not_an_empty_answer(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    await store.commit(Commit(projects=[_project("u")]))
    await store.put_snapshot_chunk(_chunk("u", 1, 0, last=True))
    await store.aclose()
    path = tmp_path / FILE_NAME
    db = apsw.Connection(str(path))
    page_size = db.pragma("page_size")
    roots = [
        page
        for (page,) in db.execute("SELECT rootpage FROM sqlite_master WHERE tbl_name = 'snapshots'")
    ]
    db.close()
    with path.open("r+b") as file:
        for page in roots:
            file.seek((page - 1) * page_size)
            file.write(b"\xff" * page_size)
    damaged = SqliteStore(tmp_path)
    with pytest.raises(CorruptRecord) as caught:
        await damaged.read_snapshot("u", 1)
    assert FILE_NAME in caught.value.message
    with pytest.raises(CorruptRecord):
        await damaged.put_snapshot_chunk(_chunk("u", 2, 0, last=True))
    await damaged.aclose()


async def test_a_store_that_has_lost_its_id_is_not_served(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    await store.aclose()
    db = apsw.Connection(str(tmp_path / FILE_NAME))
    db.execute("DELETE FROM meta")
    db.close()
    with pytest.raises(CorruptRecord):
        SqliteStore(tmp_path)


async def test_sqlite_is_newer_than_its_wal_reset_bug(sqlite: SqliteStore) -> None:
    version = tuple(int(part) for part in sqlite.sqlite_version.split("."))
    assert version >= (3, 51, 3)


async def test_a_commit_is_fsynced_before_it_returns(sqlite: SqliteStore) -> None:
    db = sqlite._writer.connection
    assert db.pragma("journal_mode") == "wal"
    assert db.pragma("synchronous") == 2, "FULL"
    await sqlite.recover()
    assert sqlite._writer.connection.pragma("synchronous") == 2, "after a recovery too"
