"""Unary writes on the real service: repeatable, whole, found only once they are durable."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import grpc
import pytest

from ramify.v1.state_service_pb2 import (
    CommitBatchRequest,
    CreateProjectRequest,
    ForkProjectRequest,
)
from tests.support.bound import WAIT_SECONDS
from tests.support.hold import Hold
from tests.support.mutations import READY, RUNNING, batch, create, delete, patch
from tests.support.state_process import StateProcess
from tests.support.wire import Wire, connect, eventually, refusal

Start = Callable[..., StateProcess]


@pytest.mark.parametrize("restart", [False, True])
async def test_a_repeated_request_id_returns_the_first_answer(
    start_state: Start, restart: bool
) -> None:
    """Of CommitBatch and of CreateProject; another method's same id is another request."""
    state = start_state()
    commit = CommitBatchRequest(mutations=[create("a")], request_id="same")
    make = CreateProjectRequest(goal="made once", request_id="same")
    async with connect(state.address) as wire:
        made = (await wire.stub.CreateProject(make)).project
        commit.project_id = made.project_id
        first = await wire.stub.CommitBatch(commit)
        assert (first.revision, first.project_uid) == (2, made.project_uid)
        await wire.commit(made.project_id, create("b"))
        # A refused call is not an answer: corrected, it may use its id again.
        bad = CommitBatchRequest(
            project_id=made.project_id, mutations=[create("a")], request_id="corrected"
        )
        assert (await refusal(wire.stub.CommitBatch(bad))).reason == "INVALID_MUTATION"
    if restart:
        await asyncio.to_thread(state.restart)
    async with connect(state.address) as wire:
        for _ in range(3):
            assert await wire.stub.CommitBatch(commit) == first
            again = (await wire.stub.CreateProject(make)).project
            assert again.project_uid == made.project_uid
        good = CommitBatchRequest(
            project_id=made.project_id, mutations=[create("c")], request_id="corrected"
        )
        assert (await wire.stub.CommitBatch(good)).revision == 4
        assert (await wire.project(made.project_id)).revision == 4


async def test_a_request_id_that_another_project_has_used_is_refused(start_state: Start) -> None:
    """Or the second request would be answered with what the first one did."""
    state = start_state()
    async with connect(state.address) as wire:
        for project_id in ("a", "b"):
            await wire.create_project(project_id)
        calls = (
            lambda name: wire.stub.CommitBatch(
                CommitBatchRequest(project_id=name, mutations=[create("n")], request_id="r")
            ),
            lambda name: wire.stub.CreateProject(
                CreateProjectRequest(project_id=f"new-{name}", goal="try it", request_id="r")
            ),
            lambda name: wire.stub.ForkProject(
                ForkProjectRequest(project_id=name, new_project_id=f"fork-{name}", request_id="r")
            ),
        )
        for call in calls:
            first = await call("a")
            found = await refusal(call("b"))
            assert (found.reason, found.fields) == ("INVALID_REQUEST", ["request_id"])
            assert await call("a") == first
        assert (await wire.project("b")).revision == 1


async def test_a_request_repeated_while_the_first_is_under_way_waits_for_it(
    start_state: Start, hold: Hold
) -> None:
    state = start_state(failpoints=f"before_commit=hold:{hold}@2")
    async with connect(state.address) as wire:
        project_id = (await wire.create_project()).project_id
        request = CommitBatchRequest(project_id=project_id, mutations=[create("a")], request_id="r")
        calls = [asyncio.ensure_future(wire.stub.CommitBatch(request)) for _ in range(5)]
        await eventually(hold.reached, "the first is being written")
        await wire.project(project_id)  # by then the others have come in too
        assert not any(call.done() for call in calls)
        hold.release()
        answers = await asyncio.gather(*calls)
        assert {answer.revision for answer in answers} == {2}
        assert (await wire.project(project_id)).revision == 2


@pytest.mark.parametrize("method", ["CommitBatch", "CreateProject"])
async def test_a_caller_that_gives_up_does_not_make_its_request_happen_twice(
    start_state: Start, hold: Hold, method: str
) -> None:
    """It goes away during the commit; the repeat gets the answer of the first."""
    state = start_state(failpoints=f"before_commit=hold:{hold}@2")
    async with connect(state.address) as wire:
        project_id = (await wire.create_project()).project_id
        commit = CommitBatchRequest(
            project_id=project_id, mutations=[create("a", state=READY)], request_id="r"
        )
        make = CreateProjectRequest(goal="made once", request_id="r")

        async def call() -> int:
            if method == "CommitBatch":
                return (await wire.stub.CommitBatch(commit, timeout=WAIT_SECONDS)).revision
            return (await wire.stub.CreateProject(make, timeout=WAIT_SECONDS)).project.revision

        await give_up(wire, hold, call())
        hold.release()
        assert await call() == (2 if method == "CommitBatch" else 1)
        if method == "CommitBatch":
            assert (await wire.project(project_id)).revision == 2
        else:
            listed = await wire.projects()
            assert [p.goal for p in listed].count("made once") == 1


