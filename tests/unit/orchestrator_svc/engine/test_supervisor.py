"""Runners and their supervisor over a store in memory: order of effects, isolation, take-over."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable

import pytest
import uvloop

from orchestrator_svc.errors import InvalidMutation, ProducerFenced, StoreUnavailable
from orchestrator_svc.graph.event import CommandGiven
from orchestrator_svc.graph.node import Result
from orchestrator_svc.graph.setback import MAX_REFUSALS
from orchestrator_svc.graph.types import (
    CommandState,
    CommandType,
    ErrorClass,
    NodeState,
    ProjectState,
)
from orchestrator_svc.publish.records import LoadedProject, UnfinishedProject
from tests.support.bound import WAIT_SECONDS
from tests.unit.orchestrator_svc.engine.world import World

S = NodeState


async def test_unfinished_projects_are_found_at_start_and_run_to_their_end() -> None:
    world = World()
    world.store.add("one", depth=2, breadth=2)
    world.store.add("two", chain=True)
    async with world.running():
        for project_id in ("one", "two"):
            ledger = await world.store.until_ended(project_id)
            assert ledger.state is ProjectState.COMPLETED
        await world.until(lambda: not world.supervisor.active())
    assert not world.leases.holders, "leases are released"
    assert world.leases.listed[:2] == [False, True], "what this name held is taken up first"


async def test_no_agent_is_called_before_its_claim_is_durable() -> None:
    world = World()
    world.store.hold = True
    world.store.add()
    async with world.running():
        await world.store.until_held()
        runner = world.supervisor.active()[0]
        assert (runner.running_nodes, runner.steps) == (1, 1)
        ledger = world.store.ledgers["p"]
        for _ in range(20):
            await asyncio.sleep(0)
        assert not ledger.nodes
        assert len(world.store.batches) == 1, "nothing follows from a claim that is not durable"
        world.store.release()
        assert (await world.store.until_ended()).state is ProjectState.COMPLETED


async def test_every_batch_carries_the_lease_epoch() -> None:
    world = World()
    world.leases.epochs["p"] = 6
    world.store.add()
    async with world.running():
        await world.store.until_ended()
    assert {epoch for _, epoch in world.store.batches} == {7}


async def test_a_hanging_agent_times_out_and_is_retried() -> None:
    world = World()
    world.store.add(
        settings={"node_execution_timeout_seconds": 2.0},  # no other call lasts so long
        breadth=2,
        rules=[{"node": "root.1.0", "attempts": [1], "hang": True}],
    )
    async with world.running():
        ledger = await world.store.until_ended()
    assert ledger.state is ProjectState.COMPLETED
    node = ledger.nodes["root.1.0"]
    assert (node.attempt, node.retry_count) == (2, 1)


async def test_an_exception_that_no_agent_should_raise_is_an_execution_error() -> None:
    world = World()
    world.store.add(breadth=2, rules=[{"node": "root.1.0", "crash": True, "message": "oops"}])
    async with world.running():
        ledger = await world.store.until_ended()
    assert ledger.state is ProjectState.PARTIAL
    error = ledger.nodes["root.1.0"].error
    assert error is not None
    assert error.error_class is ErrorClass.EXECUTION
    assert error.message == "RuntimeError: oops"


async def test_an_order_cancels_a_running_agent() -> None:
    world = World()
    world.store.add(rules=[{"node": "root.1.*", "hang": True}])
    async with world.running():
        ledger = world.store.ledgers["p"]
        await world.until(lambda: S.RUNNING in [n.state for n in ledger.nodes.values()][1:])
        world.store.order_cancel()
        await world.store.until_ended()
    assert ledger.state is ProjectState.CANCELLED
    assert ledger.commands == {"c": CommandState.APPLIED}
    assert set(ledger.states().values()) == {S.CANCELLED}


async def test_an_order_from_before_the_start_is_carried_out_without_an_agent_call() -> None:
    world = World()
    world.store.add()
    world.store.order_cancel()
    async with world.running():
        ledger = await world.store.until_ended()
    assert ledger.state is ProjectState.CANCELLED
    assert ledger.states() == {"root": S.CANCELLED}


async def test_an_order_that_comes_with_the_end_is_refused_before_the_lease_is_released() -> None:
    world = World()
    world.store.hold = True
    ledger = world.store.add(breadth=1)
    async with world.running():
        for _ in range(4):
            await world.store.until_held()
            if "root.1.0" in ledger.nodes and ledger.nodes["root.1.0"].state is S.DONE:
                break
            world.store.release()
            world.store.hold = True
        await world.store.until_held()
        world.store.order_cancel()
        world.store.release()
        await world.store.until_ended()
        await world.until(lambda: not world.supervisor.active())
    assert ledger.open_commands() == []


async def test_a_refused_batch_makes_the_runner_load_the_project_again_under_a_new_lease() -> None:
    world = World()
    world.store.add(breadth=2)
    world.store.refuse = [InvalidMutation("no")]
    async with world.running():
        ledger = await world.store.until_ended()
    assert ledger.state is ProjectState.COMPLETED
    assert world.store.loads == 2
    assert world.leases.epochs["p"] == 2


async def test_what_is_refused_again_and_again_ends_the_run_and_is_told_meanwhile() -> None:
    world = World()
    world.store.add(breadth=2)
    world.store.refuse = [InvalidMutation("it is too large") for _ in range(MAX_REFUSALS)]
    told: list[str] = []
    world.store.loading = lambda: told.append(world.supervisor.setback("p"))
    async with world.running():
        ledger = await world.store.until_ended()
        await world.until(lambda: not world.supervisor.active())
        await world.until(lambda: not world.supervisor.setback("p"))
    assert ledger.state is ProjectState.FAILED
    assert ledger.error is not None
    assert ledger.error.message == "refused 3 times: it is too large"
    assert told == ["", *["it is too large"] * 2, "refused 3 times: it is too large"]


async def test_a_store_that_is_away_is_the_end_of_no_run() -> None:
    world = World()
    world.store.add(breadth=2)
    world.store.refuse = [StoreUnavailable() for _ in range(MAX_REFUSALS + 1)]
    async with world.running():
        ledger = await world.store.until_ended()
    assert ledger.state is ProjectState.COMPLETED


async def test_a_fenced_runner_stops_without_another_write_and_without_a_release() -> None:
    world = World()
    world.store.add()
    world.store.refuse = [ProducerFenced()]
    async with world.running():
        await world.until(lambda: world.store.batches and not world.supervisor.active())
        for _ in range(20):
            await asyncio.sleep(0)
    assert len(world.store.batches) == 1
    assert world.leases.holders == {"p": "me"}


async def test_a_lost_lease_ends_the_runner() -> None:
    world = World()
    world.store.add(rules=[{"node": "root", "hang": True}])
    async with world.running():
        await world.until(lambda: world.supervisor.active() and world.store.batches)
        world.leases.holders["p"] = "other"
        await world.keeper.renew_now()
        await world.until(lambda: not world.supervisor.active())
    assert len(world.store.batches) == 1
    assert world.leases.holders == {"p": "other"}


async def test_a_lease_that_is_lost_while_its_project_is_loaded_ends_the_runner() -> None:
    """Nobody could be told: without the look after the load it would go on under no lease."""
    world = World()
    ledger = world.store.add(rules=[{"node": "root", "hang": True}])

    async def lose() -> None:
        world.leases.holders["p"] = "other"
        await world.keeper.renew_now()

    world.store.loading = lose
    async with world.running():
        await world.until(lambda: world.store.loads)
        name = "orchestrator_active_projects"
        await world.until(lambda: world.metrics.registry.get_sample_value(name) == 0.0)
    assert not world.store.batches
    assert not ledger.nodes
    assert world.leases.holders == {"p": "other"}


async def test_a_lease_that_is_lost_while_a_run_is_made_ends_the_runner(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A large one is made beside the loop, which goes on meanwhile."""
    world = World()
    world.store.add(rules=[{"node": "root", "hang": True}])
    made: list[bool] = []

    async def slow(size: int, compute: Callable[[], object]) -> object:
        run = compute()
        made.append(world.leases.holders.update(p="other") is None)
        await world.keeper.renew_now()
        return run

    monkeypatch.setattr("orchestrator_svc.engine.supervisor.aside", slow)
    async with world.running():
        await world.until(lambda: made)
        name = "orchestrator_active_projects"
        await world.until(lambda: world.metrics.registry.get_sample_value(name) == 0.0)
    assert not world.store.batches
    assert world.leases.holders == {"p": "other"}


