"""state_svc killed at every failpoint and at random moments, under load."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from state_svc.failpoints import COMMIT, NAMES, PAYLOAD
from tests.support.files import find_problems
from tests.support.load import (
    LoadProducer,
    LoadWatcher,
    check_watcher,
    judge,
    read_log,
)
from tests.support.state_process import StartFailed, StateProcess
from tests.support.wire import connect, eventually

Start = Callable[..., StateProcess]
ROOT = Path(__file__).resolve().parents[2]


async def kill_cycles(start_state: Start, cycles: int, seed: int) -> None:
    """Kill `cycles` times, then compare everything that anyone knows."""
    chance = random.Random(seed)
    state = start_state()
    async with connect(state.address) as wire:
        shared, left, right = [(await wire.create_project()).project_id for _ in range(3)]
    producers = [
        LoadProducer(state.address, "left", [shared, left]),
        LoadProducer(state.address, "right", [shared, right]),
    ]
    watchers = [
        LoadWatcher(state.address, project_id) for project_id in (shared, shared, left, right)
    ]
    async with asyncio.TaskGroup() as tasks:
        for producer in producers:
            tasks.create_task(producer.run())
        for watcher in watchers:
            tasks.create_task(watcher.run())
        for cycle in range(cycles):
            goal = acked(producers) + 60
            name = COMMIT[cycle] if cycle < len(COMMIT) else chance.choice([*COMMIT, ""])
            if name:
                at = chance.randint(1, 30)
                await asyncio.to_thread(start_again, state, f"{name}=kill@{at}")
                await eventually(lambda: not state.running, f"it is killed at {name}")
                state.wait()
            else:
                await asyncio.to_thread(start_again, state, "")
                await eventually(lambda goal=goal: acked(producers) > goal, "they go on")  # type: ignore[misc]
                await asyncio.sleep(chance.random() * 0.05)  # any moment
                state.kill()
        await asyncio.to_thread(start_again, state, "")
        goal = acked(producers) + 60
        await eventually(lambda: acked(producers) > goal, "they go on")
        for producer in producers:
            producer.stopping = True
        async with connect(state.address) as wire:

            async def settled() -> bool:
                return all(
                    producer.top(name) >= producer.sent.get(name, 0)
                    for producer in producers
                    for name in producer.projects
                )

            await eventually(settled, "everything is acknowledged")
            for watcher in watchers:
                watcher.target = (await wire.project(watcher.project_id)).revision
                watcher.stopping = True
    async with connect(state.address) as wire:
        for project_id in (shared, left, right):
            log = await read_log(wire, project_id)
            judge(project_id, log, producers)
            total = sum(p.sent[project_id] for p in producers if project_id in p.projects)
            assert log.announced == 1 + total
            for watcher in watchers:
                if watcher.project_id == project_id:
                    check_watcher(watcher, log)
                    assert watcher.log.announced == log.announced
    # Which of them comes back before a failpoint strikes again is chance; each does so often.
    assert min(producer.connections for producer in producers) > cycles // 10
    assert min(watcher.connections for watcher in watchers) > cycles // 10


def acked(producers: Sequence[LoadProducer]) -> int:
    """Return how many batches are acknowledged."""
    return sum(len(producer.acked) for producer in producers)


def start_again(state: StateProcess, failpoints: str) -> None:
    """Start the service; a failpoint may strike before it is ready to be talked to."""
    if state.running:
        state.kill()
    try:
        state.start(failpoints=failpoints)
    except StartFailed:
        assert not state.running


@pytest.mark.timeout(600)
async def test_nothing_acknowledged_is_lost_or_doubled_over_20_kills(start_state: Start) -> None:
    """Every failpoint once, the rest by chance; two producers, four watchers."""
    await kill_cycles(start_state, 20, seed=20)


@pytest.mark.slow
@pytest.mark.timeout(1_500)
async def test_nothing_acknowledged_is_lost_or_doubled_over_200_kills(
    start_state: Start,
) -> None:
    await kill_cycles(start_state, 200, seed=200)


@pytest.mark.parametrize("failpoint", COMMIT)
async def test_a_failing_commit_is_refused_or_ends_the_service_but_is_never_half_done(
    start_state: Start, failpoint: str
) -> None:
    """An error, not a kill: in the store it is answered; outside it ends the process, as a
    defect must, with a code, and the restart finds all that was acknowledged."""
    state = start_state()
    async with connect(state.address) as wire:
        project_id = (await wire.create_project()).project_id
    await asyncio.to_thread(state.restart, failpoints=f"{failpoint}=error@12")
    producer = LoadProducer(state.address, "prod", [project_id])
    watcher = LoadWatcher(state.address, project_id)
    async with asyncio.TaskGroup() as tasks:
        writing = tasks.create_task(producer.run())
        tasks.create_task(watcher.run())
        await eventually(
            lambda: not state.running or len(producer.acked) > 200, "200 batches or the end"
        )
        if not state.running:
            assert state.wait() == 1
            await asyncio.to_thread(state.start)
        await eventually(lambda: len(producer.acked) > 200, "200 batches")
        producer.stopping = True
        await writing
        async with connect(state.address) as wire:
            log = await read_log(wire, project_id)
            watcher.target = log.announced
            watcher.stopping = True
    judge(project_id, log, [producer])
    check_watcher(watcher, log)


def payload_cycles(folder: Path, cycles: int, seed: int) -> None:
    """Kill a service on the ways of bodies; whatever was answered is there after each start."""
    chance = random.Random(seed)
    data, journal = folder / "data", folder / "journal"

    def live(failpoints: str, seconds: float) -> int:
        done = subprocess.run(
            [sys.executable, "-m", "tests.support.payload_worker", data, journal, str(seconds)],
            env={**os.environ, "RAMIFY_FAILPOINTS": failpoints},
            cwd=ROOT,
            capture_output=True,
            check=False,
        )
        assert done.returncode in (0, -signal.SIGKILL), done.stderr.decode()
        return done.returncode

    for cycle in range(cycles):
        name = PAYLOAD[cycle] if cycle < len(PAYLOAD) else chance.choice(NAMES)
        # Each is passed in the first turns, so the process does not live as long as it may.
        killed = live(f"{name}=kill@{chance.randint(1, 3)}", 60.0)
        assert killed == -signal.SIGKILL, f"{name} is on no way"
        assert find_problems(data) == [], f"killed at {name}"
    assert live("", 0.0) == 0


@pytest.mark.timeout(600)
def test_no_body_that_was_acknowledged_is_lost_over_a_kill_at_each_place(tmp_path: Path) -> None:
    payload_cycles(tmp_path, len(PAYLOAD), seed=1)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_body_that_was_acknowledged_is_lost_over_100_kills(tmp_path: Path) -> None:
    payload_cycles(tmp_path, 100, seed=2)
