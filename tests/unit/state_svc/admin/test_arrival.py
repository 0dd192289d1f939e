"""What comes in as a file: all that was exported, and a run waits until it is let go on."""

from __future__ import annotations

from io import BytesIO

import pytest

from ramify.v1.project_pb2 import ProjectState
from state_svc.admin.arrival import settle, verify
from state_svc.admin.export import ExportSource, write_project
from state_svc.codec import snapshot
from state_svc.model.limits import Limits
from state_svc.model.project import LiveProject
from state_svc.store.memory import MemoryStore
from tests.support.embedded import embedded
from tests.support.live import INVALID, NOW, live_project, refusals
from tests.support.mutations import create, delete

LATER = NOW + 3_600_000_000  #: the file lies about for an hour


@pytest.fixture
def project() -> LiveProject:
    return live_project(create("root"))


@pytest.mark.parametrize("state", ["PENDING", "RUNNING", "WAITING", "PAUSING"])
def test_the_timers_of_an_imported_run_stand_still_since_its_last_revision(
    project: LiveProject, state: str
) -> None:
    """SEM 20. Those of a run that was being paused do since then."""
    view = project.view
    view.entity.state = ProjectState.Value(f"PROJECT_STATE_{state}")
    view.entity.pause_time.FromSeconds(7)
    applied = settle(view, micros=LATER, actor="import")
    assert applied is not None
    view.apply(applied)
    assert view.entity.state == ProjectState.PROJECT_STATE_PAUSED
    expected = 7_000_000 if state == "PAUSING" else NOW
    assert view.entity.pause_time.ToMicroseconds() == expected
    assert applied.changes()[0].project.patch.pause_time == view.entity.pause_time


@pytest.mark.parametrize("state", ["PAUSED", "COMPLETED", "FAILED"])
def test_a_run_that_is_paused_or_has_ended_comes_in_as_it_is(
    project: LiveProject, state: str
) -> None:
    project.view.entity.state = ProjectState.Value(f"PROJECT_STATE_{state}")
    assert settle(project.view, micros=LATER, actor="import") is None


async def test_a_snapshot_whose_deleted_ids_fill_many_chunks_travels_and_is_believed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its file has a version of its own: an older reader would drop ids, to be used again."""
    monkeypatch.setattr(snapshot, "_CHUNK_BYTES", 500)
    async with embedded(MemoryStore()) as running:
        names = [f"gone-{number}" for number in range(60)]
        await running.create("p")
        await running.commit("p", create("stays"), *map(create, names))
        await running.commit("p", *map(delete, names))
        files = []
        for compacted in (False, True):
            live = await running.service.live("p")
            if compacted:
                await running.service.snapshots.compact(live, live.view.revision)
            source = ExportSource(
                project_id="p",
                project_uid=live.uid,
                revision=live.view.revision,
                compacted=live.view.compacted,
                nodes=list(live.view.nodes.values()),
                micros=NOW,
            )
            parts = [part async for part, _ in write_project(running.service.store, source)]
            files.append(verify(BytesIO(b"".join(parts)), Limits()))
    assert [file.header.file_version for file in files] == [1, 2]
    assert [file.view.deleted for file in files] == [set(names)] * 2
    arrived = LiveProject(files[1].view)
    assert refusals(arrived, create("gone-59")) == [(0, INVALID, "node.node_id")]
