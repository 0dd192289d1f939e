"""Views of the past: rebuilt in bounded memory however many ask, and begun from by forks."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ramify.v1.project_pb2 import ProjectState
from state_svc.history import past
from state_svc.history.past import REBUILDS, Past, fork_view
from state_svc.history.rebuild import rebuild
from state_svc.store.memory import MemoryStore
from tests.support.embedded import embedded
from tests.support.live import live_project
from tests.support.mutations import create


async def test_views_of_the_past_are_rebuilt_a_few_at_a_time_and_once_for_all_who_ask(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    under_way = most = count = 0

    async def counted(*arguments: Any) -> Any:
        nonlocal under_way, most, count
        under_way += 1
        count += 1
        most = max(most, under_way)
        try:
            await asyncio.sleep(0)
            return await rebuild(*arguments)
        finally:
            under_way -= 1

    monkeypatch.setattr(past, "rebuild", counted)
    async with embedded(MemoryStore()) as running:
        await running.create("p")
        for number in range(30):
            await running.commit("p", create(f"n{number}"))
        project = await running.service.live("p")
        views = Past(running.service.store)
        asked = [revision for revision in range(2, 30) for _ in range(5)]
        got = await asyncio.gather(*(views.view_at(project, revision) for revision in asked))
        assert [view.revision for view in got] == asked
        assert most == REBUILDS
        assert count < len(asked)
        kept = sum(size for _, size in views._views.values())
        assert views._bytes == kept, "what is kept is counted once"


@pytest.mark.parametrize("state", ["RUNNING", "WAITING", "PAUSING", "PAUSED", "COMPLETED"])
def test_the_timers_of_a_fork_stand_still_since_its_revision(state: str) -> None:
    """SEM 20, 32. Those of a run that was paused by then do since its pause."""
    project = live_project(create("root"))
    source = project.view
    source.entity.state = ProjectState.Value(f"PROJECT_STATE_{state}")
    source.entity.pause_time.FromSeconds(7)
    fork = fork_view(source, "f", "uid", source.micros + 3_600_000_000)
    assert fork.entity.state == ProjectState.PROJECT_STATE_PAUSED
    paused = state in ("PAUSING", "PAUSED")
    assert fork.entity.pause_time.ToMicroseconds() == (7_000_000 if paused else source.micros)
