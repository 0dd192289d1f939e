"""Runs of a profile that is not here: left to others, but for the orders about them (SEM 19)."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator_svc.agents.profile import ProfileRegistry, built_in_profiles
from orchestrator_svc.graph.node import Failure, Node
from orchestrator_svc.graph.types import (
    CommandState,
    CommandType,
    ErrorClass,
    NodeState,
    ProjectState,
    TaskType,
)
from tests.unit.orchestrator_svc.engine.fake_store import FakeStore
from tests.unit.orchestrator_svc.engine.world import World
from tests.unit.orchestrator_svc.ledger import Ledger

S = NodeState


async def test_a_project_of_a_profile_that_is_not_here_is_left_to_whoever_has_it() -> None:
    """Whoever has forgotten its file on one machine destroys no run of another one."""
    store = FakeStore()
    words = built_in_profiles(Path("unused")).get("scripted")
    assert words is not None
    without, having = World(store), World(store, profiles=ProfileRegistry({"words": words}))
    having.leases = without.leases
    lost = store.add("lost", profile="words")
    store.add("good")
    async with without.running():
        await store.until_ended("good")
        assert not any(project_id == "lost" for project_id, _ in store.batches)
        assert without.supervisor.missing_profiles == ["words"]
        without.supervisor.take_up("lost")  # as an order that comes through this one does
        await without.until(lambda: store.loads == 2 and not without.leases.holders)
    assert not lost.nodes
    async with having.running():
        having.supervisor.take_up("lost")
        assert (await store.until_ended("lost")).state is ProjectState.COMPLETED


@pytest.mark.parametrize("state", [ProjectState.PENDING, ProjectState.PAUSED])
async def test_a_project_of_a_profile_that_nobody_has_can_be_cancelled(
    state: ProjectState,
) -> None:
    world = World()
    ledger = world.store.add(profile="nobody has it")
    ledger.state = state
    world.store.order_cancel()
    async with world.running():
        world.supervisor.take_up("p")
        await world.store.until_ended()
    assert ledger.state is ProjectState.CANCELLED
    assert ledger.commands == {"c": CommandState.APPLIED}
    assert not ledger.nodes or set(ledger.states().values()) == {S.CANCELLED}
    assert not world.store.stages, "no agent was called"


def foreign(world: World, *tree: tuple[str, NodeState]) -> Ledger:
    """Add a running project of a profile that nobody has, with a root and its children."""
    ledger = world.store.add(profile="nobody has it")
    ledger.state, ledger.root_id = ProjectState.RUNNING, "root"
    for node_id, state in tree:
        ledger.nodes[node_id] = Node(
            node_id=node_id,
            goal="a goal",
            task_type=TaskType.SEARCH,
            layer=int(node_id != "root"),
            parent_id="root" if node_id != "root" else "",
            state=state,
            attempt=1,
            agent_calls=1,
            error=Failure(ErrorClass.EXECUTION, "no") if state is S.FAILED else None,
        )
    ledger.nodes["root"].children = tuple(id_ for id_, _ in tree if id_ != "root")
    return ledger


async def test_orders_about_a_run_whose_profile_nobody_has_are_carried_out_without_a_call() -> None:
    world = World()
    ledger = foreign(world, ("root", S.PLAN_DONE), ("a", S.RUNNING), ("b", S.FAILED))

    async def after(kind: CommandType, node_id: str = "") -> ProjectState:
        command_id = f"{kind} {node_id}"
        world.store.order(kind, node_id, command_id=command_id)
        world.supervisor.take_up("p")
        await world.until(lambda: not world.supervisor.active() and not world.leases.holders)
        await world.until(lambda: ledger.commands[command_id] is CommandState.APPLIED)
        return ledger.state

    async with world.running():
        assert await after(CommandType.RETRY_NODE, "b") is ProjectState.RUNNING
        assert ledger.states() == {"root": S.PLAN_DONE, "a": S.READY, "b": S.READY}
        assert await after(CommandType.PAUSE_PROJECT) is ProjectState.PAUSED
        assert await after(CommandType.RESUME_PROJECT) is ProjectState.RUNNING
        assert await after(CommandType.CANCEL_NODE, "a") is ProjectState.RUNNING
        assert ledger.states() == {"root": S.PLAN_DONE, "a": S.CANCELLED, "b": S.READY}
    assert not world.store.stages, "no agent was called"
    assert {node.agent_calls for node in ledger.nodes.values()} == {1}


async def test_an_order_that_nobody_brought_here_is_found_by_the_scan() -> None:
    world = World()
    ledger = world.store.add(profile="nobody has it")
    world.store.order_cancel()
    async with world.running():
        await world.store.until_ended()
    assert ledger.state is ProjectState.CANCELLED


@pytest.mark.parametrize(
    "state, then",
    [
        (ProjectState.CANCELLING, ProjectState.CANCELLED),
        (ProjectState.PAUSING, ProjectState.PAUSED),
    ],
)
async def test_what_was_begun_about_a_run_whose_profile_nobody_has_is_completed(
    state: ProjectState, then: ProjectState
) -> None:
    world = World()
    ledger = foreign(world, ("root", S.READY))
    ledger.state = state
    async with world.running():
        await world.until(lambda: ledger.state is then)
