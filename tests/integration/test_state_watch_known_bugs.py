"""The watch bugs that etcd and others had, each by name: none of them is here.

The numbers are those of etcd's issues. Two more are proved elsewhere: future revision (#20221) by
`test_a_resume_point_ahead_of_the_store_is_refused` in test_state_watch.py, time travel after a
restore (#15271) by `test_after_a_restore_every_identity_is_new_and_watchers_are_resynced` in
test_state_backup.py.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import grpc
import pytest

from ramify.v1.state_service_pb2 import (
    Coalescing,
    CompactProjectRequest,
    ResyncReason,
    WatchFilter,
    WatchProjectRequest,
    WatchProjectResponse,
)
from tests.support.life import as_bytes, flat, random_life, view_of, whole_log
from tests.support.mutations import READY, batch, create, delete, patch
from tests.support.state_process import StateProcess
from tests.support.view import NodeView
from tests.support.watch import RawWatch, WatchLog
from tests.support.wire import SMALL_WINDOW, Wire, connect, eventually, read_refusal

_NEVER = Coalescing.COALESCING_NEVER
_FRAMES, _BATCHES, _MUTATIONS = 40, 25, 10
_LAST = _FRAMES * _BATCHES + 2  #: revision that the pressure ends at


async def _press(wire: Wire, project_id: str) -> int:
    """Write 10 000 changes of ten nodes as fast as acks allow; return the last revision."""
    names = [f"n{i}" for i in range(_MUTATIONS)]
    await wire.commit(project_id, *[create(name) for name in names])
    async with wire.producer() as producer:
        for number in range(_FRAMES):
            await producer.send(
                *[
                    batch(
                        project_id,
                        number * _BATCHES + i + 1,
                        *[patch(name, output_summary=f"{number}/{i} " * 20) for name in names],
                    )
                    for i in range(_BATCHES)
                ]
            )
        await producer.acked(project_id, _FRAMES * _BATCHES)
    return _LAST


async def test_no_event_is_lost_under_write_pressure(state: StateProcess) -> None:
    """etcd #17529: watchers that could not keep up lost events, and others waited minutes."""
    async with AsyncExitStack() as stack:
        wire = await stack.enter_async_context(connect(state.address))
        project_id = (await wire.create_project()).project_id
        some = WatchFilter(states=[READY])

        async def open_watch(**fields: object) -> RawWatch:
            watch = wire.watch(project_id, from_beginning=True, **fields)
            await stack.enter_async_context(watch)
            await watch.started()
            return watch

        exact = [await open_watch(coalescing=_NEVER) for _ in range(10)]
        usual = [await open_watch() for _ in range(10)]
        filtered = await open_watch(filter=some, bookmark_interval_ms=100)
        # A client that reads nothing at all is among them.
        slow_wire = await stack.enter_async_context(connect(state.address, SMALL_WINDOW))
        stopped = slow_wire.stub.WatchProject(WatchProjectRequest(project_id=project_id))
        await stopped.read()
        last = await _press(wire, project_id)
        for watch in (*exact, *usual, filtered):
            await watch.through(last, seconds=60)
        stopped.cancel()
        stored = flat(await whole_log(wire, project_id, last))
        view = await view_of(wire, project_id)
        assert [flat(watch.log) == stored for watch in exact] == [True] * len(exact)
        assert [as_bytes(watch.log.view) == view for watch in usual] == [True] * len(usual)
        assert list(filtered.log.changes) == [1], "the project alone"


async def test_watches_that_open_and_close_fast_cost_nobody_an_event(shared_wire: Wire) -> None:
    """etcd #20655: creating and cancelling watches quickly dropped events of others."""
    wire = shared_wire
    project_id = (await wire.create_project()).project_id
    open_before = (await wire.stats(project_id)).watchers
    done = asyncio.Event()
    total = 0

    async def flicker(number: int) -> None:
        nonlocal total
        opened = 0
        starts = ({"head": True}, {"snapshot": True}, {"from_beginning": True})
        while not done.is_set():
            async with wire.watch(project_id, **starts[(number + opened) % 3]) as watch:
                if opened % 2:
                    await watch.started()
                opened += 1
                total += 1
            await asyncio.sleep(0)

    async with (
        wire.watch(project_id, from_beginning=True, coalescing=_NEVER) as one,
        wire.watch(project_id, from_beginning=True, filter=WatchFilter(states=[READY])) as two,
        asyncio.TaskGroup() as tasks,
    ):
        for number in range(4):
            tasks.create_task(flicker(number))
        last = await random_life(wire, project_id, rounds=80)
        await one.through(last)
        await wire.commit(project_id, patch("root", output_summary="end"))
        await two.until(lambda log: log.announced >= last)
        await eventually(lambda: total >= 8, "watches open and close")
        done.set()
    stored = flat(await whole_log(wire, project_id, last))
    assert [item for item in flat(one.log) if item[0] <= last] == [
        item for item in stored if item[0] <= last
    ]
    await eventually(
        lambda: _watchers(wire, project_id, open_before), "every watch that closed is forgotten"
    )


async def _watchers(wire: Wire, project_id: str, count: int) -> bool:
    return (await wire.stats(project_id)).watchers == count


