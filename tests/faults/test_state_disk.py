"""A disk that is full or fails: writes are refused, reads and watches go on, and it heals.

In process with a file system that fails as told, and on a real process whose files may not grow.
"""

from __future__ import annotations

import asyncio
import functools
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import grpc
import pytest

from ramify.v1.error_pb2 import ErrorReason
from ramify.v1.mutation_pb2 import Mutation
from ramify.v1.state_service_pb2 import (
    AcquireLeaseRequest,
    CompactProjectRequest,
    GetProjectRequest,
)
from state_svc.errors import StoreUnavailable
from state_svc.rpc.history import HistoryRpcs
from state_svc.store.sqlite import FILE_NAME, SqliteStore
from tests.support.embedded import Embedded, embedded
from tests.support.failing_vfs import Disk, failing_disk
from tests.support.mutations import batch, create, patch
from tests.support.producer import RawProducer
from tests.support.state_process import StateProcess, run_to_end
from tests.support.wire import connect, eventually, refusal

Start = Callable[..., StateProcess]


@pytest.fixture
def disk() -> Iterator[Disk]:
    """A disk that the test can make fail."""
    with failing_disk() as made:
        yield made


async def _commit(running: Embedded, *mutations: Mutation) -> int | None:
    """Return the revision, or None if the store refused."""
    try:
        return await running.commit("p", *mutations)
    except StoreUnavailable:
        return None


def _copy_as_after_a_crash(folder: Path, copy: Path) -> None:
    copy.mkdir()
    for path in folder.glob(f"{FILE_NAME}*"):
        if not path.name.endswith("-shm"):
            shutil.copy(path, copy)


async def _after_crash(folder: Path, copy: Path) -> int:
    """Return the head that a start finds if the process died at this moment."""
    _copy_as_after_a_crash(folder, copy)
    store = SqliteStore(copy)
    try:
        return (await store.list_projects())[0].revision
    finally:
        await store.aclose()


@pytest.mark.parametrize("kind", ["full", "unwritable"])
async def test_writes_are_refused_while_the_disk_takes_none_and_go_on_when_it_does(
    disk: Disk, tmp_path: Path, kind: str
) -> None:
    async with embedded(tmp_path / "data") as running:
        await running.create("p")
        assert await running.commit("p", create("a")) == 2
        setattr(disk, kind, True)
        for _ in range(3):
            assert await _commit(running, create("b")) is None
        project = await running.service.live("p")
        assert (project.view.revision, project.revision) == (2, 2), "nothing is half there"
        shown = await running.projects.get_project(GetProjectRequest(project_id="p", at_revision=1))
        assert shown.project.revision == 1, "the past is read from the store"
        with pytest.raises(StoreUnavailable):
            await HistoryRpcs(running.service).compact_project(
                CompactProjectRequest(project_id="p")
            )
        setattr(disk, kind, False)
        assert await _commit(running, create("b")) == 3
        assert running.service.metrics.service.failed == 3
    async with embedded(tmp_path / "data") as running:
        assert set((await running.service.live("p")).view.nodes) == {"a", "b"}


async def test_a_commit_that_was_not_synced_is_refused_and_stays_so_after_a_crash(
    disk: Disk, tmp_path: Path
) -> None:
    """The whole commit lies in the WAL: a start after a crash would find it there."""
    async with embedded(tmp_path / "data") as running:
        await running.create("p")
        await running.commit("p", create("a"))
        disk.unsynced = 1
        assert await _commit(running, create("refused")) is None
        assert await _after_crash(tmp_path / "data", tmp_path / "crashed") == 2
        assert await _commit(running, create("b")) == 3
        assert await _after_crash(tmp_path / "data", tmp_path / "later") == 3


async def test_while_nothing_can_be_synced_the_outcome_is_not_guessed(
    disk: Disk, tmp_path: Path
) -> None:
    async with embedded(tmp_path / "data") as running:
        await running.create("p")
        disk.unsynced = 1_000_000
        waiting = asyncio.create_task(_commit(running, create("a")))
        await eventually(
            lambda: running.service.committer.unavailable is not None, "the store is away"
        )
        assert await _commit(running, create("b")) is None, "others are refused at once"
        assert not waiting.done()
        disk.unsynced = 0
        assert await waiting is None
        assert await _commit(running, create("c")) == 2


