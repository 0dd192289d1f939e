"""Watches of a large project that stop reading in the middle of their snapshot."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import grpc.aio
import pytest

from ramify.v1.state_service_pb2 import WatchProjectRequest, WatchProjectResponse
from tests.support.mutations import create, patch
from tests.support.state_process import StateProcess
from tests.support.watch import WatchLog
from tests.support.wire import SMALL_WINDOW, Wire, connect, eventually

pytestmark = pytest.mark.timeout(300)

_NODES = 6_000
_GOAL = 10_000  #: characters: most of what a node takes in memory
_VIEW_BYTES = _NODES * _GOAL
_STOPPED = 14
_BATCH = 300


async def _change_all(wire: Wire, project_id: str, number: int) -> int:
    """Make a new version of each node; return the head."""
    head = 0
    for start in range(0, _NODES, _BATCH):
        names = (f"n{n}" for n in range(start, start + _BATCH))
        head = await wire.commit(project_id, *(patch(n, retry_count=number) for n in names))
    return head


async def _read(call: grpc.aio.UnaryStreamCall[Any, Any]) -> WatchProjectResponse:
    message = await call.read()
    assert isinstance(message, WatchProjectResponse), "the watch goes on"
    return message


async def test_watches_that_stop_in_their_snapshot_cost_no_view_each_and_go_on_where_they_were(
    state: StateProcess,
) -> None:
    """Each one at another moment, with all nodes changed in between."""
    async with AsyncExitStack() as stack:
        wire = await stack.enter_async_context(connect(state.address))
        project_id = (await wire.create_project()).project_id
        for start in range(0, _NODES, _BATCH):
            names = (f"n{n}" for n in range(start, start + _BATCH))
            await wire.commit(project_id, *(create(n, goal="g" * _GOAL) for n in names))
        before = state.memory()
        stopped = []
        for number in range(_STOPPED):
            slow = await stack.enter_async_context(connect(state.address, SMALL_WINDOW))
            call = slow.stub.WatchProject(WatchProjectRequest(project_id=project_id, snapshot=True))
            log = WatchLog()
            log.begin(WatchProjectRequest(snapshot=True))
            log.take(await _read(call))
            stopped.append((call, log))
            await _change_all(wire, project_id, number + 1)

        async def is_small() -> bool:
            return state.memory() - before < _VIEW_BYTES * _STOPPED // 2

        await eventually(is_small, "few views are held beside the present one")
        # One that reads gets its snapshot, whoever holds the permits and does not.
        async with wire.watch(project_id, snapshot=True) as watch:
            head = await wire.commit(project_id, patch("n0", retry_count=1))
            await watch.through(head)
        # So do those that stopped, when they read on: the first before the last.
        for call, log in (stopped[0], stopped[-1]):
            while log.announced < head:
                log.take(await _read(call))
            assert log.resyncs == []
            assert log.view is not None
            assert log.view.checksum() == watch.log.view.checksum()  # type: ignore[union-attr]
        assert (
            stopped[0][1].messages[1].snapshot.revision
            < stopped[-1][1].messages[-1].resume_revision
        )
        for call, _ in stopped:
            call.cancel()
