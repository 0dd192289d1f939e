"""A commit loop over a store in memory, and what its owners and watchers were told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from ramify.v1.mutation_pb2 import Mutation
from state_svc.codec.project import encode_project
from state_svc.errors import RamifyError
from state_svc.ingest.committer import Committer, PendingBatch
from state_svc.metrics import ServiceMetrics
from state_svc.model.apply import apply_batch
from state_svc.model.project import Applied, LiveProject, Origin
from state_svc.model.storing import Storing, StoringRules
from state_svc.store.base import Commit
from state_svc.store.memory import MemoryStore
from tests.support.live import NOW, live_project


class Bench:
    """A commit loop, and in `log` what its owners and watchers were told, in order."""

    def __init__(self, store: MemoryStore, *, eager: bool = True, delay: float = 3_600.0) -> None:
        self.store = store
        self.log: list[tuple[str, str, tuple[int, ...]]] = []
        self.grown: list[tuple[str, int]] = []
        self.failures: list[RamifyError] = []
        self.metrics = ServiceMetrics()
        self.committer = Committer(
            store,
            rules=StoringRules(
                Storing(state_batch_timeout_ms=int(delay * 1_000), eager_commit=eager)
            ),
            publish=self._publish,
            grew=lambda project, count, *_: self.grown.append((project.project_id, count)),
            metrics=self.metrics,
            max_pending_bytes=1_000,
        )

    def on_durable(self, batches: Sequence[PendingBatch]) -> None:
        self._note("ack", batches)

    def on_failed(self, batches: Sequence[PendingBatch], error: RamifyError) -> None:
        self._note("failed", batches)
        self.failures.append(error)

    def _note(self, what: str, batches: Sequence[PendingBatch]) -> None:
        for project in dict.fromkeys(batch.project for batch in batches):
            revisions = (b.applied.revision for b in batches if b.project is project)
            self.log.append((what, project.project_id, tuple(revisions)))

    def _publish(self, project: LiveProject, run: Sequence[Applied]) -> None:
        assert project.view.revision == run[-1].revision, "shown before it is in the view"
        self.log.append(("publish", project.project_id, tuple(a.revision for a in run)))

    def submit(
        self, project: LiveProject, *mutations: Mutation, sequence: int = 0, immediate: bool = False
    ) -> Applied:
        origin = Origin("producer", 1, sequence) if sequence else Origin()
        applied = apply_batch(project, mutations, micros=NOW, origin=origin)
        self.committer.submit(
            PendingBatch(
                project=project, applied=applied, owner=self, size=100, immediate=immediate
            )
        )
        return applied

    def unavailable(self) -> bool:
        return self.committer.unavailable is not None

    async def project(self, project_id: str) -> LiveProject:
        """Return a project that the store knows, at revision 1."""
        project = live_project(project_id=project_id)
        await MemoryStore.commit(self.store, Commit(projects=[encode_project(project.entity)]))
        return project

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as tasks:
            loop = tasks.create_task(self.committer.run())
            yield
            loop.cancel()