async def test_what_cannot_be_read_is_an_error_for_its_reader_only(
    disk: Disk, tmp_path: Path
) -> None:
    async with embedded(tmp_path / "data") as running:
        await running.create("p")
        for number in range(50):
            await running.commit("p", create(f"n{number}"))
        past = GetProjectRequest(project_id="p", at_revision=20)
        disk.unreadable = True
        with pytest.raises(StoreUnavailable):
            await running.projects.get_project(past)
        now = await running.projects.get_project(GetProjectRequest(project_id="p"))
        assert now.project.revision == 51
        disk.unreadable = False
        assert (await running.projects.get_project(past)).project.revision == 20


async def _write_until_refused(
    producer: RawProducer, project_id: str, result: dict[str, bytes]
) -> int:
    """Return the last sequence that was acknowledged."""
    for sequence in range(2, 10_000):
        change = patch("a", result=result, output_summary=str(sequence))
        await producer.send(batch(project_id, sequence, change))
        key = (project_id, sequence)
        await producer.until(functools.partial(_is_answered, producer, key))
        if producer.rejects:
            return sequence - 1
    raise AssertionError("it was never refused")


def _is_answered(producer: RawProducer, key: tuple[str, int]) -> bool:
    return bool(producer.rejects) or key in producer.acks


async def test_a_service_whose_files_may_not_grow_serves_reads_and_heals_without_a_restart(
    start_state: Start,
) -> None:
    """RLIMIT_FSIZE of the running process stands for a disk without room."""
    state = start_state()
    noise = {"data": bytes(range(256)) * 40}
    async with connect(state.address) as wire:
        project_id = (await wire.create_project()).project_id
        async with wire.producer() as producer, wire.watch(project_id) as watch:
            await producer.write_batch(batch(project_id, 1, create("a", result=noise)))
            _, hard = resource.prlimit(state.pid, resource.RLIMIT_FSIZE)
            largest = max(path.stat().st_size for path in state.data.iterdir())
            resource.prlimit(state.pid, resource.RLIMIT_FSIZE, (largest + 200_000, hard))
            written = await _write_until_refused(producer, project_id, noise)
            error = producer.rejects[0].error
            assert error.reason == ErrorReason.ERROR_REASON_STORE_UNAVAILABLE
            head = 1 + written
            refused = await refusal(wire.commit(project_id, create("b", result=noise)))
            assert (refused.code, refused.reason) == (
                grpc.StatusCode.UNAVAILABLE,
                "STORE_UNAVAILABLE",
            )
            assert refused.retry
            lease = wire.stub.AcquireLease(AcquireLeaseRequest(project_id=project_id, holder="h"))
            assert (await refusal(lease)).reason == "STORE_UNAVAILABLE"
            assert (await refusal(wire.create_project())).reason == "STORE_UNAVAILABLE"
            # Reads and watches, old ones and new ones, of the present and of the past.
            assert (await wire.project(project_id)).revision == head
            assert [node.node_id for node in await wire.nodes(project_id, at_revision=2)] == ["a"]
            await watch.through(head)
            async with wire.watch(project_id, from_beginning=True) as late:
                await late.through(head)
            assert (await wire.stats()).failed_commits >= 4
            assert state.running

            resource.prlimit(state.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, hard))
            await producer.send(batch(project_id, written + 1, create("b")))
            assert await producer.acked(project_id, written + 1, corrected=True) == head + 1
            await watch.through(head + 1)
        state.restart()
    async with connect(state.address) as wire:
        assert (await wire.project(project_id)).revision == head + 1
    state.kill()
    checked = run_to_end("check", str(state.data))
    assert checked.returncode == 0, checked.stdout


def test_the_disk_fails_only_when_it_is_told_to(disk: Disk, tmp_path: Path) -> None:
    database = apsw.Connection(str(tmp_path / "x"))
    database.execute("CREATE TABLE t (a)")
    disk.full = True
    with pytest.raises(apsw.FullError):
        database.execute("INSERT INTO t VALUES (1)")
    database.close(True)
