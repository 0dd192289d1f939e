"""Projects as files: what was exported comes in again, whole, or not at all."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable

import grpc.aio
import pytest

from ramify.v1.mutation_pb2 import Change, Delta
from ramify.v1.project_pb2 import ProjectState
from ramify.v1.state_service_pb2 import (
    AcquireLeaseRequest,
    CommitBatchRequest,
    CompactProjectRequest,
    DeleteProjectRequest,
    ExportProjectRequest,
    ForkProjectRequest,
    ImportProjectRequest,
)
from state_svc.storage.v1.file_pb2 import FileRecord
from tests.support.files import export_project, find_problems, flip, forge, import_project, rewrite
from tests.support.load import LoadProducer, make, read_log
from tests.support.mutations import (
    READY,
    RUNNING,
    change_project,
    create,
    delete,
    order_cancel,
    patch,
)
from tests.support.state_process import StateProcess
from tests.support.wire import Wire, connect, eventually, refusal

Start = Callable[..., StateProcess]
COMPLETED = ProjectState.PROJECT_STATE_COMPLETED
PAUSED = ProjectState.PROJECT_STATE_PAUSED
RUN = ProjectState.PROJECT_STATE_RUNNING


async def fill(wire: Wire, project_id: str, revisions: int = 20) -> int:
    """Write a project that has ended; return its head."""
    await wire.create_project(project_id)
    await wire.commit(project_id, change_project(state=RUN))
    for number in range(revisions):
        await wire.commit(project_id, create(f"n{number}", state=READY, goal=os.urandom(200).hex()))
    await wire.commit(project_id, create("gone"), order_cancel("command"))
    await wire.commit(project_id, delete("gone"), patch("n0", state=RUNNING, attempt=1))
    return await wire.commit(project_id, change_project(state=COMPLETED))


async def test_an_imported_project_has_the_same_views_and_the_same_history(
    shared_wire: Wire, start_state: Start
) -> None:
    """At every revision; in another store, and after a restart of it."""
    wire = shared_wire
    head = await fill(wire, "travels")
    data = await export_project(wire, "travels")
    before = await read_log(wire, "travels")
    other = start_state()
    async with connect(other.address) as there:
        project = await import_project(there, data)
        assert (project.project_id, project.revision, project.state) == ("travels", head, COMPLETED)
    other.restart()
    async with connect(other.address) as there:
        original, project = await wire.project("travels"), await there.project("travels")
        assert project.project_uid not in ("", original.project_uid)
        after = await read_log(there, "travels")
        assert sorted(after.changes) == list(range(1, head + 1))
        for revision in range(2, head + 1):
            assert after.changes[revision] == before.changes[revision]
        for revision in (2, 9, head):
            at = {"at_revision": revision}
            assert await there.nodes("travels", **at) == await wire.nodes("travels", **at)
        assert after.view is not None
        assert before.view is not None
        assert after.view.checksum() == before.view.checksum()
        project.project_uid = original.project_uid
        assert project == original
        request = CommitBatchRequest(project_id="travels", mutations=[create("gone")])
        assert (await refusal(there.stub.CommitBatch(request))).reason == "INVALID_MUTATION"
        assert await there.commit("travels", create("new")) == head + 1
    other.stop()
    assert find_problems(other.data) == []


async def test_an_imported_project_gets_the_id_that_is_asked_for(shared_wire: Wire) -> None:
    wire = shared_wire
    head = await fill(wire, "original")
    data = await export_project(wire, "original")
    project = await import_project(wire, data, "copy", piece=77)
    assert (project.project_id, project.revision) == ("copy", head)
    [created] = (await read_log(wire, "copy")).changes[1]
    assert created.project.project.project_id == "copy"
    assert created.project.project.project_uid == project.project_uid
    for taken in ("", "copy"):
        assert (await refusal(import_project(wire, data, taken))).reason == "PROJECT_EXISTS"
    shown = await refusal(import_project(wire, data, "no/such/id"))
    assert (shown.reason, shown.fields) == ("INVALID_REQUEST", ["project_id"])


async def test_a_run_that_has_not_ended_comes_in_paused_and_without_its_lease(
    shared_wire: Wire,
) -> None:
    """Else it would be executed twice."""
    wire = shared_wire
    await wire.create_project("active")
    await wire.commit("active", change_project(state=RUN), create("a"))
    await wire.stub.AcquireLease(AcquireLeaseRequest(project_id="active", holder="me"))
    project = await import_project(wire, await export_project(wire, "active"), "arrived")
    assert (project.state, project.lease.holder, project.revision) == (PAUSED, "", 4)
    assert project.lease.lease_epoch == 1
    log = await read_log(wire, "arrived")
    assert log.changes[4][0].project.patch.state == PAUSED
    assert project.pause_time.ToMicroseconds() > 0
    assert log.changes[4][0].project.patch.pause_time == project.pause_time
    assert (await wire.project("active")).state == RUN


async def test_positions_of_producers_are_not_imported(shared_wire: Wire) -> None:
    """The same name may be another producer here, with a lower epoch."""
    wire = shared_wire
    await wire.create_project("produced")
    async with wire.producer("prod", 7) as raw:
        for sequence in (1, 2, 3):
            await raw.write_batch(make("produced", "prod", sequence))
    await import_project(wire, await export_project(wire, "produced"), "cleared")
    async with wire.producer("other", 1) as raw:
        assert (await raw.attach("cleared")).last_sequence == 0
    async with wire.producer("prod", 8) as raw:
        assert (await raw.attach("cleared")).last_sequence == 0


async def test_a_compacted_and_a_forked_project_travel_with_what_is_retained(
    shared_wire: Wire,
) -> None:
    wire = shared_wire
    await fill(wire, "compacted")
    await wire.stub.CompactProject(CompactProjectRequest(project_id="compacted"))
    await wire.commit("compacted", patch("n1", output_summary="after"))
    await wire.stub.ForkProject(ForkProjectRequest(project_id="compacted", new_project_id="forked"))
    await wire.commit("forked", create("behind"))
    for project_id in ("compacted", "forked"):
        original = await wire.project(project_id)
        name = f"{project_id}-copy"
        copy = await import_project(wire, await export_project(wire, project_id), name)
        assert copy.compacted_revision == original.compacted_revision > 0
        assert copy.revision == original.revision
        assert await wire.nodes(name) == await wire.nodes(project_id)
        at = {"at_revision": copy.compacted_revision}
        assert await wire.nodes(name, **at) == await wire.nodes(project_id, **at)
        async with wire.watch(name, from_beginning=True) as watch:
            await watch.until(lambda log: log.resume)
        assert watch.log.resyncs


async def test_an_export_while_producers_write_is_the_project_at_one_revision(
    shared_state: StateProcess, shared_wire: Wire
) -> None:
    wire = shared_wire
    await wire.create_project("busy")
    producer = LoadProducer(shared_state.address, "busy-producer", ["busy"])
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(producer.run())
        await eventually(lambda: len(producer.acked) > 200, "it writes")
        files = [await export_project(wire, "busy") for _ in range(2)]
        producer.stopping = True
    whole = await read_log(wire, "busy")
    for number, data in enumerate(files):
        project = await import_project(wire, data, f"busy-{number}")
        log = await read_log(wire, f"busy-{number}")
        assert all(log.changes[r] == whole.changes[r] for r in range(2, project.revision))
        assert len(await wire.nodes(f"busy-{number}")) == project.revision - 1


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file of a compacted project, so that it has a snapshot and segments."""
    process = StateProcess(tmp_path_factory.mktemp("exported") / "data").start()

    async def make() -> bytes:
        async with connect(process.address) as wire:
            await fill(wire, "p", 12)
            await wire.stub.CompactProject(CompactProjectRequest(project_id="p"))
            for number in range(5):
                await wire.commit("p", patch(f"n{number}", output_summary=os.urandom(99).hex()))
            return await export_project(wire, "p")

    try:
        return asyncio.run(make())
    finally:
        process.kill()


