"""Bugs that watches of etcd had, under load: races with compaction, the future, abandoned watches.

The others are in `tests/integration/test_state_watch_known_bugs.py`; docs/guarantees.md lists all.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from ramify.v1.state_service_pb2 import Coalescing, CompactProjectRequest, ResyncReason
from tests.support.mutations import batch, create, patch
from tests.support.state_process import StateProcess
from tests.support.wire import Wire, connect, eventually, read_refusal

_PRODUCERS, _MUTATIONS, _WINDOW = 3, 20, 100
_TURNS = 4
_NEVER = Coalescing.COALESCING_NEVER


class _Pressure:
    """Producers that write one project as fast as it takes it, until they are told to stop."""

    def __init__(self, wire: Wire, project_id: str) -> None:
        self.project_id = project_id
        self.stopping = False
        self._wire = wire

    async def _write(self, name: str) -> None:
        nodes = [f"{name}-{n}" for n in range(_MUTATIONS)]
        async with self._wire.producer() as producer:
            await producer.write_batch(batch(self.project_id, 1, *map(create, nodes)))
            sequence = 1
            while not self.stopping:
                for _ in range(_WINDOW):
                    sequence += 1
                    changes = [patch(node, output_summary=str(sequence)) for node in nodes]
                    await producer.send(batch(self.project_id, sequence, *changes))
                await producer.acked(self.project_id, sequence)

    async def run(self) -> int:
        """Write; return the head."""
        async with asyncio.TaskGroup() as tasks:
            for number in range(_PRODUCERS):
                tasks.create_task(self._write(f"p{number}"))
        return (await self._wire.project(self.project_id)).revision


@asynccontextmanager
async def _pressed(wire: Wire) -> AsyncIterator[tuple[_Pressure, asyncio.Task[int]]]:
    pressure = _Pressure(wire, (await wire.create_project()).project_id)
    writing = asyncio.create_task(pressure.run())
    try:
        yield pressure, writing
    finally:
        pressure.stopping = True
        await writing


async def test_a_watch_at_the_edge_of_a_compaction_gets_all_or_is_told(shared_wire: Wire) -> None:
    """etcd 18089, 19179: at the compacted revision itself, and while compaction runs."""
    async with _pressed(shared_wire) as (pressure, writing):
        project_id = pressure.project_id

        async def compact() -> int:
            request = CompactProjectRequest(project_id=project_id)
            return (await shared_wire.stub.CompactProject(request)).compacted_revision

        async def resume(after: int, compacted: int) -> None:
            """Watch from a revision; compaction may have gone on meanwhile."""
            watched = shared_wire.watch(project_id, after_revision=after, coalescing=_NEVER)
            async with watched as watch:
                head = (await shared_wire.project(project_id)).revision
                log = await watch.through(head)
                assert log.announced >= head
                if log.resyncs:
                    assert log.resyncs == [ResyncReason.RESYNC_REASON_COMPACTED]
                else:
                    assert min(log.changes, default=after + 1) == after + 1
                assert not (after >= compacted and log.resyncs) or await _now(project_id) > after

        async def _now(project_id: str) -> int:
            return (await shared_wire.project(project_id)).compacted_revision

        for _ in range(_TURNS):
            compacted = await compact()
            async with asyncio.TaskGroup() as tasks:
                for after in (compacted - 1, compacted, compacted + 1):
                    tasks.create_task(resume(max(1, after), compacted))
                tasks.create_task(compact())
        pressure.stopping = True
        head = await writing
        compacted = await compact()
        assert compacted == head
        await shared_wire.commit(project_id, create("later"))
        async with shared_wire.watch(project_id, after_revision=compacted) as watch:
            log = await watch.through(head + 1)
            assert (log.resyncs, sorted(log.changes)) == ([], [head + 1])
        below = shared_wire.watch(project_id, after_revision=compacted - 1, fail_if_compacted=True)
        async with below as watch:
            error = await watch.end()
            assert error is not None
            assert read_refusal(error).reason == "REVISION_COMPACTED"


async def test_a_start_in_the_future_is_refused_and_the_head_shows_nothing_older(
    shared_wire: Wire,
) -> None:
    """etcd 20221: a watch from a future revision was sent older events."""
    project_id = (await shared_wire.create_project()).project_id
    head = await shared_wire.commit(project_id, create("a"))
    async with shared_wire.watch(project_id, after_revision=head + 1) as watch:
        error = await watch.end()
        assert error is not None
        assert read_refusal(error).reason == "REVISION_AHEAD"
    async with shared_wire.watch(project_id, after_revision=head) as watch:
        await watch.started()
        await shared_wire.commit(project_id, create("b"))
        log = await watch.through(head + 1)
        assert sorted(log.changes) == [head + 1]


@pytest.mark.parametrize("reads", [False, True])
async def test_watches_that_open_and_are_abandoned_leave_nothing(
    state: StateProcess, reads: bool
) -> None:
    """etcd 16839: watches that nobody reads or that are gone kept memory for ever."""
    async with connect(state.address) as wire:
        project_id = (await wire.create_project()).project_id
        await wire.commit(project_id, *[create(f"n{n}") for n in range(200)])
        memory = state.memory()
        for turn in range(10):
            async with connect(state.address) as short:
                calls = [short.watch(project_id, from_beginning=True) for _ in range(30)]
                async with AsyncExitStack() as stack:
                    watches = [await stack.enter_async_context(call) for call in calls]
                    if reads:
                        for watch in watches:
                            await watch.through(2)
            await wire.commit(project_id, patch("n1", output_summary=f"{turn}" * 100))

        async def gone() -> bool:
            return not (await wire.stats(project_id)).watchers

        await eventually(gone, "all of them are forgotten")
        assert state.memory() - memory < 40 << 20
