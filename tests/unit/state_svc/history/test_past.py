"""Time travel holds a bounded number of projects in memory, however many ask."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from state_svc.history import past
from state_svc.history.past import REBUILDS, Past
from state_svc.history.rebuild import rebuild
from state_svc.store.memory import MemoryStore
from tests.support.embedded import embedded
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