async def test_nothing_of_a_run_is_left_when_its_runner_has_ended() -> None:
    """No circle holds it: the cyclic garbage collector runs seldom in this service."""
    world = World()
    world.store.add()
    gc.collect()
    gc.disable()
    try:
        async with world.running():
            await world.until(world.supervisor.active)
            (runner,) = map(weakref.ref, world.supervisor._runners.values())
            await world.store.until_ended()
            await world.until(lambda: not world.supervisor.active())
            for _ in range(20):
                await asyncio.sleep(0)
            assert runner() is None
    finally:
        gc.enable()


async def test_no_agent_call_begins_under_a_lease_that_was_not_renewed_for_its_time() -> None:
    world = World()
    world.store.hold = True
    ledger = world.store.add(breadth=1)
    async with world.running():
        await world.store.until_held()
        world.keeper.given["p"].extend(0.0)
        world.store.release()
        for _ in range(20):
            await asyncio.sleep(0)
        assert ledger.states() == {"root": S.RUNNING}, "the call waits for the lease"
        await world.keeper.renew_now()
        assert (await world.store.until_ended()).state is ProjectState.COMPLETED


async def test_a_call_has_its_results_though_the_lease_ran_out_while_they_were_read() -> None:
    world = World()
    ledger = world.store.add(breadth=1)
    async with world.running():
        await world.store.until_ended()
    ledger.nodes["root"].state, ledger.state = S.PLAN_DONE, ProjectState.RUNNING
    ledger.nodes["root.1.0"].result = Result(digest="sha256:elsewhere")
    again = World(world.store, world.leases)
    world.store.reading = lambda: again.keeper.given["p"].extend(0.0)
    async with again.running():
        await again.until(lambda: world.store.fetched)
        for _ in range(20):
            await asyncio.sleep(0)
        world.store.reading = lambda: None
        await again.keeper.renew_now()
        await world.store.until_ended()
    assert ledger.state is ProjectState.COMPLETED
    assert world.store.fetched == [["root.1.0"]] * 2, "read again, not forgotten"


