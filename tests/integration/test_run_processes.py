"""Runs share the processes of an orchestrator (S1.2)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ramify.v1.orchestrator_service_pb2 import StartProjectRequest
from ramify.v1.plan_pb2 import Plan
from ramify.v1.project_pb2 import ExecutionSettings
from tests.support.bound import WAIT_SECONDS
from tests.support.orchestrator_process import Services
from tests.support.runs import Runs, connect_both
from tests.support.wire import eventually

COMMANDS = 12


async def start(runs: Runs, count: int, shell: str) -> str:
    """Start a run of commands that are all ready at once; return its id."""
    plan = Plan(goal="a plan of commands")
    for number in range(count):
        plan.tasks.add(id=f"t{number}").command.shell = shell
    settings = ExecutionSettings(max_concurrent_nodes=count)
    request = StartProjectRequest(plan=plan, settings=settings)
    return (await runs.stub.StartProject(request, timeout=WAIT_SECONDS)).project.project_id


async def test_a_run_with_many_commands_does_not_hold_up_another_run(
    make_services: Callable[..., Services], tmp_path: Path
) -> None:
    log, go = tmp_path / "log", tmp_path / "go"
    services = await make_services("--max-processes", "1").start()
    async with connect_both(services.state.address, services.orchestrator.address) as runs:
        wait = f"echo many >> {log}; until test -e {go}; do sleep 0.05; done"
        many = await start(runs, COMMANDS, wait)
        await eventually(log.exists, "the first command runs")
        few = await start(runs, 1, f"echo few >> {log}")
        for project_id, count in ((many, COMMANDS - 1), (few, 1)):

            async def waits(project_id: str = project_id, count: int = count) -> bool:
                nodes = await runs.wire.nodes(project_id)
                notes = [node.aux_data["progress"].string_value for node in nodes]
                return sum("waits until" in note for note in notes) == count

            await eventually(waits, "the other commands wait for their turn")
        go.touch()
        assert (await runs.finish(few)).state == "COMPLETED"
        assert (await runs.finish(many)).state == "COMPLETED"
    order = log.read_text().split()
    assert len(order) == COMMANDS + 1
    assert order.index("few") <= 2
