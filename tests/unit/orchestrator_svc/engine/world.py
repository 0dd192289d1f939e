"""One orchestrator's supervisor over a store in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from orchestrator_svc.agents.profile import ProfileRegistry, built_in_profiles
from orchestrator_svc.engine.leases import Lease, LeaseKeeper
from orchestrator_svc.engine.supervisor import Supervisor
from orchestrator_svc.metrics import Metrics
from tests.unit.orchestrator_svc.engine.fake_store import FakeLeases, FakeStore

EXECUTION = {"retry_delay_seconds": 0.0, "max_retries": 1}


class Keeper(LeaseKeeper):
    """A keeper that shows the leases it has given."""

    given: dict[str, Lease]

    async def acquire(self, project_id: str) -> Lease:
        """See `LeaseKeeper`."""
        lease = await super().acquire(project_id)
        self.given = {project_id: lease}
        return lease


class World:
    """One orchestrator over a fake store."""

    def __init__(
        self,
        store: FakeStore | None = None,
        leases: FakeLeases | None = None,
        profiles: ProfileRegistry | None = None,
        max_projects: int = 10,
    ) -> None:
        self.store = store or FakeStore()
        self.leases = leases or FakeLeases(self.store)
        self.metrics = Metrics()
        self.keeper = Keeper(self.leases, holder="me", ttl=10.0, metrics=self.metrics)
        self.supervisor = Supervisor(
            store=self.store,
            projects=self.leases,
            leases=self.keeper,
            profiles=profiles or built_in_profiles(Path("unused")),
            default_profile="scripted",
            execution=EXECUTION,
            max_projects=max_projects,
            metrics=self.metrics,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[World]:
        """Let the supervisor run during the block."""
        task = asyncio.create_task(self.supervisor.run(), name="supervisor")
        await asyncio.sleep(0)
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def until(self, condition: Callable[[], object]) -> None:
        """Let the loop turn until a condition holds."""
        while not condition():  # noqa: ASYNC110 - a turn of the loop, no time
            await asyncio.sleep(0)
