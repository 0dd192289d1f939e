"""A project that is being deleted accepts nothing: whatever is acknowledged stays."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ramify.v1.mutation_pb2 import Mutation
from ramify.v1.project_pb2 import ProjectState
from ramify.v1.state_service_pb2 import AcquireLeaseRequest, DeleteProjectRequest
from state_svc.errors import ProjectActive, ProjectNotFound, StoreUnavailable
from state_svc.rpc.history import HistoryRpcs
from state_svc.rpc.leases import LeaseRpcs
from state_svc.store.memory import MemoryStore
from tests.support.embedded import Embedded, embedded
from tests.support.mutations import create

DELETE = DeleteProjectRequest(project_id="p")


async def _end(running: Embedded) -> None:
    for state in (ProjectState.PROJECT_STATE_RUNNING, ProjectState.PROJECT_STATE_COMPLETED):
        mutation = Mutation()
        mutation.project.patch.state = state
        await running.commit("p", mutation)


async def test_no_lease_is_granted_on_a_project_that_is_being_deleted(tmp_path: Path) -> None:
    async with embedded(tmp_path) as running:
        await running.create("p")
        await _end(running)
    async with embedded(tmp_path) as running:  # where it has to be loaded first, for both
        deleted = asyncio.create_task(HistoryRpcs(running.service).delete_project(DELETE))
        await asyncio.sleep(0)
        acquire = AcquireLeaseRequest(project_id="p", holder="h")
        leased = asyncio.create_task(LeaseRpcs(running.service).acquire_lease(acquire))
        await asyncio.wait([deleted, leased])
        if deleted.exception() is None:
            assert isinstance(leased.exception(), ProjectNotFound)
        else:
            assert isinstance(deleted.exception(), ProjectActive)


async def test_a_project_whose_end_was_not_durable_is_not_deleted_and_goes_on() -> None:
    store = MemoryStore()
    async with embedded(store) as running:
        await running.create("p")
        end = Mutation()
        end.project.patch.state = ProjectState.PROJECT_STATE_CANCELLED
        store.fail_next = "before"
        ended = asyncio.create_task(running.commit("p", end))
        project = await running.service.live("p")
        for _ in range(
            100
        ):  # turns of the loop until the end is accepted, which is before it fails
            if project.has_pending:
                break
            await asyncio.sleep(0)
        with pytest.raises(ProjectActive):
            await HistoryRpcs(running.service).delete_project(DELETE)
        with pytest.raises(StoreUnavailable):
            await ended
        assert await running.commit("p", create("n")) == 2
