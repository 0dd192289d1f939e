"""Compaction loses no stage record: what it moves can be read, and it moves all or refuses."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from ramify.v1.mutation_pb2 import Change
from ramify.v1.payload_pb2 import Payload
from ramify.v1.state_service_pb2 import ListStagesRequest
from state_svc.codec.segment import decode_segment
from state_svc.errors import CorruptRecord, ProjectNotFound
from state_svc.history import archive
from state_svc.history.archive import runs_of
from state_svc.rpc.stages import StageRpcs
from state_svc.store.memory import MemoryStore
from state_svc.store.sqlite import FILE_NAME
from tests.support.embedded import Embedded, embedded
from tests.support.mutations import create, stage


def _change(revision: int, size: int) -> Change:
    change = Change(revision=revision)
    change.stage.stage.output.data = bytes(size)
    return change


def test_a_run_has_whole_revisions_and_no_more_than_its_bytes() -> None:
    sizes = [(2, 100), (2, 100), (4, 300), (5, 2_000), (6, 600), (9, 400), (9, 100)]
    changes = [_change(*item) for item in sizes]
    runs = list(runs_of(changes, 1_000))
    assert [[change.revision for change in run] for run in runs] == [[2, 2, 4], [5], [6], [9, 9]]
    assert [change for run in runs for change in run] == changes
    assert list(runs_of([], 1_000)) == []


async def _fill(running: Embedded) -> None:
    await running.create("p")
    await running.commit("p", create("n"))
    for number in range(20):
        body = Payload(text=f"{number}" + "again and again " * 500)
        await running.commit("p", stage("n", f"s{number}", prompt=body))


async def _stage_ids(running: Embedded) -> list[str]:
    page = await StageRpcs(running.service).list_stages(ListStagesRequest(project_id="p"))
    return [record.stage_id for record in page.stages]


async def test_a_record_of_the_archive_is_bounded_by_what_it_inflates_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(archive, "_RECORD_BYTES", 50_000)
    async with embedded(MemoryStore()) as running:
        await _fill(running)
        project = await running.service.live("p")
        await running.service.snapshots.compact(project, project.view.revision)
        records = await running.service.store.payloads.read_archive(project.uid, 0, 1 << 20)
        assert len(records) == 4
        assert max(len(decode_segment(record.segment).delta) for record in records) < 52_000
        assert sum(len(record.segment.data) for record in records) < 10_000
        assert await _stage_ids(running) == [f"s{number}" for number in range(20)]


@pytest.mark.parametrize("missing", [2, 10, 22])
async def test_a_history_with_a_hole_is_not_compacted(tmp_path: Path, missing: int) -> None:
    """Compacted, it would have lost a revision and nothing would tell."""
    async with embedded(tmp_path) as running:
        await _fill(running)
        project = await running.service.live("p")
        with apsw.Connection(str(tmp_path / FILE_NAME)) as database:
            database.execute("DELETE FROM segments WHERE first_revision = ?", (missing,))
        database.close()
        with pytest.raises(CorruptRecord, match=f"revision={missing}"):
            await running.service.snapshots.compact(project, project.view.revision)
        assert project.view.compacted == 0
        assert len(await running.service.store.read_segments(project.uid, 0, 1 << 20)) == 21
        with pytest.raises(CorruptRecord, match=f"revision={missing}"):
            await _stage_ids(running)


async def test_a_project_that_is_deleted_before_its_compaction_is_not_found() -> None:
    async with embedded(MemoryStore()) as running:
        await _fill(running)
        project = await running.service.live("p")
        await running.service.projects.delete(project)
        with pytest.raises(ProjectNotFound):
            await running.service.snapshots.compact(project, project.view.revision)
