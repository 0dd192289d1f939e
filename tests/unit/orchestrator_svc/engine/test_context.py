"""Results that a run does not hold are fetched for the agents that need them."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator_svc.engine.context import agent_input, missing_results
from orchestrator_svc.graph.node import Result
from orchestrator_svc.graph.types import NodeState, ProjectState
from tests.support.bound import WAIT_SECONDS
from tests.unit.orchestrator_svc.driven import done, draft, planned
from tests.unit.orchestrator_svc.engine.world import World
from tests.unit.orchestrator_svc.ledger import Ledger


def drop_results(ledger: Ledger) -> None:
    """Load the ledger as a run does that has dropped the results of its children."""
    load = ledger.load

    def without() -> object:
        project = load()
        for node in project.nodes:
            node.result = None
        return project

    ledger.load = without  # type: ignore[method-assign, assignment]


@pytest.mark.execution_key("knowledge_store_batch_size")
@pytest.mark.parametrize("page, pages", [(2, [2, 2, 1]), (10, [5])])
async def test_results_are_fetched_so_many_at_one_time(page: int, pages: list[int]) -> None:
    world = World()
    hang = {"node": "root", "stage": "aggregate", "attempts": [1], "hang": True}
    ledger = world.store.add(breadth=5, rules=[hang], settings={"knowledge_store_batch_size": page})
    async with asyncio.timeout(WAIT_SECONDS), world.running():
        await world.until(lambda: "root" in ledger.nodes)
        await world.until(lambda: ledger.nodes["root"].state is NodeState.AGGREGATING)
        assert world.store.fetched == [], "what is held is not fetched"
        await world.supervisor.drain(grace=0.0, deadline=5.0)
    drop_results(ledger)
    again = World(world.store, world.leases)
    async with asyncio.timeout(WAIT_SECONDS), again.running():
        assert (await world.store.until_ended()).state is ProjectState.COMPLETED
    assert [len(ids) for ids in world.store.fetched] == pages
    assert ledger.nodes["root"].result is not None
    assert ledger.nodes["root"].result.text.count("DONE") == 5


def test_what_was_fetched_is_what_the_agent_sees() -> None:
    driven = planned(draft(), draft())
    for child in ("root.1.0", "root.1.1"):
        driven.answer(child, done(f"of {child}"))
    call, run = driven.calls["root"], driven.run
    for node in run.nodes.values():
        node.result = None
    assert missing_results(run, call) == ["root.1.0", "root.1.1"]
    fetched = {"root.1.1": Result(text="fetched")}
    seen = agent_input(run, call, project_id="p", options={}, fetched=fetched).children
    assert [child.output and child.output.text for child in seen] == [None, "fetched"]
