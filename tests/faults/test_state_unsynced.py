"""A sync that fails in the middle of an import, a fork, a deletion or a put.

The data lie in the WAL all the same. Whatever was refused is not there, nor found after a crash.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from ramify.v1.state_service_pb2 import (
    CompactProjectRequest,
    DeleteProjectRequest,
    ExportProjectRequest,
    ExportProjectResponse,
    ForkProjectRequest,
    ImportProjectRequest,
)
from state_svc.admin.check import Problem, Report, check_file
from state_svc.errors import ProjectNotFound, StoreUnavailable
from state_svc.rpc.history import HistoryRpcs
from state_svc.rpc.portable import PortableRpcs
from state_svc.store.data_file import DataFile
from state_svc.store.sqlite import FILE_NAME, SqliteStore
from tests.support.embedded import Embedded, embedded
from tests.support.failing_vfs import Disk, failing_disk
from tests.support.mutations import create, patch
from tests.support.payloads import named, put_here
from tests.support.wire import eventually

pytestmark = pytest.mark.timeout(300)

_MOST = 60  #: syncs that one call may take


@pytest.fixture
def disk() -> Iterator[Disk]:
    """A disk that the test can make fail."""
    with failing_disk() as made:
        yield made


async def _fill(running: Embedded) -> None:
    await running.create("p")
    await running.commit("p", create("n"))
    digest = await put_here(running, b"body" * 5_000)
    await running.commit("p", patch("n", result=named(digest)))


def _crash(folder: Path, copy: Path) -> Path:
    """Copy the files as a death of the process at this moment would leave them."""
    copy.mkdir()
    for path in folder.iterdir():
        if path.is_file() and not path.name.endswith("-shm"):
            shutil.copy(path, copy)
    return copy


def find_problems(directory: Path) -> list[Problem]:
    """Return what `check` finds; writable, as the failing disk can close nothing else."""
    report = Report()
    with DataFile(directory / FILE_NAME, writable=True) as data:
        check_file(data, report)
    return report.problems


async def _after_crash(folder: Path, copy: Path) -> set[str]:
    """Return the projects that a start finds if the process died at this moment."""
    store = SqliteStore(_crash(folder, copy))
    try:
        heads = await store.list_projects()
        return {head.record.project_id for head in heads if not head.deleted}
    finally:
        await store.aclose()


async def _export(running: Embedded) -> bytes:
    request = ExportProjectRequest(project_id="p")
    messages = PortableRpcs(running.service).export_project(request)
    return b"".join([ExportProjectResponse.FromString(m).data async for m in messages])


async def _import(running: Embedded, data: bytes) -> None:
    async def parts() -> AsyncIterator[ImportProjectRequest]:
        yield ImportProjectRequest(project_id="new", data=data)

    await PortableRpcs(running.service).import_project(parts())


async def _fork(running: Embedded) -> None:
    request = ForkProjectRequest(project_id="p", new_project_id="new")
    await HistoryRpcs(running.service).fork_project(request)


async def _exists(running: Embedded, project_id: str) -> bool:
    try:
        await running.service.live(project_id)
    except ProjectNotFound:
        return False
    return True


async def _refusals(disk: Disk, call: Callable[[], Awaitable[None]]) -> AsyncIterator[int]:
    """Let each sync of a call fail, the first one first; yield after each refusal."""
    for number in range(_MOST):
        disk.synced, disk.unsynced = number, 1
        try:
            await call()
        except StoreUnavailable:
            disk.unsynced = 0
            yield number
        else:
            disk.unsynced = 0
            assert number, "the first sync failed and nobody said so"
            return
    raise AssertionError("it takes more syncs than expected")


@pytest.mark.parametrize("kind", ["import", "fork"])
async def test_a_newcomer_that_was_not_synced_is_refused_and_stays_so_after_a_crash(
    disk: Disk, tmp_path: Path, kind: str
) -> None:
    data = tmp_path / "data"
    async with embedded(data) as running:
        await _fill(running)
        file = await _export(running)

        async def call() -> None:
            await (_import(running, file) if kind == "import" else _fork(running))

        refused = 0
        async for number in _refusals(disk, call):
            refused += 1
            assert not await _exists(running, "new")
            found = await _after_crash(data, tmp_path / f"crashed-{number}")
            assert found == {"p"}, f"sync {number}: what was refused is back"
        assert refused >= 3, "to begin, to fill and to finish it are different transactions"
        assert await _exists(running, "new"), "its id was free after each refusal"
        assert await _after_crash(data, tmp_path / "crashed") == {"p", "new"}
    assert find_problems(data) == []


async def test_a_deletion_that_was_not_synced_is_refused_and_stays_so_after_a_crash(
    disk: Disk, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    async with embedded(data) as running:
        await _fill(running)
        disk.unsynced = 1
        request = DeleteProjectRequest(project_id="p", force=True)
        with pytest.raises(StoreUnavailable):
            await HistoryRpcs(running.service).delete_project(request)
        assert await _after_crash(data, tmp_path / "crashed") == {"p"}
        assert await running.commit("p", patch("n", output_summary="it lives")) == 4
        await HistoryRpcs(running.service).delete_project(request)
        assert await _after_crash(data, tmp_path / "later") == set()


async def test_a_deletion_is_not_answered_while_its_outcome_is_unknown(
    disk: Disk, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    async with embedded(data) as running:
        await _fill(running)
        disk.unsynced = 1_000_000
        request = DeleteProjectRequest(project_id="p", force=True)
        deleting = asyncio.create_task(HistoryRpcs(running.service).delete_project(request))
        await eventually(lambda: disk.unsynced < 999_999, "it tries to end the doubt")
        assert not deleting.done()
        disk.unsynced = 0
        with pytest.raises(StoreUnavailable):
            await deleting
        assert await _after_crash(data, tmp_path / "crashed") == {"p"}


async def test_a_compaction_that_was_not_synced_loses_nothing(disk: Disk, tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with embedded(data) as running:
        await _fill(running)

        async def call() -> None:
            request = CompactProjectRequest(project_id="p")
            await HistoryRpcs(running.service).compact_project(request)

        async for number in _refusals(disk, call):
            assert find_problems(_crash(data, tmp_path / f"crashed-{number}")) == []
        assert (await running.service.live("p")).view.compacted == 3
    assert find_problems(data) == []


async def test_a_body_that_was_not_synced_is_refused_and_gone_after_a_crash(
    disk: Disk, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    async with embedded(data) as running:
        await _fill(running)
        disk.unsynced = 1
        with pytest.raises(StoreUnavailable):
            await put_here(running, b"other" * 5_000)
        copy = SqliteStore(_crash(data, tmp_path / "crashed"))
        assert len(await copy.payloads.list_unreferenced(1 << 62)) == 0
        await copy.aclose()
        assert await put_here(running, b"other" * 5_000)
