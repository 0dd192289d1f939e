"""`python -m state_svc check`: whatever is damaged is found, with file, project and revision."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

from ramify.v1.state_service_pb2 import CompactProjectRequest
from state_svc.admin.check import Report, check_file
from state_svc.codec.snapshot import SnapshotRecord, decode_snapshot, encode_snapshot, freeze
from state_svc.model.project import LiveProject
from state_svc.rpc.history import HistoryRpcs
from state_svc.store.data_file import DataFile
from state_svc.store.rows import teach
from tests.support.embedded import embedded
from tests.support.mutations import READY, RUNNING, create, delete, patch
from tests.support.state_process import StateProcess, run_to_end
from tests.support.wire import connect

FILE = "state.sqlite3"


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stopped store: `sound` and `hurt`, each with 41 revisions and a snapshot at 22."""
    directory = tmp_path_factory.mktemp("sample") / "data"

    async def fill() -> None:
        async with embedded(directory) as store:
            for project_id in ("sound", "hurt"):
                await store.create(project_id)
                for number in range(20):
                    await store.commit(project_id, create(f"n{number}", state=READY))
                await store.commit(project_id, create("gone"))
                await store.service.snapshots.take(await store.service.live(project_id))
                await store.commit(project_id, delete("gone"))
                for number in range(18):
                    await store.commit(project_id, patch(f"n{number}", state=RUNNING))

    asyncio.run(fill())
    return directory


@pytest.fixture
def data(sample: Path, tmp_path: Path) -> Path:
    """A copy of the sample, to be damaged."""
    return Path(shutil.copytree(sample, tmp_path / "data"))


def look(directory: Path) -> Report:
    report = Report()
    with DataFile(directory / FILE) as opened:
        check_file(opened, report)
    return report


def change(directory: Path, statement: str, *values: Any) -> None:
    database = apsw.Connection(str(directory / FILE))
    teach(database)
    database.execute(statement, values)
    assert database.changes()
    database.close()


def test_a_sound_store_has_no_problem_and_is_not_changed(data: Path) -> None:
    before = (data / FILE).read_bytes()
    result = run_to_end("check", str(data))
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == (
        "2 projects, 82 revisions in 82 segments, 2 snapshots, 40 nodes: no problem\n"
    )
    assert (data / FILE).read_bytes() == before


