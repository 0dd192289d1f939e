"""Damaged rows that hold no encoded record: found, named, and what they may mean is refused."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from ramify.v1.state_service_pb2 import CommitBatchRequest, GetProjectRequest
from state_svc.errors import CorruptRecord
from state_svc.history import registry
from state_svc.store.base import Commit, ProducerRecord
from state_svc.store.rows import COLUMNS
from state_svc.store.sqlite import FILE_NAME, SqliteStore
from tests.support.embedded import embedded
from tests.support.files import find_problems
from tests.support.mutations import create, patch
from tests.support.payloads import named, put_here
from tests.support.state_process import StateProcess
from tests.support.wire import connect, read_refusal, refusal

Start = Callable[..., StateProcess]

RECORDS = {
    "meta": "meta",
    "producers": "producer",
    "requests": "request",
    "payload_references": "reference",
    "projects": "project",
}
CELLS = [(table, column) for table, columns in COLUMNS.items() for column in columns]


async def _fill(state: StateProcess) -> None:
    """Make a store with rows of every kind: `p` has 2 revisions, `q` one."""
    async with connect(state.address) as wire:
        await wire.create_project("p")
        await wire.create_project("q")
        assert await wire.commit("p", create("n"), request_id="once") == 2
        for producer_id in ("writer", "other"):
            async with wire.producer(producer_id, 3):
                pass


def _flip(data: Path, table: str, column: str, where: str = "true") -> None:
    """Flip a low bit of one value; text stays text."""
    database = apsw.Connection(str(data / FILE_NAME))
    key = COLUMNS[table][0]
    ((name, value),) = database.execute(
        f"SELECT {key}, {column} FROM {table} WHERE {where} ORDER BY {key} LIMIT 1"
    )
    changed = value ^ 1 if isinstance(value, int) else chr(ord(value[0]) ^ 1) + value[1:]
    database.execute(f"UPDATE {table} SET {column} = ? WHERE {key} = ?", (changed, name))
    database.close()


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stopped store with a row in every table."""
    directory = tmp_path_factory.mktemp("rows") / "data"

    async def fill() -> None:
        async with embedded(directory) as store:
            await store.create("p")
            digest = await put_here(store, b"a body " * 1_000)
            await store.commit("p", create("n"), patch("n", result=named(digest)))
            await store.projects.commit_batch(
                CommitBatchRequest(project_id="p", request_id="once", mutations=[create("m")])
            )
            await store.service.committer.put_producer("writer", 3)

    asyncio.run(fill())
    return directory


@pytest.mark.parametrize("table, column", CELLS)
def test_a_flipped_bit_in_any_row_is_found_by_check(
    sample: Path, tmp_path: Path, table: str, column: str
) -> None:
    data = Path(shutil.copytree(sample, tmp_path / "data"))
    assert find_problems(data) == []
    _flip(data, table, column)
    problem = find_problems(data)[0]
    assert (problem.file, problem.record) == (FILE_NAME, RECORDS[table])
    assert "checksum does not match" in problem.problem


@pytest.mark.parametrize("column", ["request_id", "revision", "project_id"])
async def test_a_request_whose_answer_is_damaged_is_not_carried_out_again(
    start_state: Start, column: str
) -> None:
    """Also if it is its name that is damaged; other requests are."""
    state = start_state()
    await _fill(state)
    state.kill()
    _flip(state.data, "requests", column)
    await asyncio.to_thread(state.start)
    async with connect(state.address) as wire:
        for _ in range(2):
            refused = await refusal(wire.commit("p", create("again"), request_id="once"))
            assert refused.reason == "CORRUPT_RECORD"
        assert await wire.commit("p", create("next"), request_id="another") == 3
    assert "row is damaged" in state.read_log()


@pytest.mark.parametrize("column", ["producer_id", "epoch"])
async def test_a_producer_whose_epoch_is_damaged_does_not_write_again(
    start_state: Start, column: str
) -> None:
    """Nobody can tell whether it is fenced. Another one can write."""
    state = start_state()
    await _fill(state)
    state.kill()
    _flip(state.data, "producers", column, "producer_id = 'writer'")
    await asyncio.to_thread(state.start)
    async with connect(state.address) as wire:
        for epoch in (2, 3, 4):
            async with wire.producer("writer", epoch) as producer:
                error = await producer.end()
            assert error is not None
            assert read_refusal(error).reason == "CORRUPT_RECORD"
        for producer_id in ("other", "newcomer"):
            async with wire.producer(producer_id, 3) as producer:
                assert producer.welcome is not None


