"""A runner whose decisions wait for the store goes on looking at what happens."""

from __future__ import annotations

import asyncio

from orchestrator_svc.graph.types import CommandState, CommandType, NodeState, ProjectState
from tests.support.bound import WAIT_SECONDS
from tests.unit.orchestrator_svc.engine.world import World
from tests.unit.orchestrator_svc.ledger import Ledger

S = NodeState


async def waiting(world: World) -> None:
    """Let leaves end, of which nothing can be handed on; one goes on for ever."""
    ledger = world.store.ledgers["p"]
    await world.until(lambda: list(ledger.states().values()).count(S.RUNNING) == 3)
    world.store.room.clear()
    runner = world.supervisor._runners["p"]
    await world.until(lambda: runner.busy == 1)
    assert not runner._inbox


def away(world: World) -> Ledger:
    """Add a run of three leaves, two of which end soon."""
    return world.store.add(
        breadth=3,
        rules=[
            {"node": "root.1.0", "stage": "execute", "hang": True},
            {"stage": "execute", "delay_ms": 50},
        ],
    )


async def test_a_lost_lease_ends_a_runner_that_waits_for_the_store() -> None:
    world = World()
    away(world)
    async with asyncio.timeout(WAIT_SECONDS), world.running():
        await waiting(world)
        batches = len(world.store.batches)
        world.keeper.given["p"].on_lost()
        await world.until(lambda: not world.supervisor.active())
        assert len(world.store.batches) == batches


async def test_a_drain_ends_the_calls_of_a_runner_that_waits_for_the_store() -> None:
    world = World()
    away(world)
    async with asyncio.timeout(WAIT_SECONDS), world.running():
        await waiting(world)
        runner = world.supervisor._runners["p"]
        drain = asyncio.create_task(world.supervisor.drain(grace=0.0, deadline=WAIT_SECONDS))
        await world.until(lambda: not runner.busy)
        assert not drain.done(), "what was decided is not durable"
        world.store.room.set()
        await drain
    states = world.store.ledgers["p"].states()
    assert [states[f"root.1.{n}"] for n in range(3)] == [S.READY, S.DONE, S.DONE]


async def test_an_order_is_carried_out_in_the_order_in_which_things_happened() -> None:
    world = World()
    ledger = away(world)
    async with asyncio.timeout(WAIT_SECONDS), world.running():
        await waiting(world)
        live = world.supervisor._runners["p"].live()
        assert live is not None
        assert live.unsent_seconds > 0.0, "an explanation says what is waited for"
        world.store.order(CommandType.PAUSE_PROJECT)
        await world.until(lambda: world.supervisor._runners["p"]._pending)
        world.store.room.set()
        await world.until(lambda: ledger.state is ProjectState.PAUSING)
        assert ledger.commands["c"] is CommandState.APPLIED
        assert [ledger.states()[f"root.1.{n}"] for n in range(3)] == [S.RUNNING, S.DONE, S.DONE]
