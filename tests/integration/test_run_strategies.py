"""All nine pairs of update strategy and broadcast mode under stress (S2.6).

One run per pair, all at the same time, over a store that is slow to commit; each run has agents
that talk all the time, a follower of the complete history, and a watcher that is slow to read and
takes what the project's broadcast mode gives it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from itertools import product

import grpc
import grpc.aio
import pytest

from ramify.v1.mutation_pb2 import Change
from ramify.v1.project_pb2 import BroadcastMode, ExecutionStrategy, ProjectState
from ramify.v1.state_service_pb2 import WatchProjectRequest
from tests.support.orchestrator_process import STATE, Services
from tests.support.run_history import RunHistory, node_state
from tests.support.runs import Runs, connect_both
from tests.support.view import NodeView
from tests.support.wire import eventually

PAIRS = list(
    product(
        [number for number in ExecutionStrategy.values() if number],
        [number for number in BroadcastMode.values() if number],
    )
)
NOTES = 4
SLOW_COMMIT, SLOW_READ = 0.02, 0.1  #: seconds
_ENDED = ProjectState.PROJECT_STATE_COMPLETED


class SlowWatcher:
    """Takes a message now and then; keeps what it was told."""

    def __init__(self) -> None:
        self.view = NodeView()
        self.told = 0  #: messages
        self.whole_changes = 0
        self.partial_changes = 0
        self.open_states: set[str] = set()  #: states of nodes that may go on, as told by changes
        self._resume = 0

    async def watch(self, runs: Runs, project_id: str) -> None:
        """Read until the project's end was told, resuming after each loss of the connection."""
        request = WatchProjectRequest(project_id=project_id, snapshot=True)
        while True:
            with suppress(grpc.aio.AioRpcError):
                if await self._read(runs, request):
                    return
            await asyncio.sleep(SLOW_READ)
            if self._resume:
                request.after_revision = self._resume
            else:
                self.view = NodeView()

    async def _read(self, runs: Runs, request: WatchProjectRequest) -> bool:
        call = runs.wire.stub.WatchProject(request)
        async for message in call:
            self.told += 1
            if message.HasField("resync"):
                self.view = NodeView()
            for node in message.snapshot.nodes:
                self.view.add(node)
            self.view.apply(message.delta.changes, message.delta.revisions)
            self._resume = message.resume_revision or self._resume
            for change in message.delta.changes:
                self._count(change)
                project = change.project
                if _ENDED in (project.patch.state, project.project.state):
                    call.cancel()
                    return True
            await asyncio.sleep(SLOW_READ)
        return False

    def _count(self, change: Change) -> None:
        effect = change.node.WhichOneof("effect")
        if effect == "patch":
            self.partial_changes += 1
        elif effect == "node":
            self.whole_changes += 1
        if effect and change.node.node_id in self.view.nodes:
            state = node_state(self.view.nodes[change.node.node_id].state)
            self.open_states |= {state} - {"DONE"}


@pytest.mark.parametrize("leaves, kills", [(6, 0), pytest.param(60, 3, marks=pytest.mark.slow)])
async def test_no_pair_loses_an_update_or_a_terminal_state_or_stands_still(
    make_services: Callable[..., Services], leaves: int, kills: int
) -> None:
    services = make_services()
    await services.start(failpoints=f"before_commit=sleep:{SLOW_COMMIT}")
    hold = services.orchestrator.hold_roots("plan")
    watchers = [SlowWatcher() for _ in PAIRS]
    async with (
        connect_both(services.state.address, services.orchestrator.address) as runs,
        asyncio.TaskGroup() as group,
    ):
        for watcher, (strategy, mode) in zip(watchers, PAIRS, strict=True):
            group.create_task(play_pair(runs, watcher, strategy, mode, leaves))
        await eventually(lambda: all(watcher.told for watcher in watchers), "all watch")
        hold.release()
        if kills:
            group.create_task(kill_in_the_middle(services, kills))


async def kill_in_the_middle(services: Services, kills: int) -> None:
    """Kill state_svc again and again while the runs go on."""
    for _ in range(kills):
        await asyncio.sleep(0.7)
        await services.kill_and_restart([STATE])


async def play_pair(
    runs: Runs,
    watcher: SlowWatcher,
    strategy: ExecutionStrategy.ValueType,
    mode: BroadcastMode.ValueType,
    leaves: int,
) -> None:
    """Play one run; check what the store has and what the slow watcher was told."""
    keys = {"execution_strategy": strategy, "broadcast_mode": mode, "ws_batch_timeout_ms": 50}
    script = {"breadth": leaves, "notes": NOTES, "delay_ms": 400}
    project_id = (await runs.script(keys, **script)).project_id
    async with asyncio.TaskGroup() as group:
        group.create_task(watcher.watch(runs, project_id))
        history = await runs.finish(project_id)
    assert len(history.nodes) == leaves + 1
    check_store(history, strategy)
    stored = {node.node_id: node for node in await runs.wire.nodes(project_id)}
    assert history.nodes == stored
    assert watcher.view.nodes == stored, "the last word about each node arrives"
    if mode == BroadcastMode.BROADCAST_MODE_NONE:
        assert watcher.open_states == set(), "nothing but what has ended"
    if mode == BroadcastMode.BROADCAST_MODE_BATCH:
        assert watcher.partial_changes, "diffs"
    else:
        assert not watcher.partial_changes, "whole nodes"


def check_store(history: RunHistory, strategy: ExecutionStrategy.ValueType) -> None:
    """The history is that of a complete run, with the last note of every call."""
    assert history.state == "COMPLETED"
    last = f"{NOTES} of {NOTES}"
    for node in history.nodes.values():
        assert node_state(node.state) == "DONE"
        assert node.aux_data["progress"].string_value == last, strategy
