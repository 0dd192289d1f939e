"""A deletion happens as a whole or not at all, whoever waits for it."""

from __future__ import annotations

import asyncio
import traceback
from pathlib import Path

import pytest

from ramify.v1.project_pb2 import ProjectState
from ramify.v1.state_service_pb2 import DeleteProjectRequest
from state_svc.codec.project import ProjectRecord
from state_svc.errors import CorruptRecord, ProjectNotFound
from state_svc.history.registry import ProjectRegistry
from state_svc.rpc.history import HistoryRpcs
from state_svc.store.base import Commit
from state_svc.store.memory import MemoryStore
from tests.support.embedded import Embedded, embedded
from tests.support.mutations import change_project, create
from tests.support.wire import eventually

REQUEST = DeleteProjectRequest(project_id="p", force=True)


class _SlowStore(MemoryStore):
    """Deletes once it is told to, or fails once; commits unless it is held up."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.told = asyncio.Event(), asyncio.Event()
        self.error: CorruptRecord | None = None
        self.committing, self.free = asyncio.Event(), asyncio.Event()
        self.free.set()

    async def commit(self, commit: Commit) -> None:
        self.committing.set()
        await self.free.wait()
        await super().commit(commit)

    async def delete_project(self, project_uid: str) -> None:
        self.asked.set()
        await self.told.wait()
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        await super().delete_project(project_uid)


def _ends(running: Embedded, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the ids of projects whose watches are ended, as that happens."""
    ended: list[str] = []
    monkeypatch.setattr(
        type(running.service.hub), "end", lambda _, project, __: ended.append(project.project_id)
    )
    return ended


async def test_a_deletion_goes_on_when_its_caller_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    store = _SlowStore()
    async with embedded(store) as running:
        ended = _ends(running, monkeypatch)
        await running.create("p")
        deleting = asyncio.create_task(HistoryRpcs(running.service).delete_project(REQUEST))
        await store.asked.wait()
        deleting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await deleting
        store.told.set()
        await eventually(lambda: ended == ["p"], "watches of the project are ended")
        assert [head.deleted for head in await store.list_projects()] == [True]
        with pytest.raises(ProjectNotFound):
            await running.service.live("p")


async def test_a_deletion_that_is_repeated_while_it_is_under_way_happens_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else the failure of the first would bring back what the second has deleted."""
    store = _SlowStore()
    store.error = CorruptRecord(problem="told to be damaged")
    async with embedded(store) as running:
        ended = _ends(running, monkeypatch)
        await running.create("p")
        first, second, third = (
            asyncio.create_task(HistoryRpcs(running.service).delete_project(REQUEST))
            for _ in range(3)
        )
        await store.asked.wait()
        store.told.set()
        with pytest.raises(CorruptRecord):
            await first
        outcomes = await asyncio.gather(second, third, return_exceptions=True)
        assert sorted(type(outcome).__name__ for outcome in outcomes) == [
            "DeleteProjectResponse",
            "ProjectNotFound",
        ]
        assert ended == ["p"]
        with pytest.raises(ProjectNotFound):
            await running.service.live("p")


async def test_what_comes_while_a_deletion_waits_for_what_was_accepted_is_refused() -> None:
    store = _SlowStore()
    store.told.set()
    async with embedded(store) as running:
        await running.create("p")
        for state in (ProjectState.PROJECT_STATE_RUNNING, ProjectState.PROJECT_STATE_FAILED):
            await running.commit("p", change_project(state=state))
        store.free.clear()
        store.committing.clear()
        before = asyncio.create_task(running.commit("p", create("a")))
        await store.committing.wait()
        request = DeleteProjectRequest(project_id="p")
        deleting = asyncio.create_task(HistoryRpcs(running.service).delete_project(request))
        await asyncio.sleep(0)  # it waits for what is pending
        again = change_project(state=ProjectState.PROJECT_STATE_RUNNING)
        retried = asyncio.create_task(running.commit("p", again))
        await asyncio.sleep(0)
        store.free.set()
        accepted, refused = await asyncio.gather(before, retried, return_exceptions=True)
        assert accepted == 4 or isinstance(accepted, ProjectNotFound), "durable, and maybe gone"
        assert isinstance(refused, ProjectNotFound)
        await deleting
        assert store.asked.is_set()


async def test_a_project_whose_row_is_damaged_is_not_deleted_by_half(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = _SlowStore()
    store.told.set()
    store.error = CorruptRecord(problem="told to be damaged")
    async with embedded(store) as running:
        ended = _ends(running, monkeypatch)
        await running.create("p")
        with pytest.raises(CorruptRecord):
            await HistoryRpcs(running.service).delete_project(REQUEST)
        assert await running.commit("p", create("n")) == 2, "it is still there"
        assert ended == []


async def test_nothing_but_the_id_is_kept_of_a_deleted_project(tmp_path: Path) -> None:
    async with embedded(tmp_path) as running:
        await running.create("p")
        service = running.service
        project = await service.live("p")
        service.snapshots.grew(project, 1, 1, 1)
        await HistoryRpcs(service).delete_project(REQUEST)
        entry = service.projects._entries["p"]
        assert (entry.shown, entry.live) == (b"", None)
        assert project.uid not in service.snapshots._growth


async def test_a_damaged_project_that_is_asked_for_again_and_again_keeps_no_frames() -> None:
    store = MemoryStore()
    await store.commit(Commit(projects=[ProjectRecord("uid", "p", b"damaged", 1)]))
    projects = ProjectRegistry(store)
    await projects.open()
    frames = []
    for _ in range(3):
        with pytest.raises(CorruptRecord) as caught:
            await projects.get("p")
        frames.append(len(traceback.extract_tb(caught.value.__traceback__)))
    assert frames[0] == frames[1] == frames[2]
