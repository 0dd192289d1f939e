"""The final state of a run is read back from the store, and told if it is not there (S1.7)."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from ramify.v1.project_pb2 import ProjectState
from state_svc.history.snapshots import Snapshotter
from state_svc.model.storing import Storing, StoringRules
from state_svc.store.memory import MemoryStore
from state_svc.store.sqlite import FILE_NAME
from tests.support.embedded import Embedded, embedded
from tests.support.live import live_project
from tests.support.mutations import READY, RUNNING, change_project, create, patch
from tests.support.wire import eventually


def _counted(running: Embedded, name: str) -> float | None:
    return running.service.metrics.registry.get_sample_value(f"ramify_state_{name}_total")


async def _begin(running: Embedded) -> None:
    await running.create("p")
    await running.commit("p", change_project(state=ProjectState.PROJECT_STATE_RUNNING))
    await running.commit("p", create("a", state=READY), create("b"))
    await running.commit("p", patch("a", state=RUNNING))


async def _end(running: Embedded) -> None:
    await running.commit("p", change_project(state=ProjectState.PROJECT_STATE_COMPLETED))


async def test_the_final_state_of_a_run_is_read_back_once(tmp_path: Path) -> None:
    async with embedded(tmp_path) as running:
        await _begin(running)
        assert _counted(running, "verified_ends") == 0
        await _end(running)
        await eventually(lambda: _counted(running, "verified_ends") == 1, "it is verified")
        await running.commit("p", patch("a", waiting_on="nothing"))
        await running.service.committer.drain()
        assert running.service.snapshots._due.empty()
        assert _counted(running, "damaged_ends") == 0
    async with embedded(tmp_path) as running:
        await running.service.live("p")
        assert running.service.snapshots._due.empty(), "it ended before"


def test_a_project_that_ends_again_and_again_waits_once() -> None:
    """Or the snapshots and compactions of others would wait behind each of its ends."""
    rules = StoringRules(Storing())
    snapshotter = Snapshotter(MemoryStore(), revisions=100, size=1_000, mutations=500, rules=rules)
    project = live_project()
    for _ in range(10):
        for state in (ProjectState.PROJECT_STATE_RUNNING, ProjectState.PROJECT_STATE_COMPLETED):
            project.view.entity.state = state
            snapshotter.grew(project, 1, 1, 1)
    assert snapshotter._due.qsize() == 1


async def test_a_final_state_that_is_not_what_was_acknowledged_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with embedded(tmp_path) as running:
        await _begin(running)
        with apsw.Connection(str(tmp_path / FILE_NAME)) as database:
            database.execute("UPDATE segments SET checksum = checksum + 1 WHERE last_revision = 3")
            assert database.changes()
        database.close()
        await _end(running)
        await eventually(lambda: _counted(running, "damaged_ends") == 1, "it is told")
        assert _counted(running, "verified_ends") == 0
    told = [r for r in caplog.records if "final state cannot be read back" in r.message]
    assert [r.levelname for r in told] == ["ERROR"]
