"""A research run outlives `kill -9` of either service or both, at any moment.

Each cycle: a real corpus run, a watcher from the start, a kill at a moment of the run's progress,
a restart at the same place. Then the run must be complete, with the bytes of an undisturbed run.
`test_run_matrix.py` does the same at random moments, many times.
"""

from __future__ import annotations

import asyncio
import itertools
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import grpc
import grpc.aio
import pytest

from ramify import AsyncClient, View, WatchStart
from ramify.events import WatchDelta, WatchDisconnected, WatchResync, WatchSnapshot
from ramify.v1.orchestrator_service_pb2 import GetRunnerRequest
from tests.support.bound import WAIT_SECONDS
from tests.support.orchestrator_process import ORCHESTRATOR, STATE, Services
from tests.support.research import (
    ONE_BY_ONE,
    Undisturbed,
    check_watchers_agree,
    corpus,
    prove,
    running,
    start,
    undisturbed,
)
from tests.support.run_history import RunHistory
from tests.support.runs import holders
from tests.support.wire import eventually, refusal

__all__ = ["corpus", "undisturbed"]

BOTH = (STATE, ORCHESTRATOR)


@pytest.mark.parametrize(
    "victims, share, slots",
    [
        pytest.param([ORCHESTRATOR], 0.0, 1, id="orchestrator-before-the-root-exists"),
        pytest.param([ORCHESTRATOR], 0.6, 1, id="orchestrator-in-the-middle"),
        pytest.param([STATE], 0.3, 1, id="state"),
        pytest.param(BOTH, 0.15, 1, id="both-while-planning"),
        pytest.param(BOTH, 0.5, 4, id="both-in-parallel-work"),
    ],
)
async def test_a_killed_run_completes_as_if_nothing_had_happened(
    make_services: Callable[..., Services],
    corpus: Path,
    undisturbed: Undisturbed,
    victims: list[str],
    share: float,
    slots: int,
) -> None:
    async with running(make_services()) as (services, runs):
        hold = services.orchestrator.hold_roots()
        project = await start(runs, corpus, {"max_concurrent_nodes": slots})
        async with runs.follow(project) as follower:
            # Not a share of the revisions: of those, parallel work makes as few as it can.
            goal = int(share * undisturbed.calls)
            await follower.until(lambda history: len(history.dispatches) >= goal or history.ended)
            await follower.through(1)
            assert not follower.history.ended
            await services.kill_and_restart(victims)
            hold.release()
            calls = services.orchestrator.calls
            history = await prove(runs, project, follower, undisturbed, calls)
    if ORCHESTRATOR not in victims:
        assert not history.interruptions, "the orchestrator keeps what it has in hand"
    assert all(times == 1 for times in history.interruptions.values()), "one attempt per crash"
    assert len(history.interruptions) <= slots


@pytest.mark.parametrize(
    "failpoints",
    ["before_commit=kill@8", "after_commit=kill@12", "before_ack=kill@16", "after_publish=kill@20"],
)
async def test_state_svc_killed_inside_a_commit_costs_the_run_nothing(
    make_services: Callable[..., Services],
    corpus: Path,
    undisturbed: Undisturbed,
    failpoints: str,
) -> None:
    async with running(make_services(), failpoints=failpoints) as (services, runs):
        hold = services.orchestrator.hold_roots()
        project = await start(runs, corpus, ONE_BY_ONE)
        async with runs.follow(project) as follower:
            await services.await_death_and_restart(STATE)
            assert not follower.history.ended
            hold.release()
            calls = services.orchestrator.calls
            history = await prove(runs, project, follower, undisturbed, calls)
    assert {node.attempt for node in history.nodes.values()} == {1}


async def test_one_watcher_follows_a_run_through_kill_after_kill(
    make_services: Callable[..., Services], corpus: Path, undisturbed: Undisturbed
) -> None:
    """The raw follower and the SDK's watch, both from the start, both resuming by themselves."""
    async with running(make_services()) as (services, runs):
        hold = services.orchestrator.hold_roots()
        project = await start(runs, corpus, ONE_BY_ONE)
        sdk = asyncio.create_task(_follow_by_sdk(services.state.address, project))
        async with runs.follow(project) as follower:
            for share, victims, number in (
                (0.1, BOTH, signal.SIGKILL),
                (0.3, (STATE,), signal.SIGTERM),
                (0.5, (ORCHESTRATOR,), signal.SIGKILL),
                (0.6, (STATE,), signal.SIGKILL),
                (0.8, (ORCHESTRATOR,), signal.SIGTERM),
            ):
                await follower.through(int(share * undisturbed.revisions))
                assert not follower.history.ended
                connections = follower.connections
                await services.kill_and_restart(victims, number)
                if STATE in victims:
                    await follower.until(
                        lambda _, before=connections: follower.connections > before  # type: ignore[misc]
                    )
            hold.release()
            calls = services.orchestrator.calls
            history = await prove(runs, project, follower, undisturbed, calls)
            assert follower.connections >= 4
            intervals, view, losses = await asyncio.wait_for(sdk, WAIT_SECONDS)
    assert losses
    assert intervals[0][0] == 1
    assert all(first == last + 1 for (_, last), (first, _) in itertools.pairwise(intervals))
    assert view.nodes == history.nodes