@pytest.mark.parametrize(
    "table, condition, record, revision",
    [
        ("segments", "last_revision = 7", "segment", 7),
        ("segments", "last_revision = 1", "segment", 1),
        ("segments", "last_revision = 41", "segment", 41),
        ("snapshots", "revision = 22", "snapshot", 22),
        ("projects", "true", "project", 0),
    ],
)
def test_a_flipped_bit_in_the_file_is_found_with_its_project_and_revision(
    data: Path, table: str, condition: str, record: str, revision: int
) -> None:
    """On disk, not through the database, at the first, the middle and the last byte."""
    database = apsw.Connection(str(data / FILE))
    key = "(SELECT project_key FROM projects WHERE project_id = 'hurt')"
    query = f"SELECT data FROM {table} WHERE {condition} AND project_key = {key}"
    blob = database.execute(query).get
    database.close()
    sound = (data / FILE).read_bytes()
    start = sound.index(blob)
    for offset in (0, len(blob) // 2, len(blob) - 1):
        broken = bytearray(sound)
        broken[start + offset] ^= 0x10
        (data / FILE).write_bytes(broken)
        [problem] = look(data).problems
        assert (problem.file, problem.project_id, problem.record) == (FILE, "hurt", record)
        assert (problem.first_revision, problem.last_revision) == (revision, revision)
        assert "checksum" in problem.problem


def test_a_problem_is_one_line_and_exit_code_1(data: Path) -> None:
    change(data, "UPDATE segments SET checksum = checksum + 1 WHERE last_revision = 7")
    result = run_to_end("check", str(data))
    assert result.returncode == 1
    first, second, summary = result.stdout.splitlines()
    assert first == f"{FILE}: segment of project sound, revision 7: checksum does not match"
    assert second == f"{FILE}: segment of project hurt, revision 7: checksum does not match"
    assert summary.endswith(": 2 problems")
    shown = json.loads(run_to_end("check", str(data), "--json").stdout)
    assert [p["first_revision"] for p in shown["problems"]] == [7, 7]
    assert shown["problems"][1]["project_id"] == "hurt"


def test_damage_does_not_hide_what_is_behind_it(data: Path) -> None:
    """From the snapshot at 22 on, the replay goes on."""
    for revision in (5, 30):
        change(data, "UPDATE segments SET data = x'00' WHERE last_revision = ?", revision)
    found = [(p.project_id, p.first_revision) for p in look(data).problems]
    assert found == [("sound", 5), ("sound", 30), ("hurt", 5), ("hurt", 30)]


def test_a_missing_revision_is_found(data: Path) -> None:
    key = "(SELECT project_key FROM projects WHERE project_id = 'hurt')"
    change(data, f"DELETE FROM segments WHERE last_revision IN (8, 9) AND project_key = {key}")
    [problem] = look(data).problems
    assert (problem.project_id, problem.first_revision, problem.last_revision) == ("hurt", 8, 9)
    assert "missing" in problem.problem


def test_a_log_that_ends_before_its_snapshot_is_found(data: Path) -> None:
    change(data, "DELETE FROM segments WHERE last_revision > 20")
    problems = look(data).problems
    places = [(p.record, p.first_revision, p.last_revision) for p in problems]
    assert places.count(("history", 21, 22)) == 2
    assert [record for record, *_ in places] == ["database", "history", "history"]
    assert "were acknowledged and are missing" in problems[0].problem


def test_a_record_of_another_place_is_found(data: Path) -> None:
    """All its bits are right, but it is not the record of this revision."""
    change(
        data,
        "UPDATE segments SET data = (SELECT s.data FROM segments AS s"
        " WHERE s.last_revision = 11 AND s.project_key = segments.project_key)"
        " WHERE last_revision = 12",
    )
    assert [p.first_revision for p in look(data).problems] == [12, 12]


def test_a_snapshot_that_its_segments_do_not_give_is_found(data: Path) -> None:
    """Every checksum is right, only the content is not: one node has another version."""
    with DataFile(data / FILE, writable=True) as opened:
        stored = opened.project(opened.project_keys()[1])
        assert stored is not None
        [row] = opened.snapshot(stored, 22)
        view, _ = decode_snapshot([row.record])
        node = view.nodes["n3"]
        node.version += 1
        [forged] = encode_snapshot(freeze(LiveProject(view)))
        store_snapshot(opened, row.key, forged)
    [problem] = look(data).problems
    assert (problem.project_id, problem.record, problem.first_revision) == ("hurt", "snapshot", 22)
    assert "view checksum" in problem.problem


def store_snapshot(opened: DataFile, key: int, record: SnapshotRecord) -> None:
    opened.db.execute(
        "UPDATE snapshots SET codec = ?, checksum = ?, data = ? WHERE snapshot_key = ?",
        (record.codec, record.checksum, record.data, key),
    )


def test_a_compacted_project_without_its_snapshot_is_found(data: Path) -> None:
    row = "checksum_of(project_uid, project_id, 22, deleted)"
    change(data, f"UPDATE projects SET compacted_revision = 22, row_checksum = {row}")
    change(data, "DELETE FROM segments WHERE last_revision <= 22")
    assert look(data).problems == []
    change(data, "DELETE FROM snapshots")
    assert {p.first_revision for p in look(data).problems} == {22}


async def test_the_snapshot_that_a_compacted_history_begins_from_is_kept(tmp_path: Path) -> None:
    """Later snapshots do not push it out; else nothing before them could be read."""
    async with embedded(tmp_path / "data") as store:
        await store.create("p")
        service = store.service
        await service.snapshots.take(await service.live("p"))
        request = CompactProjectRequest(project_id="p", revision=1)
        assert (await HistoryRpcs(service).compact_project(request)).compacted_revision == 1
        for number in range(8):
            await store.commit("p", create(f"n{number}"))
            await service.snapshots.take(await service.live("p"))
        past = await service.past.view_at(await service.live("p"), 2)
        assert list(past.nodes) == ["n0"]
    assert look(tmp_path / "data").problems == []


@pytest.mark.parametrize(
    "hurt, text",
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-20_000]), "database"),
        (lambda path: path.write_bytes(b"no database at all" * 1_000), "not a database"),
        (lambda path: path.write_bytes(b""), "not the file of a store"),
    ],
)
def test_a_torn_or_foreign_file_is_a_problem_and_not_a_crash(
    data: Path, hurt: Callable[[Path], object], text: str
) -> None:
    hurt(data / FILE)
    result = run_to_end("check", str(data))
    assert result.returncode == 1, result
    assert text in result.stdout
    assert "Traceback" not in result.stderr


def test_every_byte_of_the_file_may_be_wrong_without_a_crash(data: Path) -> None:
    """Damage anywhere, also in the pages of SQLite itself, gives a report."""
    sound = (data / FILE).read_bytes()
    for start in range(100, len(sound), len(sound) // 60):
        broken = bytearray(sound)
        for offset in range(start, min(start + 64, len(sound)), 7):
            broken[offset] ^= 0xA5
        (data / FILE).write_bytes(broken)
        look(data)


def test_a_newer_format_is_named(data: Path) -> None:
    change_version = apsw.Connection(str(data / FILE))
    change_version.execute("PRAGMA user_version = 99")
    change_version.close()
    [problem] = look(data).problems
    assert "format 99 is newer" in problem.problem


@pytest.mark.parametrize("arguments", [[], ["no-such-directory"], ["x", "--unknown"]])
def test_wrong_arguments_end_with_exit_code_2(arguments: list[str], tmp_path: Path) -> None:
    result = run_to_end("check", *[str(tmp_path / a) if a[0] != "-" else a for a in arguments])
    assert result.returncode == 2
    assert result.stderr
    assert list(tmp_path.iterdir()) == []


async def test_a_store_in_use_is_checked_while_it_is_written(
    start_state: Callable[..., StateProcess],
) -> None:
    state = start_state("--snapshot-revisions", "10")
    async with connect(state.address) as wire:
        project_id = (await wire.create_project()).project_id
        checking = asyncio.create_task(asyncio.to_thread(run_to_end, "check", str(state.data)))
        written = 0
        while not checking.done():
            await wire.commit(project_id, create(f"n{written}"))
            written += 1
    result = await checking
    assert result.returncode == 0, result
    assert "in use" in result.stderr
    assert written > 1
