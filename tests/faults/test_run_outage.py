"""What an orchestrator holds while state_svc is away is bounded, and comes in order afterwards."""

from __future__ import annotations

from collections.abc import Callable

from ramify.v1.mutation_pb2 import Change
from ramify.v1.orchestrator_service_pb2 import GetRunnerRequest
from tests.support.bound import WAIT_SECONDS
from tests.support.orchestrator_process import Services
from tests.support.runs import Runs, connect_both
from tests.support.wire import eventually

IN_FLIGHT = 4  #: batches of a run
MEMORY_BYTES = 16 << 20  #: of what waits, before it goes into the spool


async def busy(runs: Runs) -> int:
    """Return how many agent calls the orchestrator has open; it needs no state_svc for that."""
    answer = await runs.stub.GetRunner(GetRunnerRequest(), timeout=WAIT_SECONDS)
    return sum(project.running_nodes for project in answer.projects)


def is_note(change: Change) -> bool:
    """Return whether a change says how far a call has come, and moves nothing."""
    patch = change.node.patch
    return "progress" in patch.aux_upserts and not patch.HasField("state")


async def test_talkative_agents_leave_one_note_each_when_the_store_comes_back(
    make_services: Callable[..., Services],
) -> None:
    leaves = 16
    services = await make_services().start()
    async with connect_both(services.state.address, services.orchestrator.address) as runs:
        rules = [
            {"stage": "plan", "delay_ms": 0},
            {"node": "root.1.0", "stage": "execute", "delay_ms": 4_000},
            {"stage": "execute", "delay_ms": 12_000},
        ]
        settings = {"max_concurrent_nodes": leaves}
        project = await runs.script(settings, breadth=leaves, notes=400, rules=rules)
        async with runs.follow(project.project_id) as follower:
            await follower.until(lambda history: len(history.dispatches) > leaves)
            services.state.kill()
            before = follower.revision

            async def one_has_ended() -> bool:
                return await busy(runs) < leaves

            await eventually(one_has_ended, "a call ends during the outage")
            services.state.start()
            await follower.until(lambda history: "root.1.0" in history.ended_at)
            end = next(
                revision
                for revision, changes in sorted(follower.log.changes.items())
                for change in changes
                if change.node.node_id == "root.1.0" and change.node.patch.HasField("end_time")
            )
            notes = [
                change
                for revision, changes in follower.log.changes.items()
                if before < revision <= end
                for change in changes
                if is_note(change)
            ]
            assert len(notes) <= 2 * (IN_FLIGHT + 1) * leaves
            assert await follower.ended() == "COMPLETED"


async def test_large_results_of_an_outage_wait_on_disk_and_come_whole_afterwards(
    make_services: Callable[..., Services],
) -> None:
    leaves, chars = 48, 1_000_000
    services = await make_services().start()
    async with connect_both(services.state.address, services.orchestrator.address) as runs:
        rules = [
            {"stage": "execute", "delay_ms": 4_000},
            {"stage": "aggregate", "delay_ms": 0},
        ]
        project_id = (
            await runs.script(
                {"max_concurrent_nodes": leaves}, breadth=leaves, output_chars=chars, rules=rules
            )
        ).project_id
        async with runs.follow(project_id) as follower:
            await follower.until(lambda history: len(history.dispatches) > leaves)
            services.state.kill()

            async def all_have_ended() -> bool:
                return await busy(runs) <= 1  # the aggregation, of which nobody knows yet

            await eventually(all_have_ended, "the calls end during the outage")
            (spool,) = services.orchestrator.data.glob("spool-*")
            in_memory = leaves * chars - spool.stat().st_size
            assert in_memory <= MEMORY_BYTES + chars
            services.state.start()
            assert await follower.ended() == "COMPLETED"
            assert not spool.stat().st_size
        for number in (0, leaves - 1):
            node = await runs.wire.node(project_id, f"root.1.{number}")
            text = await runs.text(project_id, node.result)
            assert text == f"{node.node_id} done".ljust(chars, ".")
        assert not follower.history.interruptions, "no call was repeated"