async def _follow_by_sdk(address: str, project: str) -> tuple[list[tuple[int, int]], View, int]:
    """Return the intervals of all deltas, the view they make, and how often it was cut off."""
    intervals: list[tuple[int, int]] = []
    view, losses = View(), 0
    async with AsyncClient(state=address) as client:
        async for event in client.watch(project, WatchStart.from_beginning()):
            assert not isinstance(event, WatchSnapshot | WatchResync)
            view.apply(event)
            losses += isinstance(event, WatchDisconnected)
            if isinstance(event, WatchDelta):
                intervals.append((event.delta.first_revision, event.delta.last_revision))
                if view.project is not None and view.project.HasField("end_time"):
                    break
    return intervals, view, losses


async def test_a_drained_orchestrator_hands_its_work_to_the_next_one(
    make_services: Callable[..., Services],
) -> None:
    """SIGTERM: neither a retry nor a crash, even if it happens more often than crashes may."""
    rule = {"node": "root.*.1", "attempts": [1, 2, 3, 4, 5, 6], "hang": True}
    async with running(make_services("--drain-call-seconds", "0")) as (services, runs):
        project = (await runs.script(rules=[rule])).project_id
        async with runs.follow(project) as follower:
            for attempt in range(1, 7):
                await follower.until(
                    partial(RunHistory.is_running, node_id="root.1.1", attempt=attempt)
                )
                await services.kill_and_restart([ORCHESTRATOR], signal.SIGTERM)
            assert await follower.ended() == "COMPLETED"
            await check_watchers_agree(runs, project, follower)
        history = follower.history
        history.check_accounts()
        history.check_calls(services.orchestrator.calls())
    node = history.nodes["root.1.1"]
    assert (node.attempt, node.retry_count) == (7, 0)


async def test_five_crashes_in_a_row_fail_the_node_they_hit_and_no_other(
    make_services: Callable[..., Services],
) -> None:
    async with running(make_services()) as (services, runs):
        project = (await runs.script(rules=[{"node": "root.*.1", "hang": True}])).project_id
        async with runs.follow(project) as follower:
            for attempt in range(1, 6):
                # The others have ended, so that no crash hits them.
                await follower.until(
                    lambda h, n=attempt: h.is_running("root.1.1", n) and h.count("DONE") == 2  # type: ignore[misc]
                )
                assert not follower.history.ended
                await services.kill_and_restart([ORCHESTRATOR])
            assert await follower.ended() == "PARTIAL"
            await check_watchers_agree(runs, project, follower)
        history = follower.history
        history.check_accounts()
        history.check_calls(services.orchestrator.calls())
    node = history.nodes["root.1.1"]
    assert (node.attempt, node.retry_count) == (5, 0)
    assert "5 attempts in a row" in node.error.message
    assert history.count("FAILED") == 1


async def test_a_call_of_any_stage_is_made_again_with_the_next_attempt(
    make_services: Callable[..., Services],
) -> None:
    rules = [
        {"node": "root", "stage": "plan", "attempts": [1], "hang": True},
        {"node": "root.*.0", "stage": "atomize", "attempts": [1], "hang": True},
        {"node": "root.*.1", "stage": "execute", "attempts": [1], "hang": True},
        {"node": "root", "stage": "aggregate", "attempts": [2], "hang": True},
    ]
    async with running(make_services()) as (services, runs):
        project = (await runs.script(types=False, rules=rules)).project_id
        async with runs.follow(project) as follower:
            for hanging in (
                {("root", 1, "plan")},
                {("root.1.0", 1, "atomize"), ("root.1.1", 1, "execute")},
                {("root", 2, "aggregate")},
            ):
                await follower.until(partial(RunHistory.waits_for, calls=hanging))
                await services.kill_and_restart([ORCHESTRATOR])
            assert await follower.ended() == "COMPLETED"
            await check_watchers_agree(runs, project, follower)
        history = follower.history
        history.check_accounts()
        history.check_calls(services.orchestrator.calls())
    counts = {id_: (node.attempt, node.retry_count) for id_, node in history.nodes.items()}
    assert counts == {"root": (3, 0), "root.1.0": (2, 0), "root.1.1": (2, 0), "root.1.2": (1, 0)}