async def test_a_damaged_file_is_refused_with_its_place_and_nothing_is_there(
    exported: bytes, start_state: Start
) -> None:
    """A flipped bit anywhere, a cut anywhere, something behind the end."""
    state = start_state()
    size = len(exported)
    places = [*range(40), *range(40, size, size // 40), size - 1]
    damaged = [flip(exported, place) for place in places]
    damaged += [exported[:end] for end in (1, 8, 60, size // 2, size - 1)]
    damaged += [exported + b"\0", exported + exported, b"{}", b"x" * 1_000]
    async with connect(state.address) as wire:
        for data in damaged:
            shown = await refusal(import_project(wire, data))
            assert (shown.code, shown.reason) == (
                grpc.StatusCode.INVALID_ARGUMENT,
                "DAMAGED_FILE",
            )
            assert "offset" in shown.metadata
        assert (await refusal(import_project(wire, b""))).reason == "DAMAGED_FILE"
        assert await wire.projects() == []
        assert (await import_project(wire, exported)).project_id == "p"
    assert list((state.data / "scratch").iterdir()) == []


def set_version(records: list[FileRecord]) -> None:
    records[0].project.file_version = 3


def drop_segment(records: list[FileRecord]) -> None:
    del records[-1].segments.segments[1]


def drop_last(records: list[FileRecord]) -> None:
    del records[-1].segments.segments[-1]


def drop_snapshot(records: list[FileRecord]) -> None:
    del records[1]


def repeat_segment(records: list[FileRecord]) -> None:
    records.append(records[-1])


def drop_node(records: list[FileRecord]) -> None:
    del records[1].snapshot.nodes[0]


def change_version(records: list[FileRecord]) -> None:
    records[1].snapshot.nodes[-1].version += 1


def empty_delta(records: list[FileRecord]) -> None:
    records[-1].segments.segments[0].delta = b""


def broken_delta(records: list[FileRecord]) -> None:
    records[-1].segments.segments[0].delta = b"\xff\xff\xff"


def other_project(records: list[FileRecord]) -> None:
    records[-1].segments.segments[0].project_uid = "another"


def hostile_id(records: list[FileRecord]) -> None:
    records[0].project.project_id = "../../etc"


@pytest.mark.parametrize(
    "change",
    [
        set_version,
        drop_segment,
        drop_last,
        drop_snapshot,
        repeat_segment,
        drop_node,
        change_version,
        empty_delta,
        broken_delta,
        other_project,
        hostile_id,
    ],
)
async def test_a_file_whose_checksums_are_right_but_not_its_history_is_refused(
    exported: bytes, shared_wire: Wire, change: Callable[[list[FileRecord]], object]
) -> None:
    shown = await refusal(import_project(shared_wire, rewrite(exported, change), change.__name__))
    assert shown.reason == "DAMAGED_FILE", shown
    assert "problem" in shown.metadata
    assert change.__name__ not in [p.project_id for p in await shared_wire.projects()]


def own_parent(change: Change) -> None:
    change.node.node.parent_node_id, change.node.node.layer = change.node.node_id, 1


def unknown_state(change: Change) -> None:
    change.node.node.state = 42  # type: ignore[assignment]


def long_goal(change: Change) -> None:
    change.node.node.goal = "x" * 3_000_000


@pytest.mark.parametrize("edit", [own_parent, unknown_state, long_goal])
async def test_a_file_that_holds_what_no_producer_may_write_is_refused(
    shared_wire: Wire, edit: Callable[[Change], None]
) -> None:
    """All its checksums are right; what it holds would hang a watch, or fail in each call."""
    wire, name = shared_wire, f"holds-{edit.__name__}"
    await wire.create_project(name)
    await wire.commit(name, create("n"))

    def change(records: list[FileRecord]) -> None:
        segment = records[-1].segments.segments[-1]
        delta = Delta.FromString(segment.delta)
        edit(delta.changes[0])
        segment.delta = delta.SerializeToString()

    bad = forge(await export_project(wire, name), change)
    assert (await refusal(import_project(wire, bad, f"{name}-copy"))).reason == "DAMAGED_FILE"
    good = await export_project(wire, name)
    assert (await import_project(wire, good, f"{name}-copy")).revision == 3


async def test_a_file_that_is_rewritten_without_a_change_is_imported(
    exported: bytes, shared_wire: Wire
) -> None:
    again = rewrite(exported, lambda _: None)
    assert (await import_project(shared_wire, again, "unchanged")).revision > 1


async def test_a_repeated_import_returns_the_first_project(
    exported: bytes, shared_wire: Wire
) -> None:
    first = await import_project(shared_wire, exported, "once", request_id="r")
    assert await import_project(shared_wire, exported, "once", request_id="r") == first
    found = await refusal(import_project(shared_wire, exported, "twice", request_id="r"))
    assert (found.reason, found.fields) == ("INVALID_REQUEST", ["request_id"])
    assert "twice" not in [p.project_id for p in await shared_wire.projects()]


@pytest.mark.parametrize("commit", [1, 2])
async def test_an_import_that_is_cut_off_leaves_nothing_and_its_id_is_free(
    exported: bytes, start_state: Start, commit: int
) -> None:
    """The process is killed in the commit of its segments, before and after it is durable."""
    failpoint = "before_commit" if commit == 1 else "after_commit"
    state = start_state(failpoints=f"{failpoint}=kill@1")
    async with connect(state.address) as wire:
        with pytest.raises(grpc.aio.AioRpcError):
            await import_project(wire, exported)
    state.wait()
    state.start()
    async with connect(state.address) as wire:
        assert await wire.projects() == []
        assert (await import_project(wire, exported)).project_id == "p"
    state.stop()
    assert find_problems(state.data) == []


async def test_an_import_whose_commit_fails_leaves_nothing_and_its_id_is_free(
    exported: bytes, start_state: Start
) -> None:
    state = start_state(failpoints="before_commit=error@1")
    async with connect(state.address) as wire:
        assert (await refusal(import_project(wire, exported))).reason == "STORE_UNAVAILABLE"
        assert await wire.projects() == []
        assert (await import_project(wire, exported)).project_id == "p"


async def test_a_client_that_goes_away_while_it_sends_leaves_nothing(
    exported: bytes, start_state: Start
) -> None:
    state = start_state()

    async def half() -> AsyncIterator[ImportProjectRequest]:
        yield ImportProjectRequest(project_id="half", data=exported[:100])
        await asyncio.sleep(60)

    async with connect(state.address) as wire:
        for _ in range(6):  # more than may be under way at one time
            with pytest.raises(grpc.aio.AioRpcError):
                await wire.stub.ImportProject(half(), timeout=0.1)

        async def again() -> bool:
            try:
                await import_project(wire, exported, "half")
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                    raise
                return False
            return True

        await eventually(again, "the next import may run")
    await eventually(lambda: not any((state.data / "scratch").iterdir()), "nothing is left")


async def test_an_unknown_or_deleted_project_cannot_be_exported(shared_wire: Wire) -> None:
    wire = shared_wire
    await wire.create_project("soon-gone")
    await wire.stub.DeleteProject(DeleteProjectRequest(project_id="soon-gone", force=True))
    for project_id in ("", "unknown", "soon-gone"):
        call = wire.stub.ExportProject(ExportProjectRequest(project_id=project_id))
        assert (await refusal(call.read())).reason == "PROJECT_NOT_FOUND"
