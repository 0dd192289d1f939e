"""A paused run stays paused whoever dies, and goes on when it is told to."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ramify import AsyncClient
from ramify.calls import CallPolicy
from tests.integration.test_run_orders import ONE_HANGS, paused
from tests.support.bound import WAIT_SECONDS
from tests.support.orchestrator_process import ORCHESTRATOR, STATE, Services
from tests.support.runs import connect_both

PATIENT = CallPolicy(timeout=WAIT_SECONDS, max_attempts=10_000)


@pytest.mark.parametrize("victims", [(ORCHESTRATOR,), (STATE,), (ORCHESTRATOR, STATE)])
async def test_a_run_stays_paused_over_kill_9_and_resumes(
    make_services: Callable[..., Services], victims: tuple[str, ...]
) -> None:
    services = await make_services().start()
    async with connect_both(services.state.address, services.orchestrator.address) as runs:
        project_id = (await runs.script(rules=[ONE_HANGS])).project_id
        async with runs.follow(project_id) as follower:
            await paused(runs, follower, project_id)
            calls = len(services.orchestrator.calls())
            await services.kill_and_restart(victims)
            await runs.ready()
            assert (await runs.wire.project(project_id)).HasField("pause_time")
            addresses = (services.state.address, services.orchestrator.address)
            async with AsyncClient(*addresses, policy=PATIENT) as client:
                await client.resume_project(project_id)  # repeats until both are back
            assert await follower.ended() == "PARTIAL"
            assert follower.history.states[-3:] == ["PAUSED", "RUNNING", "PARTIAL"]
        assert len(services.orchestrator.calls()) == calls + 1, "only the aggregation was left"