async def test_a_project_held_by_another_is_left_alone() -> None:
    world = World()
    world.store.add()
    world.leases.holders["p"] = "other"
    world.leases.epochs["p"] = 1
    async with world.running():
        world.supervisor.take_up("p")
        await world.until(lambda: not world.supervisor.active())
    assert not world.store.batches


async def test_a_store_that_is_away_is_asked_again() -> None:
    world = World()
    world.store.add()
    world.store.refuse = [StoreUnavailable()]
    async with world.running():
        ledger = await world.store.until_ended()
    assert ledger.state is ProjectState.COMPLETED


async def test_results_are_asked_for_until_the_store_is_back_which_costs_no_retry() -> None:
    world = World()
    ledger = world.store.add(breadth=2, settings={"max_retries": 0})
    async with world.running():
        await world.store.until_ended()
    root = ledger.nodes["root"]
    root.state, ledger.state = S.PLAN_DONE, ProjectState.RUNNING
    ledger.nodes["root.1.0"].result = Result(digest="sha256:elsewhere")
    world.store.away = [StoreUnavailable(), StoreUnavailable()]
    async with World(world.store, world.leases).running():
        await world.store.until_ended()
    assert ledger.state is ProjectState.COMPLETED
    assert (root.retry_count, len(world.store.fetched)) == (0, 3)


async def test_one_failing_project_does_not_disturb_the_others() -> None:
    world = World()
    world.store.add("bad", rules=[{"node": "root", "crash": True}])
    world.store.add("good")
    async with world.running():
        assert (await world.store.until_ended("good")).state is ProjectState.COMPLETED
        assert (await world.store.until_ended("bad")).state is ProjectState.FAILED


async def test_draining_gives_running_nodes_back_and_another_process_goes_on_at_once() -> None:
    world = World()
    ledger = world.store.add(breadth=2, rules=[{"node": "root.1.*", "attempts": [1], "hang": True}])
    async with world.running():
        await world.until(lambda: len(ledger.nodes) == 3 and ledger.moves[-1][1] is S.RUNNING)
        await world.supervisor.drain(grace=0.0, deadline=WAIT_SECONDS)
        assert not world.supervisor.active()
    assert not world.leases.holders
    assert [ledger.nodes[f"root.1.{n}"].state for n in (0, 1)] == [S.READY, S.READY]
    async with World(world.store, world.leases).running():
        await world.store.until_ended()
    assert ledger.state is ProjectState.COMPLETED
    assert {ledger.nodes[f"root.1.{n}"].attempt for n in (0, 1)} == {2}
    assert ledger.nodes["root.1.0"].retry_count == 0


async def test_a_lease_that_is_granted_during_a_drain_is_given_back() -> None:
    world = World()
    world.store.add()
    world.leases.answering.clear()
    async with world.running():
        await world.until(lambda: world.leases.holders)
        drain = asyncio.create_task(world.supervisor.drain(grace=0.0, deadline=WAIT_SECONDS))
        await asyncio.sleep(0)
        world.leases.answering.set()
        await drain
        assert not world.leases.holders, "another one can take the project over at once"
    assert not world.store.loads


