"""A research run outlives `kill -9` of either service or both, at any moment.

Each cycle: a real corpus run, a watcher from the start, a kill at a moment of the run's progress,
a restart at the same place. Then the run must be complete, with the bytes of an undisturbed run.
"""

from __future__ import annotations

import shutil
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.orchestrator_process import ORCHESTRATOR, STATE, Services
from tests.support.run_history import RunHistory
from tests.support.runs import Follower, Runs, connect_both, results

ONE_BY_ONE = {"max_concurrent_nodes": 1}  #: most revisions, so most moments


@dataclass(frozen=True)
class Undisturbed:
    """What a run gives when nobody disturbs it."""

    report: str
    results: dict[str, bytes]
    revisions: int  #: when run one by one


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the standard library's asyncio package."""
    source = Path(sysconfig.get_paths()["stdlib"]) / "asyncio"
    target = tmp_path_factory.mktemp("corpus") / "asyncio"
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    return target


_undisturbed: dict[Path, Undisturbed] = {}


@pytest.fixture
async def undisturbed(corpus: Path, make_services: Callable[..., Services]) -> Undisturbed:
    """The result of the same run without a kill; made once."""
    if corpus not in _undisturbed:
        services = await make_services(name="undisturbed").start()
        async with connect_both(services.state.address, services.orchestrator.address) as runs:
            project = await start(runs, corpus, ONE_BY_ONE)
            history = await runs.finish(project)
            history.check_calls(services.orchestrator.calls())
            assert history.state == "COMPLETED"
            assert {node.attempt for node in history.nodes.values()} == {1}
            revisions = (await runs.wire.project(project)).revision
            _undisturbed[corpus] = Undisturbed(
                await runs.report(project), results(history), revisions
            )
        services.end()
    return _undisturbed[corpus]


async def start(runs: Runs, corpus: Path, settings: dict[str, Any]) -> str:
    """Start the research; return the project's id."""
    project = await runs.start(options={"corpus": str(corpus)}, settings=settings)
    return project.project_id


async def prove(
    services: Services, runs: Runs, project_id: str, follower: Follower, undisturbed: Undisturbed
) -> RunHistory:
    """Wait for the end of a disturbed run and check everything about it; return its history."""
    assert await follower.ended() == "COMPLETED"
    history = follower.history
    history.check_accounts()
    history.check_calls(services.orchestrator.calls())
    assert not history.failures, "a crash costs no retry"
    assert results(history) == undisturbed.results
    assert await runs.report(project_id) == undisturbed.report
    head = (await runs.wire.project(project_id)).revision
    await follower.caught_up(head)
    async with runs.follow(project_id) as again:
        await again.caught_up(follower.revision)
    seen = {k: v for k, v in follower.log.changes.items() if k <= again.revision}
    assert seen == {k: v for k, v in again.log.changes.items() if k <= follower.revision}
    listed = {node.node_id: node for node in await runs.wire.nodes(project_id)}
    assert listed == history.nodes == again.history.nodes
    return history


@pytest.mark.parametrize(
    "victims, share, slots",
    [
        pytest.param([ORCHESTRATOR], 0.05, 1, id="orchestrator-early"),
        pytest.param([ORCHESTRATOR], 0.6, 1, id="orchestrator-late"),
        pytest.param([STATE], 0.3, 1, id="state"),
        pytest.param([STATE, ORCHESTRATOR], 0.15, 1, id="both-early"),
        pytest.param([ORCHESTRATOR, STATE], 0.5, 4, id="both-in-parallel-work"),
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
    services = await make_services().start()
    async with connect_both(services.state.address, services.orchestrator.address) as runs:
        project = await start(runs, corpus, {"max_concurrent_nodes": slots})
        async with runs.follow(project) as follower:
            await follower.through(max(2, int(share * undisturbed.revisions)))
            assert not follower.history.ended
            await services.kill_and_restart(victims)
            history = await prove(services, runs, project, follower, undisturbed)
    if ORCHESTRATOR not in victims:
        assert not history.interruptions, "the orchestrator keeps what it has in hand"
    assert all(times == 1 for times in history.interruptions.values()), "one attempt per crash"
    assert len(history.interruptions) <= slots
