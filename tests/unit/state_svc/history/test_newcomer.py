"""A fork or an import exists as a whole or not at all; nothing else is ever cleared away."""

from __future__ import annotations

import pytest

from ramify.v1.project_pb2 import Project
from state_svc.codec.project import encode_project
from state_svc.codec.snapshot import encode_snapshot, freeze
from state_svc.errors import CorruptRecord, ProjectNotFound, StoreUnavailable
from state_svc.history.newcomer import store_newcomer
from state_svc.history.registry import ProjectRegistry
from state_svc.model.project import LiveProject, View
from state_svc.store.base import Commit, RequestRecord
from state_svc.store.memory import MemoryStore

REQUEST = RequestRecord("ForkProject", "r", "p", 1, 5)


def _newcomer() -> LiveProject:
    entity = Project(project_id="p", project_uid="uid", goal="a test")
    return LiveProject(View(entity=entity, revision=1, micros=5, compacted=1))


async def test_a_newcomer_is_found_once_it_is_whole() -> None:
    store, project = MemoryStore(), _newcomer()
    projects = ProjectRegistry(store)

    async def write() -> None:
        with pytest.raises(ProjectNotFound):
            await projects.get("p")
        assert "p" in projects, "its id is taken"
        for record in encode_snapshot(freeze(project)):
            await store.put_snapshot_chunk(record)

    await store_newcomer(store, projects, project, REQUEST, write)
    assert await projects.get("p") is project
    assert await store.list_requests(0) == [REQUEST]
    again = ProjectRegistry(store)
    await again.open()
    assert (await again.get("p")).view.revision == 1


@pytest.mark.parametrize("error", [StoreUnavailable(problem="told to fail"), ValueError("a bug")])
async def test_a_newcomer_that_fails_leaves_nothing_and_its_id_is_free(error: Exception) -> None:
    store = MemoryStore()
    projects = ProjectRegistry(store)

    async def fail() -> None:
        raise error

    with pytest.raises(type(error)):
        await store_newcomer(store, projects, _newcomer(), REQUEST, fail)
    assert "p" not in projects
    assert await store.list_projects() == []
    assert await store.list_requests(0) == []


async def test_a_newcomer_cut_off_half_way_is_cleared_away_at_the_next_start() -> None:
    store = MemoryStore()
    await store.begin_project(encode_project(_newcomer().view.entity), 1)
    projects = ProjectRegistry(store)
    await projects.open()
    assert "p" not in projects
    assert await store.list_unfinished() == []


async def test_a_project_without_revisions_is_reported_and_not_deleted() -> None:
    """Damage of the store may look like this."""
    store = MemoryStore()
    await store.commit(Commit(projects=[encode_project(_newcomer().view.entity)]))
    projects = ProjectRegistry(store)
    await projects.open()
    with pytest.raises(CorruptRecord, match="no revisions"):
        await projects.get("p")
    assert [head.deleted for head in await store.list_projects()] == [False]