async def test_a_call_that_a_drain_gives_back_is_recorded_with_what_it_has_cost() -> None:
    world = World()
    ledger = world.store.add(
        breadth=2, input_tokens=7, rules=[{"node": "root.1.1", "attempts": [1], "hang": True}]
    )
    async with world.running():
        await world.until(lambda: ledger.states().get("root.1.0") is S.DONE)
        await world.supervisor.drain(grace=0.0, deadline=WAIT_SECONDS)
    (record,) = [stage for stage in world.store.stages if stage.node_id == "root.1.1"]
    assert record.error is not None
    assert record.error.error_class is ErrorClass.CANCELLED
    assert "given back" in record.error.message
    assert record.trace.usage.input_tokens == ledger.nodes["root.1.1"].usage.input_tokens == 7
    assert record.trace.input.text, "what the agent was given"
    async with World(world.store, world.leases).running():
        await world.store.until_ended()
    assert [s.stage_id for s in world.store.stages if s.node_id == "root.1.1"] == [
        "root.1.1.s1",
        "root.1.1.s2",
    ]


def test_a_drain_gives_calls_back_however_its_time_is_rounded() -> None:
    """uvloop counts in milliseconds: this grace is over at a time that is before its end."""

    async def drain() -> None:
        world = World()
        ledger = world.store.add(breadth=1, rules=[{"node": "root.1.0", "hang": True}])
        async with world.running():
            await world.until(lambda: len(ledger.nodes) == 2 and ledger.moves[-1][1] is S.RUNNING)
            await world.supervisor.drain(grace=0.0004, deadline=WAIT_SECONDS)
        assert ledger.nodes["root.1.0"].state is S.READY

    uvloop.run(drain())


async def test_calls_that_end_within_the_grace_of_a_drain_are_kept() -> None:
    world = World()
    ledger = world.store.add(breadth=1, rules=[{"node": "root.1.0", "delay_ms": 30}])
    async with world.running():
        await world.until(lambda: len(ledger.nodes) == 2 and ledger.moves[-1][1] is S.RUNNING)
        await world.supervisor.drain(grace=WAIT_SECONDS, deadline=WAIT_SECONDS)
    assert ledger.states() == {"root": S.PLAN_DONE, "root.1.0": S.DONE}


async def test_more_projects_than_there_is_room_for_wait() -> None:
    world = World()
    for number in range(11):
        world.store.add(f"p{number}", rules=[{"node": "root", "hang": True}])
    async with world.running():
        await world.until(lambda: len(world.supervisor.active()) == 10)
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(world.supervisor.active()) == 10


async def test_a_project_that_is_reopened_as_its_runner_lets_go_is_taken_up_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No scan finds it here: an order's own wake-up must not be lost."""
    world = World()
    ledger = world.store.add(breadth=1)
    release = world.leases.release_lease
    order = CommandGiven("again", CommandType.REPLAN_NODE, "root")

    async def reopened(project_id: str, holder: str, lease_epoch: int) -> bool:
        released = await release(project_id, holder, lease_epoch)
        if order.command_id not in ledger.orders:
            ledger.reopen(order)
            world.supervisor.take_up(project_id)
        return released

    async def nothing(*, leased: bool) -> list[UnfinishedProject]:
        return []

    monkeypatch.setattr(world.leases, "release_lease", reopened)
    monkeypatch.setattr(world.leases, "unfinished", nothing)
    async with world.running(), asyncio.timeout(WAIT_SECONDS):
        world.supervisor.take_up("p")
        await world.until(lambda: ledger.commands.get("again") is CommandState.APPLIED)
        assert (await world.store.until_ended()).state is ProjectState.COMPLETED
    assert world.leases.epochs["p"] == 2


async def test_a_project_that_is_asked_for_while_it_is_loaded_is_executed_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else its lease is taken once more after its end, which writes to what has ended."""
    world = World()
    world.store.add(breadth=1)
    load = world.store.load

    async def asked_again(project_id: str) -> LoadedProject:
        world.supervisor.take_up(project_id)
        return await load(project_id)

    async def nothing(*, leased: bool) -> list[UnfinishedProject]:
        return []

    monkeypatch.setattr(world.store, "load", asked_again)
    monkeypatch.setattr(world.leases, "unfinished", nothing)
    async with world.running(), asyncio.timeout(WAIT_SECONDS):
        world.supervisor.take_up("p")
        assert (await world.store.until_ended()).state is ProjectState.COMPLETED
        await world.until(lambda: not world.supervisor._tasks)
    assert (world.store.loads, world.leases.epochs["p"]) == (1, 1)


async def test_a_full_orchestrator_says_so_and_how_many_runs_stand_still() -> None:
    world = World(max_projects=1)
    world.store.add("paused").state = ProjectState.PAUSED
    assert world.supervisor.no_room == ""
    async with world.running():
        world.supervisor.take_up("paused")
        await world.until(world.supervisor.active)
        assert world.supervisor.no_room.startswith(
            "this one executes 1, 1 of them paused or waiting for humans, as many as `max_projects`"
        )
        world.store.add("late")
        world.supervisor.take_up("late")
        assert [active.project_id for active in world.supervisor.active()] == ["paused"]
