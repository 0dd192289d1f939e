"""Backup of a live store and restore into another directory, over real processes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import apsw
import grpc.aio
import pytest

from ramify.v1.state_service_pb2 import (
    BackupRequest,
    CompactProjectRequest,
    CreateProjectRequest,
    DeleteProjectRequest,
    ForkProjectRequest,
    ResyncReason,
)
from state_svc.admin.backup import write_backup
from state_svc.admin.restore import restore
from state_svc.errors import DamagedFile, DataDirectoryInUse, DataDirectoryLocked
from state_svc.store.memory import MemoryStore
from tests.support.embedded import embedded
from tests.support.files import flip, take_backup
from tests.support.load import LoadProducer, judge, read_log
from tests.support.mutations import READY, create, patch
from tests.support.state_process import StateProcess, command, run_to_end
from tests.support.wire import SMALL_WINDOW, connect, eventually, read_refusal, refusal

Start = Callable[..., StateProcess]
FILE = "state.sqlite3"


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup of a small store with one project `p` at revision 31."""
    folder = tmp_path_factory.mktemp("sample")

    async def fill() -> None:
        async with embedded(folder / "data") as store:
            await store.create("p")
            for number in range(30):
                await store.commit("p", create(f"n{number}", goal=os.urandom(200).hex()))
            await store.service.store.backup(folder / "copy")

    asyncio.run(fill())
    write(folder / "copy", folder / "backup")
    return folder / "backup"


def write(database: Path, backup: Path) -> None:
    with database.open("rb") as copy, backup.open("wb") as file:
        for data, _ in write_backup(copy, database.stat().st_size, store_id="s", micros=1):
            file.write(data)


async def test_a_backup_while_producers_write_is_the_store_at_one_moment(
    start_state: Start, tmp_path: Path
) -> None:
    """Every revision up to the heads in it, none after, and the same views as then."""
    state = start_state("--snapshot-revisions", "200")
    async with connect(state.address) as wire:
        projects = [(await wire.create_project()).project_id for _ in range(2)]
        producers = [LoadProducer(state.address, f"prod-{n}", projects) for n in range(2)]
        acked: list[dict[tuple[str, int], int]] = []
        async with asyncio.TaskGroup() as tasks:
            for producer in producers:
                tasks.create_task(producer.run())
            for number in range(3):
                await asyncio.sleep(0.3)
                acked = [dict(producer.acked) for producer in producers]
                await take_backup(wire, tmp_path / f"backup-{number}")
            for producer in producers:
                producer.stopping = True
        logs = {project_id: await read_log(wire, project_id) for project_id in projects}
    result = await asyncio.to_thread(
        run_to_end, "restore", str(tmp_path / "backup-2"), str(tmp_path / "restored")
    )
    assert result.returncode == 0, result
    assert "no problem" in result.stdout
    restored = start_state(name="restored")
    async with connect(restored.address) as wire:
        for project_id in projects:
            log = await read_log(wire, project_id)
            judge(project_id, log, [])
            whole = logs[project_id].changes
            for revision, changes in log.changes.items():
                assert revision == 1 or changes == whole[revision]
            # What was acknowledged before the backup began is in it.
            assert all(
                revision in log.changes
                for known in acked
                for (name, _), revision in known.items()
                if name == project_id
            )
            # Its bookmark has the checksum of the view that the log gives.
            async with wire.watch(
                project_id, from_beginning=True, bookmark_interval_ms=100
            ) as watch:
                seen = (await watch.through(log.announced)).bookmarks
                await watch.until(lambda log, seen=seen: log.bookmarks > seen)  # type: ignore[misc]
            assert watch.log.view is not None
            listed = {node.node_id: node for node in await wire.nodes(project_id)}
            assert listed == watch.log.view.nodes