async def test_what_a_call_has_spent_outlives_the_orchestrator_that_it_dies_with(
    make_services: Callable[..., Services],
) -> None:
    hangs = {"node": "root.1.0", "attempts": [1], "hang": True}
    async with running(make_services()) as (services, runs):
        project = await runs.script(breadth=1, input_tokens=7, rules=[hangs])
        async with runs.follow(project.project_id) as follower:

            def spent(history: RunHistory) -> int:
                node = history.nodes.get("root.1.0")
                return node.usage.input_tokens if node is not None else 0

            await follower.until(lambda history: spent(history) == 7)
            assert follower.history.count("RUNNING") == 1, "while it goes on"
            await services.kill_and_restart([ORCHESTRATOR])
            assert await follower.ended() == "COMPLETED"
        follower.history.check_accounts()
        assert spent(follower.history) == 14, "of both calls"


async def test_orders_and_requests_outlive_the_orchestrator_that_took_them(
    make_services: Callable[..., Services],
) -> None:
    for_ever = {"node": "root.*", "stage": "execute", "hang": True}
    async with running(make_services()) as (services, runs):
        begin = partial(
            runs.start,
            "a scripted run",
            profile="scripted",
            options={"rules": [for_ever]},
            request_id="once",
        )
        first = await begin()
        await services.kill_and_restart([ORCHESTRATOR])
        await runs.ready()
        project = (await begin()).project_id
        assert project == first.project_id
        async with runs.follow(project) as follower:
            await follower.until(lambda history: history.count("RUNNING") == 3)
            ordered = await runs.cancel(project, request_id="stop")
            await services.kill_and_restart([ORCHESTRATOR])
            await runs.ready()
            assert await runs.cancel(project, request_id="stop") == ordered
            assert await follower.ended() == "CANCELLED"
            await check_watchers_agree(runs, project, follower)
        follower.history.check_accounts()
        follower.history.check_calls(services.orchestrator.calls())
        assert not follower.history.failures


async def test_while_state_svc_is_away_requests_are_refused_for_now(
    make_services: Callable[..., Services],
) -> None:
    async with running(make_services()) as (services, runs):
        project = (await runs.script({"max_concurrent_nodes": 1}, delay_ms=1)).project_id
        await runs.finish(project)
        services.state.kill()
        for call in (runs.script(), runs.cancel(project)):
            refused = await refusal(call)
            assert refused.code == grpc.StatusCode.UNAVAILABLE
            assert refused.reason == "STORE_UNAVAILABLE"
            assert refused.retry
        runner = await runs.stub.GetRunner(GetRunnerRequest())
        assert runner.holder == services.orchestrator.ready["holder"]
        await asyncio.to_thread(services.state.start)

        begin = partial(runs.start, "a scripted run", profile="scripted", request_id="once")

        async def answers() -> bool:
            try:
                await begin()
            except grpc.aio.AioRpcError as error:
                if error.code() != grpc.StatusCode.UNAVAILABLE:
                    raise
                return False
            return True

        await eventually(answers, "the orchestrator finds state_svc again")
        again = await begin()
        assert (await runs.finish(again.project_id)).state == "COMPLETED"


async def test_a_store_that_hangs_for_longer_than_the_lease_does_no_harm(
    make_services: Callable[..., Services], corpus: Path, undisturbed: Undisturbed
) -> None:
    async with running(make_services("--lease-ttl-seconds", "3")) as (services, runs):
        hold = services.orchestrator.hold_roots()
        project = await start(runs, corpus, {"max_concurrent_nodes": 2})
        async with runs.follow(project) as follower:
            goal = undisturbed.calls // 3
            await follower.until(lambda history: len(history.dispatches) >= goal or history.ended)
            assert not follower.history.ended
            services.state.signal(signal.SIGSTOP)
            await eventually(
                lambda: services.orchestrator.read_log().count("leases not renewed") >= 4,
                "the lease has run out",
            )
            services.state.signal(signal.SIGCONT)
            hold.release()
            calls = services.orchestrator.calls
            history = await prove(runs, project, follower, undisturbed, calls)
            losses = len(holders(follower)) - 1
    assert sum(history.interruptions.values()) <= 2 * losses
