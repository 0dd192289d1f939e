"""Every store lists its projects a part at a time, as their records may be large."""

from __future__ import annotations

from pathlib import Path

import pytest

from state_svc.codec.project import ProjectRecord
from state_svc.store.base import Commit, StateStore
from state_svc.store.memory import MemoryStore
from state_svc.store.sqlite import SqliteStore


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_projects_are_listed_a_part_at_a_time(tmp_path: Path, kind: str) -> None:
    store: StateStore = MemoryStore() if kind == "memory" else SqliteStore(tmp_path)
    records = [ProjectRecord(uid, f"id-of-{uid}", b"x" * 1_000, 7) for uid in "uvwx"]
    await store.commit(Commit(projects=records))
    listed: list[list[str]] = []
    after = ""
    while heads := await store.list_projects(after, 3_500):
        listed.append([head.record.project_uid for head in heads])
        after = listed[-1][-1]
    assert listed == [["u", "v", "w"], ["x"]]
    assert len(await store.list_projects("v", 1)) == 1, "at least one"
    assert len(await store.list_projects()) == 4
    await store.aclose()
