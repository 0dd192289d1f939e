"""Overload is refused with RESOURCE_EXHAUSTED and a hint when to retry; others go on as ever."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from typing import Any

import grpc

from ramify.v1.state_service_pb2 import (
    CommitBatchRequest,
    GetServerInfoRequest,
    ListNodesRequest,
    MutationFrame,
    OpenStream,
    StreamMutationsRequest,
    WatchProjectRequest,
)
from tests.support.bound import WAIT_SECONDS
from tests.support.hold import Hold
from tests.support.mutations import batch, create, patch
from tests.support.state_process import StateProcess
from tests.support.wire import (
    SMALL_WINDOW,
    Refusal,
    Wire,
    connect,
    eventually,
    read_refusal,
    refusal,
)

Start = Callable[..., StateProcess]


def _is_overload(refused: Refusal, limit: str) -> None:
    assert (refused.code, refused.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
    assert refused.metadata["limit"] == limit
    assert refused.retry, "it says when to try again"


async def test_streams_and_watches_beyond_their_number_are_refused_until_one_ends(
    start_state: Start,
) -> None:
    state = start_state("--max-streams", "1", "--max-watchers", "1")
    async with connect(state.address) as wire:
        project_id = (await wire.create_project()).project_id
        async with wire.producer() as producer, wire.watch(project_id) as watch:
            await watch.started()
            await producer.write_batch(batch(project_id, 1, create("a")))
            second = wire.stub.StreamMutations(timeout=WAIT_SECONDS)
            _is_overload(await refusal(_read(second)), "max_streams")
            other = wire.stub.WatchProject(
                WatchProjectRequest(project_id=project_id), timeout=WAIT_SECONDS
            )
            _is_overload(await refusal(_read(other)), "max_watchers")
            await producer.write_batch(batch(project_id, 2, create("b")))
            await watch.through(3)

        async def free_again() -> None:
            while True:
                try:
                    async with wire.watch(project_id) as last, wire.producer() as late:
                        await last.started()
                        assert late.welcome is not None
                        await late.write_batch(batch(project_id, 1, create("c")))
                        await last.through(4)
                    return
                except (AssertionError, asyncio.InvalidStateError, grpc.aio.AioRpcError):
                    await asyncio.sleep(0.05)

        await asyncio.wait_for(free_again(), WAIT_SECONDS)


async def test_calls_beyond_their_number_are_refused_and_those_under_way_are_not(
    start_state: Start, hold: Hold
) -> None:
    state = start_state("--max-calls", "2", failpoints=f"before_commit=hold:{hold}@2")
    async with connect(state.address) as wire:
        info = await wire.stub.GetServerInfo(GetServerInfoRequest())
        assert info.limits.max_calls == 2
        project_id = (await wire.create_project()).project_id
        calls = [wire.commit(project_id, create(f"n{n}")) for n in range(6)]
        outcomes = await _while_held(calls, hold, 4)
        refused = [outcome for outcome in outcomes if isinstance(outcome, Refusal)]
        assert len(refused) == 4
        for each in refused:
            _is_overload(each, "max_calls")
        assert sorted(o for o in outcomes if isinstance(o, int)) == [2, 3]
        assert await wire.commit(project_id, create("later")) == 4


async def test_calls_are_refused_while_what_is_pending_fills_its_bound(
    start_state: Start, hold: Hold
) -> None:
    held = f"before_commit=hold:{hold}@2"
    state = start_state("--max-pending-bytes", str(1 << 20), failpoints=held)
    async with connect(state.address) as wire:
        project_id = (await wire.create_project()).project_id
        large = {"text": "x" * 600_000}
        first = asyncio.create_task(wire.commit(project_id, create("first")))
        await eventually(hold.reached, "a commit, so that all others are pending")
        calls = [
            wire.stub.CommitBatch(
                CommitBatchRequest(
                    project_id=project_id, mutations=[create(f"n{n}", result=large)]
                ),
                timeout=WAIT_SECONDS,
            )
            for n in range(6)
        ]
        outcomes = await _while_held(calls, hold, 4)
        refused = [outcome for outcome in outcomes if isinstance(outcome, Refusal)]
        for each in refused:
            _is_overload(each, "max_pending_bytes")
        assert await first == 2
        assert await wire.flush(project_id) == 4


async def test_hostile_clients_do_not_harm_a_good_one(start_state: Start) -> None:
    """Watchers and producers that never read, refused floods, large listings: all at once."""
    state = start_state()
    async with AsyncExitStack() as stack:
        good = await stack.enter_async_context(connect(state.address))
        bad = await stack.enter_async_context(connect(state.address, SMALL_WINDOW))
        project_id = (await good.create_project()).project_id
        other_id = (await good.create_project()).project_id
        await good.commit(other_id, *[create(f"n{n}") for n in range(2_000)])
        memory = state.memory()
        stalled = [
            bad.stub.WatchProject(WatchProjectRequest(project_id=project_id, from_beginning=True))
            for _ in range(20)
        ]
        hostile = [
            asyncio.create_task(work)
            for work in (
                _flood_of_refused_batches(bad, other_id),
                _flood_of_rejected_frames(bad, other_id),
                _flood_of_listings(bad, other_id),
                _flood_of_garbage(bad),
            )
        ]
        async with good.producer() as producer, good.watch(project_id) as watch:
            for n in range(1, 101):
                await producer.write_batch(
                    batch(project_id, n, create(f"n{n}", output_summary="s" * 2_000))
                )
            log = await watch.through(101)
            assert log.resyncs == []
        assert not any(task.done() and task.exception() for task in hostile)
        assert state.memory() - memory < 150 << 20
        for task in hostile:
            task.cancel()
        await asyncio.gather(*hostile, return_exceptions=True)
        for call in stalled:
            call.cancel()
    assert state.running


async def _flood_of_refused_batches(wire: Wire, project_id: str) -> None:
    bad = CommitBatchRequest(project_id=project_id, mutations=[patch("nobody")] * 500)
    while True:
        await _outcome(wire.stub.CommitBatch(bad, timeout=WAIT_SECONDS))


async def _flood_of_rejected_frames(wire: Wire, project_id: str) -> None:
    call = wire.stub.StreamMutations()
    await call.write(StreamMutationsRequest(open=OpenStream()))
    frame = MutationFrame(batches=[batch(project_id, 99, create("x"))] * 1_000)
    while True:  # never reads an answer
        await call.write(StreamMutationsRequest(frame=frame))


async def _flood_of_listings(wire: Wire, project_id: str) -> None:
    request = ListNodesRequest(project_id=project_id, page_size=1_000)
    while True:
        await _outcome(wire.stub.ListNodes(request, timeout=WAIT_SECONDS))


async def _flood_of_garbage(wire: Wire) -> None:
    call = wire.channel.unary_unary("/ramify.v1.StateService/CommitBatch", bytes, bytes)
    while True:
        await _outcome(call(b"\xff" * 100_000, timeout=WAIT_SECONDS))


async def _read(call: Any) -> Any:
    while True:
        answer = await call.read()
        if answer is grpc.aio.EOF:
            return await call


async def _while_held(calls: Iterable[Awaitable[Any]], hold: Hold, refused: int) -> list[Any]:
    """Return the outcomes of calls, of which so many are refused while the others are held up."""
    tasks = [asyncio.ensure_future(_outcome(call)) for call in calls]
    await eventually(
        lambda: sum(task.done() for task in tasks) == refused, "the others are refused"
    )
    hold.release()
    return await asyncio.gather(*tasks)


async def _outcome(call: Awaitable[Any]) -> Any:
    """Return the answer of a call, or its refusal, which must be one of ours."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        return read_refusal(error)
