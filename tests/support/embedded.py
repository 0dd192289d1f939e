"""The service without its server, in the process of the test: its parts over a real store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from ramify.v1.mutation_pb2 import Mutation
from ramify.v1.project_pb2 import Project
from ramify.v1.state_service_pb2 import CommitBatchRequest, CreateProjectRequest
from state_svc.app import build
from state_svc.config import load
from state_svc.model.checksum import view_checksum
from state_svc.rpc.projects import ProjectRpcs
from state_svc.service import Service
from state_svc.store.base import StateStore
from state_svc.store.sqlite import SqliteStore


class Embedded:
    """A running service and short ways to call it."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.projects = ProjectRpcs(service)

    async def create(self, project_id: str, **fields: Any) -> Project:
        """Create a project."""
        request = CreateProjectRequest(project_id=project_id, goal="prove it in process", **fields)
        return (await self.projects.create_project(request)).project

    async def commit(self, project_id: str, *mutations: Mutation) -> int:
        """Commit a batch; return its revision."""
        request = CommitBatchRequest(project_id=project_id, mutations=mutations)
        return (await self.projects.commit_batch(request)).revision

    async def checksum(self, project_id: str) -> int:
        """Return the checksum of the whole view (SEM 31)."""
        return view_checksum((await self.service.live(project_id)).view.nodes.values())


@asynccontextmanager
async def embedded(place: Path | StateStore, *flags: str) -> AsyncIterator[Embedded]:
    """Run a service over a data directory, or over a store that is open."""
    store = SqliteStore(place) if isinstance(place, Path) else place
    service = await build(store, load(list(flags), {}))
    tasks = [
        asyncio.create_task(service.committer.run()),
        asyncio.create_task(service.snapshots.run()),
    ]
    try:
        yield Embedded(service)
        await service.committer.drain()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await store.aclose()
