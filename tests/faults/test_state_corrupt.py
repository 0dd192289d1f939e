"""Flipped bits in the SQLite file: found, named, never served, and no harm to anyone else."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
import grpc
import pytest

from ramify.v1.node_pb2 import Node
from ramify.v1.state_service_pb2 import (
    CommitBatchRequest,
    CompactProjectRequest,
    GetProjectRequest,
    ListNodeHistoryRequest,
    ListNodesRequest,
)
from tests.support.bound import WAIT_SECONDS
from tests.support.files import find_problems
from tests.support.mutations import create, patch
from tests.support.state_process import StartFailed, StateProcess
from tests.support.view import NodeView
from tests.support.wire import Wire, connect, read_refusal, refusal

Start = Callable[..., StateProcess]

CORRUPT = (grpc.StatusCode.DATA_LOSS, "CORRUPT_RECORD")


async def fill(wire: Wire, project_id: str, revisions: int = 20) -> None:
    """Create a project with some history."""
    await wire.create_project(project_id)
    await wire.commit(project_id, create("n"))
    for at in range(3, revisions + 1):
        await wire.commit(project_id, patch("n", output_summary=f"{project_id} at {at} " * 20))


def open_file(file: Path) -> apsw.Connection:
    """Open the database beside a service that may be writing."""
    database = apsw.Connection(str(file))
    database.set_busy_timeout(round(WAIT_SECONDS * 1_000))
    return database


def flip(file: Path, table: str, column: str, where: str) -> None:
    """Flip one bit in the middle of a blob."""
    with open_file(file) as database:
        ((rowid, data),) = database.execute(f"SELECT rowid, {column} FROM {table} WHERE {where}")
        changed = bytearray(data)
        changed[len(changed) // 2] ^= 0x10
        database.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (changed, rowid))
    database.close()


def key_of(project_id: str) -> str:
    """Return the condition that selects a project's segments."""
    return f"project_key = (SELECT project_key FROM projects WHERE project_id = '{project_id}')"


async def test_a_flipped_bit_in_a_segment_is_data_loss_of_that_project_alone(
    start_state: Start,
) -> None:
    state = start_state()
    async with connect(state.address) as wire:
        for project_id in ("bad", "good"):
            await fill(wire, project_id)
        uid = (await wire.project("bad")).project_uid
    state.kill()
    file = state.data / "state.sqlite3"
    flip(file, "segments", "data", f"{key_of('bad')} AND last_revision = 7")
    await asyncio.to_thread(state.start)
    async with connect(state.address) as wire:
        calls: list[Awaitable[Any]] = [
            wire.stub.GetProject(GetProjectRequest(project_id="bad")),
            wire.stub.ListNodes(ListNodesRequest(project_id="bad")),
            wire.stub.CommitBatch(CommitBatchRequest(project_id="bad", mutations=[create("x")])),
        ]
        for call in calls:
            shown = await refusal(call)
            assert (shown.code, shown.reason) == CORRUPT
            assert shown.metadata["project_uid"] == uid
            assert shown.metadata["first_revision"] == "7"
        async with wire.watch("bad", from_beginning=True) as watch:
            error = await watch.end()
        assert error is not None
        assert (error.code(), read_refusal(error).reason) == CORRUPT
        assert not watch.log.changes
        assert await wire.commit("good", patch("n", output_summary="still here")) == 21
        async with wire.watch("good", from_beginning=True) as watch:
            await watch.through(21)
    state.kill()
    with apsw.Connection(str(file)) as database:
        ((count,),) = database.execute(f"SELECT count(*) FROM segments WHERE {key_of('bad')}")
    database.close()
    assert count == 20, "nothing was written over it"


async def test_a_bit_that_flips_under_a_running_service_ends_the_watches_that_read_it(
    state: StateProcess,
) -> None:
    """The project in memory is whole and goes on; the past before the place is still served."""
    async with connect(state.address) as wire:
        await fill(wire, "p")
        flip(
            state.data / "state.sqlite3",
            "segments",
            "data",
            f"{key_of('p')} AND last_revision = 12",
        )
        async with wire.watch("p", from_beginning=True) as watch:
            error = await watch.end()
        assert error is not None
        shown = read_refusal(error)
        assert (shown.code, shown.reason) == CORRUPT
        assert shown.metadata["first_revision"] == "12"
        assert 12 not in watch.log.changes
        history = ListNodeHistoryRequest(project_id="p", node_id="n", page_size=100)
        assert (await refusal(wire.stub.ListNodeHistory(history))).reason == "CORRUPT_RECORD"
        async with wire.watch("p", after_revision=12) as watch:
            await watch.through(20)
        assert await wire.commit("p", patch("n", output_summary="on")) == 21


