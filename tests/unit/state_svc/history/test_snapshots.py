"""When snapshots are due: a start must not have to replay much, and little is written twice."""

from __future__ import annotations

import asyncio
from pathlib import Path

import apsw
import pytest

from state_svc.errors import CorruptRecord, Overloaded
from state_svc.history import snapshots
from state_svc.history.snapshots import Snapshotter
from state_svc.model.storing import Storing, StoringRules
from state_svc.store.memory import MemoryStore
from state_svc.store.sqlite import FILE_NAME
from tests.support.embedded import Embedded, embedded
from tests.support.live import live_project
from tests.support.mutations import create, patch
from tests.support.wire import eventually


def _snapshotter() -> Snapshotter:
    rules = StoringRules(Storing())
    return Snapshotter(MemoryStore(), revisions=100, size=1_000, mutations=500, rules=rules)


def _due(snapshotter: Snapshotter) -> int:
    count = 0
    while not snapshotter._due.empty():
        snapshotter._due.get_nowait()
        snapshotter._waiting.clear()
        count += 1
    return count


def test_a_snapshot_is_due_after_so_many_revisions_bytes_or_mutations() -> None:
    for revisions, size, mutations in ((100, 1, 1), (1, 1_000, 1), (1, 1, 500)):
        snapshotter, project = _snapshotter(), live_project()
        snapshotter.grew(project, revisions - 1, size - 1, mutations - 1)
        assert _due(snapshotter) == 0
        snapshotter.grew(project, 1, 1, 1)
        assert _due(snapshotter) == 1
        snapshotter.grew(project, 1, 1, 1)
        assert _due(snapshotter) == 0, "it begins anew"


def test_a_large_project_that_changes_little_is_not_written_again_and_again() -> None:
    snapshotter, project = _snapshotter(), live_project()
    snapshotter.grew(project, 1, 1, 1)
    snapshotter._growth[project.uid].snapshot_size = 80_000
    snapshotter.grew(project, 100, 1_000, 1)
    assert _due(snapshotter) == 0
    snapshotter.grew(project, 1, 8_998, 499)
    assert _due(snapshotter) == 0
    snapshotter.grew(project, 1, 1_000, 1)
    assert _due(snapshotter) == 1, "an eighth of its size, for so many mutations"


def test_what_was_replayed_counts_once() -> None:
    snapshotter, project = _snapshotter(), live_project()
    snapshotter.replayed(project, 499)
    snapshotter.replayed(project, 499)
    assert _due(snapshotter) == 0
    snapshotter.grew(project, 1, 1, 1)
    assert _due(snapshotter) == 1


async def _snapshots(running: Embedded) -> list[int]:
    project = await running.service.live("p")
    await running.service.snapshots.compact(project, 0)  # behind what is due by now
    return await running.service.store.list_snapshots(project.uid)


async def test_a_service_that_dies_again_and_again_does_not_replay_more_each_time() -> None:
    store, found = MemoryStore(), list[int]()
    for turn in range(4):
        async with embedded(store, "--snapshot-mutations", "50") as running:
            if not turn:
                await running.create("p")
                await running.commit("p", create("a"))
            await running.service.live("p")
            for number in range(20):
                await running.commit("p", patch("a", output_summary=f"{turn}-{number}"))
            found = await _snapshots(running)
    assert found, "no process has seen fifty, but together they have"


async def test_history_is_not_dropped_up_to_a_snapshot_that_cannot_be_read(tmp_path: Path) -> None:
    """Its segments are all that is left of the project then."""
    async with embedded(tmp_path) as running:
        await running.create("p")
        for number in range(4):
            await running.commit("p", create(f"n{number}"))
        service = running.service
        project = await service.live("p")
        at = await service.snapshots.take(project)
        await running.commit("p", create("later"))
        with apsw.Connection(str(tmp_path / FILE_NAME)) as database:
            database.execute("UPDATE snapshots SET checksum = checksum + 1")
        database.close()
        with pytest.raises(CorruptRecord):
            await service.snapshots.compact(project, at)
        assert project.view.compacted == 0
        assert len(await service.store.read_segments(project.uid, 0, 1 << 20)) == 6
        assert await service.snapshots.compact(project, at + 1) == at + 1, "a sound one will do"


async def test_compactions_that_wait_are_bounded_and_those_that_nobody_awaits_are_not_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(snapshots, "MAX_COMPACTIONS", 2)
    async with embedded(MemoryStore()) as running:
        await running.create("p")
        service = running.service
        project = await service.live("p")
        given_up, awaited = [
            asyncio.create_task(service.snapshots.compact(project, 1)) for _ in range(2)
        ]
        await asyncio.sleep(0)
        given_up.cancel()
        with pytest.raises(Overloaded):
            await service.snapshots.compact(project, 1)
        assert service.is_in_use(project), "unloaded, it would not learn what was dropped"
        assert await awaited == 1
        assert await service.snapshots.compact(project, 1) == 1
        await eventually(lambda: not service.is_in_use(project), "nothing waits any more")


def test_a_project_waits_for_one_snapshot_at_a_time() -> None:
    snapshotter, project = _snapshotter(), live_project()
    for _ in range(5):
        snapshotter.grew(project, 100, 1_000, 500)
    assert _due(snapshotter) == 1
