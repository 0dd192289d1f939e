"""The research run that fault tests disturb, and the proof that nothing shows of it afterwards."""

from __future__ import annotations

import shutil
import sysconfig
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.orchestrator_process import Services
from tests.support.run_history import RunHistory
from tests.support.runs import Follower, Runs, connect_both, results
from tests.support.witness import AgentCall

ONE_BY_ONE = {"max_concurrent_nodes": 1}  #: most revisions, so most moments


@dataclass(frozen=True)
class Undisturbed:
    """What a run gives when nobody disturbs it."""

    report: str
    results: dict[str, bytes]
    revisions: int  #: when run one by one
    calls: int  #: of agents, however many at one time


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the standard library's asyncio package."""
    source = Path(sysconfig.get_paths()["stdlib"]) / "asyncio"
    target = tmp_path_factory.mktemp("corpus") / "asyncio"
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    return target


_undisturbed: dict[str, Undisturbed] = {}


@pytest.fixture
async def undisturbed(corpus: Path, make_services: Callable[..., Services]) -> Undisturbed:
    """The result of the same run without a fault; made once."""
    return await make_undisturbed(str(corpus), make_services)


async def make_undisturbed(corpus: str, make_services: Callable[..., Services]) -> Undisturbed:
    """Run the research on a corpus once and keep what it gives."""
    if corpus not in _undisturbed:
        async with running(make_services(name="undisturbed")) as (services, runs):
            project = await start(runs, corpus, ONE_BY_ONE)
            history = await runs.finish(project)
            history.check_calls(services.orchestrator.calls())
            assert history.state == "COMPLETED"
            assert {node.attempt for node in history.nodes.values()} == {1}
            revisions = (await runs.wire.project(project)).revision
            report = await runs.report(project)
            calls = len(history.dispatches)
            _undisturbed[corpus] = Undisturbed(report, results(history), revisions, calls)
        services.end()
    return _undisturbed[corpus]


@asynccontextmanager
async def running(
    services: Services, *, failpoints: str = ""
) -> AsyncIterator[tuple[Services, Runs]]:
    """Start both services and connect to them."""
    await services.start(failpoints=failpoints)
    async with connect_both(services.state.address, services.orchestrator.address) as runs:
        yield services, runs


async def start(runs: Runs, corpus: Path | str, settings: dict[str, Any]) -> str:
    """Start the research; return the project's id."""
    project = await runs.start(options={"corpus": str(corpus)}, settings=settings)
    return project.project_id


async def prove(
    runs: Runs,
    project_id: str,
    follower: Follower,
    undisturbed: Undisturbed,
    calls: Callable[[], Iterable[AgentCall]],
) -> RunHistory:
    """Wait for the end of a disturbed run and check everything about it; return its history."""
    assert await follower.ended() == "COMPLETED"
    history = follower.history
    history.check_accounts()
    history.check_calls(calls())
    assert not history.failures, "a crash costs no retry"
    assert results(history) == undisturbed.results
    await runs.state_ready()
    assert (await runs.report(project_id)).encode() == undisturbed.report.encode()
    await check_watchers_agree(runs, project_id, follower)
    return history


async def check_watchers_agree(runs: Runs, project_id: str, follower: Follower) -> None:
    """A watcher that lived through it all saw what a new one sees, and what reads show."""
    await runs.state_ready()
    head = (await runs.wire.project(project_id)).revision
    await follower.caught_up(head)
    async with runs.follow(project_id) as again:
        await again.caught_up(head)
    assert through(follower, head) == through(again, head)
    assert sorted(through(again, head)) == list(range(1, head + 1)), "no revision without effect"
    listed = {node.node_id: node for node in await runs.wire.nodes(project_id)}
    assert listed == follower.history.nodes == again.history.nodes


def through(follower: Follower, revision: int) -> dict[int, list[bytes]]:
    """Return the changes that a follower has seen through a revision."""
    return {
        number: [change.SerializeToString(deterministic=True) for change in changes]
        for number, changes in follower.log.changes.items()
        if number <= revision
    }
