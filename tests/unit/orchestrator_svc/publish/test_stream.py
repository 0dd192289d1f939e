"""The mutation stream over a real connection: resends, gaps, fencing, replaced stores."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator_svc.errors import (
    IllegalTransition,
    InvalidMutation,
    ProducerFenced,
    ProjectNotFound,
    ProjectReplaced,
)
from orchestrator_svc.publish.stream import MutationStream
from ramify.v1 import error_pb2, mutation_pb2
from tests.support.bound import WAIT_SECONDS
from tests.unit.orchestrator_svc.publish.fake_server import FakeServer, serving


async def write(stream: MutationStream, text: str, project: str = "p") -> asyncio.Future[int]:
    """Offer one batch that can be told from others."""
    mutation = mutation_pb2.Mutation()
    mutation.node.node_id = text
    return await stream.offer(project, [mutation.SerializeToString()], lease_epoch=3)


def stored(fake: FakeServer, project: str = "p") -> list[str]:
    """Return what is durable, in order."""
    return [batch.mutations[0].node.node_id for batch in fake.durable.get(project, ())]


async def test_batches_are_durable_in_order_and_futures_tell_their_revisions() -> None:
    fake = FakeServer()
    async with serving(fake) as stream:
        await stream.open_lane("p", "uid")
        futures = [await write(stream, f"n{i}") for i in range(20)]
        assert await asyncio.gather(*futures) == [11 + i for i in range(20)]
        assert stream.held_batches == 0
    assert stored(fake) == [f"n{i}" for i in range(20)]
    assert {batch.lease_epoch for batch in fake.durable["p"]} == {3}
    assert fake.opens == [("orchestrator/x", 5)]


async def test_what_was_not_acked_is_resent_after_a_reconnect_and_counts_once() -> None:
    fake = FakeServer()
    fake.hang_up_after = 3
    async with serving(fake) as stream:
        await stream.open_lane("p", "uid")
        futures = [await write(stream, f"n{i}") for i in range(8)]
        assert await asyncio.gather(*futures) == [11 + i for i in range(8)]
    assert stored(fake) == [f"n{i}" for i in range(8)]
    assert len(fake.opens) == 2
    assert fake.received.count(("p", 3)) == 2, "the third was durable but its ack was lost"


@pytest.mark.parametrize(
    "reason",
    [error_pb2.ERROR_REASON_STORE_UNAVAILABLE, error_pb2.ERROR_REASON_OVERLOADED],
)
async def test_a_refusal_that_may_pass_is_resent_in_order(
    reason: error_pb2.ErrorReason.ValueType,
) -> None:
    fake = FakeServer()
    fake.refuse = [error_pb2.Error(reason=reason)]
    async with serving(fake) as stream:
        await stream.open_lane("p", "uid")
        futures = [await write(stream, f"n{i}") for i in range(6)]
        await asyncio.gather(*futures)
    assert stored(fake) == [f"n{i}" for i in range(6)]


_FOR_NOW = [
    error_pb2.Error(reason=reason)
    for reason in (
        error_pb2.ERROR_REASON_STORE_UNAVAILABLE,
        error_pb2.ERROR_REASON_OVERLOADED,
        error_pb2.ERROR_REASON_SERVER_DRAINING,
    )
]


async def test_an_attach_refused_for_now_after_a_reconnect_loses_nothing() -> None:
    fake = FakeServer()
    fake.silent = True
    fake.hang_up_after = 3
    async with serving(fake) as stream:
        await stream.open_lane("p", "uid")
        fake.refuse_attach = list(_FOR_NOW)
        futures = [await write(stream, f"n{i}") for i in range(8)]
        await fake.hung_up.wait()
        fake.silent = False
        async with asyncio.timeout(WAIT_SECONDS):
            await asyncio.gather(*futures)
    assert not fake.refuse_attach
    assert stored(fake) == [f"n{i}" for i in range(8)]


async def test_a_lane_whose_first_attach_is_refused_for_now_waits_until_it_is_open() -> None:
    fake = FakeServer()
    fake.refuse_attach = list(_FOR_NOW)
    async with serving(fake) as stream:
        async with asyncio.timeout(WAIT_SECONDS):
            await stream.open_lane("p", "uid")
        assert not fake.refuse_attach
        assert await (await write(stream, "one")) == 11


async def test_an_attach_refused_for_good_ends_the_lane() -> None:
    fake = FakeServer()
    fake.refuse_attach = [error_pb2.Error(reason=error_pb2.ERROR_REASON_PROJECT_NOT_FOUND)]
    async with serving(fake) as stream:
        with pytest.raises(ProjectNotFound):
            await stream.open_lane("p", "uid")
        await stream.open_lane("p", "uid")


async def test_a_batch_that_no_reader_could_decode_ends_its_lane_and_no_other() -> None:
    deep = mutation_pb2.Mutation()
    deep.node.node_id = "deep"
    value = deep.node.create.aux_data["details"]
    for _ in range(40):  # more than a reader takes: 100 messages within each other
        value = value.struct_value.fields["a"]
    value.number_value = 1
    fake = FakeServer()
    async with serving(fake) as stream:
        for project in ("p", "q"):
            await stream.open_lane(project, "uid")
        assert await (await write(stream, "first"))
        bad, behind, other = [
            await stream.offer("p", [deep.SerializeToString()], lease_epoch=3),
            await write(stream, "behind"),
            await write(stream, "other", "q"),
        ]
        for future in (bad, behind):
            with pytest.raises(InvalidMutation, match="no message of the contract"):
                await future
        assert await other
        await stream.quiesce("p")
        await stream.open_lane("p", "uid")
        assert await (await write(stream, "again"))
    assert stored(fake) == ["first", "again"]
    assert stored(fake, "q") == ["other"]
    assert len(fake.opens) == 1, "the connection goes on"


@pytest.mark.parametrize(
    "index, node_id", [(0, "child"), (1, "parent"), (2, "recorded"), (3, ""), (9, "")]
)
async def test_a_refusal_names_the_node_whose_change_was_refused(index: int, node_id: str) -> None:
    mutations = [mutation_pb2.Mutation() for _ in range(4)]
    mutations[0].node.node_id = "child"
    mutations[0].node.patch.attempt = 2
    mutations[1].node.node_id = "new"
    mutations[1].node.create.parent_node_id = "parent"
    mutations[2].stage.create.node_id = "recorded"
    mutations[3].command.command_id = "c"
    violation = error_pb2.Violation(index=index, field="f", description="is bad")
    fake = FakeServer()
    fake.refuse = [
        error_pb2.Error(reason=error_pb2.ERROR_REASON_INVALID_MUTATION, violations=[violation])
    ]
    async with serving(fake) as stream:
        await stream.open_lane("p", "uid")
        encoded = [mutation.SerializeToString() for mutation in mutations]
        with pytest.raises(InvalidMutation) as caught:
            await (await stream.offer("p", encoded, lease_epoch=3))
    assert caught.value.fields.get("node_id", "") == node_id


async def test_a_refusal_for_good_ends_the_lane_and_no_other() -> None:
    fake = FakeServer()
    async with serving(fake) as stream:
        await stream.open_lane("p", "uid")
        await stream.open_lane("q", "uid")
        fake.refuse = [error_pb2.Error(reason=error_pb2.ERROR_REASON_ILLEGAL_TRANSITION)]
        bad = [await write(stream, f"n{i}") for i in range(3)]
        for future in bad:
            with pytest.raises(IllegalTransition):
                await future
        assert await (await write(stream, "fine", "q")) == 11
        with pytest.raises(ProjectReplaced):
            _ = await write(stream, "late")
        await stream.quiesce("p")
        await stream.open_lane("p", "uid")
        assert await (await write(stream, "again")) == 11
    assert stored(fake) == ["again"]


async def test_a_reopened_lane_goes_on_after_what_this_epoch_has_written() -> None:
    fake = FakeServer()
    async with serving(fake) as stream:
        await stream.open_lane("p", "uid")
        await (await write(stream, "one"))
        stream.close_lane("p")
        await stream.quiesce("p")
        await stream.open_lane("p", "uid")
        assert await (await write(stream, "two")) == 12


async def test_a_project_of_another_identity_is_never_written() -> None:
    fake = FakeServer()
    fake.uids["p"] = "another"
    async with serving(fake) as stream:
        with pytest.raises(ProjectReplaced):
            await stream.open_lane("p", "uid")
    assert not fake.received


async def test_a_store_that_went_back_in_time_ends_the_lane_without_a_resend() -> None:
    fake = FakeServer()
    async with serving(fake) as stream:
        await stream.open_lane("p", "uid")
        for text in ("one", "two"):
            await (await write(stream, text))
        fake.silent = True
        lost = await write(stream, "three")
        fake.durable["p"] = []
        fake.hang_up_after = 1
        await stream.open_lane("q", "uid")
        _ = await write(stream, "ends the connection", "q")
        with pytest.raises(ProjectReplaced):
            await lost
    assert fake.received.count(("p", 3)) <= 1


async def test_a_replaced_store_ends_every_lane() -> None:
    fake = FakeServer()
    async with serving(fake) as stream:
        await stream.open_lane("p", "uid")
        fake.store_id = "another"
        fake.hang_up_after = 1
        lost = await write(stream, "one")
        with pytest.raises(ProjectReplaced):
            await lost


async def test_an_epoch_behind_the_last_one_is_raised_once_at_the_start() -> None:
    fake = FakeServer()
    fake.fence_below = 900
    async with serving(fake) as stream:
        assert stream.epoch == 901
    assert [epoch for _, epoch in fake.opens] == [5, 901]


async def test_a_newer_epoch_ends_the_stream_and_every_lane_for_ever() -> None:
    fake = FakeServer()
    with pytest.raises(ProducerFenced, match="give each one a --data or a --name of its own"):
        await _write_until_fenced(fake)
    assert len(fake.opens) == 1


async def _write_until_fenced(fake: FakeServer) -> None:
    async with serving(fake) as stream:
        await stream.open_lane("p", "uid")
        fake.silent = True
        held = await write(stream, "one")
        await fake.fence(9)
        with pytest.raises(ProducerFenced):
            await held


async def test_a_server_that_drains_gets_its_acks_off_and_is_not_kept_waiting() -> None:
    fake = FakeServer()
    async with serving(fake) as stream:
        await stream.open_lane("p", "uid")
        sent = await write(stream, "before")
        await fake.drain()
        async with asyncio.timeout(WAIT_SECONDS):
            await fake.half_closed.wait()
        assert await sent == 11
        assert await (await write(stream, "after")) == 12
    assert len(fake.opens) == 2
    assert stored(fake) == ["before", "after"]


async def test_a_stream_that_is_stopped_while_its_connection_ends_stops() -> None:
    """Each try meets another moment between the hang-up and the next connection."""
    for turns in range(40):
        fake = FakeServer()
        async with asyncio.timeout(WAIT_SECONDS), serving(fake) as stream:
            await stream.open_lane("p", "uid")
            fake.hang_up_after = 1
            _ = await write(stream, "ends the connection")
            await fake.hung_up.wait()
            for _ in range(turns):
                await asyncio.sleep(0)
