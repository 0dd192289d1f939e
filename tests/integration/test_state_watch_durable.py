"""Watches across commits, failures, drains and restarts: never ahead of durable, never a gap."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack

import grpc
import pytest

from ramify.v1.state_service_pb2 import (
    CommitBatchRequest,
    WatchEndReason,
    WatchFilter,
    WatchProjectRequest,
)
from tests.support.hold import Hold
from tests.support.life import (
    flat,
    only,
    random_life_patches,
    whole_log,
)
from tests.support.mutations import (
    batch,
    create,
    patch,
)
from tests.support.state_process import StateProcess
from tests.support.watch import RawWatch, WatchLog
from tests.support.wire import connect, eventually, refusal

Start = Callable[..., StateProcess]


async def test_a_watch_ends_with_its_place_and_resumes_after_the_restart(
    start_state: Start,
) -> None:
    """SIGTERM: `ended` with a resume point. The new process goes on there, without a gap."""
    state = start_state()
    async with AsyncExitStack() as stack:
        wire = await stack.enter_async_context(connect(state.address))
        project_id = (await wire.create_project()).project_id
        await wire.commit(project_id, create("root"))
        request = WatchProjectRequest(project_id=project_id, from_beginning=True)
        only_root = WatchProjectRequest(
            project_id=project_id,
            snapshot=True,
            filter=WatchFilter(subtree_root_node_id="other"),
        )
        log, filtered = WatchLog(), WatchLog()
        async with (
            RawWatch(wire.stub, request, log) as watch,
            RawWatch(wire.stub, only_root, filtered) as quiet,
        ):
            await watch.through(2)
            await quiet.through(2)
            last = await random_life_patches(wire, project_id, 20)
            assert await asyncio.to_thread(state.stop) == 0
            assert await watch.end() is None
            assert await quiet.end() is None
        for ended in (log, filtered):
            assert ended.messages[-1].ended.reason == (
                WatchEndReason.WATCH_END_REASON_SERVER_DRAINING
            )
            assert ended.resume == last == 22
    await asyncio.to_thread(state.start)
    async with connect(state.address) as wire:
        request = WatchProjectRequest(project_id=project_id, after_revision=log.resume)
        async with RawWatch(wire.stub, request, log) as watch:
            await watch.started()
            last = await random_life_patches(wire, project_id, 5)
            await watch.through(last)
        assert flat(log) == flat(await whole_log(wire, project_id, 27))


async def test_many_who_ask_for_a_stored_project_at_once_all_get_it(start_state: Start) -> None:
    """After a restart everyone comes back at the same moment; the project is loaded once."""
    state = start_state()
    async with connect(state.address) as wire:
        project_id = (await wire.create_project()).project_id
        await wire.commit(project_id, create("root"))
        last = await random_life_patches(wire, project_id, 20)
    await asyncio.to_thread(state.restart)
    async with connect(state.address) as wire, AsyncExitStack() as stack:
        watches = [
            await stack.enter_async_context(wire.watch(project_id, from_beginning=True))
            for _ in range(10)
        ]
        projects = await asyncio.gather(*[wire.project(project_id) for _ in range(10)])
        assert {project.revision for project in projects} == {last}
        for watch in watches:
            await watch.through(last)


async def test_a_watch_is_refused_while_draining(start_state: Start) -> None:
    """A producer that keeps its stream open does not delay the end by more than its grace."""
    state = start_state("--drain-seconds", "3")
    async with connect(state.address) as wire, connect(state.address) as other:
        project_id = (await wire.create_project()).project_id
        await other.project(project_id)
        async with wire.producer() as producer:
            await producer.write_batch(batch(project_id, 1, create("a")))
            stopping = asyncio.create_task(asyncio.to_thread(state.stop))
            await producer.until(lambda: producer.drain is not None)
            async with other.watch(project_id) as watch:
                error = await watch.end()
            assert error is not None
            # gRPC itself says CANCELLED to a call that comes just as the grace ends.
            assert error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
            assert await stopping == 0


@pytest.mark.parametrize(
    "failpoint", ["before_begin", "before_commit", "after_commit", "before_ack", "before_publish"]
)
async def test_a_watcher_is_never_ahead_of_durable(start_state: Start, failpoint: str) -> None:
    """Killed at any place of a commit, nothing that a watcher has seen is lost."""
    state = start_state()
    async with connect(state.address) as wire:
        project_id = (await wire.create_project()).project_id
        await wire.commit(project_id, create("root"))
    await asyncio.to_thread(state.restart, failpoints=f"{failpoint}=kill@4")
    log = WatchLog()
    async with connect(state.address) as wire:
        request = WatchProjectRequest(project_id=project_id, from_beginning=True)
        async with RawWatch(wire.stub, request, log) as watch:
            await watch.through(2)
            with pytest.raises(grpc.aio.AioRpcError):
                await random_life_patches(wire, project_id, 10)
            assert await watch.end() is not None
    state.wait()
    await asyncio.to_thread(state.start)
    async with connect(state.address) as wire:
        head = (await wire.project(project_id)).revision
        assert 5 <= head <= 6
        assert log.announced <= head, "the watcher saw what is lost"
        stored = flat(await whole_log(wire, project_id, head))
        assert flat(log) == [item for item in stored if item[0] <= log.announced]


async def test_nothing_is_shown_while_a_commit_is_being_written(
    start_state: Start, hold: Hold
) -> None:
    """The writer stops inside the transaction: no watcher, no read, no ack; then all of it."""
    state = start_state(failpoints=f"before_commit=hold:{hold}@3")
    async with connect(state.address) as wire:
        project_id = (await wire.create_project()).project_id
        await wire.commit(project_id, create("a"))
        async with wire.watch(project_id, snapshot=True, bookmark_interval_ms=100) as watch:
            await watch.through(2)
            commit = asyncio.create_task(wire.commit(project_id, patch("a", output_summary="new")))

            async def pending() -> bool:
                node = await wire.node(project_id, "a", include_pending=True)
                return node.output_summary == "new"

            await eventually(pending, "the batch is accepted")
            marks = watch.log.bookmarks
            await watch.until(lambda log: log.bookmarks >= marks + 3)
            assert not commit.done()
            assert watch.log.announced == 2
            assert (await wire.node(project_id, "a")).output_summary == ""
            assert (await wire.project(project_id)).revision == 2
            assert not commit.done()
            hold.release()
            assert await commit == 3
            await watch.through(3)


async def test_a_failed_commit_is_never_shown(start_state: Start) -> None:
    """An error inside the transaction: refused, invisible, and the next one takes its number."""
    state = start_state(failpoints="before_commit=error@3")
    async with connect(state.address) as wire:
        project_id = (await wire.create_project()).project_id
        await wire.commit(project_id, create("a"))
        async with wire.watch(project_id, from_beginning=True) as watch:
            await watch.through(2)
            shown = await refusal(
                wire.stub.CommitBatch(
                    CommitBatchRequest(
                        project_id=project_id, mutations=[patch("a", output_summary="lost")]
                    )
                )
            )
            assert (shown.code, shown.reason) == (
                grpc.StatusCode.UNAVAILABLE,
                "STORE_UNAVAILABLE",
            )
            assert shown.retry
            assert await wire.commit(project_id, patch("a", output_summary="kept")) == 3
            log = await watch.through(3)
    assert only(log, 3).node.patch.output_summary == "kept"


async def test_a_commit_whose_outcome_was_unknown_is_acknowledged_if_it_happened(
    start_state: Start,
) -> None:
    """The error comes after COMMIT: the store is asked, and the answer is the truth (SEM 7)."""
    state = start_state(failpoints="after_commit=error@3")
    async with connect(state.address) as wire:
        project_id = (await wire.create_project()).project_id
        await wire.commit(project_id, create("a"))
        async with wire.watch(project_id, from_beginning=True) as watch:
            assert await wire.commit(project_id, patch("a", output_summary="kept")) == 3
            await watch.through(3)
        await asyncio.to_thread(state.restart)
    async with connect(state.address) as wire:
        assert (await wire.node(project_id, "a")).output_summary == "kept"
