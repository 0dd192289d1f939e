"""The past of a project over the wire: time travel, differences, forks, compaction, deletion."""

from __future__ import annotations

from collections.abc import Callable

import grpc
import pytest

from ramify.v1.project_pb2 import ProjectState
from ramify.v1.state_service_pb2 import (
    CompactProjectRequest,
    CreateProjectRequest,
    DeleteProjectRequest,
    DiffProjectRequest,
    ForkProjectRequest,
    GetProjectRequest,
    NodeDiff,
    ResyncReason,
    WatchEndReason,
    WatchProjectRequest,
)
from tests.support.mutations import DONE, READY, RUNNING, create, patch
from tests.support.state_process import StateProcess
from tests.support.wire import Wire, connect, read_refusal, refusal

Start = Callable[..., StateProcess]
SNAPSHOT_OFTEN = ("--snapshot-revisions", "10")


async def _history(wire: Wire, project_id: str, steps: int) -> list[dict[str, int]]:
    """Make a project of `steps` more revisions; return node versions by revision, from 0 on."""
    await wire.create_project(project_id)
    versions: list[dict[str, int]] = [{}, {}]
    for step in range(steps):
        node_id = f"n{step // 3}"
        change = (
            create(node_id, state=READY),
            patch(node_id, state=RUNNING, attempt=1),
            patch(node_id, state=DONE, output_summary=f"step {step}"),
        )[step % 3]
        assert await wire.commit(project_id, change) == step + 2
        versions.append({**versions[-1], node_id: step % 3 + 1})
    return versions


async def _differences(wire: Wire, project_id: str, **fields: int) -> list[NodeDiff]:
    found: list[NodeDiff] = []
    request = DiffProjectRequest(project_id=project_id, page_size=3, **fields)  # type: ignore[arg-type]
    while True:
        page = await wire.stub.DiffProject(request)
        found.extend(page.nodes)
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token


async def test_every_revision_can_be_read_as_it_was(start_state: Start) -> None:
    state = start_state(*SNAPSHOT_OFTEN)
    async with connect(state.address) as wire:
        versions = await _history(wire, "p", 40)
    state.kill()
    state.start(*SNAPSHOT_OFTEN)
    async with connect(state.address) as wire:
        for revision in range(1, 42):
            nodes = await wire.nodes("p", at_revision=revision)
            assert {node.node_id: node.version for node in nodes} == versions[revision]
            shown = await wire.stub.GetProject(
                GetProjectRequest(project_id="p", at_revision=revision)
            )
            assert shown.project.revision == revision
            assert sum(shown.project.node_counts.values()) == len(versions[revision])
        ahead = await refusal(
            wire.stub.GetProject(GetProjectRequest(project_id="p", at_revision=42))
        )
        assert (ahead.code, ahead.reason) == (grpc.StatusCode.OUT_OF_RANGE, "REVISION_AHEAD")


async def test_a_difference_names_the_nodes_and_fields_that_changed(wire: Wire) -> None:
    await _history(wire, "d", 12)
    found = await _differences(wire, "d", from_revision=3, to_revision=9)
    assert [diff.node_id for diff in found] == ["n0", "n1", "n2"]
    assert list(found[0].changed_fields) == ["state", "output_summary", "end_time"]
    assert (found[0].before.state, found[0].after.state) == (RUNNING, DONE)
    assert not found[1].HasField("before")
    assert await _differences(wire, "d", from_revision=9, to_revision=9) == []
    assert len(await _differences(wire, "d", from_revision=1)) == 4
    backwards = await refusal(
        wire.stub.DiffProject(DiffProjectRequest(project_id="d", from_revision=9, to_revision=3))
    )
    assert backwards.fields == ["to_revision"]
    ahead = await refusal(
        wire.stub.DiffProject(DiffProjectRequest(project_id="d", from_revision=99))
    )
    assert ahead.reason == "REVISION_AHEAD"


