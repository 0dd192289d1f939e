"""Turns that take seconds leave the loop free: leases are kept, other projects go on."""

from __future__ import annotations

import threading

import pytest

from orchestrator_svc.aside import LARGE
from orchestrator_svc.engine import runner as runner_module
from orchestrator_svc.graph.decide import decide
from orchestrator_svc.graph.event import CallEnded, Decision, Event, Planned
from orchestrator_svc.graph.run import Run
from orchestrator_svc.graph.types import ProjectState
from tests.unit.orchestrator_svc.engine.world import World

SECONDS = 60.0  #: longest wait of a turn for the loop


async def test_leases_are_renewed_and_others_go_on_while_a_large_plan_is_adopted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The turn that adopts the plan does not end before another project has: it would never."""
    adopting, others_ended = threading.Event(), threading.Event()
    kept: list[bool] = []

    def slow(run: Run, events: list[Event], now: float) -> Decision:
        for event in events:
            plan = event.outcome if isinstance(event, CallEnded) else None
            if isinstance(plan, Planned) and len(plan.tasks) >= LARGE:
                adopting.set()
                kept.append(others_ended.wait(SECONDS))
        return decide(run, events, now)

    monkeypatch.setattr(runner_module, "decide", slow)
    world = World()
    world.keeper.ttl = 3_600.0  # one renewal is enough, however slow the machine is
    large = world.store.add("large", breadth=LARGE, settings={"max_execution_steps": 0})
    async with world.running():
        await world.until(adopting.is_set)
        assert world.supervisor.live("large") is None, "nobody looks at a run during its turn"
        world.store.add("small")
        world.supervisor.take_up("small")
        await world.store.until_ended("small")
        await world.keeper.renew_now()
        assert world.leases.renewals == 1
        others_ended.set()
        assert (await world.store.until_ended("large")).state is ProjectState.COMPLETED
    assert kept == [True]
    assert len(large.nodes) == LARGE + 1