async def test_after_a_restore_every_identity_is_new_and_watchers_are_resynced(
    start_state: Start, tmp_path: Path
) -> None:
    """SEM 13: a revision means nothing without the uid it belongs to."""
    state = start_state()
    async with connect(state.address) as wire:
        before = await wire.create_project("p")
        fork_source = await wire.create_project("q")
        await wire.commit("p", create("a", state=READY))
        async with wire.producer("prod", 1) as producer:
            position = await producer.attach("p")
            assert position.project_uid == before.project_uid
        await take_backup(wire, tmp_path / "backup")
        await wire.commit("p", create("lost"))
    state.stop()
    store_id = state.ready["store_id"]
    restore(tmp_path / "backup", tmp_path / "restored")
    restored = start_state(name="restored")
    assert restored.ready["store_id"] != store_id
    async with connect(restored.address) as wire:
        after = await wire.project("p")
        assert after.project_uid not in ("", before.project_uid, fork_source.project_uid)
        assert (after.revision, after.goal) == (2, before.goal)
        async with wire.watch("p", after_revision=2, project_uid=before.project_uid) as watch:
            await watch.until(lambda log: log.resume == 2)
            assert watch.log.resyncs == [ResyncReason.RESYNC_REASON_PROJECT_REPLACED]
            assert watch.log.view is not None
            assert list(watch.log.view.nodes) == ["a"]
        async with wire.producer("prod", 1) as producer:
            assert (await producer.attach("p")).project_uid == after.project_uid
        [created] = (await read_log(wire, "p")).changes[1]
        assert created.project.project.project_uid == after.project_uid
        assert await wire.commit("p", create("lost")) == 3


async def test_a_restored_store_has_its_compacted_and_forked_and_deleted_projects(
    start_state: Start, tmp_path: Path
) -> None:
    state = start_state()
    async with connect(state.address) as wire:
        await wire.create_project("compacted")
        for number in range(5):
            await wire.commit("compacted", create(f"n{number}"))
        await wire.stub.CompactProject(CompactProjectRequest(project_id="compacted", revision=0))
        await wire.commit("compacted", patch("n1", output_summary="after"))
        await wire.stub.ForkProject(
            ForkProjectRequest(project_id="compacted", new_project_id="forked")
        )
        await wire.create_project("deleted")
        await wire.stub.DeleteProject(DeleteProjectRequest(project_id="deleted", force=True))
        await take_backup(wire, tmp_path / "backup")
    restore(tmp_path / "backup", tmp_path / "restored")
    restored = start_state(name="restored")
    async with connect(restored.address) as wire:
        known = {p.project_id: p for p in await wire.projects()}
        assert list(known) == ["compacted", "forked"]
        assert known["compacted"].compacted_revision == 6
        assert known["compacted"].revision == 7
        assert known["forked"].forked_from.project_uid == known["compacted"].project_uid
        assert len(await wire.nodes("forked")) == 5
        again = CreateProjectRequest(project_id="deleted", goal="ids are never reused")
        assert (await refusal(wire.stub.CreateProject(again))).reason == "PROJECT_EXISTS"