async def test_a_row_whose_text_is_none_any_more_harms_nobody_else(
    sample: Path, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(sample, tmp_path / "data"))
    database = apsw.Connection(str(data / FILE_NAME))
    database.execute("UPDATE producers SET producer_id = CAST(x'f77269746572' AS TEXT)")
    database.close()
    [problem] = find_problems(data)
    assert "\\xf7riter 3" in str(problem), "it can be printed"
    async with embedded(data) as store:
        with pytest.raises(CorruptRecord):
            store.service.damage.check("producers", "writer")
        store.service.damage.check("producers", "other")
        assert await store.commit("p", create("next")) == 4


@pytest.mark.parametrize("deleted", [0, 1, 2])
@pytest.mark.parametrize("column", ["project_uid", "project_id"])
async def test_a_project_whose_name_is_no_text_any_more_is_refused_alone(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, column: str, deleted: int
) -> None:
    monkeypatch.setattr(registry, "_READ_BYTES", 1)  # a page for each project
    data = Path(shutil.copytree(sample, tmp_path / "data"))
    async with embedded(data) as store:
        await store.create("q")
    database = apsw.Connection(str(data / FILE_NAME))
    database.execute(
        f"UPDATE projects SET {column} = CAST(x'f770' AS TEXT), deleted = ? WHERE project_id = 'p'",
        (deleted,),
    )
    database.close()
    [problem, *_] = [p for p in find_problems(data) if p.record == "project"]
    assert "\\xf7p" in str(problem), "it can be printed"
    async with embedded(data) as store:
        with pytest.raises(CorruptRecord):
            await store.service.live("p" if column == "project_uid" else "\\xf7p")
        assert await store.commit("q", create("n")) == 2


@pytest.mark.parametrize("deleted", [1, 2])
async def test_a_project_that_a_flipped_bit_calls_deleted_loses_nothing(
    start_state: Start, deleted: int
) -> None:
    state = start_state()
    await _fill(state)
    state.kill()
    database = apsw.Connection(str(state.data / FILE_NAME))
    database.execute("UPDATE projects SET deleted = ? WHERE project_id = 'p'", (deleted,))
    await asyncio.to_thread(state.start)
    async with connect(state.address) as wire:
        shown = await refusal(wire.stub.GetProject(GetProjectRequest(project_id="p")))
        assert shown.reason == "CORRUPT_RECORD"
        assert (await refusal(wire.create_project("p"))).reason == "PROJECT_EXISTS"
        assert await wire.commit("q", create("n")) == 2
    state.kill()
    database.execute("UPDATE projects SET deleted = 0 WHERE project_id = 'p'")
    database.close()
    await asyncio.to_thread(state.start)
    async with connect(state.address) as wire:
        assert (await wire.project("p")).revision == 2


@pytest.mark.parametrize("key", ["store_id", "commit_id"])
async def test_a_store_whose_identity_or_count_is_damaged_is_not_served(
    tmp_path: Path, key: str
) -> None:
    store = SqliteStore(tmp_path)
    await store.commit(Commit(producers=[ProducerRecord("writer", 1)]))
    await store.aclose()
    _flip(tmp_path, "meta", "value", f"key = '{key}'")
    with pytest.raises(CorruptRecord) as caught:
        SqliteStore(tmp_path)
    assert caught.value.fields["table"] == "meta"


async def test_nothing_is_collected_while_a_reference_is_damaged(tmp_path: Path) -> None:
    """It may be the one to a body that nothing else seems to need."""
    data = tmp_path / "data"
    async with embedded(data) as store:
        await store.create("p")
        digest = await put_here(store, b"a body " * 1_000)
        await store.commit("p", create("n"), patch("n", result=named(digest)))
    _flip(data, "payload_references", "digest")
    async with embedded(data) as store:
        payloads = store.service.store.payloads
        with pytest.raises(CorruptRecord):
            await payloads.list_unreferenced(1 << 62)
        with pytest.raises(CorruptRecord):
            await store.service.payloads.collect(1 << 62)
        assert await payloads.read(digest) is not None
    assert next(p.record for p in find_problems(data)) == "reference"
