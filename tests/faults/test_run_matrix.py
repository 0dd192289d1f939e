"""Many kills at random moments of research runs; the same proof as `test_run_kill.py`.

A seed decides everything but the timing of the processes, so a failure is likely, not certain, to
come again with its seed: `pytest tests/faults/test_run_matrix.py -k 'seed7'`.
"""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.orchestrator_process import ORCHESTRATOR, STATE, Services
from tests.support.research import (
    ONE_BY_ONE,
    Undisturbed,
    corpus,
    make_undisturbed,
    prove,
    running,
    start,
    undisturbed,
)
from tests.support.wire import eventually

__all__ = ["corpus", "undisturbed"]

pytestmark = pytest.mark.slow

SEEDS = range(16)
KILLS = 3  #: of each run
FAILPOINTS = ("before_begin", "before_commit", "after_commit", "before_ack", "after_ack")


@dataclass(frozen=True)
class Blow:
    """What happens to whom, and when."""

    share: float  #: of the undisturbed run's revisions
    seconds: float  #: after that revision was seen
    victims: tuple[str, ...]
    signal: signal.Signals


def blows(seed: int) -> list[Blow]:
    """Return the kills of a run, in order."""
    draw = random.Random(seed)
    return [
        Blow(
            share,
            draw.choice((0.0, draw.uniform(0.0, 0.03))),
            draw.choice(((STATE,), (ORCHESTRATOR,), (STATE, ORCHESTRATOR), (ORCHESTRATOR, STATE))),
            signal.SIGTERM if draw.random() < 0.25 else signal.SIGKILL,
        )
        for share in sorted(draw.uniform(0.0, 0.9) for _ in range(KILLS))
    ]


@pytest.mark.parametrize("seed", SEEDS, ids="seed{}".format)
async def test_a_run_survives_whatever_happens_to_its_services(
    make_services: Callable[..., Services], corpus: Path, undisturbed: Undisturbed, seed: int
) -> None:
    slots = 1 + seed % 4
    crashes = 0
    async with running(make_services()) as (services, runs):
        project = await start(runs, corpus, {"max_concurrent_nodes": slots})
        async with runs.follow(project) as follower:
            for blow in blows(seed):
                await follower.through(max(1, int(blow.share * undisturbed.revisions)))
                await asyncio.sleep(blow.seconds)
                await services.kill_and_restart(blow.victims, blow.signal)
                crashes += ORCHESTRATOR in blow.victims
            calls = services.orchestrator.calls
            history = await prove(runs, project, follower, undisturbed, calls)
    assert max(history.interruptions.values(), default=0) <= crashes
    assert sum(history.interruptions.values()) <= crashes * slots


@pytest.mark.parametrize("name", FAILPOINTS)
@pytest.mark.parametrize("at", [3, 11, 27])
async def test_a_run_survives_state_svc_dying_at_any_line_of_a_commit(
    make_services: Callable[..., Services],
    corpus: Path,
    undisturbed: Undisturbed,
    name: str,
    at: int,
) -> None:
    async with running(make_services(), failpoints=f"{name}=kill@{at}") as (services, runs):
        project = await start(runs, corpus, ONE_BY_ONE)
        async with runs.follow(project) as follower:
            await services.await_death_and_restart(STATE)
            calls = services.orchestrator.calls
            history = await prove(runs, project, follower, undisturbed, calls)
    assert {node.attempt for node in history.nodes.values()} == {1}


@pytest.mark.parametrize("kills", [1, 2])
async def test_a_run_on_the_standard_library_survives_kills_while_it_is_indexed(
    make_services: Callable[..., Services], kills: int
) -> None:
    expected = await make_undisturbed("stdlib", make_services)
    async with running(make_services()) as (services, runs):
        hold = services.orchestrator.hold_index()
        project = await start(runs, "stdlib", ONE_BY_ONE)
        async with runs.follow(project) as follower:
            for attempt in range(1, kills + 1):
                await follower.until(lambda h, n=attempt: h.is_running("root", n))  # type: ignore[misc]
                await eventually(hold.reached, "it is indexed")
                hold.rearm()
                await services.kill_and_restart([ORCHESTRATOR, STATE])
            hold.release()
            calls = services.orchestrator.calls
            history = await prove(runs, project, follower, expected, calls)
    assert history.nodes["root"].attempt == kills + 1