def test_a_damaged_backup_is_refused_and_leaves_nothing(sample: Path, tmp_path: Path) -> None:
    """A flipped bit anywhere, a cut anywhere, something behind the end."""
    sound = sample.read_bytes()
    places = [*range(64), *range(64, len(sound), len(sound) // 40), len(sound) - 1]
    damaged = [flip(sound, place) for place in places]
    damaged += [sound[:size] for size in (0, 5, 8, 100, len(sound) // 2, len(sound) - 1)]
    damaged += [sound + b"\0", sound + sound, sound[: len(sound) // 2] + sound]
    for data in damaged:
        path = tmp_path / "damaged"
        path.write_bytes(data)
        with pytest.raises(DamagedFile) as caught:
            restore(path, tmp_path / "data")
        assert "offset" in caught.value.fields
        assert [p.name for p in (tmp_path / "data").iterdir()] == ["LOCK"]
    restore(sample, tmp_path / "data")


async def test_a_backup_of_a_damaged_store_is_refused_with_the_place(
    sample: Path, tmp_path: Path
) -> None:
    restore(sample, tmp_path / "data")
    database = apsw.Connection(str(tmp_path / "data" / FILE))
    database.execute("UPDATE segments SET checksum = 1 WHERE last_revision = 9")
    database.close()
    write(tmp_path / "data" / FILE, tmp_path / "backup")
    with pytest.raises(DamagedFile) as caught:
        restore(tmp_path / "backup", tmp_path / "again")
    assert "first_revision=9" in str(caught.value)
    assert [p.name for p in (tmp_path / "again").iterdir()] == ["LOCK"]


def test_restore_never_replaces_anything(sample: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    restore(sample, data)
    before = (data / FILE).read_bytes()
    with pytest.raises(DataDirectoryInUse):
        restore(sample, data)
    assert (data / FILE).read_bytes() == before
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    with pytest.raises(DataDirectoryInUse):
        restore(sample, other)
    assert sorted(p.name for p in other.iterdir()) == ["LOCK", "notes.txt"]


def test_restore_into_a_served_directory_is_refused(
    sample: Path, start_state: Start, tmp_path: Path
) -> None:
    state = start_state()
    with pytest.raises(DataDirectoryLocked):
        restore(sample, state.data)
    result = run_to_end("restore", str(sample), str(state.data))
    assert (result.returncode, result.stdout) == (1, "")
    assert "Another process uses the data directory" in result.stderr


@pytest.mark.parametrize("arguments", [["restore"], ["restore", "one"]])
def test_wrong_arguments_of_restore_end_with_exit_code_2(arguments: list[str]) -> None:
    assert run_to_end(*arguments).returncode == 2


def test_restore_of_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    result = run_to_end("restore", str(tmp_path / "nothing"), str(tmp_path / "data"))
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "data").exists()


def test_a_restore_that_is_killed_leaves_an_empty_directory(sample: Path, tmp_path: Path) -> None:
    """Its pipe is never closed, so it is killed in the middle; the next one succeeds."""
    fifo, data = tmp_path / "fifo", tmp_path / "data"
    os.mkfifo(fifo)
    process = subprocess.Popen(command("restore", str(fifo), str(data)))
    with fifo.open("wb") as pipe:
        pipe.write(sample.read_bytes()[:-20])
        pipe.flush()
        while not list(data.glob("scratch/*")):
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (data / FILE).exists()
    restore(sample, data)
    assert sorted(p.name for p in data.iterdir()) == ["LOCK", FILE]


async def test_a_large_backup_holds_up_no_commit_and_only_one_runs_at_a_time(
    start_state: Start, tmp_path: Path
) -> None:
    """A client that goes away half-way leaves nothing behind."""
    state = start_state()
    # What a client does not read holds its backup up, however fast the machine is.
    async with connect(state.address, SMALL_WINDOW) as wire:
        project_id = (await wire.create_project()).project_id
        for number in range(40):
            nodes = [create(f"{number}-{n}", goal=os.urandom(4_000).hex()) for n in range(50)]
            await wire.commit(project_id, *nodes)
        first = wire.stub.Backup(BackupRequest())
        await first.read()
        assert (await refusal(wire.stub.Backup(BackupRequest()).read())).reason == "OVERLOADED"
        for number in range(20):  # none of them could end if it waited for the backup
            await wire.commit(project_id, create(f"beside-{number}"))
        first.cancel()

        async def again() -> bool:
            try:
                await take_backup(wire, tmp_path / "backup")
            except grpc.aio.AioRpcError as error:
                if read_refusal(error).reason != "OVERLOADED":
                    raise
                return False
            return True

        backing_up = asyncio.create_task(eventually(again, "the next backup may run"))
        during = 0
        while not backing_up.done():
            await wire.commit(project_id, create(f"during-{during}"))
            during += 1
        await backing_up
        await eventually(lambda: not any((state.data / "scratch").iterdir()), "nothing is left")
    restored = restore(tmp_path / "backup", tmp_path / "restored").report
    assert 2_020 <= restored.nodes <= 2_020 + during


async def test_every_backend_backs_up_into_the_same_format(tmp_path: Path) -> None:
    store = MemoryStore()
    async with embedded(store) as running:
        await running.create("p")
        await running.commit("p", create("a"), create("b"))
        checksum = await running.checksum("p")
        await store.backup(tmp_path / "copy")
    write(tmp_path / "copy", tmp_path / "backup")
    restore(tmp_path / "backup", tmp_path / "data")
    async with embedded(tmp_path / "data") as restored:
        assert await restored.checksum("p") == checksum
