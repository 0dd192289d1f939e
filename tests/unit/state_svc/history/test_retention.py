"""History goes by itself when it is too old, too long or too large, and never past a pin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ramify.v1.state_service_pb2 import (
    CompactProjectRequest,
    CreateProjectRequest,
    ForkProjectRequest,
    GetProjectRequest,
    PinRevisionRequest,
    UnpinRevisionRequest,
)
from state_svc.errors import InvalidRequest, RevisionAhead, RevisionCompacted, StoreUnavailable
from state_svc.model.limits import MAX_PINS
from state_svc.rpc.history import HistoryRpcs
from state_svc.rpc.pins import PinRpcs
from state_svc.rpc.projects import ProjectRpcs
from state_svc.service import now_micros
from state_svc.store.memory import MemoryStore
from tests.support.embedded import Embedded, embedded
from tests.support.mutations import create

_OFTEN = ("--snapshot-revisions", "5")
_DAY = 86_400_000_000


async def _grown(
    running: Embedded, project_id: str = "p", revisions: int = 31, **keys: Any
) -> None:
    """Make a project with so many revisions and, every five, a snapshot."""
    fields: dict[str, Any] = {"state_settings": keys} if keys else {}
    await running.projects.create_project(
        CreateProjectRequest(project_id=project_id, goal="prove it", **fields)
    )
    for number in range(2, revisions + 1):
        await running.commit(project_id, create(f"n{number}"))
        # One by one: of snapshots that wait for each other each would be of the same revision.
        await _snapshots_taken(running, project_id)


async def _snapshots_taken(running: Embedded, project_id: str) -> None:
    # Behind what is due by now; it takes nothing itself, for revision 0 never has a snapshot.
    project = await running.service.live(project_id)
    assert await running.service.snapshots.compact(project, 0) == project.view.compacted


async def _compacted(running: Embedded, project_id: str = "p") -> int:
    return (await running.service.live(project_id)).view.compacted


async def _pin(running: Embedded, name: str, revision: int = 0, project_id: str = "p") -> int:
    request = PinRevisionRequest(project_id=project_id, pin=name, revision=revision)
    return (await PinRpcs(running.service).pin_revision(request)).revision


async def _unpin(running: Embedded, name: str) -> bool:
    request = UnpinRevisionRequest(project_id="p", pin=name)
    return (await PinRpcs(running.service).unpin_revision(request)).unpinned


async def test_by_default_everything_is_kept() -> None:
    async with embedded(MemoryStore(), *_OFTEN) as running:
        await _grown(running)
        assert await running.service.retention.sweep(now_micros() + 10_000 * _DAY) == 0
        assert await _compacted(running) == 0


async def test_revisions_beyond_the_latest_ones_go() -> None:
    async with embedded(MemoryStore(), *_OFTEN, "--retention-revisions", "10") as running:
        await _grown(running)
        snapshots = await running.service.store.list_snapshots(
            (await running.service.live("p")).uid
        )
        expected = max(revision for revision in snapshots if 31 - revision >= 10)
        assert await running.service.retention.sweep(now_micros()) == 1
        assert await _compacted(running) == expected
        assert await running.service.retention.sweep(now_micros()) == 0
        for revision in range(expected, 32):
            request = GetProjectRequest(project_id="p", at_revision=revision)
            shown = (await running.projects.get_project(request)).project
            assert shown.revision == revision
        with pytest.raises(RevisionCompacted):
            await running.projects.get_project(
                GetProjectRequest(project_id="p", at_revision=expected - 1)
            )


async def test_history_that_is_too_old_goes_even_to_the_head(tmp_path: Path) -> None:
    async with embedded(tmp_path, *_OFTEN, "--retention-seconds", "86400") as running:
        await _grown(running)
        assert await running.service.retention.sweep(now_micros() + _DAY // 2) == 0
        assert await running.service.retention.sweep(now_micros() + 2 * _DAY) == 1
        assert await _compacted(running) == 31
        assert (
            await running.service.store.stored_bytes((await running.service.live("p")).uid, 0) == 0
        )


async def test_history_beyond_so_many_bytes_goes(tmp_path: Path) -> None:
    async with embedded(tmp_path, *_OFTEN) as running:
        await _grown(running, retention_bytes=1_500)
        uid = (await running.service.live("p")).uid
        before = await running.service.store.stored_bytes(uid, 0)
        assert before > 3_000
        assert await running.service.retention.sweep(now_micros()) == 1
        assert 1_500 <= await running.service.store.stored_bytes(uid, 0) < before


async def test_a_projects_own_retention_wins_over_the_services() -> None:
    async with embedded(MemoryStore(), *_OFTEN, "--retention-revisions", "10") as running:
        await _grown(running, "kept", retention_revisions=0)
        await _grown(running, "short", retention_revisions=1)
        assert await running.service.retention.sweep(now_micros()) == 1
        assert await _compacted(running, "kept") == 0
        assert await _compacted(running, "short") > 31 - 10


async def test_a_project_takes_a_snapshot_for_each_span_that_is_kept() -> None:
    async with embedded(MemoryStore()) as running:
        await _grown(running, revisions=40, retention_revisions=8)
        await running.service.retention.sweep(now_micros())
        assert 31 - 16 <= await _compacted(running) <= 32


async def test_a_pin_holds_retention_and_compaction_until_it_is_removed() -> None:
    async with embedded(MemoryStore(), *_OFTEN, "--retention-revisions", "2") as running:
        await _grown(running)
        history = HistoryRpcs(running.service)
        assert await _pin(running, "audit", 17) == 17
        assert await _pin(running, "head") == 32
        await running.service.retention.sweep(now_micros())
        assert await _compacted(running) <= 17
        asked = CompactProjectRequest(project_id="p")
        assert (await history.compact_project(asked)).compacted_revision <= 17
        for revision in (17, 25, 33):
            request = GetProjectRequest(project_id="p", at_revision=revision)
            assert (await running.projects.get_project(request)).project.revision == revision
        assert await _unpin(running, "audit")
        assert not await _unpin(running, "audit")
        assert (await history.compact_project(asked)).compacted_revision <= 32
        assert await _unpin(running, "head")
        assert (await history.compact_project(asked)).compacted_revision == 35


async def test_pins_are_durable_moved_by_name_and_shown() -> None:
    store = MemoryStore()
    async with embedded(store) as running:
        await _grown(running, revisions=5)
        await _pin(running, "a", 3)
        await _pin(running, "a", 4)
        assert await _pin(running, "a", 4) == 4, "a repeat changes nothing"
        assert (await running.service.live("p")).view.revision == 7
    async with embedded(store) as running:
        project = (
            await ProjectRpcs(running.service).get_project(GetProjectRequest(project_id="p"))
        ).project
        assert dict(project.pins.revisions) == {"a": 4}
        fork = await HistoryRpcs(running.service).fork_project(
            ForkProjectRequest(project_id="p", new_project_id="f")
        )
        assert not fork.project.HasField("pins")


async def test_a_pin_that_cannot_hold_is_refused() -> None:
    async with embedded(MemoryStore()) as running:
        await _grown(running, revisions=5)
        await HistoryRpcs(running.service).compact_project(CompactProjectRequest(project_id="p"))
        with pytest.raises(RevisionCompacted):
            await _pin(running, "a", 4)
        with pytest.raises(RevisionAhead):
            await _pin(running, "a", 6)
        with pytest.raises(InvalidRequest):
            await _pin(running, "not a name", 5)
        for number in range(MAX_PINS):
            await _pin(running, f"pin-{number}", 5)
        with pytest.raises(InvalidRequest):
            await _pin(running, "one-more", 5)
        assert await _pin(running, "pin-0", 6) == 6, "one that exists is moved"


async def test_a_store_that_is_away_is_left_for_the_next_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = MemoryStore()
    async with embedded(store, *_OFTEN, "--retention-revisions", "10") as running:
        await _grown(running)
        with monkeypatch.context() as away:

            async def fail(uid: str) -> list[int]:
                raise StoreUnavailable(problem="away")

            away.setattr(store, "list_snapshots", fail)
            assert await running.service.retention.sweep(now_micros()) == 0
        assert await running.service.retention.sweep(now_micros()) == 1
