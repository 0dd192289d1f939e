"""Views of the past: rebuilt in bounded memory however many ask, and begun from by forks."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from typing import Any

import pytest

from ramify.v1.project_pb2 import ProjectState
from state_svc.codec.snapshot import decode_snapshot, encode_snapshot, freeze
from state_svc.history import past
from state_svc.history.past import REBUILDS, Past, fork_view, held_bytes
from state_svc.history.rebuild import rebuild
from state_svc.model.project import LiveProject
from state_svc.store.memory import MemoryStore
from tests.support.embedded import embedded
from tests.support.live import INVALID, NOW, live_project, refusals, write
from tests.support.mutations import create, delete, order_cancel


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


def test_what_a_view_holds_is_counted_by_the_memory_that_it_takes() -> None:
    """Not by its encoded bytes alone: of small nodes those are a tenth."""
    project = live_project(*(create(f"n{n}", goal="ggg") for n in range(3_000)))
    write(project, *(create(f"gone-{n}") for n in range(1_000)))
    write(project, *(delete(f"gone-{n}") for n in range(1_000)))
    write(project, *(order_cancel(f"order-{n}") for n in range(500)))
    records = list(encode_snapshot(freeze(project)))
    decode_snapshot(records)  # what is made once is made now
    gc.collect()
    tracemalloc.start()
    try:
        view, _ = decode_snapshot(records)
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert 0.6 * taken < held_bytes(view) < 2 * taken


async def test_views_of_the_past_are_kept_by_what_they_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with embedded(MemoryStore()) as running:
        await running.create("p")
        await running.commit("p", *(create(f"n{n}", goal="ggg") for n in range(100)))
        for number in range(12):
            await running.commit("p", create(f"m{number}"))
        project = await running.service.live("p")
        monkeypatch.setattr(past, "MAX_BYTES", 5 * held_bytes(project.view))
        views = Past(running.service.store)
        for revision in range(2, 14):
            await views.view_at(project, revision)
            assert len(views._views) <= 6
        assert [revision for _, revision in views._views] == [9, 10, 11, 12, 13]
        monkeypatch.setattr(past, "MAX_BYTES", 1)
        await views.view_at(project, 2)
        assert list(views._views) == [(project.uid, 2)], "the newest stays however large it is"


def test_a_fork_never_uses_an_id_again_that_existed_in_its_origin() -> None:
    """SEM 9, 32."""
    project = live_project(create("stays"), create("gone"))
    write(project, delete("gone"))
    fork = LiveProject(fork_view(project.view, "f", "uid", NOW))
    assert refusals(fork, create("gone")) == [(0, INVALID, "node.node_id")]
    assert refusals(fork, create("new")) == []


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
