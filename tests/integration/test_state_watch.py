"""Watch guarantees by name, on the real service over the wire."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc
import pytest

from ramify.v1.state_service_pb2 import (
    Coalescing,
    ResyncReason,
    WatchProjectRequest,
)
from tests.support.life import (
    as_bytes,
    flat,
    random_life,
    random_life_patches,
    view_of,
    whole_log,
)
from tests.support.mutations import (
    READY,
    RUNNING,
    batch,
    create,
    patch,
)
from tests.support.state_process import StateProcess
from tests.support.view import NodeView
from tests.support.watch import RawWatch, WatchLog
from tests.support.wire import SMALL_WINDOW, Wire, connect, eventually, read_refusal

Start = Callable[..., StateProcess]
_NEVER = Coalescing.COALESCING_NEVER


async def test_a_watch_is_ordered_and_unique_and_reliable(shared_wire: Wire) -> None:
    """Live watchers and late ones are told the same changes, in one order, each once."""
    wire = shared_wire
    project_id = (await wire.create_project()).project_id
    async with wire.watch(project_id, from_beginning=True) as live:
        await live.started()
        last = await random_life(wire, project_id)
        await live.through(last)
    late = await whole_log(wire, project_id, last)
    assert flat(live.log) == flat(late)
    assert late.announced == last == (await wire.project(project_id)).revision
    assert as_bytes(live.log.view) == as_bytes(late.view) == await view_of(wire, project_id)


async def test_a_watch_is_atomic(shared_wire: Wire) -> None:
    """Every message ends between revisions: the pair that each batch changes stays equal."""
    wire = shared_wire
    project_id = (await wire.create_project()).project_id
    await wire.commit(project_id, create("left"), create("right"))
    views = 0
    async with wire.watch(project_id, snapshot=True) as watch, wire.producer() as producer:
        await watch.through(2)
        for sequence in range(1, 201):
            pair = [patch(n, output_summary=str(sequence)) for n in ("left", "right")]
            await producer.send(batch(project_id, sequence, *pair))
        await producer.acked(project_id, 200)
        log = await watch.through(202)
    replayed = NodeView()
    for message in log.messages:
        for node in message.snapshot.nodes:
            replayed.add(node)
        replayed.apply(message.delta.changes, message.delta.revisions)
        if message.resume_revision:
            left, right = replayed.nodes["left"], replayed.nodes["right"]
            assert left.output_summary == right.output_summary
            views += 1
    assert views > 1


async def test_a_watch_resumes_at_every_revision(shared_wire: Wire) -> None:
    """From any resume point on, also inside a segment, the rest of the log follows."""
    wire = shared_wire
    project_id = (await wire.create_project()).project_id
    last = await random_life(wire, project_id, seed=2)
    everything = flat(await whole_log(wire, project_id, last))
    stats = await wire.stats(project_id)
    assert stats.commits < stats.batches, "some commit holds several revisions"
    for after in range(last + 1):
        async with wire.watch(project_id, after_revision=after, bookmark_interval_ms=100) as watch:
            log = await watch.until(lambda log: log.resume >= last)
        assert flat(log) == [item for item in everything if item[0] > after]


async def test_a_watch_resumes_after_each_of_its_messages(shared_wire: Wire) -> None:
    """A watcher that breaks off after every few messages sees each revision exactly once."""
    wire = shared_wire
    project_id = (await wire.create_project()).project_id
    await wire.commit(project_id, create("root"))
    log = WatchLog()
    request = WatchProjectRequest(
        project_id=project_id, from_beginning=True, bookmark_interval_ms=100
    )
    for turn in range(1, 16):
        writing = asyncio.create_task(random_life_patches(wire, project_id, 20))
        async with RawWatch(wire.stub, request, log) as watch:
            seen = len(log.messages)
            await watch.until(lambda log, seen=seen: len(log.messages) >= seen + 3)  # type: ignore[misc]
        assert await writing == 2 + 20 * turn
        request = WatchProjectRequest(
            project_id=project_id, after_revision=log.resume, bookmark_interval_ms=100
        )
    async with RawWatch(wire.stub, request, log) as watch:
        await watch.through(302)
    assert flat(log) == flat(await whole_log(wire, project_id, 302))


async def test_a_watch_is_bookmarkable(shared_wire: Wire) -> None:
    """An idle watcher is told the head and the checksum of its view; each is a resume point."""
    wire = shared_wire
    project_id = (await wire.create_project()).project_id
    async with wire.watch(project_id, snapshot=True, bookmark_interval_ms=100) as watch:
        await watch.until(lambda log: log.bookmarks >= 2)
        last = await random_life(wire, project_id, seed=4)
        await watch.through(last)
        marks = watch.log.bookmarks
        # `WatchLog` compares every checksum with its own.
        log = await watch.until(lambda log: log.bookmarks >= marks + 2)
    assert log.resume == last
    assert as_bytes(log.view) == await view_of(wire, project_id)


async def test_bookmarks_come_while_changes_do(shared_wire: Wire) -> None:
    """Nor does a busy project keep the checksum from those who see all of it."""
    wire = shared_wire
    project_id = (await wire.create_project()).project_id
    await wire.commit(project_id, create("n"))

    def checked(log: WatchLog) -> bool:
        marks = [m.bookmark for m in log.messages if m.HasField("bookmark")]
        return sum(mark.HasField("checksum") for mark in marks) >= 3

    async with wire.watch(project_id, snapshot=True, bookmark_interval_ms=100) as watch:
        seen = asyncio.create_task(watch.until(checked))
        number = 0
        while not seen.done():
            number += 1
            await wire.commit(project_id, patch("n", output_summary=f"change {number}"))
        await seen


@pytest.mark.slow
async def test_a_default_bookmark_comes_within_ten_seconds(shared_wire: Wire) -> None:
    wire = shared_wire
    project_id = (await wire.create_project()).project_id
    async with wire.watch(project_id, head=True) as watch:
        await watch.until(lambda log: log.bookmarks)
    assert watch.log.resume == 1


async def test_head_tells_nothing_of_the_past(shared_wire: Wire) -> None:
    wire = shared_wire
    project_id = (await wire.create_project()).project_id
    await wire.commit(project_id, create("a"))
    async with wire.watch(project_id, head=True) as watch:
        log = await watch.started()
        assert log.messages[0].created.head_revision == 2
        await wire.commit(project_id, create("b"))
        log = await watch.through(3)
    assert list(log.changes) == [3]


async def test_a_wrong_project_uid_is_resynced_with_a_snapshot(shared_wire: Wire) -> None:
    wire = shared_wire
    project = await wire.create_project()
    await wire.commit(project.project_id, create("a"))
    async with wire.watch(
        project.project_id, project_uid="of-another-store", after_revision=1_000
    ) as watch:
        log = await watch.until(lambda log: log.resume == 2)
    kinds = [message.WhichOneof("message") for message in log.messages]
    assert kinds == ["created", "resync", "snapshot"]
    assert log.resyncs == [ResyncReason.RESYNC_REASON_PROJECT_REPLACED]
    assert log.messages[0].created.project_uid == project.project_uid
    async with wire.watch(
        project.project_id, project_uid=project.project_uid, after_revision=1
    ) as watch:
        log = await watch.through(2)
    assert [message.WhichOneof("message") for message in log.messages] == ["created", "delta"]


async def test_a_resume_point_ahead_of_the_store_is_refused(shared_wire: Wire) -> None:
    wire = shared_wire
    project_id = (await wire.create_project()).project_id
    for after in (2, 2**63, 2**64 - 1):
        async with wire.watch(project_id, after_revision=after) as watch:
            error = await watch.end()
        assert error is not None
        shown = read_refusal(error)
        assert (shown.code, shown.reason) == (grpc.StatusCode.OUT_OF_RANGE, "REVISION_AHEAD")
        assert shown.metadata == {"revision": str(after), "head_revision": "1"}


async def test_a_snapshot_comes_in_chunks_with_one_resume_point(shared_wire: Wire) -> None:
    """Large nodes make many chunks; commits meanwhile follow as deltas, without a gap."""
    wire = shared_wire
    project_id = (await wire.create_project()).project_id
    body = {"text": "x" * 200_000}
    for at in range(4):
        await wire.commit(
            project_id, *[create(f"n{at}-{i}", result=body, state=READY) for i in range(10)]
        )
    async with wire.watch(project_id, snapshot=True) as watch:
        await watch.started()
        last = await wire.commit(project_id, patch("n0-0", state=RUNNING))
        log = await watch.through(last)
    chunks = [m.snapshot for m in log.messages if m.HasField("snapshot")]
    assert len(chunks) > 4
    assert [c.last for c in chunks] == [False] * (len(chunks) - 1) + [True]
    assert as_bytes(log.view) == await view_of(wire, project_id)


async def test_a_slow_watcher_costs_latency_and_nothing_else(state: StateProcess) -> None:
    """It reads nothing while 30 000 changes are made; then it sees every revision once.

    If it has asked for that: by default what it has missed is joined to the latest values.
    """
    frames, batches, mutations = 60, 50, 10
    async with connect(state.address) as wire, connect(state.address, SMALL_WINDOW) as slow_wire:
        project_id = (await wire.create_project()).project_id
        names = [f"n{i}" for i in range(mutations)]
        await wire.commit(project_id, *[create(name) for name in names])
        memory = state.memory()
        request = WatchProjectRequest(
            project_id=project_id,
            from_beginning=True,
            coalescing=Coalescing.COALESCING_NEVER,
        )
        # A call that nobody reads: flow control fills, then the feed goes on without it.
        call = slow_wire.stub.WatchProject(request)
        slow = WatchLog()
        slow.begin(request)
        slow.take(await call.read())  # type: ignore[arg-type]
        usual = WatchProjectRequest(project_id=project_id, from_beginning=True)
        second_call = slow_wire.stub.WatchProject(usual)
        joined = WatchLog()
        joined.begin(usual)
        joined.take(await second_call.read())  # type: ignore[arg-type]
        async with wire.watch(project_id, from_beginning=True, coalescing=_NEVER) as quick:
            async with wire.producer() as producer:
                for frame in range(frames):
                    await producer.send(
                        *[
                            batch(
                                project_id,
                                frame * batches + i + 1,
                                *[patch(n, output_summary=f"{frame}/{i} " * 80) for n in names],
                            )
                            for i in range(batches)
                        ]
                    )
                await producer.acked(project_id, frames * batches)
            last = frames * batches + 2
            await quick.through(last)

            async def two_are_left() -> bool:
                stats = await wire.stats(project_id)
                return (stats.watchers, stats.unsynced_watchers) == (3, 2)

            await eventually(two_are_left, "the quick one is fed, the others are not")
            assert not quick.done
        grown = state.memory() - memory
        while slow.announced < last:
            slow.take(await call.read())  # type: ignore[arg-type]
        call.cancel()
        while joined.announced < last:
            joined.take(await second_call.read())  # type: ignore[arg-type]
        second_call.cancel()
        assert as_bytes(joined.view) == as_bytes(slow.view)
        assert any(message.delta.coalesced for message in joined.messages)
        assert len(flat(joined)) < len(flat(slow)) // 10
        assert flat(slow) == flat(quick.log)
        assert sorted(slow.changes) == list(range(1, last + 1))
        # 30 000 changes are about 18 MB on the wire; the service holds none of them for it.
        assert grown < 60 << 20


async def test_a_commit_does_not_wait_for_a_watcher_that_does_not_read(
    shared_state: StateProcess, shared_wire: Wire
) -> None:
    wire = shared_wire
    project_id = (await wire.create_project()).project_id
    await wire.commit(project_id, create("a"))
    async with connect(shared_state.address, SMALL_WINDOW) as slow_wire:
        calls = [
            slow_wire.stub.WatchProject(WatchProjectRequest(project_id=project_id, snapshot=True))
            for _ in range(5)
        ]
        for call in calls:
            await call.read()
        body = "x" * 100_000
        for at in range(100):  # none of them could end if it waited for a client
            await wire.commit(project_id, patch("a", output_summary=str(at), result={"text": body}))
        for call in calls:
            call.cancel()