async def test_a_missing_segment_is_data_loss(state: StateProcess) -> None:
    """A row that is gone is a hole, also in the middle of what one read returns."""
    async with connect(state.address) as wire:
        await fill(wire, "p")
        with open_file(state.data / "state.sqlite3") as database:
            database.execute(f"DELETE FROM segments WHERE {key_of('p')} AND last_revision = 9")
        database.close()
        async with wire.watch("p", from_beginning=True) as watch:
            error = await watch.end()
        assert error is not None
        assert read_refusal(error).reason == "CORRUPT_RECORD"
        assert max(watch.log.changes, default=0) < 9
        history = ListNodeHistoryRequest(project_id="p", node_id="n", page_size=100)
        compaction = CompactProjectRequest(project_id="p")
        for call in (
            wire.stub.ListNodeHistory(history),
            wire.stub.CompactProject(compaction),  # it would hide the hole for ever
            wire.stub.ListNodeHistory(history),
        ):
            assert (await refusal(call)).reason == "CORRUPT_RECORD"
    state.stop()
    assert any("revisions are missing" in problem.problem for problem in find_problems(state.data))


async def test_a_flipped_bit_in_a_project_record_leaves_the_others_alone(
    start_state: Start,
) -> None:
    state = start_state()
    async with connect(state.address) as wire:
        for project_id in ("bad", "good"):
            await fill(wire, project_id, 5)
    state.kill()
    flip(state.data / "state.sqlite3", "projects", "data", "project_id = 'bad'")
    await asyncio.to_thread(state.start)
    async with connect(state.address) as wire:
        shown = await refusal(wire.stub.GetProject(GetProjectRequest(project_id="bad")))
        assert (shown.code, shown.reason) == CORRUPT
        assert [project.project_id for project in await wire.projects()] == ["good"]
        assert await wire.commit("good", patch("n", output_summary="on")) == 6


@contextmanager
def telling(text: str) -> Iterator[None]:
    """Add to whatever is raised what it takes to repeat it."""
    try:
        yield
    except BaseException as error:
        error.add_note(text)
        raise


async def serve_damaged(state: StateProcess, views: dict[str, dict[str, Node]]) -> int:
    """Start on a damaged file, read all of it and kill; return how often that was refused."""
    try:
        await asyncio.to_thread(state.start)
    except StartFailed:
        assert "Traceback" not in state.read_log()[-2_000:].rpartition('"exception"')[0]
        return 1
    refused = 0
    async with connect(state.address) as wire:
        for name, view in views.items():
            try:
                async with wire.watch(name, from_beginning=True) as watch:
                    await watch.through(30)
                seen = NodeView(await wire.nodes(name)).nodes
            except (AssertionError, grpc.aio.AioRpcError) as error:
                if "DATA_LOSS" not in str(error):
                    raise
                refused += 1
                continue
            assert seen == view, f"wrong data of {name} served"
    state.kill()
    return refused


async def scatter(start_state: Start, cycles: int, seed: int) -> None:
    """Flip one bit anywhere in the file, again and again: right, refused, or not started."""
    chance = random.Random(seed)
    state = start_state()
    names = ["a", "b", "c"]
    async with connect(state.address) as wire:
        for name in names:
            await fill(wire, name, 30)
        views = {name: NodeView(await wire.nodes(name)).nodes for name in names}
    assert state.stop() == 0
    file = state.data / "state.sqlite3"
    whole = file.read_bytes()
    refused = 0
    for number in range(cycles):
        flipped = bytearray(whole)
        place, bit = chance.randrange(len(flipped)), chance.randrange(8)
        flipped[place] ^= 1 << bit
        for extra in state.data.glob("state.sqlite3-*"):
            extra.unlink()
        file.write_bytes(flipped)
        with telling(f"seed {seed}, flip {number}: bit {bit} of byte {place} of {len(flipped)}"):
            refused += await serve_damaged(state, views)
    assert refused, "no flip hit anything"


async def test_a_flipped_bit_anywhere_is_never_served(start_state: Start) -> None:
    await scatter(start_state, 12, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_many_flipped_bits_anywhere_are_never_served(start_state: Start) -> None:
    await scatter(start_state, 200, seed=2)