async def give_up(wire: Wire, hold: Hold, call: Coroutine[Any, Any, object]) -> None:
    """Make a call, and cancel it while its commit is held up."""
    calling = asyncio.create_task(call)
    await eventually(hold.reached, "its commit is under way")
    calling.cancel()
    await asyncio.wait([calling])
    await wire.projects()  # on the same connection: the service has heard of it by then


async def test_a_project_whose_creation_fails_can_be_created_again(
    start_state: Start, hold: Hold
) -> None:
    """Also if its caller has gone away meanwhile."""
    state = start_state(failpoints=f"before_commit=error@1,before_begin=hold:{hold}@1")
    async with connect(state.address) as wire:
        await give_up(wire, hold, wire.create_project("p"))
        hold.release()

        async def created() -> bool:
            try:
                await wire.create_project("p")
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.ALREADY_EXISTS:
                    raise
                return False
            return True

        await eventually(created, "the id is free again")
        assert (await wire.project("p")).revision == 1


async def test_a_project_is_found_once_its_creation_is_durable(
    start_state: Start, hold: Hold
) -> None:
    state = start_state(failpoints=f"before_commit=hold:{hold}@2")
    async with connect(state.address) as wire:
        await wire.create_project("other")
        creating = asyncio.create_task(wire.create_project("p"))
        await eventually(hold.reached, "the creation has begun")
        again = CreateProjectRequest(project_id="p", goal="again")
        assert (await refusal(wire.stub.CreateProject(again))).reason == "PROJECT_EXISTS"
        commit = CommitBatchRequest(project_id="p", mutations=[create("a")])
        assert (await refusal(wire.stub.CommitBatch(commit))).reason == "PROJECT_NOT_FOUND"
        async with wire.watch("p") as watch:
            error = await watch.end()
        assert error is not None
        assert error.code() is grpc.StatusCode.NOT_FOUND
        assert [p.project_id for p in await wire.projects()] == ["other"]
        assert not creating.done()
        hold.release()
        assert (await creating).revision == 1
        assert await wire.commit("p", create("a")) == 2


async def test_a_used_project_id_is_never_given_again(state: StateProcess) -> None:
    async with connect(state.address) as wire:
        project = await wire.create_project("once")
        request = CreateProjectRequest(project_id="once", goal="again")
        shown = await refusal(wire.stub.CreateProject(request))
        assert (shown.code, shown.reason) == (grpc.StatusCode.ALREADY_EXISTS, "PROJECT_EXISTS")
    await asyncio.to_thread(state.restart)
    async with connect(state.address) as wire:
        assert (await refusal(wire.stub.CreateProject(request))).reason == "PROJECT_EXISTS"
        assert (await wire.project("once")).project_uid == project.project_uid


async def test_a_failed_commit_drops_what_was_built_on_it(start_state: Start, hold: Hold) -> None:
    """The batch in the store and those on top of it are refused; no sequence is consumed."""
    state = start_state(failpoints=f"before_begin=hold:{hold}@4,before_commit=error@4")
    async with connect(state.address) as wire:
        project_id = (await wire.create_project()).project_id
        other_id = (await wire.create_project()).project_id
        async with wire.producer("prod", 1) as producer:
            # The fourth commit of all; while it is held up the next batches pile up on it.
            await producer.send(batch(project_id, 1, create("a", state=READY)))
            await producer.send(batch(project_id, 2, patch("a", state=RUNNING)))
            await producer.send(batch(other_id, 1, create("a")))
            await wire.accepted(other_id, "a")
            hold.release()
            rejects = [await producer.rejected(project_id, n) for n in (1, 2)]
            for reject in rejects:
                assert reject.error.code == grpc.StatusCode.UNAVAILABLE.value[0]
            await producer.until(lambda: (other_id, 1) in producer.acks or producer.rejects[2:])
            await producer.send(
                batch(project_id, 1, create("a", state=READY)),
                batch(project_id, 2, patch("a", state=RUNNING)),
            )
            assert await producer.acked(project_id, 2, corrected=True) == 3
        assert (await wire.node(project_id, "a")).version == 2


async def test_a_deleted_nodes_id_is_never_used_again(shared_wire: Wire) -> None:
    wire = shared_wire
    project_id = (await wire.create_project()).project_id
    await wire.commit(project_id, create("a"), create("b"))
    await wire.commit(project_id, delete("b"))
    for mutations in ([create("b")], [create("c"), delete("c"), create("c")]):
        request = CommitBatchRequest(project_id=project_id, mutations=mutations)
        assert (await refusal(wire.stub.CommitBatch(request))).reason == "INVALID_MUTATION"
    assert [node.node_id for node in await wire.nodes(project_id)] == ["a"]
