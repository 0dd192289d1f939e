"""Commits that SQLite drops without a word: what was acknowledged and is gone is reported."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from state_svc.codec.project import ProjectRecord
from state_svc.codec.segment import SegmentRecord
from state_svc.errors import CommitsMissing, DataDirectoryUnreadable
from state_svc.store.base import Commit, ProducerRecord
from state_svc.store.high_water import NAME
from state_svc.store.sqlite import FILE_NAME, SqliteStore
from tests.support.embedded import embedded
from tests.support.files import find_problems
from tests.support.mutations import create
from tests.support.state_process import StartFailed, StateProcess
from tests.support.wire import connect

Start = Callable[..., StateProcess]
_FRAME_HEADER = 24


def _flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 0x10
    path.write_bytes(data)


@pytest.mark.parametrize("seed", range(2))
async def test_commits_whose_bytes_in_the_wal_were_damaged_after_a_kill_are_missed(
    start_state: Start, seed: int
) -> None:
    state = start_state()
    wal = state.data / f"{FILE_NAME}-wal"
    async with connect(state.address) as wire:
        await wire.create_project("p")
        first = wal.stat().st_size
        for number in range(20):
            await wire.commit("p", create(f"n{number}"))
    state.kill()
    # Anywhere behind the creation of the project, in what was acknowledged.
    _flip(wal, random.Random(seed).randrange(first + _FRAME_HEADER, wal.stat().st_size))
    damaged = wal.read_bytes()

    [found] = find_problems(state.data)
    assert found.record == "database"
    assert "were acknowledged and are missing" in found.problem
    with pytest.raises(CommitsMissing):
        SqliteStore(state.data)
    assert wal.read_bytes() == damaged, "what is left is left to whoever looks into it"

    (state.data / NAME).unlink()
    async with embedded(state.data) as running:
        head = (await running.service.live("p")).view.revision
        assert head < 21, "it goes on with what is left"
        assert await running.commit("p", create("later")) == head + 1
    assert find_problems(state.data) == []


async def test_a_service_that_misses_commits_says_so_in_one_line_and_ends(
    start_state: Start,
) -> None:
    state = start_state()
    assert state.stop() == 0
    older = (state.data / FILE_NAME).read_bytes()
    store = SqliteStore(state.data)
    await store.commit(_commit("u", 1))
    await store.aclose()
    (state.data / FILE_NAME).write_bytes(older)
    with pytest.raises(StartFailed):
        await asyncio.to_thread(state.start)
    last = state.read_log().strip().splitlines()[-1]
    assert last.startswith("state_svc: Commits that were acknowledged are lost; restore a backup")
    assert str(state.data / NAME) in last


def _commit(uid: str, revision: int) -> Commit:
    segment = SegmentRecord(
        project_uid=uid,
        first_revision=revision,
        last_revision=revision,
        format_version=1,
        codec=0,
        checksum=1,
        data=b"segment",
    )
    return Commit([segment], [ProjectRecord(uid, f"id-of-{uid}", b"entity", 7)])


async def _restart(store: SqliteStore, directory: Path) -> SqliteStore:
    await store.aclose()
    return SqliteStore(directory)


async def test_what_was_compacted_or_deleted_is_not_missed(tmp_path: Path) -> None:
    """The last number must outlive the rows that had it."""
    store = SqliteStore(tmp_path)
    for revision in range(1, 5):
        await store.commit(_commit("u", revision))
    await store.compact("u", 4)
    store = await _restart(store, tmp_path)
    await store.commit(_commit("v", 1))
    await store.delete_project("v")
    store = await _restart(store, tmp_path)
    await store.commit(Commit(producers=[ProducerRecord("p", 1)]))
    await store.delete_project("u")
    store = await _restart(store, tmp_path)
    await store.aclose()


async def _two_states(tmp_path: Path) -> tuple[bytes, bytes]:
    """Return the file of a store before and after one more commit."""
    states = []
    for revision in (1, 2):
        store = SqliteStore(tmp_path)
        await store.commit(_commit("u", revision))
        await store.aclose()
        states.append((tmp_path / FILE_NAME).read_bytes())
    return states[0], states[1]


async def test_an_older_file_in_the_place_of_the_store_is_missed(tmp_path: Path) -> None:
    older, newer = await _two_states(tmp_path)
    (tmp_path / FILE_NAME).write_bytes(older)
    with pytest.raises(CommitsMissing) as caught:
        SqliteStore(tmp_path)
    assert caught.value.fields["first_commit"] == caught.value.fields["last_commit"]
    with pytest.raises(CommitsMissing):  # and not DataDirectoryLocked
        SqliteStore(tmp_path)
    assert "are missing" in find_problems(tmp_path)[0].problem
    (tmp_path / FILE_NAME).write_bytes(newer)
    await SqliteStore(tmp_path).aclose()


@pytest.mark.parametrize("place", [0, 20, 39, 43])
async def test_a_mark_that_is_damaged_or_of_another_store_tells_nothing(
    tmp_path: Path, place: int
) -> None:
    older, _ = await _two_states(tmp_path)
    (tmp_path / FILE_NAME).write_bytes(older)
    _flip(tmp_path / NAME, place)
    await SqliteStore(tmp_path).aclose()
    other = SqliteStore(tmp_path / "other")
    for revision in range(1, 9):
        await other.commit(_commit("u", revision))
    await other.aclose()
    (tmp_path / NAME).write_bytes((tmp_path / "other" / NAME).read_bytes())
    store = SqliteStore(tmp_path)
    await store.commit(_commit("u", 2))
    await store.aclose()
    assert not any("missing" in found.problem for found in find_problems(tmp_path))


async def test_a_mark_that_cannot_be_written_holds_up_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = SqliteStore(tmp_path)
    await store.commit(_commit("u", 1))

    def refuse(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.pwrite", refuse)
        for revision in (2, 3):
            await store.commit(_commit("u", revision))
    assert [r.message for r in caplog.records] == ["missing commits may go unnoticed"], "said once"
    store = await _restart(store, tmp_path)
    assert await store.read_head("u") == 3
    await store.aclose()


async def test_a_mark_that_cannot_be_opened_is_refused_and_the_directory_is_free_again(
    tmp_path: Path,
) -> None:
    await SqliteStore(tmp_path).aclose()
    mark = tmp_path / NAME
    mark.unlink()
    mark.mkdir()
    with pytest.raises(DataDirectoryUnreadable) as caught:
        SqliteStore(tmp_path)
    assert caught.value.fields["path"] == str(mark)
    mark.rmdir()
    await SqliteStore(tmp_path).aclose()
