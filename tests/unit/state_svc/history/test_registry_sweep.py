"""Idle projects beyond the memory bound are unloaded and come back when asked for."""

from __future__ import annotations

import asyncio
from pathlib import Path

from ramify.v1.mutation_pb2 import Mutation, NodeMutation
from ramify.v1.node_pb2 import Node, TaskType
from ramify.v1.plan_pb2 import Plan, PlanTask
from ramify.v1.project_pb2 import Project, ProjectState
from state_svc.codec.project import encode_project
from state_svc.codec.segment import encode_segment
from state_svc.history.registry import _SLICE, ProjectRegistry
from state_svc.model.apply import apply_batch
from state_svc.model.entity import create_project
from state_svc.model.project import LiveProject, View
from state_svc.store.base import Commit
from state_svc.store.memory import MemoryStore
from tests.support.embedded import embedded


async def _store_with(*project_ids: str) -> MemoryStore:
    store = MemoryStore()
    for project_id in project_ids:
        entity = Project(project_id=project_id, project_uid=f"uid-{project_id}", goal="a test")
        project = LiveProject(View(entity=entity))
        created = create_project(entity, micros=1, actor="")
        project.accept(created)
        project.promote(created)
        node = Node(goal="some work", task_type=TaskType.TASK_TYPE_THINK)
        mutations = [Mutation(node=NodeMutation(node_id=f"n{i}", create=node)) for i in range(10)]
        applied = apply_batch(project, mutations, micros=2)
        segment = encode_segment(project.uid, [created, applied], 1_024).record
        await store.commit(Commit(segments=[segment], projects=[encode_project(entity)]))
    return store


def _never(_: LiveProject) -> bool:
    return False


async def test_the_longest_unused_project_is_unloaded_and_loads_again() -> None:
    projects = ProjectRegistry(await _store_with("old", "new"))
    await projects.open()
    await projects.get("old")
    assert projects.sweep(0, _never) == 0, "both were asked for lately"
    await projects.get("new")
    assert projects.sweep(0, _never) == 1
    assert projects.loaded("old") is None
    assert projects.loaded("new") is not None
    again = await projects.get("old")
    assert (again.view.revision, len(again.view.nodes)) == (2, 10)


async def test_a_project_that_is_watched_stays_in_memory() -> None:
    projects = ProjectRegistry(await _store_with("p"))
    await projects.open()
    watched = await projects.get("p")
    assert [projects.sweep(0, lambda live: live is watched) for _ in range(3)] == [0, 0, 0]
    assert projects.sweep(0, _never) == 1


async def test_nothing_is_unloaded_within_the_bound() -> None:
    projects = ProjectRegistry(await _store_with("p"))
    await projects.open()
    await projects.get("p")
    assert [projects.sweep(1 << 20, _never) for _ in range(3)] == [0, 0, 0]


async def test_an_unloaded_project_is_still_listed() -> None:
    projects = ProjectRegistry(await _store_with("p"))
    await projects.open()
    await projects.get("p")
    projects.sweep(0, _never)
    projects.sweep(0, _never)
    found = [(e.project_id, revision) async for e, revision, _ in projects.entities()]
    assert found == [("p", 2)]


async def test_others_have_their_turn_while_many_projects_are_listed() -> None:
    """A scan of a million projects must not hold up commits for seconds."""
    store = MemoryStore()
    names = [f"p{number}" for number in range(3 * _SLICE)]
    for name in names:
        entity = Project(project_id=name, project_uid=f"uid-{name}", goal="a test")
        await store.commit(Commit(projects=[encode_project(entity)]))
        store._compacted[entity.project_uid] = 0
    projects = ProjectRegistry(store)
    await projects.open()
    for entry in projects._entries.values():
        entry.damage = None  # they have no revisions, which is not asked here
    turns = 0
    done = asyncio.Event()

    async def other() -> None:
        nonlocal turns
        while not done.is_set():
            turns += 1
            await asyncio.sleep(0)

    beside = asyncio.create_task(other())
    found = [entity.project_id async for entity, *_ in projects.entities()]
    done.set()
    await beside
    assert found == names
    assert turns >= 3


async def test_a_project_is_found_by_its_state_in_memory_and_out_of_it() -> None:
    pending, running = ProjectState.PROJECT_STATE_PENDING, ProjectState.PROJECT_STATE_RUNNING
    projects = ProjectRegistry(await _store_with("p"))
    await projects.open()

    async def in_state(state: int) -> list[str]:
        return [e.project_id async for e, *_ in projects.entities(states={state})]

    unset = ProjectState.PROJECT_STATE_UNSPECIFIED
    stored = projects._entries["p"].state
    assert stored in (pending, unset)
    assert await in_state(stored) == ["p"]
    (await projects.get("p")).view.entity.state = running
    assert (await in_state(stored), await in_state(running)) == ([], ["p"])
    for _ in range(3):
        projects.sweep(0, _never)
    assert projects.loaded("p") is None
    assert (await in_state(stored), await in_state(running)) == ([], ["p"])


async def test_the_plan_of_a_project_that_is_not_loaded_is_in_the_store_alone(
    tmp_path: Path,
) -> None:
    plan = Plan(tasks=[PlanTask(goal="x" * 9_000) for _ in range(100)])
    async with embedded(tmp_path) as running:
        for number in range(3):
            await running.create(f"p{number}", plan=plan, labels={"number": str(number)})
    async with embedded(tmp_path) as running:
        projects = running.service.projects
        for _ in range(2):
            assert max(len(entry.shown) for entry in projects._entries.values()) < 500
            listed = [entity async for entity, *_ in projects.entities()]
            assert [entity.labels["number"] for entity in listed] == ["0", "1", "2"]
            for number in range(3):
                assert (await projects.get(f"p{number}")).view.entity.plan == plan
            assert [entry.shown for entry in projects._entries.values()] == [b""] * 3
            assert [projects.sweep(1_000_000, _never) for _ in range(3)] == [0, 2, 0]
            assert projects.sweep(0, _never) == 1
