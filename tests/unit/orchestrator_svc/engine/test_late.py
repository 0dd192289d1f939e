"""What calls say and have cost that are still open when their run ends (SEM 20, 28)."""

from __future__ import annotations

import asyncio
from pathlib import Path

from orchestrator_svc.agents.base import AgentInput, Output, spend
from orchestrator_svc.agents.profile import ProfileEntry, ProfileRegistry, built_in_profiles
from orchestrator_svc.agents.scripted import ScriptedAgents
from orchestrator_svc.graph.types import CommandType, ErrorClass, NodeState, ProjectState
from tests.support.bound import WAIT_SECONDS
from tests.unit.orchestrator_svc.engine.world import World


class SlowToEnd(ScriptedAgents):
    """Its first leaf never ends; told to, it waits for `may_end` and has cost something."""

    def __init__(self) -> None:
        super().__init__()
        self.told = asyncio.Event()
        self.may_end = asyncio.Event()

    async def execute(self, task: AgentInput) -> Output:
        """See `ScriptedAgents`."""
        if task.node_id != "root.1.0":
            return await super().execute(task)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.told.set()
            await self.may_end.wait()
            spend(input_tokens=700)
            raise
        return Output(text="never")


async def test_the_cost_of_a_cancelled_call_is_recorded_though_its_run_has_ended_before_it() -> (
    None
):
    agents = SlowToEnd()
    scripted = built_in_profiles(Path("unused")).get("scripted")
    assert scripted is not None
    entry = ProfileEntry(scripted.profile, lambda: agents, scripted.check_options)
    world = World(profiles=ProfileRegistry({"scripted": entry}))
    ledger = world.store.add(breadth=2)
    async with asyncio.timeout(WAIT_SECONDS), world.running():
        await world.until(lambda: ledger.states().get("root.1.0") is NodeState.RUNNING)
        world.store.order(CommandType.CANCEL_NODE, "root.1.0")
        await agents.told.wait()
        assert (await world.store.until_ended()).state is ProjectState.PARTIAL
        assert not [s for s in world.store.stages if s.node_id == "root.1.0"]
        agents.may_end.set()
        await world.until(lambda: not world.supervisor.active())
    (record,) = [s for s in world.store.stages if s.node_id == "root.1.0"]
    assert record.error is not None
    assert record.error.error_class is ErrorClass.CANCELLED
    assert record.trace.usage.input_tokens == 700
    assert ledger.nodes["root.1.0"].usage.input_tokens == 700
    assert ledger.nodes["root.1.0"].state is NodeState.CANCELLED