async def test_progress_is_never_ahead_of_events(shared_wire: Wire) -> None:
    """etcd #15220, #17507: a progress notification overtook the events before it."""
    wire = shared_wire
    project_id = (await wire.create_project()).project_id
    kinds: list[tuple[str | None, int]] = []
    async with wire.watch(
        project_id, from_beginning=True, bookmark_interval_ms=100, coalescing=_NEVER
    ) as watch:
        take = watch.log.take

        def note(message: WatchProjectResponse) -> None:
            take(message)
            kind = message.WhichOneof("message")
            kinds.append((kind, message.resume_revision))
            if kind == "bookmark":
                seen = sorted(watch.log.changes)
                assert seen == list(range(1, message.resume_revision + 1))

        watch.log.take = note  # type: ignore[method-assign]
        await wire.commit(project_id, create("a"))
        for at in range(8):
            await wire.commit(project_id, patch("a", output_summary=f"{at}"))
            # Pauses around the interval, so that bookmarks fall between commits and among them.
            bookmarks = watch.log.bookmarks
            await watch.until(lambda log, known=bookmarks: log.bookmarks > known)  # type: ignore[misc]
            for burst in range(at):
                await wire.commit(project_id, patch("a", output_summary=f"{at}/{burst}"))
        head = (await wire.project(project_id)).revision
        await watch.through(head)
    promised = [revision for _, revision in kinds if revision]
    assert promised == sorted(promised)


async def test_the_edge_of_a_compaction_is_exact(shared_wire: Wire) -> None:
    """etcd #18089, #19179: at the compacted revision a watch missed an event or brought one back.

    A watch from the compacted revision reads on, one from below it starts anew, and what was
    deleted below it stays deleted.
    """
    wire = shared_wire
    project_id = (await wire.create_project()).project_id
    await wire.commit(project_id, create("a"), create("gone"))
    edge = await wire.commit(project_id, delete("gone"))
    view = NodeView(await wire.nodes(project_id))
    response = await wire.stub.CompactProject(CompactProjectRequest(project_id=project_id))
    assert response.compacted_revision == edge
    last = await wire.commit(project_id, patch("a", state=READY))
    async with wire.watch(project_id, after_revision=edge) as watch:
        expected = flat(await watch.through(last))
    assert [place[0] for place in expected] == [last]
    for after in range(last + 1):
        watch = wire.watch(project_id, after_revision=after, fail_if_compacted=after >= edge)
        watch.log.view = NodeView(view.nodes.values()) if after == edge else None
        async with watch:
            log = await watch.through(last)
        if after >= edge:
            assert not log.resyncs
            assert flat(log) == [item for item in expected if item[0] > after]
        else:
            assert log.resyncs == [ResyncReason.RESYNC_REASON_COMPACTED]
            assert log.view is not None
            assert sorted(log.view.nodes) == ["a"]
    async with wire.watch(project_id, after_revision=edge - 1, fail_if_compacted=True) as watch:
        error = await watch.end()
    assert error is not None
    shown = read_refusal(error)
    assert (shown.code, shown.reason) == (grpc.StatusCode.OUT_OF_RANGE, "REVISION_COMPACTED")
    assert shown.metadata["compacted_revision"] == str(edge)


@pytest.mark.slow
async def test_many_watchers_that_stop_reading_cost_neither_memory_nor_others(
    state: StateProcess,
) -> None:
    """etcd #16839: slow watchers made the server run out of memory.

    40 watches of which 30 stop reading, each in a manner of its own; afterwards they come to the
    final value.
    """
    async with connect(state.address) as wire, connect(state.address, SMALL_WINDOW) as slow_wire:
        project_id = (await wire.create_project()).project_id
        request = WatchProjectRequest(project_id=project_id, from_beginning=True)
        stopped = []
        for number in range(30):
            request.filter.node_fields[:] = ["output_summary"] if number % 2 else []
            request.max_interval_ms = number % 3 * 10
            call = slow_wire.stub.WatchProject(request)
            log = WatchLog()
            log.begin(request)
            log.take(await call.read())  # type: ignore[arg-type]
            stopped.append((call, log))
        async with AsyncExitStack() as stack:
            watches = [wire.watch(project_id, from_beginning=True) for _ in range(10)]
            for watch in watches:
                await stack.enter_async_context(watch)
                await watch.started()
            memory = state.memory()
            last = await _press(wire, project_id)
            await asyncio.gather(*(watch.through(last, seconds=120) for watch in watches))
            grown = state.memory() - memory

            async def others_are_fed() -> bool:
                return (await wire.stats(project_id)).unsynced_watchers == len(stopped)

            await eventually(others_are_fed, "only those that stopped are behind")
            view = await view_of(wire, project_id)
            assert all(as_bytes(watch.log.view) == view for watch in watches)
            summaries = {node.node_id: node.output_summary for node in await wire.nodes(project_id)}
        for call, log in stopped:
            while log.announced < last:
                log.take(await call.read())  # type: ignore[arg-type]
            call.cancel()
            assert log.view is not None
            found = {node.node_id: node.output_summary for node in log.view.nodes.values()}
            assert found == summaries
    # 10 000 changes are about 2 MB; each of 30 watches would hold them.
    assert grown < 60 << 20