async def test_a_fork_begins_where_the_other_was_and_leaves_it_alone(start_state: Start) -> None:
    """SEM 32. It is there after a crash, and its history begins with its snapshot."""
    state = start_state(*SNAPSHOT_OFTEN)
    request = ForkProjectRequest(
        project_id="p", at_revision=9, new_project_id="fork", request_id="r"
    )
    async with connect(state.address) as wire:
        versions = await _history(wire, "p", 20)
        fork = (await wire.stub.ForkProject(request)).project
        assert fork.state == ProjectState.PROJECT_STATE_PAUSED
        assert (fork.revision, fork.compacted_revision) == (1, 1)
        assert (fork.forked_from.project_id, fork.forked_from.revision) == ("p", 9)
        assert await wire.commit("fork", create("only-here")) == 2
        assert (await wire.project("p")).revision == 21
    state.kill()
    state.start()
    async with connect(state.address) as wire:
        again = (await wire.stub.ForkProject(request)).project
        assert (again.project_uid, again.revision) == (fork.project_uid, 2)
        assert again.project_uid != (await wire.project("p")).project_uid
        nodes = {node.node_id: node.version for node in await wire.nodes("fork")}
        assert nodes == {**versions[9], "only-here": 1}
        async with wire.watch("fork", from_beginning=True) as watch:
            log = await watch.through(2)
            assert log.resyncs == [ResyncReason.RESYNC_REASON_COMPACTED]
        taken = await refusal(
            wire.stub.ForkProject(ForkProjectRequest(project_id="p", new_project_id="fork"))
        )
        assert taken.reason == "PROJECT_EXISTS"


async def test_compaction_drops_the_past_and_keeps_the_present(start_state: Start) -> None:
    state = start_state(*SNAPSHOT_OFTEN)
    async with connect(state.address) as wire:
        versions = await _history(wire, "p", 30)
        response = await wire.stub.CompactProject(CompactProjectRequest(project_id="p"))
        assert response.compacted_revision == 31
        await wire.commit("p", create("later"))
    for restarted in (False, True):
        if restarted:
            state.kill()
            state.start()
        async with connect(state.address) as wire:
            nodes = {node.node_id: node.version for node in await wire.nodes("p")}
            assert nodes == {**versions[31], "later": 1}
            assert (await wire.project("p")).compacted_revision == 31
            before = await refusal(
                wire.stub.GetProject(GetProjectRequest(project_id="p", at_revision=30))
            )
            assert (before.code, before.reason) == (
                grpc.StatusCode.OUT_OF_RANGE,
                "REVISION_COMPACTED",
            )
            async with wire.watch("p", after_revision=31) as watch:
                assert (await watch.through(32)).resyncs == []
            async with wire.watch("p", after_revision=30) as watch:
                log = await watch.through(32)
                assert log.resyncs == [ResyncReason.RESYNC_REASON_COMPACTED]
            request = WatchProjectRequest(project_id="p", after_revision=30, fail_if_compacted=True)
            call = wire.stub.WatchProject(request)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await anext(aiter(call))
            assert read_refusal(caught.value).reason == "REVISION_COMPACTED"


async def test_a_deleted_project_is_gone_and_its_id_is_never_used_again(
    start_state: Start,
) -> None:
    state = start_state()
    async with connect(state.address) as wire:
        await _history(wire, "p", 3)
        active = await refusal(wire.stub.DeleteProject(DeleteProjectRequest(project_id="p")))
        assert (active.code, active.reason) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "PROJECT_ACTIVE",
        )
        async with wire.watch("p", head=True) as watch:
            await watch.started()
            await wire.stub.DeleteProject(DeleteProjectRequest(project_id="p", force=True))
            assert await watch.end() is None
            (last,) = [m.ended.reason for m in watch.log.messages if m.HasField("ended")]
            assert last == WatchEndReason.WATCH_END_REASON_PROJECT_DELETED
    for restarted in (False, True):
        if restarted:
            state.kill()
            state.start()
        async with connect(state.address) as wire:
            gone = await refusal(wire.stub.GetProject(GetProjectRequest(project_id="p")))
            assert gone.reason == "PROJECT_NOT_FOUND"
            assert await wire.projects() == []
            used = await refusal(
                wire.stub.CreateProject(CreateProjectRequest(project_id="p", goal="once more"))
            )
            assert used.reason == "PROJECT_EXISTS"
