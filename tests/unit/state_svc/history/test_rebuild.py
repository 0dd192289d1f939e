"""A snapshot is a short cut: without it the log gives the same project, or the damage is told."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from state_svc.admin.check import fingerprint
from state_svc.errors import CorruptRecord
from state_svc.store.sqlite import FILE_NAME
from tests.support.embedded import Embedded, embedded
from tests.support.files import find_problems
from tests.support.mutations import READY, create, patch

_SNAPSHOTS = (4, 7)
_HEAD = 9


async def _fill(running: Embedded) -> object:
    """Make `p`: 9 revisions, snapshots at 4 and 7; return its fingerprint."""
    await running.create("p")
    project = await running.service.live("p")
    for revision in range(2, _HEAD + 1):
        number = revision % 3
        change = create if revision < 5 else patch
        fields = {"state": READY} if revision < 5 else {"output_summary": f"at {revision}"}
        assert await running.commit("p", change(f"n{number}", **fields)) == revision
        if revision in _SNAPSHOTS:
            assert await running.service.snapshots.take(project) == revision
    return fingerprint(project.view)


def _change(data: Path, statement: str) -> None:
    with apsw.Connection(str(data / FILE_NAME)) as database:
        database.execute(statement)
        assert database.changes()
    database.close()


def _damage(data: Path, condition: str) -> None:
    _change(data, f"UPDATE snapshots SET checksum = checksum + 1 WHERE {condition}")


def _avoided(running: Embedded) -> float:
    value = running.service.metrics.registry.get_sample_value(
        "ramify_state_damaged_snapshots_total"
    )
    assert value is not None
    return value


@pytest.mark.parametrize(
    "condition, found", [("revision = 7", [7]), ("true", [4, 7])], ids=["newest", "all"]
)
async def test_the_log_replaces_a_damaged_snapshot_loudly(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, condition: str, found: list[int]
) -> None:
    async with embedded(tmp_path) as running:
        expected = await _fill(running)
    _damage(tmp_path, condition)
    async with embedded(tmp_path) as running:
        project = await running.service.live("p")
        assert fingerprint(project.view) == expected
        assert _avoided(running) == 1
        past = await running.service.past.view_at(project, 8)
        assert past.nodes["n2"].to_node().output_summary == "at 8"
        assert _avoided(running) == 2
        assert await running.commit("p", create("on")) == _HEAD + 1
    told = [record for record in caplog.records if "snapshot is damaged" in record.message]
    assert [record.levelname for record in told] == ["ERROR", "ERROR"]
    problems = find_problems(tmp_path)
    assert [(p.record, p.first_revision) for p in problems] == [("snapshot", r) for r in found]


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM segments WHERE last_revision = 6",
        "UPDATE segments SET checksum = checksum + 1 WHERE last_revision = 6",
    ],
)
async def test_without_all_segments_since_it_is_refused_as_damaged(
    tmp_path: Path, change: str
) -> None:
    async with embedded(tmp_path) as running:
        await _fill(running)
    _damage(tmp_path, "revision = 7")
    _change(tmp_path, change)
    async with embedded(tmp_path) as running:
        with pytest.raises(CorruptRecord) as caught:
            await running.service.live("p")
        assert caught.value.fields["snapshot_revision"] == "7"
        assert _avoided(running) == 0


async def test_where_history_begins_nothing_replaces_a_snapshot(tmp_path: Path) -> None:
    async with embedded(tmp_path) as running:
        await _fill(running)
        project = await running.service.live("p")
        assert await running.service.snapshots.compact(project, 7) == 7
    _damage(tmp_path, "revision = 7")
    async with embedded(tmp_path) as running:
        with pytest.raises(CorruptRecord) as caught:
            await running.service.live("p")
        assert caught.value.fields["snapshot_revision"] == "7"
