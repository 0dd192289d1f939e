"""Update strategies in a runner: what the store gets to see of an agent's progress (S2.6)."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator_svc.graph.mutation import PatchNode
from orchestrator_svc.graph.settings import Scalar
from orchestrator_svc.graph.types import NodeState, ProjectState
from tests.support.bound import WAIT_SECONDS
from tests.unit.orchestrator_svc.engine.world import World

NOTES = 5


async def notes_and_moves(**settings: Scalar) -> tuple[list[str], list[NodeState]]:
    """Return the notes and the states of one leaf that gives five notes, as they were stored."""
    world = World()
    ledger = world.store.add(breadth=1, notes=NOTES, delay_ms=150, settings=settings)
    notes: list[str] = []
    apply = ledger._patch

    def keep(mutation: PatchNode) -> None:
        apply(mutation)
        if mutation.node_id == "root.1.0" and "progress" in mutation.changes:
            notes.append(mutation.changes["progress"])

    ledger._patch = keep  # type: ignore[method-assign]
    async with asyncio.timeout(WAIT_SECONDS), world.running():
        await world.store.until_ended()
    assert ledger.state is ProjectState.COMPLETED
    return notes, [state for id_, state, _ in ledger.moves if id_ == "root.1.0"]


@pytest.mark.parametrize(
    "strategy, window, most",
    [("standard", 50, NOTES), ("realtime", 60_000, 1), ("deferred", 50, 1)],
)
async def test_a_strategy_joins_notes_but_never_states_and_the_last_note_arrives(
    strategy: str, window: int, most: int
) -> None:
    notes, moves = await notes_and_moves(
        execution_strategy=strategy, update_coalescing_window_ms=window
    )
    assert moves == [NodeState.READY, NodeState.RUNNING, NodeState.DONE]
    assert len(notes) <= most
    assert notes[-1] == f"{NOTES} of {NOTES}"
    if strategy == "standard":
        assert len(notes) > 1


async def test_the_window_of_realtime_ends_by_itself() -> None:
    notes, _ = await notes_and_moves(execution_strategy="realtime", update_coalescing_window_ms=1)
    assert len(notes) > 1
