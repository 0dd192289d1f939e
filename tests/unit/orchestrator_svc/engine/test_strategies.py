"""Update strategies in a runner: what the store gets to see of an agent's progress (S2.6)."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator_svc.engine.inbox import Inbox
from orchestrator_svc.graph.event import CallProgressed, Event
from orchestrator_svc.graph.mutation import PatchCommand, PatchNode
from orchestrator_svc.graph.settings import Scalar
from orchestrator_svc.graph.types import CommandType, NodeState, ProjectState
from orchestrator_svc.publish.outbox import LANE_WINDOW
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


@pytest.mark.parametrize("strategy", ["standard", "realtime", "deferred"])
async def test_while_the_store_is_away_one_note_of_a_call_waits_and_an_order_goes_before_it(
    strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaves, notes = 8, 400
    given: list[str] = []  #: by node
    post = Inbox.post

    def count(inbox: Inbox, event: Event) -> None:
        post(inbox, event)
        if isinstance(event, CallProgressed):
            given.append(event.node_id)

    monkeypatch.setattr(Inbox, "post", count)
    world = World()
    store = world.store
    ledger = store.add(
        breadth=leaves,
        notes=2_000,
        rules=[{"stage": "execute", "delay_ms": 40_000}, {"stage": "plan", "delay_ms": 0}],
        settings={"execution_strategy": strategy, "max_concurrent_nodes": leaves},
    )
    async with asyncio.timeout(WAIT_SECONDS), world.running():
        await world.until(lambda: len({*given} - {"root"}) == leaves)
        store.hold = True
        given.clear()
        await world.until(lambda: len(given) >= notes)
        store.order(CommandType.PAUSE_PROJECT)
        await world.until(lambda: len(given) >= 2 * notes)
        runner = world.supervisor._runners["p"]
        assert len(runner._pending.groups) <= 1, "the order"
        under_way = len(store.held)
        assert under_way <= LANE_WINDOW
        store.release()
        store.hold = True  # before the runner has looked
        if under_way == LANE_WINDOW:
            await store.until_held()
            backlog = store.held[0][1]
            assert isinstance(backlog[0][0], PatchCommand)
            assert len(backlog) <= 1 + leaves
        store.release()
        await world.until(lambda: ledger.state is ProjectState.PAUSING)
