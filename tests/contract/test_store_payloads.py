"""Every store keeps the promises of `state_svc/store/payloads.py`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import apsw
import pytest

from state_svc.codec.payload import PayloadRecord, encode_payload
from state_svc.codec.project import ProjectRecord
from state_svc.codec.segment import SegmentRecord
from state_svc.errors import StoreUnavailable
from state_svc.store import sqlite_payloads
from state_svc.store.base import Commit, StateStore
from state_svc.store.high_water import last_number
from state_svc.store.memory import MemoryStore
from state_svc.store.payloads import ArchiveRecord, PayloadTotals, ReferenceRecord
from state_svc.store.rows import put_row
from state_svc.store.sqlite import FILE_NAME, SqliteStore
from tests.support.files import find_problems

_ALL = 1 << 60  #: a time after everything
_MANY = 1 << 20


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[StateStore]:
    made: StateStore = MemoryStore() if request.param == "memory" else SqliteStore(tmp_path)
    projects = [ProjectRecord(uid, f"id-of-{uid}", b"entity", 7) for uid in ("u", "v")]
    await made.commit(Commit(projects=projects))
    yield made
    await made.aclose()


def _payload(text: str, micros: int = 10) -> PayloadRecord:
    return encode_payload(text.encode() * 2_000, 1_024, micros)


def _archived(uid: str, first: int, last: int, micros: int, data: bytes = b"x") -> ArchiveRecord:
    segment = SegmentRecord(
        project_uid=uid,
        first_revision=first,
        last_revision=last,
        format_version=1,
        codec=0,
        checksum=9,
        data=data,
    )
    return ArchiveRecord(segment, micros)


async def _reference(store: StateStore, *references: ReferenceRecord) -> None:
    await store.commit(Commit(references=list(references)))


async def test_a_store_of_format_1_gets_its_payloads_when_it_is_opened(tmp_path: Path) -> None:
    db = apsw.Connection(str(tmp_path / FILE_NAME))
    db.execute(files("state_svc.store").joinpath("sql/sqlite_1.sql").read_text("utf-8"))
    db.execute("INSERT INTO meta VALUES ('store_id', 'old')")
    db.execute(
        "INSERT INTO projects (project_uid, project_id, data, checksum) VALUES (?, ?, ?, ?)",
        ("u", "id-of-u", b"entity", 7),
    )
    db.execute("PRAGMA user_version = 1")
    db.close()
    for _ in range(2):
        opened = SqliteStore(tmp_path)
        assert opened.store_id == "old"
        assert [head.record.project_uid for head in await opened.list_projects()] == ["u"]
        digest = (await opened.payloads.put(_payload("a"))).digest
        await _reference(opened, ReferenceRecord("u", digest, 1))
        await opened.aclose()


async def test_a_body_comes_back_byte_for_byte(store: StateStore) -> None:
    for body in (b"", bytes(range(256)) * 50, b"a" * 100_000):
        record = encode_payload(body, 1_024, 5)
        info = await store.payloads.put(record)
        assert (info.original_bytes, info.stored_bytes) == (len(body), len(record.data))
        assert await store.payloads.read(record.digest) == record
        assert await store.payloads.find([record.digest, "sha256:none"]) == [info]
    assert await store.payloads.read("sha256:none") is None


async def test_a_body_is_stored_once_and_putting_it_again_renews_its_time(
    store: StateStore,
) -> None:
    old = _payload("a", micros=10)
    other = encode_payload(b"a" * 2_000, 1 << 30, 20)
    assert (old.digest, old.codec) != (other.digest, other.codec)
    assert old.digest == other.digest
    first = await store.payloads.put(old)
    assert await store.payloads.put(other) == first
    assert await store.payloads.list_unreferenced(20) == []
    assert await store.payloads.list_unreferenced(21) == [old.digest]
    await store.payloads.put(old)
    assert await store.payloads.list_unreferenced(20) == []


async def test_a_commit_that_names_a_body_that_is_not_there_fails_whole(
    store: StateStore,
) -> None:
    there = _payload("a")
    await store.payloads.put(there)
    commit = Commit(
        projects=[ProjectRecord("w", "id-of-w", b"", 1)],
        references=[
            ReferenceRecord("u", there.digest, 1),
            ReferenceRecord("u", "sha256:none", 1),
        ],
    )
    with pytest.raises(StoreUnavailable, match="not stored any more"):
        await store.commit(commit)
    await store.recover()
    assert [head.record.project_uid for head in await store.list_projects()] == ["u", "v"]
    assert await store.payloads.list_references("u") == []


async def test_of_two_references_the_later_revision_counts(store: StateStore) -> None:
    digest = (await store.payloads.put(_payload("a"))).digest
    await _reference(store, ReferenceRecord("u", digest, 5))
    await _reference(store, ReferenceRecord("u", digest, 3), ReferenceRecord("v", digest, 1))
    await _reference(store, ReferenceRecord("u", digest, 2, archived=True))
    assert await store.payloads.list_references("u") == [
        ReferenceRecord("u", digest, 5),
        ReferenceRecord("u", digest, 2, archived=True),
    ]
    assert await store.payloads.is_referenced("v", digest)
    assert not await store.payloads.is_referenced("v", "sha256:none")


async def test_references_up_to_a_revision_are_dropped_save_those_kept(store: StateStore) -> None:
    a, b, c = [(await store.payloads.put(_payload(name))).digest for name in "abc"]
    await _reference(
        store,
        ReferenceRecord("u", a, 1),
        ReferenceRecord("u", b, 2),
        ReferenceRecord("u", c, 3),
        ReferenceRecord("u", a, 1, archived=True),
        ReferenceRecord("v", a, 1),
    )
    await store.payloads.drop_references("u", 2, {b})
    assert {(r.digest, r.archived) for r in await store.payloads.list_references("u")} == {
        (a, True),
        (b, False),
        (c, False),
    }
    await store.payloads.drop_references("u", 1, (), archived=True)
    assert {r.digest for r in await store.payloads.list_references("u")} == {b, c}
    assert await store.payloads.is_referenced("v", a)


async def test_only_what_is_old_and_unreferenced_is_dropped(store: StateStore) -> None:
    a, b, c = [(await store.payloads.put(_payload(name, micros=5))).digest for name in "abc"]
    young = (await store.payloads.put(_payload("d", micros=50))).digest
    await _reference(store, ReferenceRecord("u", a, 1), ReferenceRecord("u", b, 1, archived=True))
    assert await store.payloads.list_unreferenced(50) == [c]
    assert await store.payloads.drop_payloads([a, b, c, young, "sha256:none"], 50) == 1
    left = {info.digest for info in await store.payloads.find([a, b, c, young])}
    assert left == {a, b, young}


@pytest.mark.parametrize("unfinished", [False, True])
async def test_a_project_that_goes_takes_its_references_and_its_archive_along(
    store: StateStore, unfinished: bool
) -> None:
    digest = (await store.payloads.put(_payload("a"))).digest
    if unfinished:
        await store.begin_project(ProjectRecord("w", "id-of-w", b"", 1), 0)
    uid = "w" if unfinished else "v"
    await store.commit(
        Commit(references=[ReferenceRecord(uid, digest, 1)], archive=[_archived(uid, 1, 2, 5)])
    )
    assert await store.payloads.list_unreferenced(_ALL) == []
    await (store.drop_unfinished(uid) if unfinished else store.delete_project(uid))
    assert await store.payloads.list_unreferenced(_ALL) == [digest]
    assert await store.payloads.read_archive(uid, 0, _MANY) == []


async def test_the_archive_is_read_in_the_order_of_revisions(store: StateStore) -> None:
    records = [_archived("u", n, n + 1, n * 10, b"x" * 10) for n in (1, 3, 5)]
    await store.commit(Commit(archive=[records[2], records[0]]))
    await store.commit(Commit(archive=[records[1]]))
    assert await store.payloads.read_archive("u", 0, _MANY) == records
    assert await store.payloads.read_archive("u", 3, _MANY) == records[1:]
    assert await store.payloads.read_archive("u", 0, 25) == records[:2]
    assert await store.payloads.read_archive("u", 0, 1) == records[:1]
    assert await store.payloads.read_archive("v", 0, _MANY) == []


async def test_the_archive_is_cut_at_both_ends(store: StateStore) -> None:
    records = [_archived("u", n, n, micros) for n, micros in ((1, 10), (2, 30), (3, 20), (4, 40))]
    await store.commit(Commit(archive=[*records, _archived("v", 9, 9, 1)]))
    await store.payloads.drop_archive_after("u", 3)
    assert await store.payloads.read_archive("u", 0, _MANY) == records[:3]
    assert await store.payloads.drop_archive_before("u", 10) == 0
    assert await store.payloads.drop_archive_before("u", 25) == 1
    assert await store.payloads.read_archive("u", 0, _MANY) == records[1:3]
    assert await store.payloads.drop_archive_before("u", _ALL) == 3
    assert await store.payloads.read_archive("u", 0, _MANY) == []
    assert len(await store.payloads.read_archive("v", 0, _MANY)) == 1


async def test_a_backup_holds_bodies_references_and_the_archive(
    store: StateStore, tmp_path: Path
) -> None:
    record = _payload("a")
    await store.payloads.put(record)
    archived = _archived("u", 1, 2, 5)
    reference = ReferenceRecord("u", record.digest, 2)
    await store.commit(Commit(references=[reference], archive=[archived]))
    folder = tmp_path / "copy"
    folder.mkdir()
    await store.backup(folder / FILE_NAME)
    copy = SqliteStore(folder)
    try:
        assert await copy.payloads.read(record.digest) == record
        assert await copy.payloads.list_references("u") == [reference]
        assert await copy.payloads.read_archive("u", 0, _MANY) == [archived]
    finally:
        await copy.aclose()


@pytest.mark.parametrize("column", ["data", "codec", "original_bytes"])
async def test_a_body_that_is_put_again_replaces_a_damaged_one(
    store: StateStore, column: str
) -> None:
    right = _payload("a", micros=10)
    info = await store.payloads.put(right)
    totals = await store.payloads.totals()
    wrong: dict[str, bytes | int] = {
        "data": right.data[:-9] + b"?" + right.data[-8:],
        "codec": 0,
        "original_bytes": 7,
    }
    if isinstance(store, MemoryStore):
        changed = {column: wrong[column]}
        store.payloads.records[right.digest] = replace(right, **changed)  # type: ignore[arg-type]
    elif isinstance(store, SqliteStore):
        await store.write(
            lambda db: db.execute(f"UPDATE payloads SET {column} = ?", (wrong[column],))
        )
    again = replace(right, micros=20)
    assert await store.payloads.put(again) == info
    assert await store.payloads.read(right.digest) == again
    assert await store.payloads.totals() == totals


async def test_the_totals_are_those_of_the_bodies_that_are_there(store: StateStore) -> None:
    assert await store.payloads.totals() == PayloadTotals()
    records = [_payload(name, micros=5) for name in "abc"]
    for record in [*records, records[0]]:
        await store.payloads.put(record)

    def of(*kept: PayloadRecord) -> PayloadTotals:
        return PayloadTotals(
            len(kept), sum(r.original_bytes for r in kept), sum(len(r.data) for r in kept)
        )

    assert await store.payloads.totals() == of(*records)
    gone = [records[0].digest, records[2].digest]
    assert await store.payloads.drop_payloads([*gone, "unknown"], 10) == 2
    assert await store.payloads.totals() == of(records[1])


async def test_totals_that_were_never_noted_or_are_damaged_are_found_by_looking(
    tmp_path: Path,
) -> None:
    store = SqliteStore(tmp_path)
    await store.payloads.put(_payload("a"))
    expected = await store.payloads.totals()
    for text in ("", "1 2", "1 x 3"):
        await store.write(
            lambda db, text=text: db.execute(  # type: ignore[misc]
                "UPDATE meta SET value = ? WHERE key = 'payload_totals'", (text,)
            )
        )
        assert await store.payloads.totals() == expected
    await store.write(lambda db: db.execute("DELETE FROM meta WHERE key = 'payload_totals'"))
    assert await store.payloads.totals() == expected
    await store.payloads.put(_payload("b"))
    assert (await store.payloads.totals()).count == 2
    await store.aclose()


@pytest.mark.parametrize("noted", [None, "7 7 7"])
async def test_totals_that_a_version_before_left_wrong_are_no_damage_and_right_after_a_start(
    tmp_path: Path, noted: str | None
) -> None:
    def leave(db: apsw.Connection) -> None:
        db.execute("DELETE FROM meta WHERE key = 'payload_totals'")
        if noted is not None:
            db.execute(put_row("meta"), ("payload_totals", noted))

    store = SqliteStore(tmp_path)
    await store.payloads.put(_payload("a"))
    expected = await store.payloads.totals()
    await store.write(leave)
    await store.aclose()
    assert find_problems(tmp_path) == []
    store = SqliteStore(tmp_path)
    (text,) = await store.read(_note)
    assert text == f"{expected.count} {expected.original_bytes} {expected.stored_bytes}"
    assert await store.payloads.totals() == expected
    before = await store.read(last_number)
    await store.aclose()
    store = SqliteStore(tmp_path)
    assert await store.read(last_number) == before, "what is right is not written again"
    await store.aclose()


async def test_many_large_bodies_are_dropped_a_few_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_payloads, "_DELETE_BYTES", 1)
    store = SqliteStore(tmp_path)
    digests = [(await store.payloads.put(_payload(name, micros=5))).digest for name in "abcde"]
    before = await store.read(last_number)
    assert await store.payloads.drop_payloads(digests, 10) == 5
    assert await store.read(last_number) == before + 5, "a transaction each"
    assert await store.payloads.totals() == PayloadTotals()
    await store.aclose()


def _note(db: apsw.Connection) -> list[str]:
    query = "SELECT value FROM meta WHERE key = 'payload_totals'"
    return [str(text) for (text,) in db.execute(query)]
