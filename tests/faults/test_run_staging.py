"""kill -9 of the orchestrator while it stages a plan that is larger than a batch (SEM 11)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ramify.v1.project_pb2 import Project, ProjectState
from ramify.v1.state_service_pb2 import GetProjectRequest
from tests.support.orchestrator_process import ORCHESTRATOR, Services
from tests.support.runs import Runs, connect_both
from tests.support.wire import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TASKS = 100_000
SECONDS = 400.0  #: longest wait; the machine may be busy


async def project_of(runs: Runs) -> Project:
    """Return the project of the test."""
    return (await runs.wire.stub.GetProject(GetProjectRequest(project_id="large"))).project


async def test_a_plan_of_a_hundred_thousand_cut_off_half_way_is_superseded_and_made_again(
    make_services: Callable[..., Services],
) -> None:
    # Slow commits, so that the plan is not durable before the kill.
    services = await make_services().start(failpoints="before_commit=sleep:0.5")
    async with connect_both(services.state.address, services.orchestrator.address) as runs:
        rule = {"stage": "execute", "hang": True}
        options = {"depth": 1, "breadth": TASKS, "rules": [rule]}
        settings = {"max_execution_steps": 0, "max_concurrent_nodes": 5}
        await runs.start(
            "stage it", profile="scripted", options=options, settings=settings, project_id="large"
        )

        async def some_are_written() -> bool:
            return (await project_of(runs)).node_counts["PENDING"] >= 5_000

        await eventually(some_are_written, "a part of the plan is durable", SECONDS)
        await services.kill_and_restart([ORCHESTRATOR])
        await runs.ready()
        assert not (await project_of(runs)).node_counts["PLAN_DONE"], "it was cut off"

        async def children_run() -> bool:
            return (await project_of(runs)).node_counts["RUNNING"] >= 5

        await eventually(children_run, "children of the new plan run", SECONDS)
        project = await project_of(runs)
        assert project.state == ProjectState.PROJECT_STATE_RUNNING
        counts = project.node_counts
        assert counts["CANCELLED"] >= 5_000, "what was left of the first plan"
        assert counts["READY"] + counts["PENDING"] + counts["RUNNING"] == TASKS

        def executed() -> set[str]:
            calls = services.orchestrator.calls()
            return {call.node_id.split(".")[1] for call in calls if call.stage == "execute"}

        await eventually(lambda: bool(executed()), "an agent is called", SECONDS)
        assert executed() == {"2"}, "nothing of the first plan runs"
